//! A world with a task: a server that knows people, an agent, a service behind the verifier kit, and a user whose jobs run
//! the task.

mod job;
pub mod ledger;
mod people;

pub use job::{Copied, Job, asked, signed_by};
pub use people::Person;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::admin::EntrySpec;
use crate::binaries::binary;
use crate::cli::Cli;
use crate::faults::SteppedClock;
use crate::{Agent, AgentOptions, Server, ServerOptions, needs_root};

/// The user whose jobs run the task.
pub const JOB_UID: u32 = 41_001;
/// The person who approves, as the user that runs the stories.
pub const APPROVER: &str = "ann";
/// The task.
pub const TASK: &str = "pay/db-migrate";
/// How the service registers as a consumer.
pub const CHECKPOINT: &str = "pay-db";

/// The people of the stories: `ann` is root, `joe` runs jobs.
pub const PEOPLE: &str = "\
    [[people]]\nid = \"ann\"\nuids = [0]\ngroups = [\"leads\"]\n\
    [[people]]\nid = \"joe\"\nuids = [41001]\n\
    [[groups]]\nid = \"leads\"\n\
    [[workloads]]\npath = \"/ns/pay/*\"\nteam = \"pay\"\n";

/// A definition without approvals, which the service enforces.
pub const UNATTENDED: &str = "\
    name = \"pay/db-migrate\"\nowner = \"ann\"\n\
    [allowed]\nworkloads = [\"/ns/pay/migrator\"]\n\
    [limits]\nmax_window = \"10m\"\n\
    [ending]\ncheckpoints = [\"pay-db@/svc/pay-db\"]\n";

/// Everything that a story of tasks begins with.
pub struct TaskWorld {
    /// The server.
    pub server: Server,
    /// The agent, on the same machine.
    pub agent: Agent,
    /// The operator, who is the approver.
    pub cli: Cli,
    programs: PathBuf,
}

/// A service that only holders of the task get into.
pub struct Guarded {
    /// `127.0.0.1:port`.
    pub address: String,
    _child: Child,
}

impl TaskWorld {
    /// With the definition in force and entries for the service and for jobs.
    pub async fn start(definition: &str) -> Self {
        Self::start_with(definition, "").await
    }

    /// The same with more sections in the server's configuration.
    pub async fn start_with(definition: &str, sections: &str) -> Self {
        Self::start_among(definition, &format!("{PEOPLE}{sections}")).await
    }

    /// The same among other people: these sections, and not [`PEOPLE`].
    pub async fn start_among(definition: &str, sections: &str) -> Self {
        Self::start_prepared(Self::prepare(sections), definition, None).await
    }

    /// A server that is not started, for stories that do something to it first.
    pub fn prepare(sections: &str) -> Server {
        needs_root();
        Server::prepare(&ServerOptions {
            sections: sections.into(),
            ..ServerOptions::default()
        })
    }

    /// Starts what was prepared, without a definition if that is empty; the agent may have a clock of its own.
    pub async fn start_prepared(mut server: Server, definition: &str, clock: Option<&SteppedClock>) -> Self {
        server.daemon.start();
        server.wait_ready().await;
        let mut agent = Agent::prepare(&server, AgentOptions::default()).await;
        if let Some(clock) = clock {
            clock.give_to(&mut agent.daemon);
        }
        agent.start_joined(&server).await;
        let admin = server.admin();
        for (path, uid) in [("/svc/pay-db", 0), ("/ns/pay/migrator", JOB_UID)] {
            let selector = format!("unix:uid:{uid}");
            admin.create(&EntrySpec::new(path, agent.id(), &[&selector])).await;
        }
        let cli = Cli::new(&server.socket());
        // Users may not be able to reach the folder of the build.
        let programs = server.dir().join("bin");
        std::fs::create_dir(&programs).expect("the story's folder is writable");
        std::fs::copy(binary("mayfly"), programs.join("mayfly")).expect("the program can be copied");
        let world = Self {
            server,
            agent,
            cli,
            programs,
        };
        if !definition.is_empty() {
            world.define(definition).await;
        }
        world
    }

    /// Brings a definition into force.
    pub async fn define(&self, definition: &str) {
        let path = self.server.dir().join("definition.toml");
        std::fs::write(&path, definition).expect("the story's folder is writable");
        let path = path.to_str().expect("the story's folder has a plain name");
        let outcome = self.cli.run(&["task", "define", path]).await;
        assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
    }

    /// Starts the service.
    pub async fn guarded(&self) -> Guarded {
        let mut child = Command::new(binary("guarded"))
            .arg(self.agent.socket())
            .args([TASK, CHECKPOINT])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the service can be started");
        let output = child.stdout.take().expect("piped");
        let mut lines = BufReader::new(output).lines();
        let address = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
        let address = address
            .expect("the service starts within a minute")
            .expect("its output can be read");
        Guarded {
            address: address.expect("the service says its address before it ends"),
            _child: child,
        }
    }

    /// A folder that the job's user may write to.
    pub fn job_dir(&self, name: &str) -> PathBuf {
        let dir = self.server.dir().join(name);
        std::fs::create_dir(&dir).expect("the story's folder is writable");
        std::os::unix::fs::chown(&dir, Some(JOB_UID), Some(JOB_UID)).expect("stories run as root");
        dir
    }

    /// `mayfly run` of the job's user, with more options, for a shell command in `dir`.
    pub fn run(&self, dir: &Path, options: &[&str], script: &str) -> Command {
        let mut command = Command::new(self.programs.join("mayfly"));
        command
            .arg("run")
            .arg("--socket")
            .arg(self.agent.socket())
            .args(["--task", TASK, "--reason", "a story"])
            .args(options)
            .args(["--", "sh", "-c", script])
            .current_dir(dir)
            .env("HOME", dir)
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        as_job_user(&mut command);
        command
    }

    /// A process of `uid` that runs tasks by the interface itself.
    pub fn job(&self, uid: u32) -> Job {
        Job::at(&self.agent.socket(), uid)
    }

    /// The person who is `uid` on this machine.
    pub fn person(&self, uid: u32) -> Person {
        Person::at(&self.server.socket(), uid)
    }

    /// An entry for a further user.
    pub async fn entry(&self, path: &str, uid: u32) -> String {
        let selector = format!("unix:uid:{uid}");
        let spec = EntrySpec::new(path, self.agent.id(), &[&selector]);
        self.server.admin().create(&spec).await
    }

    /// Fails unless the invariants hold in the server's log, and says how much there was to check.
    pub fn check_log(&self) -> ledger::Checked {
        let checked = ledger::check(self.server.dir());
        println!("the log holds the invariants: {checked:?}");
        checked
    }

    /// All tasks as an operator sees them.
    pub async fn tasks(&self) -> Vec<Value> {
        let listed = self.cli.json(&["task", "requests", "--state", "all"]).await;
        listed["requests"]
            .as_array()
            .cloned()
            .unwrap_or_else(|| panic!("{listed}"))
    }
}

/// Lets a command run as the job's user.
pub fn as_job_user(command: &mut Command) {
    command.uid(JOB_UID).gid(JOB_UID);
}
