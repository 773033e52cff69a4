//! What goes over Konsul's HTTP API, byte for byte.
//!
//! Two families live here: the wire contract of Consul's API (`kv`, `txn`, `status`, `agent`, `operator`), frozen by
//! others, and Konsul's own (`batch`, `cluster`, `ca`, `join_token`, `audit`, `health`, `archive`, `recover`).  Knows nothing about: where
//! values come from, any I/O.

#![warn(missing_docs)]

pub mod agent;
pub mod archive;
pub mod audit;
pub mod batch;
mod bytes64;
pub mod ca;
pub mod cluster;
pub mod headers;
pub mod health;
pub mod join_token;
pub mod kv;
pub mod operator;
pub mod recover;
pub mod time;
pub mod token;
pub mod txn;
pub mod upgrade;
