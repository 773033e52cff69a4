//! Nodes talk over real TLS sockets on loopback; what stands behind them is a fake.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests end where something is wrong, and make files and tasks as they like"
)]

mod calls;
mod certs;
mod fake;
mod files;
mod raft;
mod refused;
