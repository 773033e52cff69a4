//! Nodes that are too old for their cluster, and clusters whose upgrade was not finalized.

use crate::support::ctl::konsulctl;
use crate::support::node::tail;
use crate::support::workload::read_all;
use crate::support::{Cluster, Node};
use bytes::Bytes;
use konsul_api::upgrade::UpgradeStatus;
use konsuld::metrics::Metrics;
use konsuld::raft_types::{Entry, EntryPayload, IOFlushed, LogId, Proposal};
use konsuld::storage::{Storage, StorageConfig};
use konsuld::watch::Watches;
use openraft::storage::RaftLogStorage;
use std::process::Command;

/// This program is too old: a restart does not help.
const TOO_OLD: i32 = 5;

/// Puts an entry behind the log of a node that does not run, as if a newer leader had sent it.
fn append(node: &Node, command: &'static [u8]) {
    let config = StorageConfig {
        data_dir: node.data_dir.clone(),
        state_dir: node.state_dir.clone(),
        map_bytes_max: 1 << 30,
        prezero_bytes: 0,
        prezero_step_bytes: 1 << 20,
        tail_bytes_max: 1 << 20,
        payload_bytes_max: 1 << 20,
        witnesses: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut storage = Storage::open(&config, Watches::new(), &Metrics::new("n", "c").storage).unwrap();
        let last = storage.log.get_log_state().await.unwrap().last_log_id.unwrap();
        let next = LogId::new(*last.committed_leader_id(), last.index + 1);
        let payload = EntryPayload::Normal(Proposal(Bytes::from_static(command)));
        storage.log.append([Entry { log_id: next, payload }], IOFlushed::noop()).await.unwrap();
        storage.close().await.unwrap();
    });
}

fn upgrade_status(node: &Node) -> UpgradeStatus {
    let reply = node.get("/v1/cluster/upgrade").unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    reply.json()
}

#[test]
fn an_unknown_command_stops_the_node_before_it_is_applied_and_a_restart_does_not_skip_it() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    (0..20).for_each(|n| assert!(node.client().put(&format!("k/{n}"), "", b"v").unwrap().is_true()));
    let before = read_all(node, "k/");
    node.terminate();
    // A command of a kind that no program knows yet.
    append(node, &[1, 99, 7]);
    for _ in 0..2 {
        node.start();
        let status = node.ended();
        let log = node.log_text();
        assert_eq!(status.code(), Some(TOO_OLD), "{}", tail(&log, 5));
        assert!(log.contains("this program is too old for its cluster") && log.contains("99"), "{}", tail(&log, 5));
    }
    // Nothing of it was applied: the data is what it was, for a program that knows the command.
    let state = node.state_dir.join("gen-1");
    let bytes = std::fs::read(state.join("data.mdb")).unwrap();
    assert!(before.keys().all(|key| bytes.windows(key.len()).any(|window| window == key.as_bytes())));
}

#[test]
fn a_cluster_begins_at_the_newest_version_and_has_nothing_to_finalize() {
    let cluster = Cluster::start(3);
    for node in &cluster.nodes {
        let status = upgrade_status(node);
        assert_eq!((status.cluster_version, status.newest), (konsul_state::VERSION_MAX, konsul_state::VERSION_MAX));
        assert!(status.blocked.is_empty() && status.brings.is_empty(), "{status:?}");
        assert!(status.members.iter().all(|member| member.version.is_some()), "{status:?}");
        assert_eq!(node.metric("konsul_cluster_version", ""), Ok(f64::from(konsul_state::VERSION_MAX)));
    }
    let server = format!("http://{}", cluster.nodes[cluster.followers()[0]].http);
    let output = Command::new(konsulctl()).args(["--server", &server, "upgrade", "finalize"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("nothing to finalize"), "{said}");
    // Who is away says nothing of a version that nobody waits for.
    let away = &cluster.nodes[cluster.followers()[1]];
    away.kill9();
    let status = upgrade_status(&cluster.nodes[cluster.leader()]);
    let told = status.members.iter().find(|member| member.name == away.name).unwrap();
    assert!(told.version.is_none() && told.why.is_some() && status.blocked.is_empty(), "{status:?}");
}
