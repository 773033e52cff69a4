//! Networks that fall apart and heal.

use crate::support::wait::so;
use crate::support::workload::{Written, read_all};
use crate::support::{Cluster, Http, Node, Options, Outcome, Storm, check_writes, net, skip, wait_until};
use konsul_api::kv::KvEntry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Answers without a leader come sooner than by default, so that the tests are quick.
const IMPATIENT: &str = "hold = \"1s\"\npropose_timeout = \"2s\"";

fn three_in_a_network() -> Option<Cluster> {
    if let Some(why) = net::missing() {
        skip(&why);
        return None;
    }
    Some(Cluster::with(Options { nodes: 3, raft: IMPATIENT, net: true, ..Options::default() }))
}

impl Cluster {
    /// The nodes but this one.
    fn others(&self, at: usize) -> Vec<&Node> {
        self.nodes.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, node)| node).collect()
    }
}

/// When a read was asked, and the value it was answered.
type Reads = Vec<(Instant, Vec<u8>)>;

/// Reads a key in the default mode until it is told to stop.
fn read_on(node: &Node, key: &'static str, stop: &Arc<AtomicBool>) -> JoinHandle<Reads> {
    let (mut client, stop) = (Http::new(node.http), Arc::clone(stop));
    std::thread::spawn(move || {
        let mut reads = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            if let Ok(reply) = client.get(&format!("/v1/kv/{key}"))
                && reply.status == 200
            {
                let entries: Vec<KvEntry> = reply.json();
                reads.push((asked, entries[0].value.clone()));
            }
        }
        reads
    })
}

/// Writes through a majority until it is committed; when that was known.
fn write_through(nodes: &[&Node], key: &str, value: &[u8]) -> Instant {
    wait_until(&format!("{key} is written through the majority"), || {
        for node in nodes {
            let reply = node.client().put(key, "", value).map_err(|e| e.to_string())?;
            so(reply.is_true(), reply.to_string())?;
        }
        Ok(Instant::now())
    })
}

#[test]
fn a_minority_refuses_writes_and_leader_reads_within_a_lease_and_says_so() {
    let Some(cluster) = three_in_a_network() else { return };
    let old = cluster.leader();
    let (isolated, majority) = (&cluster.nodes[old], cluster.others(old));
    write_through(&[isolated], "a", b"before");
    let stop = Arc::new(AtomicBool::new(false));
    let reads = read_on(isolated, "a", &stop);

    cluster.net().isolate(&[old + 1]);
    let cut = Instant::now();
    let noticed = wait_until("the isolated leader notices", || {
        let status = isolated.status()?;
        so(!status.has_quorum && status.leader.is_none(), format!("{status:?}"))?;
        Ok(cut.elapsed())
    });
    println!("the isolated leader noticed after {} ms", noticed.as_millis());
    assert!(noticed < Duration::from_secs(2), "the isolated leader noticed only after {noticed:?}");

    let mut client = isolated.client();
    for consistency in ["", "consistent"] {
        let reply = client.get(&format!("/v1/kv/a?{consistency}")).unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (500, "No cluster leader"), "?{consistency}");
    }
    let stale = client.get("/v1/kv/a?stale").unwrap();
    assert_eq!((stale.status, stale.header("X-Consul-Knownleader")), (200, Some("false")), "{stale}");
    let write = client.put("a", "", b"lost").unwrap();
    assert!(write.status == 504 || write.text() == "No cluster leader", "a minority answered a write with {write}");
    let (code, reasons) = isolated.ready().unwrap();
    assert_eq!(code, 503);
    assert!(reasons.iter().any(|reason| reason.contains("no cluster leader")), "{reasons:?}");
    wait_until("the metrics say it", || {
        let (quorum, leads) =
            (isolated.metric("konsul_raft_has_quorum", "")?, isolated.metric("konsul_raft_is_leader", "")?);
        so(quorum == 0.0 && leads == 0.0, format!("has_quorum {quorum}, is_leader {leads}"))
    });

    // The majority goes on, and nobody is told the past.
    let acknowledged = write_through(&majority, "a", b"after");
    std::thread::sleep(Duration::from_millis(500));
    stop.store(true, Ordering::Relaxed);
    let reads = reads.join().unwrap();
    let outdated = reads.iter().filter(|(asked, value)| *asked > acknowledged && value == b"before").count();
    assert_eq!(outdated, 0, "the isolated node answered {outdated} reads with what had been overwritten");
    assert!(reads.iter().any(|(_, value)| value == b"before"), "the reader read nothing at all");

    cluster.net().heal();
    cluster.wait_healthy();
    for node in &cluster.nodes {
        let values = read_all(node, "a");
        assert_eq!(values["a"], b"after", "{}", node.name);
    }
    cluster.assert_digests_equal();
}

