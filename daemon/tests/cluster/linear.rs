//! Clients write down what they did and were told, while leaders are killed, paused and cut off: one register per key
//! must explain it. And the judge is judged: a history with one stale read must be rejected.

use crate::support::history::{Event, Op, Ret, Value, check};
use crate::support::wait::so;
use crate::support::workload::outcome;
use crate::support::{Cluster, Failed, Http, Options, Outcome, Reply, Storm, net, wait_until};
use konsul_api::kv::KvEntry;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;
/// The search for an order is exponential at worst: short histories of many keys, not long ones of few.
const OPS_PER_KEY: usize = 16;
/// Keys that are used at the same time.
const KEYS_AT_A_TIME: usize = 4;

/// What the clients share.
struct Shared {
    stop: AtomicBool,
    /// Operations begun; the keys in use follow from it.
    begun: AtomicUsize,
    /// Values are used once.
    last_value: AtomicU64,
}

impl Shared {
    fn new() -> Arc<Shared> {
        Arc::new(Shared { stop: AtomicBool::new(false), begun: AtomicUsize::new(0), last_value: AtomicU64::new(0) })
    }

    fn next_key(&self, rng: &mut SmallRng) -> usize {
        let begun = self.begun.fetch_add(1, Ordering::Relaxed);
        begun / (OPS_PER_KEY * KEYS_AT_A_TIME) * KEYS_AT_A_TIME + rng.random_range(0..KEYS_AT_A_TIME)
    }

