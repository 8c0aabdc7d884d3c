//! Task policy.
