//! What is attacked, and how a stranger reaches it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mayfly_svid::{Bundle, SpiffeId};
use mayfly_verify::{Authorize, BundleSet, SpiffeServerVerifier, client_config};
use rustls::time_provider::DefaultTimeProvider;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;

use super::trial::{LAST, set_priority};
use crate::frames::{self, Connection};
use crate::{Agent, Caller, Server, TRUST_DOMAIN};

/// How long an attacker waits for its victim before it gives a connection up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Octets in both directions.
pub trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A listener under attack.
#[derive(Clone)]
pub enum Face {
    /// The agent's Workload API. Strangers are processes of a user.
    Agent {
        /// Its socket.
        socket: PathBuf,
        /// Whose processes attack.
        uid: u32,
    },
    /// The server's TCP port. Strangers are an address without a certificate.
    Server {
        /// On the loopback address.
        port: u16,
        /// Where attackers come from: any of 127.0.0.0/8, so that they are not the address of honest clients.
        from: Ipv4Addr,
        /// TLS as any agent speaks it before it has joined.
        tls: Arc<ClientConfig>,
    },
}

/// One attacker: opens connections to a [`Face`] from one thread.
#[derive(Debug)]
pub struct Stranger {
    face: Face,
    /// The process that connects to a Unix socket.
    caller: Option<Caller>,
}

// === impl Face ===

impl Face {
    /// The socket of `agent`, attacked by processes of `uid`.
    pub fn agent(agent: &Agent, uid: u32) -> Self {
        Self::Agent {
            socket: agent.socket(),
            uid,
        }
    }

    /// The port of `server`, attacked from `from`.
    pub fn server(server: &Server, bundle: &Bundle, from: [u8; 4]) -> Self {
        Self::server_at(server.port(), bundle, from.into())
    }

    /// The same, by its port.
    pub fn server_at(port: u16, bundle: &Bundle, from: Ipv4Addr) -> Self {
        let bundles = BundleSet::new();
        bundles.publish([bundle]);
        let id: SpiffeId = format!("spiffe://{TRUST_DOMAIN}/spire/server")
            .parse()
            .expect("a SPIFFE ID");
        let verifier = SpiffeServerVerifier::new(Arc::new(bundles), Authorize::Id(id));
        Self::Server {
            port,
            from,
            tls: Arc::new(client_config(None, Arc::new(verifier), Arc::new(DefaultTimeProvider))),
        }
    }

    /// Which one, for tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Agent { .. } => "agent",
            Self::Server { .. } => "server",
        }
    }

    /// One attacker.
    pub fn stranger(&self) -> Stranger {
        let caller = match self {
            Self::Agent { uid, .. } => {
                let caller = Caller::spawn(*uid);
                set_priority(caller.pid(), LAST);
                Some(caller)
            }
            Self::Server { .. } => None,
        };
        Stranger {
            face: self.clone(),
            caller,
        }
    }

    /// A method that strangers may call and that streams in both directions, or would if it were polled.
    pub fn streaming_call(&self) -> Vec<u8> {
        match self {
            Self::Agent { .. } => frames::call(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                Some(&frames::authority(b"localhost")),
                &[],
            ),
            Self::Server { .. } => frames::call(
                "/spire.api.server.agent.v1.Agent/AttestAgent",
                Some(&frames::authority(b"localhost")),
                &[],
            ),
        }
    }

    /// A method that strangers may call and that answers one message.
    pub fn plain_call(&self) -> Vec<u8> {
        match self {
            Self::Agent { .. } => frames::call(
                "/SpiffeWorkloadAPI/FetchX509SVID",
                Some(&frames::authority(b"localhost")),
                &frames::field("workload.spiffe.io", b"true"),
            ),
            Self::Server { .. } => frames::call(
                "/spire.api.server.bundle.v1.Bundle/GetBundle",
                Some(&frames::authority(b"localhost")),
                &[],
            ),
        }
    }
}

impl std::fmt::Debug for Face {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Stranger ===

impl Stranger {
    /// What it attacks.
    pub fn face(&self) -> &Face {
        &self.face
    }

    /// A connection, without TLS.
    ///
    /// # Errors
    /// None is to be had.
    pub fn socket(&mut self) -> io::Result<Box<dyn Wire>> {
        match &self.face {
            Face::Agent { .. } => self.unix().map(|socket| Box::new(socket) as Box<dyn Wire>),
            Face::Server { port, from, .. } => tcp_from(*from, *port).map(|socket| Box::new(socket) as Box<dyn Wire>),
        }
    }

    /// A connection as HTTP/2 is spoken on it: on the TCP port after the TLS handshake.
    ///
    /// # Errors
    /// None is to be had.
    pub fn dial(&mut self) -> io::Result<Connection<Box<dyn Wire>>> {
        let wire: Box<dyn Wire> = match &self.face {
            Face::Agent { .. } => Box::new(self.unix()?),
            Face::Server { port, from, tls } => {
                let name = ServerName::try_from("127.0.0.1").expect("an address");
                let connection = ClientConnection::new(Arc::clone(tls), name).map_err(io::Error::other)?;
                let mut stream = StreamOwned::new(connection, tcp_from(*from, *port)?);
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                Box::new(stream)
            }
        };
        Ok(Connection::over(wire))
    }

    fn unix(&mut self) -> io::Result<UnixStream> {
        let Face::Agent { socket, .. } = &self.face else {
            return Err(io::Error::other("not a Unix socket"));
        };
        let caller = self.caller.as_mut().expect("strangers on a Unix socket have a process");
        let connection = caller.connect(socket);
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.set_write_timeout(Some(PATIENCE))?;
        Ok(connection)
    }
}

/// A TCP connection to the loopback port, from an address of our choice.
fn tcp_from(from: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::from((from, 0)))?;
    let stream = TcpStream::from(socket);
    // Also the limit of connect(2), see socket(7).
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    connect(&stream, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
