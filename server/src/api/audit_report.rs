//! `mayfly.audit.v1.Audit/Report`: a report in pieces, and the note that signs it.

use std::sync::Arc;

use mayfly_audit::Scope;
use mayfly_model::Actor;
use mayfly_proto::mayfly::audit::{ReportRequest, ReportResponse};
use mayfly_svid::Timestamp;
use tonic::Status;

use super::audit::PIECE;
use super::driven::Out;
use super::status::{invalid, to_status};
use crate::app::evidence::Evidence;
use crate::app::evidence::report::{Reported, Wanted};

/// What is asked for, if it makes sense.
pub(super) fn read(request: ReportRequest, now: Timestamp) -> Result<Wanted, Status> {
    let ReportRequest {
        from,
        to,
        scope,
        include_private,
    } = request;
    if from >= to {
        return Err(invalid("to: has to be later than `from`"));
    }
    // Of what is to come nothing can be said.
    if to > now.unix() {
        return Err(invalid(format!("to: is in the future; it is {} now", now.unix())));
    }
    let scope = match scope.as_str() {
        "" => Scope::All,
        text => text.parse().map_err(|error| invalid(format!("scope: {error}")))?,
    };
    // Who asks about a person has named them, and what is theirs is found by their name.
    let with_private = include_private || matches!(scope, Scope::Owner(_));
    Ok(Wanted {
        from,
        to,
        scope,
        with_private,
    })
}

/// Makes the report and sends it.
pub(super) async fn answer(
    evidence: Arc<Evidence>,
    wanted: Wanted,
    actor: Actor,
    out: Out<ReportResponse>,
) -> Result<(), Status> {
    let reported = evidence.report(wanted, actor).await;
    let Reported { json, note } = reported.map_err(|failure| to_status(&failure))?;
    for piece in json.chunks(PIECE) {
        let data = piece.to_vec();
        out.send(ReportResponse { data, note: vec![] }).await?;
    }
    out.send(ReportResponse { data: vec![], note }).await
}
