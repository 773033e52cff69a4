//! konsuld: one node of a Konsul cluster.
//!
//! The floor plan is in `ARCHITECTURE.md`: a module uses modules of lower floors only, and a test holds it to that.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests make files and tasks as they like")
)]

pub mod backup;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod durable;
pub mod http;
pub mod leader;
#[cfg(test)]
#[path = "../tests/mangled/mod.rs"]
mod mangled;
pub mod metrics;
pub mod node;
pub mod peer;
pub mod raft;
pub mod raft_types;
pub mod shutdown;
pub mod storage;
pub mod systemd;
pub mod telemetry;
pub mod tls;
pub mod watch;
