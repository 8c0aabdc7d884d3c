//! What connections cost; measured by hand.

use super::*;

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What an idle connection costs the server. Each in its own process and by hand, as other tests would blur it; the
/// clients keep only their socket.
async fn idle_connection_bytes(with_tls: bool) -> u64 {
    const N: u64 = 4_000;
    let (server, client) = tls();
    let limits = Limits {
        max_connections_per_peer: 10_000,
        first_request_timeout: 600 * SECOND,
        ..Limits::default()
    };
    let listener = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let server_loop = Server::new("test", listener, limits.clone());
    let running = match with_tls {
        true => start(server_loop.acceptor(Tls::new(server, &limits))),
        false => start(server_loop),
    };
    let connector = tokio_rustls::TlsConnector::from(client);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let before = resident();
    let mut held = Vec::new();
    for _ in 0..N {
        let mut socket = TcpStream::connect(address).await.unwrap();
        if with_tls {
            let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
            let mut stream = connector.connect(name, socket).await.unwrap();
            stream.write_all(preface).await.unwrap();
            stream.flush().await.unwrap();
            socket = stream.into_inner().0;
        } else {
            socket.write_all(preface).await.unwrap();
        }
        held.push(socket);
    }
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(running.metrics.open.get(), i64::try_from(N).unwrap());
    let each = (resident() - before) * 1024 / N;
    println!("tls {with_tls}: {each} bytes of resident memory per idle connection");
    each
}

#[tokio::test]
#[ignore = "a measurement; needs ulimit -n 10000: cargo test -p mayfly-runtime idle_tcp -- --ignored --nocapture"]
async fn an_idle_tcp_connection_costs_at_most_20_kb() {
    assert!(idle_connection_bytes(false).await <= 20_000);
}

// The client's side of each handshake runs in the same process and leaves its holes in the heap.
#[tokio::test]
#[ignore = "a measurement; needs ulimit -n 10000: cargo test -p mayfly-runtime idle_tls -- --ignored --nocapture"]
async fn an_idle_tls_connection_costs_at_most_30_kb() {
    assert!(idle_connection_bytes(true).await <= 30_000);
}
