//! A `mayfly-server` with its own folder, socket and port.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mayfly_proto::grpc::health::HealthCheckRequest;
use mayfly_proto::grpc::health::health_check_response::ServingStatus;
use mayfly_proto::grpc::health::health_client::HealthClient;
use mayfly_runtime::client::unix_channel;
use tempfile::TempDir;

use crate::admin::Admin;
use crate::daemon::{Daemon, PATIENCE, free_port, story_dir};
use crate::{TRUST_DOMAIN, eventually};

/// What differs from the settings that the stories share.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Lines that go before the first section.
    pub top: String,
    /// Sections as TOML; not `listen`, `health`, `log`.
    pub sections: String,
}

/// A server that is started, or was.
#[derive(Debug)]
pub struct Server {
    /// The process.
    pub daemon: Daemon,
    dir: TempDir,
    port: u16,
    health_port: u16,
}

impl Server {
    /// One with the settings of all stories, ready.
    pub async fn start() -> Self {
        Self::start_with(ServerOptions::default()).await
    }

    /// One with other settings, ready.
    pub async fn start_with(options: ServerOptions) -> Self {
        let mut server = Self::prepare(&options);
        server.daemon.start();
        server.wait_ready().await;
        server
    }

    /// One that is not started.
    pub fn prepare(options: &ServerOptions) -> Self {
        let dir = story_dir();
        let (port, health_port) = (free_port(), free_port());
        let config = dir.path().join("server.toml");
        let mut text = format!(
            "trust_domain = \"{TRUST_DOMAIN}\"\ndata_dir = \"server\"\n{}\n",
            options.top
        );
        write!(
            text,
            "[listen]\nbind_address = \"127.0.0.1:{port}\"\nsocket_path = \"s.sock\"\n\
             [health]\nbind_address = \"127.0.0.1:{health_port}\"\n{}\n",
            options.sections
        )
        .expect("a text can be written to");
        std::fs::write(&config, text).expect("the story's folder is writable");
        Self {
            daemon: Daemon::new("mayfly-server", &config),
            dir,
            port,
            health_port,
        }
    }

    /// The folder of the story that this server is part of.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir().join("server.toml")
    }

    /// The Unix socket for operators.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("s.sock")
    }

    /// The TCP port for agents.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of the health and metrics pages.
    pub fn health_port(&self) -> u16 {
        self.health_port
    }

    /// An operator, as the user that runs the tests.
    pub fn admin(&self) -> Admin {
        Admin::new(&self.socket())
    }

    /// Waits until it says that it serves; gives how long that took.
    pub async fn wait_ready(&mut self) -> Duration {
        let begun = Instant::now();
        let socket = self.socket();
        let daemon = &mut self.daemon;
        eventually("the server to be ready", PATIENCE, async || {
            daemon.check_alive();
            if !socket.exists() {
                return None;
            }
            let mut health = HealthClient::new(unix_channel(&socket));
            let answer = health.check(HealthCheckRequest::default()).await.ok()?;
            (answer.get_ref().status() == ServingStatus::Serving).then_some(())
        })
        .await;
        begun.elapsed()
    }

    /// Stops it in order and starts it again.
    pub async fn restart(&mut self) {
        self.daemon.stop();
        self.daemon.start();
        self.wait_ready().await;
    }

    /// Its trust bundle as PEM, in a file.
    pub async fn bundle_file(&self) -> PathBuf {
        let path = self.dir().join("bundle.pem");
        std::fs::write(&path, self.admin().bundle_pem().await).expect("the story's folder is writable");
        path
    }
}
