//! A process that runs tasks without `mayfly run`: by the interface itself, so that a story can do what no tool would.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mayfly_proto::mayfly::workload::tasks_client::TasksClient;
use mayfly_proto::mayfly::workload::{EndRequest, OpenRequest, RenewRequest, RequestRequest, Stage, TaskState};
use mayfly_proto::spiffe::workload::X509svid;
use mayfly_svid::X509Svid;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tonic::transport::Channel;
use tonic::{Request, Status};
use x509_parser::extensions::ParsedExtension;

use super::{Guarded, TASK};
use crate::caller::{channel_over, svid};
use crate::{Caller, Workload, eventually};

/// How long anything may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process of some user at the workload socket.
#[derive(Debug)]
pub struct Job {
    process: Caller,
    socket: PathBuf,
    tasks: TasksClient<Channel>,
    workload: Workload,
}

/// A copy of an identity, and a connection that is open with it.
#[derive(Debug)]
pub struct Copied {
    dir: PathBuf,
    address: String,
    held: Option<Child>,
}

impl Job {
    /// A process of `uid` at the agent's `socket`.
    pub fn at(socket: &Path, uid: u32) -> Self {
        let mut process = Caller::spawn(uid);
        let channel = channel_over(process.connect(socket));
        Self {
            process,
            socket: socket.to_owned(),
            tasks: TasksClient::new(channel.clone()),
            workload: Workload::on(channel),
        }
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Connects anew: the agent was started again.
    pub fn reconnect(&mut self) {
        let channel = channel_over(self.process.connect(&self.socket));
        self.tasks = TasksClient::new(channel.clone());
        self.workload = Workload::on(channel);
    }

    /// Asks for a task.
    ///
    /// # Errors
    /// The agent's, and the server's.
    pub async fn request(&self, request: RequestRequest) -> Result<TaskState, Status> {
        Ok(self.tasks.clone().request(with_header(request)).await?.into_inner())
    }

    /// Asks for [`TASK`] as [`asked`] does.
    ///
    /// # Panics
    /// The question is refused, which is not the same as an answer that says no.
    pub async fn ask(&self) -> TaskState {
        let answer = self.request(asked()).await;
        answer.expect("the request is taken")
    }

    /// Opens a window.
    ///
    /// # Errors
    /// As for [`Job::request`].
    pub async fn open(&self, id: &str) -> Result<TaskState, Status> {
        let request = OpenRequest {
            request_id: id.into(),
            include_descendants: false,
        };
        Ok(self.tasks.clone().open(with_header(request)).await?.into_inner())
    }

    /// Renews a window's SVID.
    ///
    /// # Errors
    /// As for [`Job::request`].
    pub async fn renew(&self, id: &str) -> Result<TaskState, Status> {
        let request = RenewRequest { request_id: id.into() };
        Ok(self.tasks.clone().renew(with_header(request)).await?.into_inner())
    }

    /// Says that the task is done.
    ///
    /// # Errors
    /// As for [`Job::request`].
    pub async fn complete(&self, id: &str) -> Result<TaskState, Status> {
        let request = EndRequest {
            request_id: id.into(),
            detail: String::new(),
        };
        Ok(self.tasks.clone().complete(with_header(request)).await?.into_inner())
    }

    /// Asks for [`TASK`], which nobody has to approve, and opens it.
    ///
    /// # Panics
    /// It does not become a window.
    pub async fn enter(&self) -> TaskState {
        let asked = self.ask().await;
        assert_eq!(asked.stage(), Stage::Armed, "{asked:?}");
        let opened = self.open(&asked.request_id).await.expect("the grant can be opened");
        assert_eq!(opened.stage(), Stage::Open, "{opened:?}");
        opened
    }

    /// The task SVID that is on the ordinary stream now.
    pub async fn task_svid(&self) -> Option<X509svid> {
        let answer = self.workload.fetch().await.ok()?;
        answer.svids.into_iter().find(|found| {
            let path = found.spiffe_id.splitn(4, '/').nth(3).unwrap_or_default();
            path.starts_with("task/") || path.starts_with("breakglass/")
        })
    }

    /// The task SVID once there is one for which `fits` holds.
    pub async fn task_svid_where(&self, fits: impl Fn(&X509Svid) -> bool) -> X509svid {
        eventually("the task SVID on the stream", PATIENCE, async || {
            let found = self.task_svid().await?;
            fits(&svid(&found)).then_some(found)
        })
        .await
    }

    /// Waits until the stream has no task SVID; gives how long that took.
    pub async fn is_withdrawn(&self, patience: Duration) -> Duration {
        let begun = Instant::now();
        eventually("the task SVID to leave the stream", patience, async || {
            self.task_svid().await.is_none().then_some(())
        })
        .await;
        begun.elapsed()
    }

    /// Copies the identity into `dir` and opens a connection to the service with it.
    ///
    /// # Panics
    /// The service does not let it in.
    pub async fn copy_out(&self, guarded: &Guarded, dir: &Path) -> Copied {
        let found = self.task_svid_where(|_| true).await;
        let mut copied = Copied::write(&found, guarded, dir);
        eventually("the service to let the holder in", PATIENCE, async || {
            copied.is_let_in().await.then_some(())
        })
        .await;
        copied.hold().await;
        copied
    }
}

impl Copied {
    /// The identity as files in `dir`, for the service.
    pub fn write(found: &X509svid, guarded: &Guarded, dir: &Path) -> Self {
        let chain = svid(found);
        let certificates: String = chain.chain().iter().map(|der| pem("CERTIFICATE", der)).collect();
        std::fs::write(dir.join("cert.pem"), certificates).expect("the story's folder is writable");
        std::fs::write(dir.join("key.pem"), pem("PRIVATE KEY", &found.x509_svid_key))
            .expect("the story's folder is writable");
        Self {
            dir: dir.to_owned(),
            address: guarded.address.clone(),
            held: None,
        }
    }

