//! The process kit: what every daemon needs before it has a subject of its own.
//!
//! Settings ([`config`]), time ([`clock`]), tasks and signals ([`supervisor`]), accept loops with limits ([`listen`]),
//! channels to other processes ([`client`]), logs ([`telemetry`]), health and metrics pages ([`admin_http`]), files
//! that survive a power cut ([`files`]). The only crate that reads the environment ([`mod@env`]), asks the system for
//! the time and spawns tasks; `clippy.toml` bans these elsewhere.
//!
//! Not here: any word of identity, any RPC, any policy. Whoever needs those builds them on top.
//!
//! Start reading at [`supervisor`]: a `main` is a [`Supervisor`] with named tasks.

pub mod admin_http;
pub mod backoff;
pub mod client;
pub mod clock;
pub mod config;
pub mod env;
pub mod files;
pub mod listen;
mod open_files;
pub mod provider;
pub mod readiness;
pub mod supervisor;
pub mod telemetry;

pub use backoff::{Backoff, BackoffPolicy};
pub use clock::{Clock, ManualClock, SystemClock, unix_seconds};
pub use open_files::raise_open_files_limit;
pub use provider::install_crypto_provider;
pub use readiness::{BlockReady, Lacking, Readiness};
pub use supervisor::{OnExit, Supervisor, TaskSet};
pub use telemetry::Chain;
pub use tokio_util::sync::CancellationToken;
