//! The HTTP surface of real clusters: every route on every kind of node, metrics, waiting, and konsulctl against it.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::expect_used, reason = "tests")]

#[path = "../wire/client.rs"]
mod client;
mod ctl;
mod direct;
mod doctor;
mod limits;
mod metrics;
#[allow(dead_code, unused_imports, clippy::explicit_write, reason = "shared with tests that use the rest of it")]
#[path = "../cluster/support/mod.rs"]
mod support;
mod waiting;
mod writes;

use support::{Cluster, Options};

/// Three voters. What is tested here is not timing: a busy machine shall not change the leader in between.
fn calm_cluster(http: &'static str) -> Cluster {
    Cluster::with(Options { nodes: 3, raft: "timing = \"wan\"", http, ..Options::default() })
}
