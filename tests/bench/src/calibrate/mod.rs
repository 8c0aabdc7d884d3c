//! What this machine can do at best: the limits that figures are shares of.
//!
//! Measured in the same run and in the same arrangement: a peer process on the processor of the system under test, this
//! one where load is made. See `peer.rs` for the other side.

mod crypto;
mod peer;
mod wire;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::load::{histogram, quantile_ms, record};

pub use self::crypto::signatures;
pub use self::peer::serve;
pub use self::wire::{Peer, handshakes};

/// The limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Calibration {
    /// CPU of one P-256 signature, µs.
    pub sign_us: f64,
    /// CPU of one P-256 verification, µs.
    pub verify_us: f64,
    /// The same, while the generator's processor does the same work.
    pub sign_beside_us: f64,
    /// The same, while the generator's processor does the same work.
    pub verify_beside_us: f64,
    /// Mutual TLS 1.3 handshakes per second, X25519MLKEM768, P-256 certificates, server and client on one processor each.
    pub handshakes_per_s: f64,
    /// Server CPU of one, µs.
    pub handshake_server_us: f64,
    /// Client CPU of one, µs.
    pub handshake_client_us: f64,
    /// One `fdatasync` of 4 KiB, median, µs.
    pub fsync_us: f64,
    /// The same, 99th percentile.
    pub fsync_p99_us: f64,
    /// A commit of one row to SQLite, WAL, `synchronous = FULL`, median, µs.
    pub sqlite_commit_us: f64,
    /// An octet there and back over a Unix socket, median, µs.
    pub uds_us: f64,
    /// A gRPC call over a Unix socket, open connection, median, µs.
    pub uds_rpc_us: f64,
    /// A gRPC call over mutual TLS, open connection, median, µs.
    pub tls_rpc_us: f64,
    /// Server CPU of a gRPC call over mutual TLS with one CSR up and one certificate down, 16 at a time, µs.
    pub tls_rpc_server_us: f64,
}

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// For each repeated operation.
    pub time: Duration,
    /// Handshakes.
    pub handshakes: usize,
}

impl Calibration {
    /// Measures all of them.
    ///
    /// # Errors
    /// The machine refuses something.
    pub async fn take(effort: Effort) -> Result<Self> {
        let dir = mayfly_tests::daemon::story_dir();
        let alone = signatures(effort.time, false)?;
        let beside = signatures(effort.time, true)?;
        let (fsync_us, fsync_p99_us) = fsync(dir.path(), effort.time)?;
        let sqlite_commit_us = sqlite(dir.path(), effort.time)?;
        let peer = Peer::start(dir.path()).await?;
        let handshakes = handshakes(&peer, effort.handshakes).await?;
        let uds_us = wire::raw(&peer, effort.time)?;
        let uds_rpc_us = wire::rpc(peer.unix_rpc(), effort.time).await?;
        let over_tls = peer.tls_rpc().await?;
        let tls_rpc_us = wire::rpc(over_tls.clone(), effort.time).await?;
        let tls_rpc_server_us = wire::rpc_cpu(&peer, over_tls, effort.time * 4).await?;
        Ok(Self {
            sign_us: alone.sign,
            verify_us: alone.verify,
            sign_beside_us: beside.sign,
            verify_beside_us: beside.verify,
            handshakes_per_s: handshakes.per_second,
            handshake_server_us: handshakes.server_us,
            handshake_client_us: handshakes.client_us,
            fsync_us,
            fsync_p99_us,
            sqlite_commit_us,
            uds_us,
            uds_rpc_us,
            tls_rpc_us,
            tls_rpc_server_us,
        })
    }
}

fn fsync(dir: &Path, time: Duration) -> Result<(f64, f64)> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(dir.join("fsync")).context("cannot write")?;
    let block = [7; 4096];
    let mut samples = histogram();
    let begun = Instant::now();
    let mut place = 0;
    while begun.elapsed() < time || samples.len() < 10 {
        let start = Instant::now();
        file.write_all_at(&block, place * 4096)?;
        file.sync_data()?;
        record(&mut samples, start.elapsed());
        place = (place + 1) % 1024;
    }
    Ok((quantile_ms(&samples, 0.5) * 1e3, quantile_ms(&samples, 0.99) * 1e3))
}

fn sqlite(dir: &Path, time: Duration) -> Result<f64> {
    let database = rusqlite::Connection::open(dir.join("commit.db"))?;
    database.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB);",
    )?;
    let mut insert = database.prepare("INSERT INTO t (v) VALUES (?1)")?;
    let mut samples = histogram();
    let begun = Instant::now();
    while begun.elapsed() < time || samples.len() < 10 {
        let start = Instant::now();
        insert.execute([[7u8; 200].as_slice()])?;
        record(&mut samples, start.elapsed());
    }
    Ok(quantile_ms(&samples, 0.5) * 1e3)
}
