use std::convert::Infallible;
use std::future::pending;
use std::sync::Mutex;

use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::body::Body as TonicBody;
use tower::service_fn;

use super::*;
use crate::supervisor::spawn;

mod pace;

const SECOND: Duration = Duration::from_secs(1);

/// Connections out of a channel: memory only, so that the clock can be paused.
struct Memory {
    incoming: tokio::sync::Mutex<mpsc::Receiver<io::Result<DuplexStream>>>,
}

type Dial = mpsc::Sender<io::Result<DuplexStream>>;

impl Listener for Memory {
    type Socket = DuplexStream;

    async fn accept(&self) -> io::Result<(DuplexStream, Peer)> {
        let next = self.incoming.lock().await.recv().await;
        let Some(next) = next else { return pending().await };
        next.map(|socket| {
            (
                socket,
                Peer::Unix(UnixPeer {
                    pid: Some(1),
                    uid: 1,
                    gid: 1,
                }),
            )
        })
    }

    fn address(&self) -> String {
        "memory".to_owned()
    }
}

fn memory() -> (Dial, Memory) {
    let (dial, incoming) = mpsc::channel(64);
    (
        dial,
        Memory {
            incoming: tokio::sync::Mutex::new(incoming),
        },
    )
}

/// `/who` names the peer, `/hang` never ends its body, `/stream` ends its body when the connection closes.
async fn answer(request: Request<Incoming>) -> Result<Response<TonicBody>, Infallible> {
    let info = request
        .extensions()
        .get::<ConnInfo>()
        .expect("every request has it")
        .clone();
    let body = match request.uri().path() {
        "/who" => TonicBody::new(Full::from(info.peer.to_string())),
        "/chain" => TonicBody::new(Full::from(
            info.peer_certificates.map_or(0, |chain| chain.len()).to_string(),
        )),
        "/hang" => TonicBody::new(StreamBody::new(futures_util::stream::pending::<
            Result<Frame<Bytes>, Infallible>,
        >())),
        "/stream" => {
            let closing = info.closing();
            let last = async move {
                closing.cancelled_owned().await;
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"good bye")))
            };
            TonicBody::new(StreamBody::new(futures_util::stream::once(Box::pin(last))))
        }
        "/close" => {
            info.close();
            TonicBody::empty()
        }
        _ => TonicBody::empty(),
    };
    Ok(Response::new(body))
}

struct Running {
    stop: CancellationToken,
    metrics: ListenMetrics,
    task: tokio::task::JoinHandle<()>,
}

fn start<L: Listener + Sync, A: Acceptor<L::Socket>>(server: Server<L, A>) -> Running {
    let stop = CancellationToken::new();
    let metrics = server.metrics().clone();
    let task = spawn(server.serve(service_fn(answer), stop.clone()));
    Running { stop, metrics, task }
}

async fn connect(dial: &Dial) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    dial.send(Ok(theirs)).await.unwrap();
    ours
}

type Client = (SendRequest<Empty<Bytes>>, tokio::task::JoinHandle<hyper::Result<()>>);

