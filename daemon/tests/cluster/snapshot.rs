//! Nodes that were away for too long, or lost everything.

use std::time::Duration;

use crate::support::wait::{so, wait_beyond};
use crate::support::{Cluster, Node, Options, Storm, check_writes};

/// The log is purged by this many entries at a time.
const PURGE_BATCH: u64 = 4096;

#[test]
fn a_follower_behind_the_purged_log_gets_a_snapshot_and_catches_up() {
    let raft = "snapshot_entries = 100\nkeep_entries = 20";
    let cluster = Cluster::with(Options { nodes: 3, raft, ..Options::default() });
    let away = &cluster.nodes[cluster.followers()[0]];
    let storm = Storm::start(&cluster.addresses(), 16, "w");
    storm.wait_progress(50);
    away.terminate();
    let missed_from = cluster.nodes[cluster.leader()].status().unwrap().node.applied_index;
    // Thousands of entries, each synchronised to the disk: that takes as long as the disk of a busy machine does.
    wait_beyond(Duration::from_secs(90), "both others have purged what the stopped node lacks", || {
        for node in cluster.running() {
            let covered = node.status()?.node.snapshot_index;
            so(
                covered > missed_from + PURGE_BATCH + 200,
                format!("{}: snapshot at {covered}, missed from {missed_from}", node.name),
            )?;
        }
        Ok(())
    });
    away.start();
    cluster.wait_healthy();
    let installed = away.metric("konsul_raft_snapshots_total", "op=\"install\",result=\"ok\"").unwrap();
    assert!(installed >= 1.0, "{} caught up without a snapshot", away.name);
    let written = storm.finish();
    check_writes(&cluster.nodes.iter().collect::<Vec<_>>(), "w", &written);
    cluster.assert_digests_equal();
}

#[test]
fn a_wiped_node_rejoins_under_a_new_id() {
    let cluster = Cluster::start(3);
    let storm = Storm::start(&cluster.addresses(), 4, "w");
    let all: Vec<&Node> = cluster.nodes.iter().collect();
    // A follower, then the leader, then the one that once formed the cluster.
    for wiped in [cluster.followers()[0], cluster.leader(), 0] {
        let wiped = &cluster.nodes[wiped];
        storm.wait_progress(20);
        let before = wiped.status().unwrap();
        wiped.kill9();
        wiped.wipe();
        wiped.start();
        let after = cluster.wait_healthy();
        let now = wiped.status().unwrap();
        assert_ne!(now.node.id, before.node.id, "{} lost its log and votes under its old id", wiped.name);
        assert_eq!(now.cluster_id, before.cluster_id, "{} formed a cluster of its own", wiped.name);
        let ids: Vec<u64> = after.members.iter().map(|member| member.id).collect();
        assert!(!ids.contains(&before.node.id), "{ids:?}");
        assert_eq!(after.members.iter().filter(|member| member.voter).count(), 3);
    }
    let written = storm.finish();
    check_writes(&all, "w", &written);
    cluster.assert_digests_equal();
}
