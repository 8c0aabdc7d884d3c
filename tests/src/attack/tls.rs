//! What is sent before TLS is there, or instead of it.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;

use super::{Face, Stranger};

/// Connections that one attacker holds at most.
pub const HELD: usize = 500;

/// A whole ClientHello, as octets.
///
/// # Panics
/// rustls refuses its own settings.
pub fn hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let mut connection = ClientConnection::new(Arc::clone(config), name).expect("settings that others use as well");
    let mut octets = vec![];
    connection.write_tls(&mut octets).expect("memory can be written to");
    octets
}

/// Opens connections, says `opening` on each, and holds them until told otherwise; gives how many it held.
pub fn hold(stranger: &mut Stranger, opening: &[u8], running: &dyn Fn() -> bool) -> u64 {
    let mut held = vec![];
    while running() && held.len() < HELD {
        if let Ok(mut socket) = stranger.socket()
            && socket.write_all(opening).is_ok()
        {
            held.push(socket);
        }
    }
    wait(running);
    held.len() as u64
}

/// One connection, with noise on it. Half of it looks like TLS or HTTP/2 at first.
pub fn garbage(stranger: &mut Stranger, seed: u64) -> u64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut noise = vec![0; 4096];
    rng.fill_bytes(&mut noise);
    match seed % 3 {
        0 => noise[..5].copy_from_slice(&[22, 3, 1, 15, 0]),
        1 => {
            if let Face::Server { tls, .. } = stranger.face() {
                // Right at first, and then damaged somewhere.
                let mut hello = hello(tls);
                let at = seed as usize % hello.len();
                hello[at] ^= 0xff;
                noise.splice(..0, hello);
            } else {
                noise.splice(..0, crate::frames::PREFACE.iter().copied());
            }
        }
        _ => {}
    }
    u64::from(
        stranger
            .socket()
            .is_ok_and(|mut socket| socket.write_all(&noise).is_ok()),
    )
}

/// Until the turn is over.
pub fn wait(running: &dyn Fn() -> bool) {
    while running() {
        std::thread::sleep(Duration::from_millis(5));
    }
}
