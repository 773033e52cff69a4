//! Who nodes are, and how that stays valid: real consensus, real sockets, real TLS, in one process.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests end where something is wrong, and make files and tasks as they like"
)]

mod forged;
mod joining;
mod node;
mod renewal;
mod rotation;
