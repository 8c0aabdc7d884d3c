//! Attackers, and how their victims are doing meanwhile.
//!
//! A [`Trial`] takes turns: honest clients alone, honest clients while the attack runs, several times, so that what the
//! machine does besides falls on both. [`Face`] is what is attacked and how it is reached; [`http2`] is what is sent
//! there by hand, on [`Wire`]s that [`Face::dial`] opens; [`honest`] are the clients that are measured.
//!
//! Attackers run at the lowest priority. They are to cost the daemon what they can, not to take the processor from the
//! clients that are measured beside them: in earnest they would be another machine or another container. The daemon and
//! its honest clients run at a high one, so that what else the machine does is not measured along.

mod face;
pub mod honest;
pub mod http2;
mod memory;
pub mod tls;
mod trial;

pub use face::{Face, Stranger, Wire};
pub use memory::Memory;
pub use trial::{Figures, Trial, withstands};