async fn speak(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> hyper::Result<Client> {
    let (client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
    Ok((client, spawn(connection)))
}

async fn get(client: &mut SendRequest<Empty<Bytes>>, path: &str) -> hyper::Result<Response<Incoming>> {
    client.ready().await?;
    client
        .send_request(Request::get(format!("http://x{path}")).body(Empty::new()).unwrap())
        .await
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn no_error_of_accept_ends_the_loop() {
    let (dial, listener) = memory();
    let running = start(Server::new("test", listener, Limits::unix()));
    for errno in [
        nix::libc::EMFILE,
        nix::libc::ENFILE,
        nix::libc::ENOMEM,
        nix::libc::ECONNABORTED,
        9999,
    ] {
        dial.send(Err(io::Error::from_raw_os_error(errno))).await.unwrap();
    }
    let begun = Instant::now();
    let (mut client, _) = speak(connect(&dial).await).await.unwrap();
    assert_eq!(text(get(&mut client, "/who").await.unwrap()).await, "uid 1 pid 1");
    assert_eq!(running.metrics.accept_errors.get(), 5);
    assert_eq!(
        begun.elapsed().as_millis() / 10,
        4 * 75 / 10,
        "a pause after each but the aborted connection"
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_speaks_is_dropped_and_one_that_never_asks_is_told_to_go() {
    let (dial, listener) = memory();
    let running = start(Server::new("test", listener, Limits::unix()));
    let begun = Instant::now();
    let mut silent = connect(&dial).await;
    let (_client, connection) = speak(connect(&dial).await).await.unwrap();
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 10, "preface_timeout");
    connection.await.unwrap().unwrap();
    assert_eq!(
        begun.elapsed().as_secs(),
        60,
        "first_request_timeout, ended by GOAWAY and not by an error"
    );
    tokio::time::sleep(SECOND).await;
    assert_eq!(running.metrics.open.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_and_one_with_an_open_request_is_not() {
    let (dial, listener) = memory();
    let limits = Limits {
        idle_timeout: Some(100 * SECOND),
        ..Limits::unix()
    };
    let _running = start(Server::new("test", listener, limits));
    let begun = Instant::now();
    let (mut idle, idle_connection) = speak(connect(&dial).await).await.unwrap();
    let (mut busy, busy_connection) = speak(connect(&dial).await).await.unwrap();
    text(get(&mut idle, "/who").await.unwrap()).await;
    let open = get(&mut busy, "/hang").await.unwrap();
    idle_connection.await.unwrap().unwrap();
    assert_eq!(begun.elapsed().as_secs(), 100);
    tokio::time::sleep(1_000 * SECOND).await;
    assert!(!busy_connection.is_finished());
    drop(open);
    busy_connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_is_closed_within_its_age_and_its_streams_may_end_in_order() {
    let (dial, listener) = memory();
    let limits = Limits {
        max_connection_age: Some(1_000 * SECOND),
        ..Limits::unix()
    };
    let _running = start(Server::new("test", listener, limits));
    let begun = Instant::now();
    let (mut client, connection) = speak(connect(&dial).await).await.unwrap();
    let stream = get(&mut client, "/stream").await.unwrap();
    assert_eq!(text(stream).await, "good bye");
    let age = begun.elapsed().as_secs();
    assert!((900..=1_000).contains(&age), "{age}");
    connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handler_can_close_the_connection_of_its_caller() {
    let (dial, listener) = memory();
    let _running = start(Server::new("test", listener, Limits::unix()));
    let (mut client, connection) = speak(connect(&dial).await).await.unwrap();
    get(&mut client, "/close").await.unwrap();
    connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_stop_ends_streams_in_order_and_cuts_what_hangs_when_the_drain_time_is_over() {
    let (dial, listener) = memory();
    let running = start(Server::new("test", listener, Limits::unix()));
    let (mut client, orderly) = speak(connect(&dial).await).await.unwrap();
    let stream = get(&mut client, "/stream").await.unwrap();
    let (mut client, hanging) = speak(connect(&dial).await).await.unwrap();
    let _open = get(&mut client, "/hang").await.unwrap();
    let mut without_preface = connect(&dial).await;
    tokio::time::sleep(SECOND).await;

    let begun = Instant::now();
    running.stop.cancel();
    assert_eq!(text(stream).await, "good bye");
    orderly.await.unwrap().unwrap();
    // The server's SETTINGS, then the end.
    without_preface.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 0, "who can go goes at once");
    running.task.await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 10, "drain_timeout, not its second");
    let _ = hanging.await.unwrap();
    assert_eq!(running.metrics.open.get(), 0);
}

// Attack 20
#[tokio::test(start_paused = true)]
async fn requests_over_the_limit_of_a_peer_are_refused_on_all_its_connections_until_others_end() {
    let limits = Limits {
        max_requests_per_peer: Some(2),
        ..Limits::default()
    };
    let (dial, listener) = memory();
    let _running = start(Server::new("test", listener, limits));
    let (mut one, _) = speak(connect(&dial).await).await.unwrap();
    let (mut other, _) = speak(connect(&dial).await).await.unwrap();
    let first = get(&mut one, "/hang").await.unwrap();
    let _second = get(&mut other, "/hang").await.unwrap();
    for client in [&mut one, &mut other] {
        let refused = get(client, "/who").await.unwrap_err();
        let reason = std::error::Error::source(&refused)
            .and_then(|source| source.downcast_ref::<h2::Error>())
            .and_then(h2::Error::reason);
        assert_eq!(reason, Some(h2::Reason::REFUSED_STREAM), "{refused:?}");
    }
    drop(first);
    tokio::time::sleep(SECOND).await;
    text(get(&mut other, "/who").await.unwrap()).await;
    text(get(&mut one, "/who").await.unwrap()).await;
}

// Attack 4
#[tokio::test]
async fn a_connection_with_much_to_say_takes_turns_with_others() {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(&vec![0; 1 << 20]).await.unwrap();
    let counts = peer::PeerCounts::new(&Limits::default());
    let counted = counts.admit(&Peer::Tcp("192.0.2.1:1".parse().unwrap())).unwrap();
    let activity = Arc::new(Activity::new(counted.requests().clone()));
    let mut io = WatchedIo::new(server, activity, true);
    let others = std::cell::Cell::new(0);
    let read = async {
        let mut left = 1 << 20;
        while left > 0 {
            left -= io.read(&mut [0; 1024]).await.unwrap();
        }
    };
    let other = async {
        loop {
            others.set(others.get() + 1);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = read => {}
        () = other => {}
    }
    assert!(others.get() >= 100, "{}", others.get());
}

// Attack 20
#[tokio::test]
async fn a_connection_that_cannot_be_written_to_gives_its_peers_turn_away() {
    let counts = peer::PeerCounts::new(&Limits::default());
    let peer = Peer::Tcp("192.0.2.1:1".parse().unwrap());
    let counted = counts.admit(&peer).unwrap();
    let turns = counted.requests().turns();
    let all = turns.available_permits();
    let (mut client, server) = tokio::io::duplex(100);
    let mut io = WatchedIo::new(server, Arc::new(Activity::new(counted.requests().clone())), true);
    client.write_all(&[0; 10]).await.unwrap();
    io.read_exact(&mut [0; 10]).await.unwrap();
    assert_eq!(turns.available_permits(), all - 1, "there may be more to read");
    assert!(futures_util::poll!(Box::pin(io.write_all(&[0; 1000]))).is_pending());
    assert_eq!(turns.available_permits(), all);
    client.read_exact(&mut [0; 100]).await.unwrap();
    client.write_all(&[0; 10]).await.unwrap();
    io.read_exact(&mut [0; 10]).await.unwrap();
    assert!(futures_util::poll!(Box::pin(io.read(&mut [0; 1]))).is_pending());
    assert_eq!(turns.available_permits(), all, "nothing to read");
}

#[tokio::test(start_paused = true)]
async fn connections_over_the_limits_are_closed_at_once_and_the_others_go_on() {
    for limits in [
        Limits {
            max_connections: 2,
            ..Limits::unix()
        },
        Limits {
            max_connections_per_peer: 2,
            ..Limits::unix()
        },
    ] {
        let (dial, listener) = memory();
        let running = start(Server::new("test", listener, limits));
        let (mut first, _) = speak(connect(&dial).await).await.unwrap();
        let (second, second_connection) = speak(connect(&dial).await).await.unwrap();
        let mut refused = connect(&dial).await;
        let begun = Instant::now();
        assert_eq!(refused.read(&mut [0; 100]).await.unwrap_or(0), 0);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let (limit, peer) = (
            running.metrics.refused_limit.get(),
            running.metrics.refused_peer_limit.get(),
        );
        assert_eq!(limit + peer, 1);
        text(get(&mut first, "/who").await.unwrap()).await;
        drop(second);
        let _ = second_connection.await;
        tokio::time::sleep(SECOND).await;
        let (mut third, _) = speak(connect(&dial).await).await.unwrap();
        text(get(&mut third, "/who").await.unwrap()).await;
    }
}

#[tokio::test]
async fn a_dropped_server_takes_its_connections_along() {
    let (dial, listener) = memory();
    let running = start(Server::new("test", listener, Limits::unix()));
    let (mut client, connection) = speak(connect(&dial).await).await.unwrap();
    text(get(&mut client, "/who").await.unwrap()).await;
    running.task.abort();
    let _ = connection.await.unwrap();
}

#[tokio::test]
async fn an_acceptor_of_the_callers_own_wraps_the_stream_and_adds_an_extension() {
    #[derive(Debug, Clone, PartialEq)]
    struct Badge(u32);
    struct Badges(Mutex<u32>);
    impl Acceptor<DuplexStream> for Badges {
        type Io = tokio::io::BufStream<DuplexStream>;
        async fn accept(&self, socket: DuplexStream, peer: Peer) -> io::Result<Accepted<Self::Io>> {
            let mut accepted = Accepted::new(tokio::io::BufStream::new(socket), peer);
            let mut next = self.0.lock().unwrap();
            *next += 1;
            accepted.extensions.insert(Badge(*next));
            Ok(accepted)
        }
    }
    let (dial, listener) = memory();
    let server = Server::new("test", listener, Limits::unix()).acceptor(Badges(Mutex::new(0)));
    let service = service_fn(|request: Request<Incoming>| async move {
        let badge = request
            .extensions()
            .get::<Badge>()
            .expect("from the acceptor")
            .0
            .to_string();
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(badge)))
    });
    spawn(server.serve(service, CancellationToken::new()));
    for expected in ["1", "2"] {
        let (mut client, _) = speak(connect(&dial).await).await.unwrap();
        assert_eq!(text(get(&mut client, "/").await.unwrap()).await, expected);
        assert_eq!(
            text(get(&mut client, "/").await.unwrap()).await,
            expected,
            "once per connection"
        );
    }
}

#[tokio::test]
async fn headers_over_the_limit_are_refused_and_the_connection_lives() {
    let (dial, listener) = memory();
    let _running = start(Server::new("test", listener, Limits::unix()));
    let (mut client, _) = speak(connect(&dial).await).await.unwrap();
    let large = Request::get("http://x/who")
        .header("x", "y".repeat(17 * 1024))
        .body(Empty::new())
        .unwrap();
    let refused = client.send_request(large).await;
    assert!(refused.is_err() || refused.unwrap().status() == http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    text(get(&mut client, "/who").await.unwrap()).await;
}

/// A server certificate for `localhost` and a client that trusts it.
fn tls() -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
    let provider = crate::provider::crypto_provider();
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let der = signed.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

#[tokio::test]
async fn silent_tls_peers_block_neither_accept_nor_the_handshakes_of_others() {
    let (server, client) = tls();
    let limits = Limits {
        max_handshakes: 1,
        ..Limits::default()
    };
    let listener = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let tls = Tls::new(server, &limits);
    let running = start(Server::new("test", listener, limits).acceptor(tls));
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(&[22, 3, 1, 2]).await.unwrap();
    let target = format!("localhost:{}", address.port()).parse().unwrap();
    let mut channel = crate::client::tls_channel(&target, client, &crate::client::ChannelSettings::default());
    let request = Request::get("/chain").body(TonicBody::empty()).unwrap();
    let ready = tower::ServiceExt::ready(&mut channel).await.unwrap();
    let response = tokio::time::timeout(5 * SECOND, ready.call(request))
        .await
        .expect("not blocked")
        .unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "0", "no client certificate was shown");
    assert_eq!(running.metrics.open.get(), 52);
}

// Attack 6
#[tokio::test]
async fn peers_that_say_hello_and_nothing_more_leave_room_for_the_handshakes_of_others() {
    let (server, client) = tls();
    let limits = Limits {
        max_handshakes: 4,
        ..Limits::default()
    };
    let listener = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let tls = Tls::new(server, &limits);
    let _running = start(Server::new("test", listener, limits).acceptor(tls));
    let mut half_open = Vec::new();
    for _ in 0..20 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut socket = socket.connect(address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let mut hello = rustls::ClientConnection::new(Arc::clone(&client), name).unwrap();
        let mut octets = Vec::new();
        hello.write_tls(&mut octets).unwrap();
        socket.write_all(&octets).await.unwrap();
        half_open.push(socket);
    }
    // The answer to the first one's hello: it has its slot.
    half_open[0].readable().await.unwrap();
    let target = format!("localhost:{}", address.port()).parse().unwrap();
    let mut channel = crate::client::tls_channel(&target, client, &crate::client::ChannelSettings::default());
    let request = Request::get("/chain").body(TonicBody::empty()).unwrap();
    let ready = tower::ServiceExt::ready(&mut channel).await.unwrap();
    let answered = tokio::time::timeout(5 * SECOND, ready.call(request)).await;
    assert!(answered.expect("not blocked").is_ok());
}

#[tokio::test]
async fn a_unix_peer_is_known_by_its_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let socket = UnixSocket::bind(&path, 0o600).unwrap();
    let running = start(Server::new("test", socket, Limits::unix()));
    let mut channel = crate::client::unix_channel(&path);
    let ready = tower::ServiceExt::ready(&mut channel).await.unwrap();
    let response = ready
        .call(Request::get("/who").body(TonicBody::empty()).unwrap())
        .await
        .unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        body,
        format!("uid {} pid {}", nix::unistd::geteuid(), std::process::id())
    );
    drop(channel);
    running.stop.cancel();
    running.task.await.unwrap();
    assert!(!path.exists(), "removed at the stop");
}

#[tokio::test]
async fn a_unix_socket_replaces_the_dead_and_neither_the_living_nor_what_is_not_a_socket() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    // A crash leaves the file behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = UnixSocket::bind(&path, 0o666).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    let error = UnixSocket::bind(&path, 0o666).unwrap_err();
    assert!(
        error.to_string().contains("already in use by a running process"),
        "{error}"
    );
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );

    std::fs::remove_file(&path).unwrap();
    let second = UnixSocket::bind(&path, 0o660).unwrap();
    drop(first);
    assert!(path.exists(), "the file of the second is not the first's to remove");
    drop(second);
    assert!(!path.exists());

    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(
        UnixSocket::bind(&path, 0o666),
        Err(UnixBindError::NotASocket { .. })
    ));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let long = dir.path().join("x".repeat(100));
    assert!(matches!(
        UnixSocket::bind(&long, 0o666),
        Err(UnixBindError::PathTooLong { .. })
    ));
}
