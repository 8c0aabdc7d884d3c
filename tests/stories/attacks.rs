//! Attacks on the agent's socket and on the server's port, with honest clients measured beside each (goal L3): 99 in
//! 100 of them wait at most three times as long as without the attack, the daemon grows by at most 64 MiB, and goes on.
//!
//! Rows of the table of attacks that are shown elsewhere are named in `docs/attacks.md`.

use mayfly_tests::attack::Face;
use mayfly_tests::attack::honest::Honest;
use mayfly_tests::{Agent, AgentOptions, EntrySpec, Server, ServerOptions};

mod connections;
mod hoards;
mod http2;
mod processes;
mod requests;

/// Whose workload is honest.
const USER: u32 = 41_001;
/// Whose processes attack.
const ATTACKER: u32 = 41_666;
/// Where attackers of the server come from.
const ATTACKER_ADDRESS: [u8; 4] = [127, 0, 0, 66];

/// A server with an agent, and a client of either that does nothing wrong.
struct Scene {
    server: Server,
    agent: Agent,
    workload: Honest,
    other_agent: Honest,
}

impl Scene {
    async fn set() -> Self {
        Self::set_with(ServerOptions::default(), AgentOptions::default()).await
    }

    async fn set_with(server: ServerOptions, agent: AgentOptions) -> Self {
        let server = Server::start_with(server).await;
        let agent = Agent::join_with(&server, agent).await;
        server
            .admin()
            .create(&EntrySpec::new("/web", agent.id(), &[&format!("unix:uid:{USER}")]))
            .await;
        let workload = Honest::workload(&agent, USER).await;
        let other_agent = Honest::agent(&server).await;
        Self {
            server,
            agent,
            workload,
            other_agent,
        }
    }

    /// Both faces, each with the process that is behind it and with who is served there.
    async fn faces(&self) -> [(Face, u32, &Honest); 2] {
        let bundle = self.server.admin().bundle().await;
        [
            (
                Face::agent(&self.agent, ATTACKER),
                self.agent.daemon.pid(),
                &self.workload,
            ),
            (
                Face::server(&self.server, &bundle, ATTACKER_ADDRESS),
                self.server.daemon.pid(),
                &self.other_agent,
            ),
        ]
    }

    /// Both daemons are those that were started, and nothing broke down in them.
    fn check_alive(&mut self) {
        for daemon in [&mut self.server.daemon, &mut self.agent.daemon] {
            daemon.check_alive();
            let log = daemon.log();
            assert!(!log.contains("panic"), "{}", daemon.log_tail());
        }
    }
}
