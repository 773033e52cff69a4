//! Bytes that change on the disk.

use crate::support::node::tail;
use crate::support::wait::so;
use crate::support::workload::read_all;
use crate::support::{Cluster, Node, Storm, check_writes, wait_until};
use std::fs;
use std::path::{Path, PathBuf};

/// Puts a key and returns when it is committed.
fn put(node: &Node, key: &str, value: &[u8]) {
    let reply = node.client().put(key, "", value).unwrap();
    assert!(reply.is_true(), "{reply}");
}

fn build_snapshot(node: &Node) {
    let reply = node.client().request("POST", "/v1/cluster/snapshot", b"").unwrap();
    assert_eq!(reply.status, 200, "{reply}");
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

/// Flips a bit in every place in which the file holds these bytes; LMDB leaves old copies of pages behind.
pub(crate) fn flip(path: &Path, bytes: &[u8]) {
    let mut content = fs::read(path).unwrap();
    let places: Vec<usize> =
        content.windows(bytes.len()).enumerate().filter(|(_, w)| *w == bytes).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "{} does not hold the value", path.display());
    for at in places {
        content[at] ^= 0x10;
    }
    fs::write(path, content).unwrap();
}

#[test]
fn a_flipped_byte_in_the_newest_snapshot_is_detected_and_the_previous_used() {
    // One node: nobody else can help it.
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    for round in 0..3 {
        for number in 0..20 {
            put(node, &format!("k/{round}/{number}"), format!("value {round} {number}").as_bytes());
        }
        if round < 2 {
            build_snapshot(node);
        }
    }
    let before = read_all(node, "k/");
    assert_eq!(before.len(), 60);
    node.terminate();
    let snapshots = files(&node.data_dir.join("snap"), "snap");
    assert_eq!(snapshots.len(), 2, "{snapshots:?}");
    let newest = snapshots.last().unwrap();
    let mut content = fs::read(newest).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(newest, content).unwrap();
    // Without its state the node needs a snapshot.
    fs::remove_dir_all(&node.state_dir).unwrap();
    node.start();
    cluster.wait_healthy();
    assert_eq!(read_all(node, "k/"), before);
    assert_eq!(node.metric("konsul_raft_snapshot_damaged_total", "").unwrap(), 1.0);
    assert_eq!(files(&node.data_dir.join("snap"), "damaged").len(), 1);
    assert!(!newest.exists(), "the damaged snapshot is still in its place");
    cluster.assert_digests_equal();
}

#[test]
fn a_flipped_byte_in_the_log_is_detected_and_the_node_joins_anew() {
    let cluster = Cluster::start(3);
    let storm = Storm::start(&cluster.addresses(), 4, "w");
    storm.wait_progress(100);
    let damaged = &cluster.nodes[cluster.followers()[0]];
    let before = damaged.status().unwrap();
    let marker = b"this value will be damaged";
    put(damaged, "marked", marker);
    storm.wait_progress(20);
    damaged.terminate();
    flip(&damaged.data_dir.join("raft/data.mdb"), marker);
    damaged.start();
    let after = cluster.wait_healthy();
    damaged.wait_log(&["damaged storage set aside", "the log in", "is damaged: "]);
    let now = damaged.status().unwrap();
    assert_ne!(now.node.id, before.node.id, "{} votes on with a damaged log", damaged.name);
    assert!(after.members.iter().all(|member| member.id != before.node.id), "{:?}", after.members);
    let aside = fs::read_dir(&damaged.data_dir).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(aside.filter(|name| name.to_string_lossy().starts_with("damaged-")).count(), 1);
    let written = storm.finish();
    check_writes(&cluster.nodes.iter().collect::<Vec<_>>(), "w", &written);
    assert_eq!(read_all(damaged, "marked")["marked"], marker);
    cluster.assert_digests_equal();
}

#[test]
fn a_single_node_with_a_damaged_log_refuses_to_start_and_says_so() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let marker = b"this value will be damaged";
    put(node, "marked", marker);
    node.kill9();
    flip(&node.data_dir.join("raft/data.mdb"), marker);
    node.start();
    let status = node.ended();
    assert_eq!(status.code(), Some(1));
    let log = node.log_text();
    let said = log.lines().any(|line| line.contains("is damaged: ") && line.contains("raft"));
    assert!(said, "it does not say what is wrong:\n{}", tail(&log, 5));
    // And it left everything as it was.
    assert!(node.data_dir.join("raft/data.mdb").exists());
    wait_until("nothing listens", || so(node.get("/health/live").is_err(), "it answers"));
}
