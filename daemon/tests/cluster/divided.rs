//! Five nodes whose network falls apart in ways that leave some of them able to hear, and others able to speak: one leader
//! at a time acknowledges, whoever is cut off refuses within a lease, and what heals needs no help.

use crate::linear::Recording;
use crate::support::wait::so;
use crate::support::workload::{Written, check_order};
use crate::support::{Cluster, Node, Options, Outcome, Storm, check_writes, net, skip, wait_until};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::{Duration, Instant};

/// Answers without a leader come sooner than by default, so that the tests are quick.
const IMPATIENT: &str = "hold = \"1s\"\npropose_timeout = \"1s\"";

fn five() -> Option<Cluster> {
    if let Some(why) = net::missing() {
        skip(&why);
        return None;
    }
    Some(Cluster::with(Options { nodes: 5, raft: IMPATIENT, net: true, ..Options::default() }))
}

impl Cluster {
    fn but(&self, away: &[usize]) -> Vec<&Node> {
        self.nodes.iter().enumerate().filter(|(at, _)| !away.contains(at)).map(|(_, node)| node).collect()
    }

    /// Whole again: everybody follows one leader, holds every acknowledged write and the same state.
    fn heals(&self, storms: Vec<(&'static str, Storm)>, recording: Recording) {
        self.net().heal();
        self.wait_healthy();
        for (_, storm) in &storms {
            storm.wait_progress(20);
        }
        recording.wait_progress(100);
        let all: Vec<&Node> = self.nodes.iter().collect();
        for (prefix, storm) in storms {
            let written = storm.finish();
            check_writes(&all, prefix, &written);
            check_order(all[0], prefix, &written);
        }
        recording.judge(300);
        self.assert_digests_equal();
    }
}

/// A node that led says that it leads nobody, and answers as such.
fn wait_refuses(node: &Node, cut: Instant) {
    wait_until(&format!("{} notices that nobody follows it", node.name), || {
        let status = node.status()?;
        so(!status.has_quorum && status.leader.is_none(), format!("{status:?}"))
    });
    let noticed = cut.elapsed();
    println!("{} noticed after {} ms", node.name, noticed.as_millis());
    assert!(noticed < Duration::from_secs(2), "{} noticed only after {noticed:?}", node.name);
    let mut client = node.client();
    for query in ["", "?consistent"] {
        let reply = client.get(&format!("/v1/kv/a{query}")).unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (500, "No cluster leader"), "{query:?} at {}", node.name);
    }
}

#[test]
fn an_old_leader_in_a_minority_of_two_never_acknowledges_beside_the_new_one() {
    let Some(cluster) = five() else { return };
    let (old, with) = (cluster.leader(), cluster.followers()[0]);
    let minority = [old, with];
    let majority = cluster.but(&minority);
    let recording = Recording::start(&cluster.addresses());
    let here = Storm::start(&minority.map(|at| cluster.nodes[at].http), 4, "minority");
    let there = Storm::start(&majority.iter().map(|node| node.http).collect::<Vec<_>>(), 2, "majority");
    here.wait_progress(20);
    there.wait_progress(20);
    recording.wait_progress(100);

    cluster.net().isolate(&minority.map(|at| at + 1));
    let cut = Instant::now();
    wait_refuses(&cluster.nodes[old], cut);
    let new = cluster.leader_among(&majority);
    assert!(!minority.contains(&new));
    there.wait_progress(100);
    here.wait_failures(12);
    assert_eq!(cluster.nodes[old].ready().unwrap().0, 503);
    wait_until("who hears only a leader that is cut off says that it has none", || {
        let (code, reasons) = cluster.nodes[with].ready()?;
        let status = cluster.nodes[with].status()?;
        so(code == 503 && !status.has_quorum, format!("{code} {reasons:?} {}", status.has_quorum))
    });
    recording.wait_progress(50);
    let healed = Instant::now();
    cluster.net().heal();
    cluster.wait_healthy();
    here.wait_progress(20);
    let here = here.finish();
    let tried = |w: &&Written| w.sent > cut && w.at < healed;
    let wrong: Vec<&Written> = here.iter().filter(tried).filter(|w| w.outcome == Outcome::Acknowledged).collect();
    assert!(wrong.is_empty(), "the minority acknowledged {} writes, such as {:?}", wrong.len(), wrong[0]);
    assert!(here.iter().any(|w| tried(&w)), "nothing was tried on the minority's side");
    check_writes(&cluster.nodes.iter().collect::<Vec<_>>(), "minority", &here);
    check_order(&cluster.nodes[0], "minority", &here);
    cluster.heals(vec![("majority", there)], recording);
}

