//! Revocation lists as a program sees them that knows nothing of us: HTTP, DER, and OpenSSL.

use std::path::Path;
use std::process::Command;

use mayfly_tests::daemon::PATIENCE;
use mayfly_tests::{Server, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The body of a page, if it is there.
async fn page(port: u16, path: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = vec![];
    stream.read_to_end(&mut answer).await.ok()?;
    let body = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    answer.starts_with(b"HTTP/1.1 200").then(|| answer.split_off(body))
}

/// IDs of the authorities that have lists, with their classes.
async fn names(server: &Server) -> Vec<(String, String)> {
    let port = server.health_port();
    eventually("a list of each class", PATIENCE, async || {
        let text = String::from_utf8(page(port, "/crl").await?).ok()?;
        let line = |line: &str| {
            let (file, class) = line.split_once(' ')?;
            Some((file.strip_suffix(".crl")?.to_owned(), class.to_owned()))
        };
        let names: Option<Vec<_>> = text.lines().map(line).collect();
        names.filter(|names| names.len() == 2)
    })
    .await
}

/// What OpenSSL says of a list once one certificate of the bundle is found to have signed it: its number.
fn verified(list: &Path, bundle: &Path) -> u128 {
    let openssl = Command::new("openssl")
        .args(["crl", "-inform", "DER", "-noout", "-verify", "-crlnumber", "-in"])
        .arg(list)
        .arg("-CAfile")
        .arg(bundle)
        .output()
        .expect("the tests need the openssl program");
    let said = [openssl.stdout, openssl.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(openssl.status.success() && said.contains("verify OK"), "{said}");
    let number = said.lines().find_map(|line| line.strip_prefix("crlNumber=0x"));
    u128::from_str_radix(number.expect("a list has a number"), 16).unwrap()
}

#[tokio::test]
async fn lists_are_served_from_the_start_and_their_numbers_grow_over_restarts() {
    let mut server = Server::start().await;
    let (dir, mut last) = (server.dir().to_owned(), vec![0; 2]);
    for round in 0..3 {
        let names = names(&server).await;
        let classes: Vec<&str> = names.iter().map(|(_, class)| class.as_str()).collect();
        assert!(
            classes.contains(&"task") && classes.contains(&"breakglass"),
            "{classes:?}"
        );
        let bundle = server.bundle_file().await;
        for ((id, class), last) in names.iter().zip(&mut last) {
            let list = page(server.health_port(), &format!("/crl/{id}.crl"))
                .await
                .expect("a list");
            let path = dir.join(format!("{class}.crl"));
            std::fs::write(&path, &list).unwrap();
            let number = verified(&path, &bundle);
            println!("round {round}: {class}: {} bytes, number {number:#x}", list.len());
            assert!(number > *last, "{number:#x} after {last:#x}");
            *last = number;
        }
        server.restart().await;
    }
    assert!(page(server.health_port(), "/crl/none.crl").await.is_none());
}
