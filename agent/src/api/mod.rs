//! The services on the agent's sockets.
pub mod authority;