#[test]
fn a_leader_that_cannot_be_heard_or_cannot_hear_gives_way() {
    let Some(cluster) = five() else { return };
    let recording = Recording::start(&cluster.addresses());
    let storm = Storm::start(&cluster.addresses(), 4, "w");
    // It may speak and hears nobody; then the other way round.
    for deaf in [true, false] {
        recording.wait_progress(100);
        let old = cluster.leader();
        let ways: Vec<(usize, usize)> = (1..=5)
            .filter(|other| *other != old + 1)
            .map(|other| if deaf { (other, old + 1) } else { (old + 1, other) })
            .collect();
        cluster.net().cut(&ways);
        let cut = Instant::now();
        wait_refuses(&cluster.nodes[old], cut);
        let new = cluster.leader_among(&cluster.but(&[old]));
        assert_ne!(new, old);
        storm.wait_progress(50);
        recording.wait_progress(50);
        cluster.net().heal();
        cluster.wait_healthy();
    }
    cluster.heals(vec![("w", storm)], recording);
}

#[test]
fn a_follower_that_hears_or_is_heard_by_all_but_the_leader_deposes_nobody() {
    let Some(cluster) = five() else { return };
    let (leader, away) = (cluster.leader(), cluster.followers()[0]);
    let before = cluster.wait_healthy();
    let recording = Recording::start(&cluster.addresses());
    let storm = Storm::start(&[cluster.nodes[leader].http], 4, "w");
    for way in [(leader + 1, away + 1), (away + 1, leader + 1)] {
        recording.wait_progress(100);
        cluster.net().cut(&[way]);
        // Ten elections' worth: it hears from all others that there is a leader, and asks them for their votes.
        wait_until(&format!("{} misses the leader for long", cluster.nodes[away].name), || {
            let status = cluster.nodes[away].status()?;
            so(status.node.last_contact_ms.is_some_and(|ms| ms > 3_500), format!("{:?}", status.node))
        });
        storm.wait_progress(50);
        let now = cluster.nodes[leader].status().unwrap();
        assert_eq!((&now.leader, now.node.term), (&before.leader, before.node.term), "{way:?} deposed the leader");
        cluster.net().heal();
        let after = cluster.wait_healthy();
        assert_eq!((&after.leader, after.node.term), (&before.leader, before.node.term), "the return of {way:?} did");
    }
    cluster.heals(vec![("w", storm)], recording);
}

#[test]
fn a_link_that_flaps_costs_time_and_nothing_else() {
    let Some(cluster) = five() else { return };
    let recording = Recording::start(&cluster.addresses());
    let storm = Storm::start(&cluster.addresses(), 4, "w");
    recording.wait_progress(100);
    let seed: u64 = rand::rng().random();
    println!("seed of the flapping {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    // The leader's link, whoever leads by then, for around a lease: long enough to be missed, short enough to be back in
    // the middle of the election.
    for _ in 0..12 {
        let status = cluster.nodes.iter().filter_map(|node| node.status().ok());
        let leader = status.filter_map(|status| status.leader).map(|leader| leader.name).next();
        let at = leader.map_or_else(|| rng.random_range(0..5), |name| cluster.position(&name));
        cluster.net().isolate(&[at + 1]);
        std::thread::sleep(Duration::from_millis(rng.random_range(100..900)));
        cluster.net().heal();
        std::thread::sleep(Duration::from_millis(rng.random_range(50..600)));
    }
    cluster.heals(vec![("w", storm)], recording);
}
