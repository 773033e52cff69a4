//! What a Consul 1.8.7 server answered, recorded, and now asked of konsuld: status, headers, bodies, waiting.
//!
//! `fixtures/*.json` are the recordings as they are. Steps that this server does not answer yet, or answers otherwise
//! on purpose, are listed in `exceptions.rs`, each with its reason; nothing is left out silently.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::expect_used, reason = "tests")]

mod client;
mod exceptions;
mod matching;
mod replay;
#[allow(dead_code, unused_imports, clippy::explicit_write, reason = "shared with tests that use the rest of it")]
#[path = "../cluster/support/mod.rs"]
mod support;

use client::Address;
use exceptions::Exception;
use replay::Replay;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::Cluster;

/// One server for all areas, which starts empty; in this order, as they were recorded.
const AREAS: [(&str, &str); 4] = [
    ("blocking", include_str!("fixtures/blocking.json")),
    ("kv", include_str!("fixtures/kv.json")),
    ("status", include_str!("fixtures/status.json")),
    ("txn", include_str!("fixtures/txn.json")),
];

/// An election takes a second, a loaded machine more.
const START_MAX: Duration = Duration::from_secs(30);

/// A running node, killed when dropped.
struct Node {
    process: Child,
    address: Address,
    _data: tempfile::TempDir,
}

impl Node {
    /// A cluster of one on a free port.
    fn start() -> Node {
        let data = tempfile::tempdir().expect("make a temporary directory");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a free port");
        let address = Address(free.local_addr().expect("a bound socket has an address"));
        drop(free);
        let process = command(data.path(), address.0).spawn().expect("start konsuld");
        let node = Node { process, address, _data: data };
        node.wait_until_ready();
        node
    }

    fn wait_until_ready(&self) {
        let end = Instant::now() + START_MAX;
        while !client::get(self.address, "/health/ready").is_ok_and(|answer| answer.status == 200) {
            assert!(Instant::now() < end, "konsuld is not ready after {START_MAX:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            eprintln!("konsuld was not stopped: {error}");
        }
    }
}

/// How a cluster of one is started.
fn command(data: &std::path::Path, http: SocketAddr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_konsuld"));
    command.arg("--data-dir").arg(data).arg("--http").arg(http.to_string()).arg("--node-name").arg("wire");
    command.stdout(Stdio::null());
    command
}

#[test]
fn recorded_requests_are_answered_as_consul_answered_them() {
    // Any other server of this API can be asked instead, to see what it answers.
    let given = std::env::var("KONSUL_WIRE_SERVER").ok();
    let given = given.map(|address| Address(address.parse().expect("KONSUL_WIRE_SERVER is an IP:PORT")));
    let node = given.is_none().then(Node::start);
    let address = given.or_else(|| node.as_ref().map(|node| node.address)).expect("one of both");
    let asked: usize = AREAS.iter().map(|(area, text)| assert_answers(address, area, text)).sum();
    assert!(asked > 150, "only {asked} steps were asked");
}

#[test]
fn keys_on_a_node_that_does_not_lead_are_answered_as_consul_answered_them() {
    let cluster = Cluster::start(3);
    for at in cluster.followers() {
        // The recording begins with an empty store; what it leaves behind is deleted.
        let address = Address(cluster.nodes[at].http);
        let asked = assert_answers(address, "kv", AREAS.iter().find(|(area, _)| *area == "kv").expect("an area").1);
        assert!(asked > 80, "only {asked} steps were asked");
        let everything = client::Request {
            method: "DELETE".to_owned(),
            path: "/v1/kv/?recurse".to_owned(),
            ..client::Request::default()
        };
        let deleted = client::send(address, &everything).expect("a node that runs answers");
        assert_eq!((deleted.status, deleted.body.as_slice()), (200, &b"true"[..]));
    }
    cluster.assert_digests_equal();
}

/// Asks every step of an area that is not skipped; how many those were.
fn assert_answers(address: Address, area: &str, text: &str) -> usize {
    let recording: Value = serde_json::from_str(text).expect("a recording is JSON");
    let mut replay = Replay::discover(address);
    let (mut failures, mut asked) = (Vec::new(), 0);
    for step in recording["steps"].as_array().expect("a recording has steps") {
        let id = step["id"].as_str().unwrap_or_default();
        if let Some(Exception::Skipped { .. }) = exceptions::of(id) {
            continue;
        }
        asked += usize::from(!id.is_empty());
        failures.extend(replay.step(step));
    }
    assert!(failures.is_empty(), "{} of {asked} steps of {area} differ:\n{}", failures.len(), failures.join("\n"));
    asked
}

#[test]
fn every_exception_is_of_a_recorded_step_and_has_a_reason() {
    let recorded: Vec<String> = AREAS
        .iter()
        .flat_map(|(_, text)| {
            let recording: Value = serde_json::from_str(text).expect("a recording is JSON");
            recording["steps"].as_array().expect("a recording has steps").clone()
        })
        .filter_map(|step| step["id"].as_str().map(str::to_owned))
        .collect();
    for (first, last, exception) in exceptions::ALL {
        assert!(recorded.iter().any(|id| id == first) && recorded.iter().any(|id| id == last), "{first}..{last}");
        let (Exception::Skipped { why } | Exception::Status { why, .. }) = exception;
        assert!(!why.is_empty(), "{first}");
    }
}
