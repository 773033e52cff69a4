//! Processes that are killed.

use crate::support::workload::longest_gap;
use crate::support::{Cluster, Node, Storm, check_writes};
use std::time::Instant;

const WRITERS: usize = 8;

#[test]
fn a_leader_killed_in_a_write_storm_loses_nothing() {
    let cluster = Cluster::start(3);
    let storm = Storm::start(&cluster.addresses(), WRITERS, "w");
    let mut rounds = Vec::new();
    for _ in 0..20 {
        storm.wait_progress(100);
        let leader = cluster.leader();
        let killed_at = Instant::now();
        cluster.nodes[leader].kill9();
        let next = cluster.leader();
        storm.wait_progress(20);
        cluster.nodes[leader].start();
        cluster.wait_healthy();
        rounds.push((leader, next, killed_at, Instant::now()));
    }
    let written = storm.finish();
    for (round, (killed, next, from, to)) in rounds.iter().enumerate() {
        let gap = longest_gap(&written, *from, *to);
        let (killed, next) = (&cluster.nodes[*killed].name, &cluster.nodes[*next].name);
        println!("round {round}: {killed} killed, {next} follows, nothing acknowledged for {} ms", gap.as_millis());
    }
    check_writes(&cluster.nodes.iter().collect::<Vec<_>>(), "w", &written);
    cluster.assert_digests_equal();
}

#[test]
fn all_three_killed_at_once_lose_nothing() {
    let cluster = Cluster::start(3);
    let storm = Storm::start(&cluster.addresses(), WRITERS, "w");
    for _ in 0..3 {
        storm.wait_progress(200);
        cluster.nodes.iter().for_each(Node::kill9);
        cluster.nodes.iter().for_each(Node::start);
        cluster.wait_healthy();
    }
    let written = storm.finish();
    check_writes(&cluster.nodes.iter().collect::<Vec<_>>(), "w", &written);
    cluster.assert_digests_equal();
}
