//! Processes that stand still, and processes that are restarted one after the other.

use crate::support::wait::so;
use crate::support::{Cluster, Failed, Http, Node, Reply, Storm, check_writes, wait_until};
use konsul_api::cluster::Role;
use konsul_api::kv::KvEntry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_leader_stopped_for_ten_seconds_is_replaced_and_comes_back_as_a_follower() {
    let cluster = Cluster::start(3);
    let old = cluster.leader();
    let (paused, others): (&Node, Vec<&Node>) =
        (&cluster.nodes[old], cluster.nodes.iter().enumerate().filter(|(at, _)| *at != old).map(|(_, n)| n).collect());
    assert!(paused.client().put("a", "", b"before").unwrap().is_true());
    let storm = Storm::start(&cluster.addresses(), 4, "w");
    storm.wait_progress(50);

    paused.pause();
    let began = Instant::now();
    let new = cluster.leader_among(&others);
    println!("replaced after {} ms", began.elapsed().as_millis());
    assert!(others[0].client().put("a", "", b"after").unwrap().is_true());
    // Asked now, answered when the old leader wakes up and still believes that it leads.
    let asked: Vec<_> = ["", "?consistent"]
        .into_iter()
        .cycle()
        .take(20)
        .map(|query| {
            let mut client = Http::with_timeout(paused.http, Duration::from_secs(25));
            std::thread::spawn(move || client.get(&format!("/v1/kv/a{query}")))
        })
        .collect();
    storm.wait_progress(100);
    // The claim is about ten seconds.
    std::thread::sleep(Duration::from_secs(10).saturating_sub(began.elapsed()));
    paused.resume();
    for reader in asked {
        if let Ok(reply) = reader.join().unwrap()
            && reply.status == 200
        {
            let entries: Vec<KvEntry> = reply.json();
            assert_eq!(entries[0].value, b"after", "the old leader answered with what had been overwritten");
        }
    }
    let status = cluster.wait_healthy();
    assert_eq!(status.leader.unwrap().name, cluster.nodes[new].name, "its return deposed the leader");
    assert_eq!(paused.status().unwrap().node.role, Role::Follower);
    storm.wait_progress(50);
    check_writes(&cluster.nodes.iter().collect::<Vec<_>>(), "w", &storm.finish());
    cluster.assert_digests_equal();
}

/// What the clients of a rolling restart share.
pub(crate) struct Shared {
    pub(crate) stop: AtomicBool,
    pub(crate) done: AtomicU64,
    /// The node that is being restarted; nodes are counted from 0.
    pub(crate) restarting: AtomicUsize,
}

/// No node is being restarted.
pub(crate) const NONE: usize = usize::MAX;

/// Whether a client that follows the rules tries again, at the next node.
fn may_retry(result: &Result<Reply, Failed>, restarting: bool) -> bool {
    match result {
        Ok(reply) if reply.status == 429 || reply.status == 503 => true,
        Ok(reply) => reply.status == 500 && reply.text() == "No cluster leader",
        Err(Failed::NotSent(_) | Failed::Unanswered(_)) => restarting,
        Err(Failed::Broken(_)) => false,
    }
}

/// Writes and reads its own keys until told to stop; returns what failed and the longest time one request took.
pub(crate) fn client(nodes: &[SocketAddr], number: usize, shared: &Shared) -> (Vec<String>, Duration) {
    let mut clients: Vec<Http> = nodes.iter().map(|node| Http::new(*node)).collect();
    let (mut failures, mut longest) = (Vec::new(), Duration::ZERO);
    let mut at = number % nodes.len();
    for round in 0u64.. {
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        let (key, value) = (format!("r/{number}/{}", round / 3), format!("{number} {}", round / 3));
        let began = Instant::now();
        loop {
            let restarting_before = shared.restarting.load(Ordering::SeqCst) == at;
            let result = match round % 3 {
                0 => clients[at].put(&key, "", value.as_bytes()),
                1 => clients[at].get(&format!("/v1/kv/{key}?raw")),
                _ => clients[at].get(&format!("/v1/kv/{key}?raw&consistent")),
            };
            let good = match (&result, round % 3) {
                (Ok(reply), 0) => reply.is_true(),
                (Ok(reply), _) => reply.status == 200 && reply.body == value.as_bytes(),
                (Err(_), _) => false,
            };
            if good {
                break;
            }
            let restarting = restarting_before || shared.restarting.load(Ordering::SeqCst) == at;
            let seen = result.as_ref().map_or_else(ToString::to_string, ToString::to_string);
            if !may_retry(&result, restarting) || began.elapsed() > Duration::from_secs(15) {
                let kind = ["put", "get", "get?consistent"][usize::try_from(round % 3).unwrap()];
                failures.push(format!("{kind} {key} at {}: {seen} after {:?}", nodes[at], began.elapsed()));
                break;
            }
            at = (at + 1) % nodes.len();
        }
        longest = longest.max(began.elapsed());
        shared.done.fetch_add(1, Ordering::SeqCst);
    }
    (failures, longest)
}

#[test]
fn a_rolling_restart_under_load_fails_no_request() {
    let cluster = Cluster::start(3);
    let shared =
        Arc::new(Shared { stop: AtomicBool::new(false), done: AtomicU64::new(0), restarting: AtomicUsize::new(NONE) });
    let clients = (0..9).map(|number| {
        let (nodes, shared) = (cluster.addresses(), Arc::clone(&shared));
        std::thread::spawn(move || client(&nodes, number, &shared))
    });
    let clients: Vec<_> = clients.collect();
    let progress = |more: u64| {
        let before = shared.done.load(Ordering::SeqCst);
        wait_until(&format!("{more} more requests"), || {
            let now = shared.done.load(Ordering::SeqCst) - before;
            so(now >= more, format!("{now} more"))
        });
    };
    progress(100);
    let (mut order, last) = (cluster.followers(), cluster.leader());
    order.push(last);
    for at in order {
        shared.restarting.store(at, Ordering::SeqCst);
        cluster.nodes[at].terminate();
        cluster.nodes[at].start();
        cluster.wait_healthy();
        shared.restarting.store(NONE, Ordering::SeqCst);
        progress(100);
    }
    shared.stop.store(true, Ordering::SeqCst);
    let results: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let longest = results.iter().map(|(_, longest)| *longest).max().unwrap();
    println!("{} requests, the longest took {} ms", shared.done.load(Ordering::SeqCst), longest.as_millis());
    let failures: Vec<&String> = results.iter().flat_map(|(failures, _)| failures).collect();
    assert!(failures.is_empty(), "{} requests failed: {failures:#?}", failures.len());
    cluster.assert_digests_equal();
}
