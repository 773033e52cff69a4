//! Blocking queries: who waits on a follower is woken by a write through the leader; an index never goes back.

use crate::calm_cluster;
use crate::client::{self, Address, Answer};
use crate::support::{Cluster, Node, Options, wait_until};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

fn get(node: SocketAddr, path: &str) -> Answer {
    client::get(Address(node), path).unwrap_or_else(|e| panic!("GET {path}: {e}"))
}

fn index(answer: &Answer) -> u64 {
    answer.header("X-Consul-Index").and_then(|index| index.parse().ok()).expect("every read tells an index")
}

fn wait_for_waiters(node: &Node, wanted: u32) {
    wait_until(&format!("{wanted} queries wait on {}", node.name), || {
        let waiting = node.metric("konsul_blocking_queries", "")?;
        if waiting == f64::from(wanted) { Ok(()) } else { Err(format!("{waiting} wait")) }
    });
}

fn transfer(cluster: &Cluster) {
    let before = cluster.leader();
    let reply = cluster.nodes[before].client().request("PUT", "/v1/cluster/transfer-leadership", b"").unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    wait_until("another node leads", || {
        let now = cluster.leader();
        if now == before { Err(format!("node {now} leads")) } else { Ok(()) }
    });
}

#[test]
fn a_write_through_the_leader_wakes_everybody_who_waits_on_a_follower_with_the_same_index() {
    let cluster = calm_cluster("");
    let (leader, follower) = (&cluster.nodes[cluster.leader()], &cluster.nodes[cluster.followers()[0]]);
    assert!(leader.client().put("wake/key", "", b"0").unwrap().is_true());
    for round in 1..=3 {
        let seen = index(&get(follower.http, "/v1/kv/wake/key"));
        let ask = |path: &str| {
            let (node, path) = (follower.http, format!("/v1/kv/{path}index={seen}&wait=60s"));
            thread::spawn(move || index(&get(node, &path)))
        };
        let waiters: Vec<JoinHandle<u64>> = (0..200).flat_map(|_| [ask("wake/key?"), ask("wake/?recurse&")]).collect();
        wait_for_waiters(follower, 400);
        assert!(leader.client().put("wake/key", "", format!("{round}").as_bytes()).unwrap().is_true());
        let woken: Vec<u64> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
        let now = index(&get(leader.http, "/v1/kv/wake/key"));
        assert!(now > seen);
        assert!(woken.iter().all(|index| *index == now), "{now} is the index, some were told {woken:?}");
        wait_for_waiters(follower, 0);
    }
}

/// Asks again and again as a watcher does; every index it was told, in order.
fn follow(nodes: Vec<SocketAddr>, path: &'static str, stop: &AtomicBool) -> Vec<u64> {
    let mut told = vec![1];
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let last = told[told.len() - 1];
        let path = format!("/v1/kv/{path}index={last}&wait=200ms");
        let answer = get(nodes[turn % nodes.len()], &path);
        // While nobody leads there is no answer; the index of the last one still holds.
        if answer.status != 500 {
            told.push(index(&answer));
        }
    }
    told
}

#[test]
fn an_index_never_goes_back_when_the_leader_changes_or_everything_is_restored() {
    let cluster = calm_cluster("");
    let all = cluster.addresses();
    let put = |key: &str, value: &str| {
        let node = &cluster.nodes[cluster.leader()];
        assert!(node.client().put(key, "", value.as_bytes()).unwrap().is_true());
    };
    put("back/key", "old");
    put("back/other", "old");
    let archive = cluster.nodes[0].client().get("/v1/snapshot").unwrap().body;
    let stop = AtomicBool::new(false);
    let paths = ["back/key?", "back/?recurse&", "back/?keys&", "back/absent?", "nothing/?recurse&"];
    let stale = ["back/key?stale&", "back/?recurse&stale&", "back/gone?stale&", "nothing/?keys&stale&"];
    thread::scope(|scope| {
        let mut watchers = Vec::new();
        for path in paths {
            let all = all.clone();
            watchers.push((path, scope.spawn(|| follow(all, path, &stop))));
        }
        for (path, node) in stale.into_iter().flat_map(|path| all.iter().map(move |node| (path, *node))) {
            let stop = &stop;
            watchers.push((path, scope.spawn(move || follow(vec![node], path, stop))));
        }
        for round in 0..3 {
            put("back/key", &format!("new {round}"));
            put("back/gone", "soon");
            transfer(&cluster);
            let node = &cluster.nodes[round];
            assert_eq!(node.client().request("DELETE", "/v1/kv/back/gone", b"").unwrap().status, 200);
            // Every list and key has a higher index after a restore: who waits learns of it.
            let before = index(&get(node.http, "/v1/kv/back/key"));
            let waiting = format!("/v1/kv/back/other?index={before}&wait=60s");
            let woken = scope.spawn(move || index(&get(node.http, &waiting)));
            let reply = node.client().request("PUT", "/v1/snapshot", &archive).unwrap();
            assert_eq!(reply.status, 200, "{reply}");
            assert!(woken.join().unwrap() > before);
            assert_eq!(get(node.http, "/v1/kv/back/key?raw").body, b"old", "the restored value");
        }
        stop.store(true, Ordering::Relaxed);
        for (path, watcher) in watchers {
            let told = watcher.join().unwrap();
            assert!(told.len() > 3, "{path}: {told:?}");
            assert!(told.is_sorted(), "{path} went back: {told:?}");
        }
    });
    cluster.assert_digests_equal();
}

#[test]
fn the_limit_of_waiters_refuses_one_more_and_takes_one_for_each_that_ends() {
    let cluster = Cluster::with(Options { nodes: 1, http: "watches_max = 2", ..Options::default() });
    let node = &cluster.nodes[0];
    assert!(node.client().put("limit/0", "", b"v").unwrap().is_true());
    let seen = index(&get(node.http, "/v1/kv/limit/0"));
    let wait = |key: usize| {
        let (node, path) = (node.http, format!("/v1/kv/limit/{key}?index={seen}&wait=60s"));
        thread::spawn(move || get(node, &path).status)
    };
    let waiters = [wait(0), wait(1)];
    wait_for_waiters(node, 2);
    let refused = get(node.http, &format!("/v1/kv/limit/2?index={seen}&wait=60s"));
    assert_eq!((refused.status, refused.header("Retry-After")), (429, Some("1")));
    assert!(String::from_utf8_lossy(&refused.body).contains("http.watches_max"));
    assert!(node.client().put("limit/0", "", b"w").unwrap().is_true());
    assert!(node.client().put("limit/1", "", b"w").unwrap().is_true());
    assert_eq!(waiters.map(|waiter| waiter.join().unwrap()), [200, 200]);
    // Each with a question of its own, one right after the other: who was answered takes no room.
    let pairs: Vec<JoinHandle<()>> = (0..2)
        .map(|lane| {
            let node = node.http;
            thread::spawn(move || {
                for round in 0..200 {
                    let path = format!("/v1/kv/limit/{lane}-{round}?index=1000000&wait=1ms");
                    assert_eq!(get(node, &path).status, 404, "{path}");
                }
            })
        })
        .collect();
    pairs.into_iter().for_each(|pair| pair.join().unwrap());
}
