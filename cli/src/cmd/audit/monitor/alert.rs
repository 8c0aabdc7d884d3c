//! What of the log is told.

use clap::ValueEnum;
use mayfly_svid::{SpiffeId, TaskPath, TaskRoot};
use serde::Serialize;
use serde_json::Value;

use super::super::view::EntryView;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Alert {
    /// A window of break-glass was opened
    Breakglass,
    /// A definition came into force, or was retired
    Definition,
    /// The policy was changed
    Policy,
    /// Private values were erased
    Erasure,
    /// Somebody reads private values
    PrivateRead,
    /// The log has a new key
    Key,
    /// The end of a window could not be shown
    RevocationIncomplete,
    /// An SVID for a task of a team that is watched was to be issued
    Issuance,
}

/// What an entry is told as to somebody who watches `teams`, if it is.
pub(super) fn alert_of(view: &EntryView, teams: &[String]) -> Option<Alert> {
    let root_and_team = |id: &str| {
        let id: SpiffeId = id.parse().ok()?;
        let path = TaskPath::of(&id)?;
        Some((path.root, path.team.to_owned()))
    };
    match view.kind() {
        "window.opened" => {
            let id = view.get("body").pointer("/window/spiffe_id").and_then(Value::as_str)?;
            let (root, _) = root_and_team(id)?;
            (root == TaskRoot::Breakglass).then_some(Alert::Breakglass)
        }
        "definition.put" | "definition.retired" => Some(Alert::Definition),
        "policy.set" => Some(Alert::Policy),
        "private.erased" => Some(Alert::Erasure),
        "private.read" => Some(Alert::PrivateRead),
        "log.key_rotated" => Some(Alert::Key),
        "window.revocation_incomplete" => Some(Alert::RevocationIncomplete),
        "svid.intended" => {
            let (_, team) = root_and_team(view.subject())?;
            teams.contains(&team).then_some(Alert::Issuance)
        }
        _ => None,
    }
}
