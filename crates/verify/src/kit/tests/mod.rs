//! The kit against an agent that does what the tests tell it, with real sockets and handshakes.

mod admission;
mod agent;
mod certs;
mod ending;
mod following;
mod house;
mod http;
mod storm;
mod time;

pub(crate) use certs::{Leaf, TestCa};
pub(crate) use time::TestTime;
