//! Disks that are full, and disks that stop with the machine.

use crate::support::cluster::Disk;
use crate::support::wait::so;
use crate::support::workload::read_all;
use crate::support::{Cluster, Node, Options, Storm, check_writes, mount, skip, wait_until};
use std::fs::{self, OpenOptions};
use std::io::Write;

const MIB: u64 = 1 << 20;

/// Writes a file until this little is left on the node's disk.
fn fill(node: &Node, left: u64) {
    let mut file = OpenOptions::new().create(true).append(true).open(node.filler()).unwrap();
    let zeros = vec![0; 64 << 10];
    loop {
        let stat = rustix::fs::statvfs(&node.data_dir).unwrap();
        // The last write may fail: then the disk is full, which is what is wanted.
        if stat.f_bavail * stat.f_frsize <= left || file.write_all(&zeros).is_err() {
            return;
        }
    }
}

impl Node {
    fn filler(&self) -> std::path::PathBuf {
        self.data_dir.parent().unwrap().join("filler")
    }
}

fn wait_disk_full(node: &Node) {
    wait_until(&format!("{} says that its disk is full", node.name), || {
        let (code, reasons) = node.ready()?;
        so(code == 503 && reasons.iter().any(|reason| reason.contains("disk full")), format!("{code} {reasons:?}"))?;
        let read_only = node.metric("konsul_store_read_only", "")?;
        so(read_only == 1.0, format!("konsul_store_read_only {read_only}"))
    });
}

fn wait_written(cluster: &Cluster, key: &str) {
    for node in &cluster.nodes {
        wait_until(&format!("{} takes a write", node.name), || {
            let reply = node.client().put(key, "", node.name.as_bytes()).map_err(|e| e.to_string())?;
            so(reply.is_true(), reply.to_string())
        });
    }
}

#[test]
fn a_full_disk_turns_read_only_and_recovers() {
    if let Some(why) = mount::missing() {
        skip(&why);
        return;
    }
    let storage = Some("free_reserve = \"16MiB\"\nballast = \"4MiB\"");
    let cluster = Cluster::with(Options { nodes: 3, storage, disk: Disk::Each(mount::small), ..Options::default() });
    wait_written(&cluster, "a");

    // A follower's disk is its own affair: the cluster goes on, through that node too.
    let follower = &cluster.nodes[cluster.followers()[0]];
    fill(follower, 8 * MIB);
    wait_disk_full(follower);
    wait_written(&cluster, "b");

    // Full everywhere, at last to the brim: no writes, but reads, and nobody falls.
    for left in [8 * MIB, 0] {
        for node in &cluster.nodes {
            fill(node, left);
        }
        cluster.nodes.iter().for_each(wait_disk_full);
        for node in &cluster.nodes {
            wait_until(&format!("{} refuses writes", node.name), || {
                let reply = node.client().put("c", "", b"x").map_err(|e| e.to_string())?;
                so(reply.status == 503 && reply.text().starts_with("read-only: disk full"), reply.to_string())
            });
            assert!(read_all(node, "").contains_key("b"), "{} reads nothing", node.name);
        }
    }
    for node in &cluster.nodes {
        assert!(node.status().is_ok(), "{} fell", node.name);
        fs::remove_file(node.filler()).unwrap();
    }
    wait_written(&cluster, "d");
    cluster.wait_healthy();
    assert!(!read_all(&cluster.nodes[0], "").contains_key("c"), "a refused write was done");
    cluster.assert_digests_equal();
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    if let Some(why) = mount::missing() {
        skip(&why);
        return;
    }
    // One disk for all three: none of them has anything that the others lost.
    let cluster = Cluster::with(Options { nodes: 3, disk: Disk::Shared(mount::ext4), ..Options::default() });
    let disk = cluster.dir.join("nodes");
    let mut written = Vec::new();
    for round in 0..3 {
        let storm = Storm::start(&cluster.addresses(), 8, &format!("w/{round}"));
        storm.wait_progress(200);
        mount::cut_power(&disk);
        // A node that cannot flush must end by itself, and acknowledge nothing before.
        wait_until("no node goes on", || {
            let gone = cluster.nodes.iter().filter(|node| node.status().is_err()).count();
            so(gone >= 2, format!("{gone} of 3 ended"))
        });
        cluster.nodes.iter().for_each(Node::kill9);
        written.extend(storm.finish());
        mount::mount_again(&disk);
        cluster.nodes.iter().for_each(Node::start);
        cluster.wait_healthy();
        for node in &cluster.nodes {
            let rebuilt = node.log_text().matches("the state is rebuilt").count();
            assert_eq!(rebuilt, round + 1, "{} trusted a state that was never flushed", node.name);
        }
    }
    check_writes(&cluster.nodes.iter().collect::<Vec<_>>(), "w", &written);
    cluster.assert_digests_equal();
}
