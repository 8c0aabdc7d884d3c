//! The libraries of the matrix of clients: which there are, in which version, and how their programs are started.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tokio::process::Command;

use crate::binaries::{binary, sources};
use crate::program::{Program, endpoint};
use crate::{go_module, java, needs_root, node, python};

/// A library that speaks the Workload API. Its programs follow `tests/clients/README.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Library {
    /// go-spiffe.
    Go,
    /// java-spiffe.
    Java,
    /// py-spiffe, with spiffe-tls.
    Python,
    /// grpcio with the published messages, without a SPIFFE library.
    Grpcio,
    /// grpc-js, without a SPIFFE library.
    Node,
    /// The crates `spiffe` and `spiffe-rustls`.
    Rust,
}

impl Library {
    /// All of them, in the order of the page.
    pub const ALL: [Self; 6] = [Self::Go, Self::Java, Self::Python, Self::Grpcio, Self::Node, Self::Rust];
    /// Those that are mutual TLS peers too, one for each language.
    pub const PEERS: [Self; 5] = [Self::Go, Self::Java, Self::Python, Self::Node, Self::Rust];

    /// What its users call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Go => "go-spiffe",
            Self::Java => "java-spiffe",
            Self::Python => "py-spiffe",
            Self::Grpcio => "grpcio",
            Self::Node => "grpc-js",
            Self::Rust => "spiffe",
        }
    }

    /// The language of its users.
    pub fn language(self) -> &'static str {
        match self {
            Self::Go => "Go",
            Self::Java => "Java",
            Self::Python | Self::Grpcio => "Python",
            Self::Node => "Node",
            Self::Rust => "Rust",
        }
    }

    /// Whether it has a watch that comes again by itself, or its program here has one. Else that is left to its users.
    pub fn watches(self) -> bool {
        self != Self::Node
    }

    /// Its version, from the file that pins it.
    ///
    /// # Panics
    /// The file does not name it any more.
    pub fn version(self) -> String {
        let (file, before, after) = match self {
            Self::Go => ("clients/go/go.mod", "go-spiffe/v2 v", "\n"),
            Self::Java => ("clients/java/pom.xml", "<java-spiffe.version>", "<"),
            Self::Python => ("clients/python/requirements.txt", "\nspiffe==", "\n"),
            Self::Grpcio => ("clients/python/requirements.txt", "\ngrpcio==", "\n"),
            Self::Node => ("clients/node/package.json", "\"@grpc/grpc-js\": \"", "\""),
            Self::Rust => ("../Cargo.lock", "name = \"spiffe\"\nversion = \"", "\""),
        };
        let text = std::fs::read_to_string(sources().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let version = text.split_once(before).and_then(|(_, rest)| rest.split_once(after));
        version
            .unwrap_or_else(|| panic!("{file} has no `{before}`"))
            .0
            .to_owned()
    }

    /// Its view of the Workload API at `agent_socket`, as the user `uid`.
    pub fn client(self, agent_socket: &Path, uid: u32) -> Program {
        let command = self.command("client", agent_socket, uid, None);
        Program::start(&format!("{self}, client of user {uid}"), command)
    }

    /// The same below a parent that opens and closes windows of `task` for it, as `src/bin/opener.rs` is told.
    pub fn client_in_task(self, agent_socket: &Path, uid: u32, task: &str) -> Program {
        let program = self.command("client", agent_socket, uid, None);
        let program = program.as_std();
        let mut command = Command::new(binary("opener"));
        command
            .arg(endpoint(agent_socket))
            .args([&uid.to_string(), task])
            .arg(program.get_program())
            .args(program.get_args());
        for (name, value) in program.get_envs() {
            command.env(name, value.expect("none is taken away"));
        }
        Program::start(&format!("{self}, client of user {uid} in {task}"), command)
    }

    /// A peer that is `uid` and talks to those with the SPIFFE IDs `peers`, separated by commas.
    pub fn peer(self, agent_socket: &Path, uid: u32, peers: &str) -> Program {
        let command = self.command("peer", agent_socket, uid, Some(peers));
        Program::start(&format!("{self}, peer of user {uid}"), command)
    }

    fn command(self, role: &str, agent_socket: &Path, uid: u32, peers: Option<&str>) -> Command {
        needs_root();
        let mut command = match self {
            Self::Go => {
                static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
                let mut command = Command::new(PROGRAM.get_or_init(|| go_module::build("go")));
                command.arg(role);
                command
            }
            Self::Java => {
                let mut command = java::command(uid);
                command.arg(role);
                command
            }
            Self::Node => {
                let mut command = node::command();
                command.arg(role);
                command
            }
            Self::Python | Self::Grpcio => {
                let mut command = Command::new(python::interpreter());
                command.arg(sources().join(format!("clients/python/{role}.py")));
                command
            }
            Self::Rust => Command::new(binary(&format!("rust_{role}"))),
        };
        command.arg(endpoint(agent_socket)).arg(uid.to_string()).args(peers);
        match (self, role) {
            (Self::Python, "client") => drop(command.arg("spiffe")),
            (Self::Grpcio, "client") => drop(command.arg("bare")),
            _ => {}
        }
        command
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