#[test]
fn a_partitioned_old_leader_and_the_new_one_never_both_acknowledge() {
    let Some(cluster) = three_in_a_network() else { return };
    let old = cluster.leader();
    let majority = cluster.others(old);
    let addresses: Vec<_> = majority.iter().map(|node| node.http).collect();
    let here = Storm::start(&[cluster.nodes[old].http], 8, "minority");
    let there = Storm::start(&addresses, 4, "majority");
    here.wait_progress(50);
    there.wait_progress(50);

    cluster.net().isolate(&[old + 1]);
    let cut = Instant::now();
    let new = cluster.leader_among(&majority);
    assert_ne!(new, old);
    there.wait_progress(200);
    here.wait_failures(12);
    let healed = Instant::now();
    cluster.net().heal();
    cluster.wait_healthy();
    here.wait_progress(50);
    let (here, there) = (here.finish(), there.finish());

    let acknowledged = |w: &&Written| w.outcome == Outcome::Acknowledged;
    let first = there.iter().filter(acknowledged).filter(|w| w.sent > cut).map(|w| w.at).min().unwrap();
    let silent = first - cut;
    println!("the new leader's first acknowledgement came {} ms after the cut", silent.as_millis());
    // Every writer had a request under way that the old leader would never answer: none may wait for its time limit.
    assert!(silent < Duration::from_millis(2500), "for {silent:?} nobody acknowledged anything");
    let wrong: Vec<&Written> = here.iter().filter(acknowledged).filter(|w| w.sent > cut && w.at < healed).collect();
    assert!(wrong.is_empty(), "the minority acknowledged {} writes, such as {:?}", wrong.len(), wrong[0]);
    let late = here.iter().filter(acknowledged).filter(|w| w.at > first && w.at < healed).count();
    assert_eq!(late, 0, "the old leader acknowledged {late} writes after the new one had begun to");
    assert!(here.iter().any(|w| w.sent > cut && w.at < healed), "nothing was tried on the minority's side");

    let all: Vec<&Node> = cluster.nodes.iter().collect();
    check_writes(&all, "minority", &here);
    check_writes(&all, "majority", &there);
    cluster.assert_digests_equal();
}

#[test]
fn healing_does_not_depose_a_healthy_leader() {
    let Some(cluster) = three_in_a_network() else { return };
    let before = cluster.wait_healthy();
    let away = cluster.followers()[0];
    let storm = Storm::start(&[cluster.nodes[cluster.leader()].http], 2, "w");
    cluster.net().isolate(&[away + 1]);
    // Ten elections' worth: without pre-votes its term would have risen by as much.
    wait_until("the follower was alone for long", || {
        let status = cluster.nodes[away].status()?;
        so(status.node.last_contact_ms.is_some_and(|ms| ms > 4_000), format!("{:?}", status.node))
    });
    storm.wait_progress(50);
    assert_eq!(cluster.nodes[away].status().unwrap().node.term, before.node.term, "the lonely node raised its term");
    cluster.net().heal();
    let after = cluster.wait_healthy();
    assert_eq!((after.leader, after.node.term), (before.leader, before.node.term), "the return deposed the leader");
    storm.wait_progress(50);
    check_writes(&cluster.nodes.iter().collect::<Vec<_>>(), "w", &storm.finish());
    cluster.assert_digests_equal();
}
