//! A cluster goes from the version before to this one, back, and on again, while clients write and read.

use crate::linear::Recording;
use crate::support::node::own_program;
use crate::support::wait::so;
use crate::support::workload::longest_gap;
use crate::support::{Cluster, Node, Options, Storm, check_writes, konsulctl, wait_until};
use konsul_api::upgrade::UpgradeStatus;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Nobody waits longer for a write to be acknowledged somewhere.
const GAP_MS_MAX: u128 = 1000;
/// Requests without an answer are given up soon, and snapshots are made all the time.
const RAFT: &str = "hold = \"1s\"\npropose_timeout = \"1s\"\nsnapshot_entries = 500\nkeep_entries = 100";
/// What runs before the upgrade: cluster version 1 is all that it knows.
const OLD: u32 = 1;

/// The other program on every node, one after the other under load: followers first, the leader last, as
/// scripts/rolling-upgrade does it. No node is touched before the others are well and clients have gone on. The history
/// is linearizable, and nothing is lost.
fn roll(cluster: &Cluster, name: &str, to: &Path) {
    // The recorded clients use the same keys each time.
    cluster.nodes[cluster.leader()].client().request("DELETE", "/v1/kv/l/?recurse", b"").unwrap();
    let storm = Storm::start(&cluster.addresses(), 6, name);
    let recording = Recording::start(&cluster.addresses());
    let calm = Instant::now();
    storm.wait_progress(1000);
    let began = Instant::now();
    let last = cluster.leader();
    for at in (0..cluster.nodes.len()).filter(|at| *at != last).chain([last]) {
        exchange(&cluster.nodes[at], to, at != last);
        cluster.wait_healthy();
        storm.wait_progress(300);
    }
    let ended = Instant::now();
    recording.judge(1000);
    let written = storm.finish();
    check_writes(&cluster.nodes.iter().collect::<Vec<_>>(), &format!("{name}/"), &written);
    cluster.assert_digests_equal();
    let (gap, usual) = (longest_gap(&written, began, ended), longest_gap(&written, calm, began));
    let (seconds, gap, usual) = ((ended - began).as_secs_f64(), gap.as_millis(), usual.as_millis());
    println!("{name}: {seconds:.1} s, longest gap {gap} ms, {usual} ms before");
    // A machine that is busy with other things has gaps without that.
    assert!(gap <= GAP_MS_MAX + usual, "{name}: no write was acknowledged for {gap} ms; {usual} ms before");
}

/// Stopped as systemd stops it, and started as the other program.
fn exchange(node: &Node, to: &Path, rebuild: bool) {
    node.terminate();
    if rebuild {
        // Its state comes from a snapshot and a log, and the program before wrote them.
        fs::remove_dir_all(&node.state_dir).unwrap();
    }
    node.install(to);
    node.start();
}

/// What a node of this version says of the cluster; one of before has no such route.
fn upgrade(node: &Node) -> UpgradeStatus {
    let reply = node.get("/v1/cluster/upgrade").unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    reply.json()
}

/// Snapshots were written by every program, and what they replaced is purged: a state cannot be built without one.
fn wait_snapshots(cluster: &Cluster) {
    for node in &cluster.nodes {
        wait_until(&format!("{} has a snapshot", node.name), || {
            let index = node.metric("konsul_raft_snapshot_index", "")?;
            so(index > 0.0, format!("index {index}"))
        });
    }
}

/// A host that lost its data comes back with the program of before: it is told what to install, and is let in with that.
fn too_old_to_join(cluster: &Cluster, node: &Node, before: &Path) {
    node.terminate();
    node.wipe();
    node.install(before);
    node.start();
    node.wait_log(&["not admitted", "the cluster is at version", "install konsuld"]);
    node.kill9();
    node.wipe();
    node.install(&own_program());
    node.start();
    cluster.wait_healthy();
    cluster.assert_digests_equal();
}

#[test]
#[ignore = "needs PREVIOUS_KONSULD, the konsuld of the version before; scripts/test upgrade builds it"]
fn an_upgrade_goes_on_and_back_and_on_under_load_and_nothing_is_lost() {
    let before =
        std::env::var_os("PREVIOUS_KONSULD").expect("PREVIOUS_KONSULD names the konsuld of the version before");
    let (before, own) = (PathBuf::from(before), own_program());
    let cluster = Cluster::prepare(Options { nodes: 3, raft: RAFT, ..Options::default() });
    for node in &cluster.nodes {
        node.install(&before);
        node.start();
    }
    cluster.wait_healthy();
    roll(&cluster, "on", &own);
    let status = upgrade(&cluster.nodes[0]);
    assert!(status.cluster_version == OLD && status.newest > OLD && status.blocked.is_empty(), "{status:?}");
    wait_snapshots(&cluster);
    roll(&cluster, "back", &before);
    wait_snapshots(&cluster);
    // While one node is of the version before, there is no end of it.
    let first = &cluster.nodes[cluster.followers()[0]];
    exchange(first, &own, false);
    cluster.wait_healthy();
    assert_eq!(upgrade(first).blocked.len(), 2, "{:?}", upgrade(first));
    let why = konsulctl::failed(first, "upgrade finalize");
    assert!(why.contains("install the newer program there"), "{why}");
    roll(&cluster, "on_again", &own);
    konsulctl::done(first, "upgrade finalize");
    for node in &cluster.nodes {
        wait_until(&format!("{} is at the newest version", node.name), || {
            let status = upgrade(node);
            so(status.cluster_version == status.newest && status.newest > OLD, format!("{status:?}"))
        });
    }
    // What only this version knows is in the log now.
    konsulctl::done(first, "cluster compare");
    too_old_to_join(&cluster, &cluster.nodes[cluster.followers()[0]], &before);
}