    fn next_value(&self) -> u64 {
        self.last_value.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// The value and modify index in the answer to a read; `None` if it was refused.
fn read(result: &Result<Reply, Failed>) -> Option<(Value, u64)> {
    let reply = result.as_ref().ok()?;
    match reply.status {
        404 => Some((None, 0)),
        200 => {
            let entries: Vec<KvEntry> = reply.json();
            let value = String::from_utf8(entries[0].value.clone()).unwrap().parse().unwrap();
            Some((Some(value), entries[0].modify_index))
        }
        _ => None,
    }
}

/// One client: random operations through random nodes, until told to stop.
fn client(nodes: &[SocketAddr], number: usize, seed: u64, shared: &Shared) -> Vec<Event> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut clients: Vec<Http> = nodes.iter().map(|node| Http::with_timeout(*node, Duration::from_secs(2))).collect();
    let mut events = Vec::new();
    // What the client read last, to compare and set.
    let mut seen: Option<(usize, Value, u64)> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let key = shared.next_key(&mut rng);
        let path = format!("l/{key}");
        let client = &mut clients[rng.random_range(0..nodes.len())];
        let invoked = Instant::now();
        let (op, result) = match rng.random_range(0..10) {
            0..=2 => {
                let value = shared.next_value();
                (Op::Put(value), client.put(&path, "", value.to_string().as_bytes()))
            }
            3..=4 if seen.is_some_and(|(known, _, _)| known == key) => {
                let (_, expected, index) = seen.unwrap();
                let new = shared.next_value();
                let result = client.put(&path, &format!("cas={index}"), new.to_string().as_bytes());
                (Op::Cas { expected, new }, result)
            }
            5 => (Op::Delete, client.request("DELETE", &format!("/v1/kv/{path}"), b"")),
            6..=7 => (Op::Get, client.get(&format!("/v1/kv/{path}?consistent"))),
            _ => (Op::Get, client.get(&format!("/v1/kv/{path}"))),
        };
        let at = Instant::now();
        let event = |ret: Option<Ret>| {
            let returned = ret.map(|ret| (at, ret));
            Event { client: number, key, op: op.clone(), invoked, returned }
        };
        match &op {
            Op::Get => {
                if let Some((value, index)) = read(&result) {
                    seen = Some((key, value, index));
                    events.push(event(Some(Ret::Value(value))));
                }
            }
            Op::Put(_) | Op::Delete | Op::Cas { .. } => {
                let cas = matches!(op, Op::Cas { .. });
                match (outcome(&result), &result) {
                    (Outcome::Acknowledged, _) => {
                        events.push(event(Some(if cas { Ret::Cas(true) } else { Ret::Done })));
                    }
                    (_, Ok(reply)) if cas && reply.status == 200 && reply.body == b"false" => {
                        events.push(event(Some(Ret::Cas(false))));
                    }
                    // Surely not done: no part of the history.
                    (Outcome::Refused, _) => {}
                    (Outcome::Unknown, _) => events.push(event(None)),
                }
            }
        }
        if result.is_err() {
            // A node that is down refuses at once; the keys shall not be used up by that.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    events
}

/// Kills, pauses and, where there is a network to cut, isolates leaders, one after the other.
fn trouble(cluster: &Cluster, shared: &Shared) {
    for round in 0..6 {
        let before = shared.begun.load(Ordering::Relaxed);
        wait_until("some operations without trouble", || {
            let now = shared.begun.load(Ordering::Relaxed) - before;
            so(now >= 300, format!("{now} operations"))
        });
        let leader = cluster.leader();
        let others: Vec<_> = cluster.nodes.iter().enumerate().filter(|(at, _)| *at != leader).map(|(_, n)| n).collect();
        let node = &cluster.nodes[leader];
        match round % 3 {
            0 => {
                node.kill9();
                cluster.leader_among(&others);
                node.start();
            }
            1 => {
                node.pause();
                cluster.leader_among(&others);
                node.resume();
            }
            _ => {
                let Some(net) = &cluster.net else { continue };
                net.isolate(&[leader + 1]);
                cluster.leader_among(&others);
                net.heal();
            }
        }
        cluster.wait_healthy();
    }
}

/// What eight clients did and were told while something happened to their cluster.
fn history(cluster: &Cluster, happens: impl FnOnce(&Shared)) -> Vec<Event> {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let shared = Shared::new();
    let clients = (0..CLIENTS).map(|number| {
        let (nodes, shared) = (cluster.addresses(), Arc::clone(&shared));
        std::thread::spawn(move || client(&nodes, number, seed.wrapping_add(u64::try_from(number).unwrap()), &shared))
    });
    let clients: Vec<_> = clients.collect();
    happens(&shared);
    shared.stop.store(true, Ordering::Relaxed);
    let history: Vec<Event> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let unknown = history.iter().filter(|event| event.returned.is_none()).count();
    let keys = history.iter().map(|event| event.key).max().unwrap() + 1;
    println!("{} operations on {keys} keys, {unknown} without an answer", history.len());
    assert!(history.len() > 1000, "too little was done to prove anything");
    history
}

/// A request without an answer is given up soon: each one makes the search longer.
const IMPATIENT: &str = "hold = \"1s\"\npropose_timeout = \"1s\"";

#[test]
fn a_recorded_history_is_linearizable() {
    let net = net::missing();
    if let Some(why) = &net {
        crate::support::skip(&format!("the part with partitions: {why}"));
    }
    let cluster = Cluster::with(Options { nodes: 3, raft: IMPATIENT, net: net.is_none(), ..Options::default() });
    if let Err(why) = check(&history(&cluster, |shared| trouble(&cluster, shared))) {
        panic!("{why}");
    }
    cluster.assert_digests_equal();
}

/// The same clients on nodes that answer every plain read from what they happen to have.
#[test]
fn a_history_with_leader_reads_made_stale_on_purpose_is_rejected() {
    let http = "default_consistency = \"stale\"";
    let cluster = Cluster::with(Options { nodes: 3, raft: IMPATIENT, http, ..Options::default() });
    let rejected = (0..5).find_map(|_| {
        let done = history(&cluster, |shared| {
            wait_until("some operations", || {
                let begun = shared.begun.load(Ordering::Relaxed);
                so(begun >= 2000, format!("{begun} operations"))
            });
        });
        // The keys are used again.
        cluster.nodes[0].client().request("DELETE", "/v1/kv/?recurse", b"").unwrap();
        check(&done).err()
    });
    println!("rejected: {}", rejected.expect("stale reads passed for linearizable"));
    cluster.assert_digests_equal();
}

/// A read of a paused or lagging follower, as `?stale` allows it, in a history that is otherwise strict.
#[test]
fn a_history_with_a_stale_read_is_not_taken_for_linearizable() {
    let cluster = Cluster::start(3);
    let (leader, follower) = (cluster.leader(), cluster.followers()[0]);
    let other = cluster.followers()[1];
    let follower = &cluster.nodes[follower];
    let writer = [&cluster.nodes[leader], &cluster.nodes[other]];
    let mut history = Vec::new();
    let mut record = |client: usize, op: Op, invoked: Instant, ret: Ret| {
        history.push(Event { client, key: 0, op, invoked, returned: Some((Instant::now(), ret)) });
    };
    let put = |value: u64| {
        let reply = writer[0].client().put("l/0", "", value.to_string().as_bytes()).unwrap();
        assert!(reply.is_true(), "{reply}");
    };
    let get = |query: &str| read(&follower.client().get(&format!("/v1/kv/l/0{query}"))).unwrap().0;

    let began = Instant::now();
    put(1);
    record(0, Op::Put(1), began, Ret::Done);
    wait_until("the follower has the first value", || (get("?stale") == Some(1)).then_some(()).ok_or_else(String::new));
    // A paused follower lags, and the question and what it has missed reach it at the same time when it wakes up: now and
    // then it answers first. Try until it happens.
    for value in 2.. {
        follower.pause();
        let began = Instant::now();
        put(value);
        record(0, Op::Put(value), began, Ret::Done);
        let mut client = follower.client();
        let reader = std::thread::spawn(move || {
            let began = Instant::now();
            (began, read(&client.get("/v1/kv/l/0?stale")).unwrap().0)
        });
        follower.resume();
        let (began, seen) = reader.join().unwrap();
        record(1, Op::Get, began, Ret::Value(seen));
        if seen != Some(value) {
            println!("{seen:?} was read after {value} had been written");
            break;
        }
        assert!(value < 40, "no stale read in {value} tries");
    }
    let why = check(&history).expect_err("a stale read passed for linearizable");
    println!("rejected: {why}");
    // The same history, strict: without that read nothing is wrong.
    history.pop();
    check(&history).unwrap();
    cluster.wait_healthy();
    cluster.assert_digests_equal();
}

/// What one client saw on one node, it sees on every other one from then on.
#[test]
fn reads_do_not_go_back_from_one_node_to_the_next() {
    let cluster = Cluster::start(3);
    let stop = Arc::new(AtomicBool::new(false));
    let (mut writer, done) = (Http::new(cluster.nodes[cluster.leader()].http), Arc::clone(&stop));
    let writing = std::thread::spawn(move || {
        let (mut last, mut written) = (0u64, 0u64);
        while !done.load(Ordering::Relaxed) {
            last += 1;
            match outcome(&writer.put("c", "", last.to_string().as_bytes())) {
                Outcome::Acknowledged => written += 1,
                Outcome::Refused => {}
                // It may be done later, after a higher value: from then on a read may go back and be right.
                Outcome::Unknown => break,
            }
        }
        written
    });
    // More to apply than one entry at a time, so that the nodes are at different points.
    let storm = Storm::start(&cluster.addresses(), 2, "w");
    let readers = (0..12).map(|number| {
        let (nodes, stop) = (cluster.addresses(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut clients: Vec<Http> = nodes.iter().map(|node| Http::new(*node)).collect();
            let mut rng = SmallRng::seed_from_u64(number);
            let (mut last, mut reads, mut back) = ((0, 0, ""), 0u64, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let node = rng.random_range(0..clients.len());
                let query = ["", "?consistent"][rng.random_range(0..2)];
                // A busy machine may be without a leader for a moment; what is claimed is about reads that are answered.
                let Some((value, _)) = read(&clients[node].get(&format!("/v1/kv/c{query}"))) else { continue };
                let value = value.unwrap_or(0);
                reads += 1;
                if value < last.0 {
                    back.push(format!("{last:?}, then {:?}", (value, node, query)));
                }
                last = (value, node, query);
            }
            (reads, back)
        })
    });
    let readers: Vec<_> = readers.collect();
    storm.wait_progress(2000);
    stop.store(true, Ordering::Relaxed);
    let results: Vec<(u64, Vec<String>)> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    let written = writing.join().unwrap();
    let reads: u64 = results.iter().map(|(reads, _)| reads).sum();
    println!("{reads} reads of a key that was written {written} times");
    assert!(reads > 5000 && written > 100, "too little was done to prove anything");
    let back: Vec<&String> = results.iter().flat_map(|(_, back)| back).collect();
    assert!(
        back.is_empty(),
        "{} reads went back (value, node, mode), leader {}: {back:#?}",
        back.len(),
        cluster.leader()
    );
    drop(storm.finish());
    cluster.assert_digests_equal();
}
