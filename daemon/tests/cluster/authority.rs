//! An authority whose certificates last for half a minute, for five minutes, under load. Runs beside the other tests.

use crate::support::cluster::Entry;
use crate::support::konsulctl;
use crate::support::wait::so;
use crate::support::{Cluster, Http, Node, Options, wait_until};
use konsul_api::ca::{CaStage, CaStatus};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LIFE: &str = "30s";
/// What is claimed.
const FIVE_MINUTES: Duration = Duration::from_secs(300);
/// Between two requests of a client: the other tests need the machine, too.
const PAUSE: Duration = Duration::from_millis(50);

/// Writes a key and reads it back in every mode, on one node; what went wrong, with no second try.
fn client(node: SocketAddr, number: usize, stop: &AtomicBool, done: &AtomicU64) -> Vec<String> {
    let mut http = Http::new(node);
    let mut failures = Vec::new();
    for round in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("soak/{number}"), round.to_string());
        let mut check = |what: &str, right: Result<bool, String>| match right {
            Ok(true) => drop(done.fetch_add(1, Ordering::Relaxed)),
            Ok(false) => failures.push(format!("{what} of round {round} at {node}: a wrong answer")),
            Err(seen) => failures.push(format!("{what} of round {round} at {node}: {seen}")),
        };
        let put = http.put(&key, "", value.as_bytes());
        check(
            "put",
            put.map_err(|e| e.to_string()).and_then(|reply| so(reply.is_true(), reply.to_string()).map(|()| true)),
        );
        for mode in ["", "&consistent"] {
            let read = http.get(&format!("/v1/kv/{key}?raw{mode}")).map_err(|e| e.to_string());
            let read = read.and_then(|reply| so(reply.status == 200, reply.to_string()).map(|()| reply.body));
            check("get", read.map(|body| body == value.as_bytes()));
        }
        std::thread::sleep(PAUSE);
    }
    failures
}

fn authorities(node: &Node) -> CaStatus {
    serde_json::from_str(&konsulctl::done(node, "ca status --json")).unwrap()
}

/// Each node shows a certificate of this authority that is valid, and says so in its status and its metrics.
fn assert_certified(nodes: &[Node], authority: u64) {
    for node in nodes {
        let own = node.status().unwrap().node.certificate.expect("a certificate");
        assert_eq!(own.authority, Some(authority), "{}", node.name);
        assert!((1..=30).contains(&own.expires_in_s), "{}: {own:?}", node.name);
        assert!(node.metric("konsul_tls_cert_not_after_timestamp_seconds", "cert=\"node\"").unwrap() > 0.0);
    }
}

#[test]
fn certificates_of_half_a_minute_and_a_new_authority_in_between_fail_no_request_in_five_minutes() {
    // What is tested here is not timing: a busy machine shall not change the leader in between.
    let cluster = Cluster::prepare(Options {
        nodes: 3,
        raft: "timing = \"wan\"",
        entry: Entry::Own(format!("form = \"init\"\ncertificate_life = \"{LIFE}\"")),
        beside_others: true,
        ..Options::default()
    });
    cluster.nodes.iter().for_each(|node| {
        node.start();
        node.wait_waiting();
    });
    konsulctl::enter(&cluster.nodes);
    cluster.wait_healthy();
    assert_certified(&cluster.nodes, 1);
    let began = Instant::now();
    let (stop, done): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
    let clients = (0..6).map(|number| {
        let (node, stop, done) = (cluster.nodes[number % 3].http, Arc::clone(&stop), Arc::clone(&done));
        std::thread::spawn(move || client(node, number, &stop, &done))
    });
    let clients: Vec<_> = clients.collect();
    let mut rotated = None;
    // The claim is about this time; nothing is waited for.
    while began.elapsed() < FIVE_MINUTES {
        std::thread::sleep(Duration::from_secs(1));
        assert_certified(&cluster.nodes, if rotated.is_some() { 2 } else { 1 });
        if rotated.is_none() && began.elapsed() > FIVE_MINUTES / 2 {
            konsulctl::done(&cluster.nodes[1], "ca rotate");
            wait_until("the new authority is the only one", || {
                let ca = authorities(&cluster.nodes[2]);
                let only = |ca: &CaStatus| ca.authorities.len() == 1 && ca.authorities[0].stage == CaStage::Active;
                so(!ca.rotating && only(&ca) && ca.authorities[0].number == 2, format!("{ca:?}"))
            });
            rotated = Some(began.elapsed());
        }
    }
    stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let renewals: Vec<f64> =
        cluster.nodes.iter().map(|node| node.metric("konsul_tls_renewals_total", "result=\"ok\"").unwrap()).collect();
    println!("{} requests; renewals {renewals:?}; rotated after {rotated:?}", done.load(Ordering::Relaxed));
    assert!(failures.is_empty(), "{} requests failed: {failures:#?}", failures.len());
    assert!(done.load(Ordering::Relaxed) > 3_000, "too little was done to prove anything");
    // Renewed when a third is left at the latest: every 20 seconds.
    assert!(renewals.iter().all(|renewed| *renewed >= 13.0), "{renewals:?}");
    for node in &cluster.nodes {
        assert_eq!(node.metric("konsul_tls_renewals_total", "result=\"failed\"").unwrap(), 0.0, "{}", node.name);
    }
    cluster.assert_digests_equal();
}
