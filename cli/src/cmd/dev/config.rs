//! The configuration files that `mayfly dev` writes. Their keys are those of `server/src/config.rs` and
//! `agent/src/config.rs`.

use std::path::Path;

use mayfly_model::task::PersonId;
use mayfly_svid::TrustDomain;
use toml::{Table, Value};

use super::layout::Layout;

const HEADER: &str = "# Written by `mayfly dev` at each start: changes are lost.\n";

/// Who uses `mayfly dev`, as the server knows them: the one person there is.
pub(super) struct Me {
    pub(super) id: PersonId,
    pub(super) uid: u32,
}

impl Me {
    /// The user of this process, by name if that is one that a person may have.
    pub(super) fn of(name: Option<&str>, uid: u32) -> Self {
        let by_name = name.and_then(|name| name.to_lowercase().parse().ok());
        let id = by_name.unwrap_or_else(|| format!("user{uid}").parse().expect("letters and digits"));
        Self { id, uid }
    }
}

/// The server's file. Only this user may use its socket; it stands for root's and the server's own on a real machine.
pub(super) fn server(layout: &Layout, trust_domain: &TrustDomain, port: u16, me: &Me) -> String {
    let listen = [
        ("bind_address", text(&format!("127.0.0.1:{port}"))),
        ("socket_path", path(&layout.server_socket())),
        ("socket_mode", text("600")),
    ];
    render([
        ("trust_domain", text(trust_domain.as_str())),
        ("data_dir", path(&layout.server_data())),
        ("listen", section(listen)),
        ("people", Value::Array(vec![person(me)])),
    ])
}

/// So that one can own definitions of tasks.
fn person(me: &Me) -> Value {
    section([
        ("id", text(me.id.as_str())),
        ("uids", Value::Array(vec![Value::Integer(i64::from(me.uid))])),
    ])
}

/// The agent's file. The token file is there only while the agent needs one.
pub(super) fn agent(layout: &Layout, trust_domain: &TrustDomain, port: u16) -> String {
    let join_token = section([("token_file", path(&layout.join_token()))]);
    render([
        ("trust_domain", text(trust_domain.as_str())),
        ("data_dir", path(&layout.agent_data())),
        ("server_address", text(&format!("127.0.0.1:{port}"))),
        ("socket_path", path(&layout.agent_socket())),
        ("trust_bundle_path", path(&layout.bundle())),
        ("attestor", section([("join_token", join_token)])),
    ])
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

/// Paths of ours are UTF-8 unless the user's folder is not; then the daemon says that it does not find it.
fn path(value: &Path) -> Value {
    text(&value.to_string_lossy())
}

fn section<const N: usize>(keys: [(&str, Value); N]) -> Value {
    Value::Table(keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn render<'k>(keys: impl IntoIterator<Item = (&'k str, Value)>) -> String {
    let table: Table = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let body = toml::to_string(&table).expect("a table of strings has a TOML form");
    format!("{HEADER}{body}")
}
