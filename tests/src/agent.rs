//! A `mayfly-agent` with its own folder and socket.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use mayfly_proto::grpc::health::HealthCheckRequest;
use mayfly_proto::grpc::health::health_check_response::ServingStatus;
use mayfly_proto::grpc::health::health_client::HealthClient;
use mayfly_runtime::client::unix_channel;
use tempfile::TempDir;

use crate::admin::id_text;
use crate::daemon::{Daemon, PATIENCE, story_dir};
use crate::{Admin, Server, TRUST_DOMAIN, eventually};

/// What proves the node.
#[derive(Debug, Clone)]
pub enum Join {
    /// A join token.
    Token(String),
    /// A certificate and its key, as PEM files.
    X509Pop {
        /// The chain, leaf first.
        certificate: PathBuf,
        /// PKCS#8.
        key: PathBuf,
    },
}

/// What differs from the settings that the stories share.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// The server's port, if not the server's own: a proxy.
    pub port: Option<u16>,
    /// How it joins; a new token by default.
    pub join: Option<Join>,
    /// Lines of `[workload_api]`.
    pub workload_api: String,
}

/// An agent that is started, or was.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub daemon: Daemon,
    dir: TempDir,
    id: String,
}

impl Agent {
    /// One that has joined `server` by a token and is ready.
    pub async fn join(server: &Server) -> Self {
        Self::join_with(server, AgentOptions::default()).await
    }

    /// One with other settings, ready.
    pub async fn join_with(server: &Server, options: AgentOptions) -> Self {
        let mut agent = Self::prepare(server, options).await;
        agent.start_joined(server).await;
        agent
    }

    /// Starts one that was prepared, and waits until it has joined and is ready.
    ///
    /// # Panics
    /// Another one joined at the same time.
    pub async fn start_joined(&mut self, server: &Server) {
        let admin = server.admin();
        let before: Vec<String> = ids(&admin).await;
        self.daemon.start();
        self.wait_ready().await;
        let joined: Vec<String> = ids(&admin)
            .await
            .into_iter()
            .filter(|id| !before.contains(id))
            .collect();
        assert_eq!(
            joined.len(),
            1,
            "one agent has joined; stories of one server start theirs one after the other"
        );
        self.id = joined.into_iter().next().expect("just counted");
    }

    /// One that is not started.
    pub async fn prepare(server: &Server, options: AgentOptions) -> Self {
        let dir = story_dir();
        let join = match options.join {
            Some(join) => join,
            None => Join::Token(server.admin().token().await),
        };
        let attestor = match join {
            Join::Token(token) => {
                let path = dir.path().join("join-token");
                std::fs::write(&path, token).expect("the story's folder is writable");
                private(&path);
                format!("[attestor.join_token]\ntoken_file = \"{}\"\n", path.display())
            }
            Join::X509Pop { certificate, key } => format!(
                "[attestor.x509pop]\ncertificate_path = \"{}\"\nprivate_key_path = \"{}\"\n",
                certificate.display(),
                key.display()
            ),
        };
        let bundle = server.bundle_file().await;
        let mut text = String::new();
        write!(
            text,
            "trust_domain = \"{TRUST_DOMAIN}\"\nserver_address = \"127.0.0.1:{}\"\ndata_dir = \"agent\"\n\
             socket_path = \"a.sock\"\ntrust_bundle_path = \"{}\"\n{attestor}\n[workload_api]\n{}\n",
            options.port.unwrap_or(server.port()),
            bundle.display(),
            options.workload_api,
        )
        .expect("a text can be written to");
        let config = dir.path().join("agent.toml");
        std::fs::write(&config, text).expect("the story's folder is writable");
        Self {
            daemon: Daemon::new("mayfly-agent", &config),
            dir,
            id: String::new(),
        }
    }

    /// The folder of this agent.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The Unix socket of the Workload API.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("a.sock")
    }

    /// Its SPIFFE ID.
    ///
    /// # Panics
    /// It was not started by [`Agent::join_with`].
    pub fn id(&self) -> &str {
        assert!(!self.id.is_empty(), "this agent has not joined");
        &self.id
    }

    /// Waits until it says that it serves.
    pub async fn wait_ready(&mut self) {
        let socket = self.socket();
        let daemon = &mut self.daemon;
        eventually("the agent to be ready", PATIENCE, async || {
            daemon.check_alive();
            is_serving(&socket).await.then_some(())
        })
        .await;
    }

    /// Stops it in order and starts it again.
    pub async fn restart(&mut self) {
        self.daemon.stop();
        self.daemon.start();
        self.wait_ready().await;
    }
}

/// Whether the health service behind `socket` says that it serves.
pub async fn is_serving(socket: &Path) -> bool {
    if !socket.exists() {
        return false;
    }
    let mut health = HealthClient::new(unix_channel(socket));
    let answer = health.check(HealthCheckRequest::default()).await;
    answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving)
}

/// Makes a file readable by its owner only.
pub fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("the story's file");
}

async fn ids(admin: &Admin) -> Vec<String> {
    admin
        .list_agents()
        .await
        .iter()
        .map(|agent| id_text(agent.id.as_ref()))
        .collect()
}
