//! What the tests of real processes share.

pub(crate) mod certs;
pub(crate) mod cluster;
pub(crate) mod ctl;
pub(crate) mod dnsmasq;
pub(crate) mod history;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod janitor;
pub(crate) mod konsulctl;
pub(crate) mod mount;
pub(crate) mod net;
pub(crate) mod node;
pub(crate) mod wait;
pub(crate) mod workload;

use std::io::Write;

pub(crate) use cluster::{Cluster, Options};
pub(crate) use http::{Failed, Http, Reply};
pub(crate) use node::Node;
pub(crate) use wait::wait_until;
pub(crate) use workload::{Outcome, Storm, check_writes};

/// Tells why a test does not run here; past the test harness, which shows only what failing tests print.
pub(crate) fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    writeln!(std::io::stderr(), "SKIPPED {test}: {why}").unwrap();
}
