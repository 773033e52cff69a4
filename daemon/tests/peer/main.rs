//! Nodes talk over real TLS sockets on loopback; what stands behind them is a fake.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests end where something is wrong, and make files and tasks as they like"
)]

mod attacks;
mod calls;
mod certs;
mod enrol;
mod fake;
mod files;
mod modes;
mod old_tls;
mod own;
mod raft;
mod refused;
mod versions;
