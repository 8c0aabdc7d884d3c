//! A process that calls the Workload API, with the test reading what it gets.
//!
//! The process is `src/bin/holder.rs`: it connects, so to the agent it is the caller, and passes the connection on.

use std::io::{BufRead, BufReader, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mayfly_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mayfly_proto::spiffe::workload::{
    X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use mayfly_svid::X509Svid;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tower::service_fn;

use crate::binaries::binary;
use crate::needs_root;

/// How long a message may take that a story waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process of some user, at our command.
#[derive(Debug)]
pub struct Caller {
    child: Child,
    control: UnixStream,
}

/// The Workload API over one connection of one process.
#[derive(Debug, Clone)]
pub struct Workload {
    client: SpiffeWorkloadApiClient<Channel>,
}

/// An open `FetchX509SVID`.
#[derive(Debug)]
pub struct WorkloadStream {
    messages: Streaming<X509svidResponse>,
}

/// The header without which the Workload API answers nobody (SPIFFE Workload Endpoint §3).
fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().expect("plain ASCII"));
    request
}

/// A gRPC channel over a connection that is there already. Must be called within a runtime.
pub fn channel_over(connection: UnixStream) -> Channel {
    connection.set_nonblocking(true).expect("a socket");
    let connection = tokio::net::UnixStream::from_std(connection).expect("inside a runtime");
    let once = Arc::new(Mutex::new(Some(connection)));
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(service_fn(move |_| {
        let connection = once.lock().expect("no panic inside").take();
        async move {
            connection
                .map(TokioIo::new)
                .ok_or_else(|| std::io::Error::other("the connection is lost"))
        }
    }))
}

// === impl Caller ===

impl Caller {
    /// A process of the user `uid`. 0 is root itself, which can become somebody else later.
    pub fn spawn(uid: u32) -> Self {
        Self::spawn_program(&binary("holder"), uid)
    }

    /// The same, from a copy of the program at another path.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn spawn_program(program: &Path, uid: u32) -> Self {
        needs_root();
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let child = Command::new(program)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let mut caller = Self { child, control: ours };
        if uid != 0 {
            caller.set_uid(uid);
        }
        caller
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects to `socket`, as this process.
    pub fn connect(&mut self, socket: &Path) -> UnixStream {
        self.order(&format!("connect {}", socket.display()));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0; 256];
        let received = recvmsg(
            &self.control,
            &mut [IoSliceMut::new(&mut text)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .expect("the holder answers");
        let text = String::from_utf8_lossy(&text[..received.bytes]);
        assert_eq!(text, "ok\n", "{} cannot connect to {}", self.pid(), socket.display());
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        UnixStream::from(fd.expect("a connection came along"))
    }

    /// The Workload API at `socket`, as this process.
    pub fn workload(&mut self, socket: &Path) -> Workload {
        Workload::over(self.connect(socket))
    }

    /// Becomes another user.
    pub fn set_uid(&mut self, uid: u32) {
        self.order(&format!("setuid {uid}"));
        self.expect_ok();
    }

    /// Becomes another program: a copy of the holder at another path.
    pub fn exec(&mut self, program: &Path) {
        self.order(&format!("exec {}", program.display()));
        self.expect_ok();
    }

    /// Ends; returns when the process is gone.
    pub fn exit(mut self) {
        self.order("exit");
        self.child.wait().expect("our child");
    }

    fn order(&mut self, line: &str) {
        use std::io::Write;
        self.control
            .write_all(format!("{line}\n").as_bytes())
            .expect("the holder listens");
    }

    fn expect_ok(&mut self) {
        let mut line = String::new();
        // Nothing follows an answer until the next command, so nothing is lost in the buffer.
        BufReader::new(&self.control)
            .read_line(&mut line)
            .expect("the holder answers");
        assert_eq!(line, "ok\n", "the holder, process {}", self.pid());
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // Gone already if it was told to exit.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Workload ===

impl Workload {
    /// Over a connection that is there already.
    pub fn over(connection: UnixStream) -> Self {
        Self::on(channel_over(connection))
    }

    /// Over a channel that others use as well.
    pub fn on(channel: Channel) -> Self {
        Self {
            client: SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(64 << 20),
        }
    }

    /// Opens `FetchX509SVID`. The answer's headers may come with its first message, so this may wait for that.
    ///
    /// # Errors
    /// The agent's.
    pub async fn subscribe(&self) -> Result<WorkloadStream, Status> {
        let answer = within("an answer to FetchX509SVID", async {
            self.client
                .clone()
                .fetch_x509svid(with_header(X509svidRequest {}))
                .await
        });
        Ok(WorkloadStream {
            messages: answer.await?.into_inner(),
        })
    }

    /// The first message of a new `FetchX509SVID`, and the stream with what follows.
    ///
    /// # Errors
    /// The agent's.
    pub async fn first(&self) -> Result<(X509svidResponse, WorkloadStream), Status> {
        let mut stream = self.subscribe().await?;
        let message = stream.next().await?;
        Ok((message, stream))
    }

    /// All of the present X.509-SVIDs.
    ///
    /// # Errors
    /// The agent's.
    pub async fn fetch(&self) -> Result<X509svidResponse, Status> {
        Ok(self.first().await?.0)
    }

    /// The first message of `FetchX509Bundles`.
    ///
    /// # Errors
    /// The agent's.
    pub async fn bundles(&self) -> Result<X509BundlesResponse, Status> {
        let mut stream = within("an answer to FetchX509Bundles", async {
            self.client
                .clone()
                .fetch_x509_bundles(with_header(X509BundlesRequest {}))
                .await
        })
        .await?
        .into_inner();
        within("a message of FetchX509Bundles", stream.message())
            .await?
            .ok_or_else(ended)
    }
}

/// A stream that ends without a status would be read as "the server is done with you": it never may (IOP-15).
fn ended() -> Status {
    Status::unknown("the stream ended without an error")
}

async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

// === impl WorkloadStream ===

impl WorkloadStream {
    /// The next message, or why there is none.
    ///
    /// # Errors
    /// The agent's.
    pub async fn next(&mut self) -> Result<X509svidResponse, Status> {
        within("a message of FetchX509SVID", self.messages.message())
            .await?
            .ok_or_else(ended)
    }

    /// Whether nothing comes for `time`.
    pub async fn is_quiet_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.messages.message()).await.is_err()
    }
}

/// The SPIFFE IDs of an answer, sorted.
pub fn ids(answer: &X509svidResponse) -> Vec<String> {
    let mut ids: Vec<String> = answer.svids.iter().map(|svid| svid.spiffe_id.clone()).collect();
    ids.sort();
    ids
}

/// The certificate chain of an answer's SVID, read and checked by our parser.
pub fn svid(of: &X509svid) -> X509Svid {
    X509Svid::from_concatenated_der(&of.x509_svid).expect("the agent hands out X.509-SVIDs")
}
