//! What goes over Konsul's HTTP API, byte for byte.
//!
//! Two families live here: the wire contract of Consul's API (`kv`, `txn`, `status`, `agent`), frozen by others, and
//! Konsul's own (`batch`, `cluster`, `health`).  Knows nothing about: where values come from, any I/O.

#![warn(missing_docs)]

pub mod agent;
pub mod batch;
mod bytes64;
pub mod cluster;
pub mod headers;
pub mod health;
pub mod kv;
pub mod txn;
