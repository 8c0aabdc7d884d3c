//! Stands between agent and server: counts what passes, and cuts the line when told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

/// A TCP relay to one port. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    target: u16,
    up: AtomicU64,
    down: AtomicU64,
    reads: AtomicU64,
    connections: AtomicU64,
    is_cut: AtomicBool,
    cut: broadcast::Sender<()>,
}

/// What has passed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Octets of TCP payload from the agent.
    pub up: u64,
    /// Octets of TCP payload to the agent.
    pub down: u64,
    /// How often something was read, in both directions.
    pub reads: u64,
    /// Connections that were accepted.
    pub connections: u64,
}

impl Proxy {
    /// Relays to the loopback port `target`, from a port of its own.
    ///
    /// # Panics
    /// There is no port.
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let (cut, _) = broadcast::channel(1);
        let state = Arc::new(State {
            target,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            cut,
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { port, state, accepting }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What has passed so far.
    pub fn traffic(&self) -> Traffic {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Traffic {
            up: read(&self.state.up),
            down: read(&self.state.down),
            reads: read(&self.state.reads),
            connections: read(&self.state.connections),
        }
    }

    /// Ends all connections and refuses new ones.
    pub fn cut(&self) {
        self.state.is_cut.store(true, Ordering::SeqCst);
        // Nobody may listen, if there is no connection.
        let _ = self.state.cut.send(());
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.state.is_cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((agent, _)) = listener.accept().await {
        if state.is_cut.load(Ordering::SeqCst) {
            continue;
        }
        state.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(relay(agent, Arc::clone(&state)));
    }
}

async fn relay(agent: TcpStream, state: Arc<State>) {
    let mut cut = state.cut.subscribe();
    let Ok(server) = TcpStream::connect(("127.0.0.1", state.target)).await else {
        return;
    };
    for stream in [&agent, &server] {
        // A relay that waits for more would be measured as latency.
        if stream.set_nodelay(true).is_err() {
            return;
        }
    }
    let (agent_in, agent_out) = agent.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        // When one direction has ended the peers have said all they had to say: gRPC does not half-close.
        () = copy(agent_in, server_out, &state.up, &state.reads) => {}
        () = copy(server_in, agent_out, &state.down, &state.reads) => {}
        _ = cut.recv() => {}
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    count: &AtomicU64,
    reads: &AtomicU64,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(size) = from.read(&mut buffer).await {
        if size == 0 || to.write_all(&buffer[..size]).await.is_err() {
            return;
        }
        count.fetch_add(size as u64, Ordering::Relaxed);
        reads.fetch_add(1, Ordering::Relaxed);
    }
}