    /// The same identity for another service.
    pub fn at(&self, guarded: &Guarded) -> Self {
        Self {
            dir: self.dir.clone(),
            address: guarded.address.clone(),
            held: None,
        }
    }

    /// Whether a new connection with it is let in.
    pub async fn is_let_in(&self) -> bool {
        let outcome = self.curl("/").stdout(Stdio::null()).status().await;
        outcome.expect("curl can be started").success()
    }

    /// Opens a connection that stays.
    async fn hold(&mut self) {
        let mut child = self
            .curl("/hold")
            .arg("--no-buffer")
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl can be started");
        let mut first = [0; 5];
        let output = child.stdout.as_mut().expect("piped");
        tokio::time::timeout(PATIENCE, output.read_exact(&mut first))
            .await
            .expect("the service answers")
            .expect("the holder is let in");
        self.held = Some(child);
    }

    /// Waits until the connection is cut, then asks for a new one; gives how long after `since` the cut came.
    ///
    /// # Panics
    /// It is not cut within `limit`, or a new one is let in.
    pub async fn is_dead(&mut self, since: Instant, limit: Duration) -> Duration {
        let mut held = self.held.take().expect("it is held once");
        // What comes until then has to be read, or the service would wait for us.
        let mut output = held.stdout.take().expect("piped");
        let mut rest = vec![];
        let cut = tokio::time::timeout(limit, output.read_to_end(&mut rest)).await;
        cut.expect("the connection is cut").expect("a pipe can be read");
        let after = since.elapsed();
        assert!(!self.is_let_in().await, "a copied key still opens the door");
        after
    }

    /// Whether the connection is still there.
    pub fn is_connected(&mut self) -> bool {
        let held = self.held.as_mut().expect("it is held");
        held.try_wait().expect("our child").is_none()
    }

    fn curl(&self, path: &str) -> Command {
        let mut command = Command::new("curl");
        command
            .args(["-sS", "--insecure", "--max-time", "120", "--cert"])
            .arg(self.dir.join("cert.pem"))
            .arg("--key")
            .arg(self.dir.join("key.pem"))
            .arg(format!("https://{}{path}", self.address))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

/// Which authority has signed it, by the ID of its key.
///
/// # Panics
/// The certificate does not say.
pub fn signed_by(found: &X509Svid) -> Vec<u8> {
    let leaf = found.chain().first().expect("a chain has a leaf");
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).expect("a certificate");
    let id = leaf
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
            _ => None,
        });
    id.expect("a certificate of ours names the key of its authority")
}

/// What most stories ask for.
pub fn asked() -> RequestRequest {
    RequestRequest {
        task: TASK.into(),
        reason: "a story".into(),
        ..RequestRequest::default()
    }
}

/// The header without which the workload socket answers nobody.
fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = "true".parse().expect("plain ASCII");
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("plain ASCII"))
        .collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
