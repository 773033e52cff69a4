//! A majority is lost for good, one node goes on; and the lost ones come back after all.

use crate::support::ctl::konsulctl;
use crate::support::wait::so;
use crate::support::{Cluster, Http, Node, Options, wait_until};
use konsul_api::cluster::EnteredAnswer;
use konsul_api::join_token::JoinTokenAnswer;
use konsul_api::recover::{NodeLeft, RecoverAnswer, RecoverPlan};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A request that a node on its way out need not answer.
const SHORT: Duration = Duration::from_secs(2);
/// The node is of no use to its cluster any more: a restart does not help.
const REMOVED: i32 = 3;

/// Exit code, answer, words.
fn ctl(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(konsulctl()).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn done<T: serde::de::DeserializeOwned>(args: &[&str]) -> T {
    let (code, out, err) = ctl(args);
    assert_eq!(code, 0, "konsulctl {args:?}: {out}{err}");
    serde_json::from_str(&out).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn put(node: &Node, key: &str, value: &str) {
    let reply = node.client().put(key, "", value.as_bytes()).unwrap();
    assert!(reply.is_true(), "{}: {reply}", node.name);
}

fn raw(node: &Node, key: &str) -> String {
    let reply = node.get(&format!("/v1/kv/{key}?raw&stale")).unwrap();
    assert_eq!(reply.status, 200, "{}: {reply}", node.name);
    reply.text()
}

/// Three nodes with the same log, which all lose power at once.
fn lost() -> Cluster {
    let cluster = Cluster::start(3);
    (0..50).for_each(|n| put(&cluster.nodes[0], &format!("kept/{n}"), "v"));
    put(&cluster.nodes[0], "x", "before");
    cluster.assert_digests_equal();
    cluster.nodes.iter().for_each(Node::kill9);
    cluster
}

/// Plans with what is left of that node alone, and makes it the only voter.
fn recover(cluster: &Cluster, survivor: &Node) -> RecoverAnswer {
    let plan_file = cluster.dir.join("plan.json");
    let plan: RecoverPlan = done(&["recover", "plan", path(&survivor.data_dir), "--json"]);
    assert_eq!((plan.survivor.name.as_str(), plan.majority, plan.missing.len()), (survivor.name.as_str(), 2, 2));
    assert!(plan.warnings.iter().any(|warning| warning.contains("is lost")), "{:?}", plan.warnings);
    std::fs::write(&plan_file, serde_json::to_vec(&plan).unwrap()).unwrap();
    let (plan, config) = (path(&plan_file), path(&survivor.config));
    let would: RecoverPlan = done(&["recover", "apply", "--plan", plan, "--config", config, "--dry-run", "--json"]);
    assert_eq!(would.survivor.epoch, 0);
    let began = Instant::now();
    let recovered: RecoverAnswer = done(&["recover", "apply", "--plan", plan, "--config", config, "--yes", "--json"]);
    assert_eq!((recovered.epoch, recovered.node_id), (1, would.survivor.node_id));
    survivor.start();
    let mut client = Http::with_timeout(survivor.http, SHORT);
    wait_until("the survivor takes a write", || match client.put("x", "", b"after") {
        Ok(reply) if reply.is_true() => Ok(()),
        Ok(reply) => Err(reply.to_string()),
        Err(error) => Err(error.to_string()),
    });
    eprintln!("first write {:.2} s after the recovery began", began.elapsed().as_secs_f64());
    // The plan was for the data as it was then.
    let (code, _, err) = ctl(&["recover", "apply", "--plan", plan, "--config", config, "--yes"]);
    assert_eq!(code, 3, "{err}");
    recovered
}

/// It ends by itself, says why, and does not start again.
fn is_left_behind(node: &Node) {
    assert_eq!(node.ended().code(), Some(REMOVED), "{}", node.log_text());
    node.wait_log(&["left behind", "epoch 1"]);
    node.start();
    assert_eq!(node.ended().code(), Some(REMOVED), "{}", node.log_text());
    let left: NodeLeft = done(&["recover", "inspect", path(&node.data_dir), "--json"]);
    assert!(left.left_behind.is_some(), "its data is kept, and says what became of it: {left:?}");
}

/// The others come back empty; then all three hold what the survivor held.
fn rejoin(cluster: &Cluster, others: &[&Node], x: &str) {
    for node in others {
        node.wipe();
        node.start();
    }
    cluster.wait_healthy();
    cluster.assert_digests_equal();
    for node in &cluster.nodes {
        assert_eq!((raw(node, "x").as_str(), raw(node, "kept/49").as_str()), (x, "v"), "{}", node.name);
    }
}

#[test]
fn nodes_that_come_back_while_the_survivor_is_there_acknowledge_nothing_and_stop() {
    let cluster = lost();
    let lefts: Vec<String> = cluster.nodes.iter().map(|node| path(&node.data_dir).to_owned()).collect();
    let (code, _, err) = ctl(&["recover", "plan", &lefts[0], &lefts[1]]);
    assert_eq!(code, 3, "two of three are a majority: {err}");
    let [survivor, others @ ..] = cluster.nodes.as_slice() else { panic!("three nodes") };
    recover(&cluster, survivor);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for node in others {
            let (address, stop) = (node.http, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(reply) = Http::with_timeout(address, SHORT).put("x", "", b"from the old majority") {
                        assert!(!reply.is_true(), "a write was acknowledged by a node that is left behind");
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            });
        }
        others.iter().for_each(Node::start);
        others.iter().for_each(is_left_behind);
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(raw(survivor, "x"), "after");
    rejoin(&cluster, &others.iter().collect::<Vec<_>>(), "after");
}

#[test]
fn an_old_majority_that_went_on_out_of_reach_stops_when_the_survivor_is_back() {
    let cluster = lost();
    let [survivor, others @ ..] = cluster.nodes.as_slice() else { panic!("three nodes") };
    recover(&cluster, survivor);
    survivor.terminate();
    // Nobody can keep them from this: they reach nobody who knows better.
    others.iter().for_each(Node::start);
    wait_until("the old majority takes a write", || {
        let reply = Http::with_timeout(others[0].http, SHORT).put("x", "", b"from the old majority");
        let reply = reply.map_err(|error| error.to_string())?;
        so(reply.is_true(), reply.to_string())
    });
    survivor.start();
    others.iter().for_each(is_left_behind);
    wait_until("the survivor answers", || {
        so(survivor.get("/v1/kv/x?raw").is_ok_and(|reply| reply.text() == "after"), "something else")
    });
    // Two states, but never in one cluster: who held the other one serves nobody.
    rejoin(&cluster, &others.iter().collect::<Vec<_>>(), "after");
}

/// A node whose certificates the cluster's own authority gives.
fn entered(node: &Node) {
    let ip = node.http.ip();
    let text = format!(
        "[node]\nname = {:?}\n[storage]\ndata_dir = {:?}\nstate_dir = {:?}\nmap_size = \"1GiB\"\nlog_prealloc = \"1MiB\"\n\
         log_prealloc_step = \"1MiB\"\nfree_reserve = \"16MiB\"\nballast = \"0B\"\n[http]\nlisten = [\"{ip}:8500\"]\n[peer]\n\
         listen = \"{ip}:8300\"\n[cluster]\nform = \"init\"\n[log]\nformat = \"json\"\n",
        node.name, node.data_dir, node.state_dir
    );
    std::fs::write(&node.config, text).unwrap();
}

/// Waits for its HTTP port; what it answers is 200.
fn post<T: serde::de::DeserializeOwned>(node: &Node, path: &str, body: &str) -> T {
    wait_until(&format!("{} takes {path}", node.name), || {
        let reply = node.client().request("POST", path, body.as_bytes()).map_err(|error| error.to_string())?;
        so(reply.status == 200, reply.to_string())?;
        Ok(reply.json())
    })
}

/// The others enter with a token of the first.
fn join(first: &Node, others: &[Node]) {
    for node in others {
        let token: JoinTokenAnswer = post(first, "/v1/cluster/join-token", "{}");
        let via = format!("{}:8300", first.http.ip());
        let body = format!("{{\"token\":\"{}\",\"via\":[\"{via}\"]}}", token.token);
        let _: EnteredAnswer = post(node, "/v1/cluster/join", &body);
    }
}

#[test]
fn a_cluster_with_an_authority_of_its_own_goes_on_and_its_old_certificates_do_not_help_the_others() {
    let cluster = Cluster::prepare(Options { nodes: 3, ..Options::default() });
    let [survivor, others @ ..] = cluster.nodes.as_slice() else { panic!("three nodes") };
    cluster.nodes.iter().for_each(entered);
    cluster.nodes.iter().for_each(Node::start);
    let _: EnteredAnswer = post(survivor, "/v1/cluster/init", "");
    join(survivor, others);
    cluster.wait_healthy();
    (0..50).for_each(|n| put(&cluster.nodes[0], &format!("kept/{n}"), "v"));
    cluster.assert_digests_equal();
    cluster.nodes.iter().for_each(Node::kill9);
    recover(&cluster, survivor);
    others.iter().for_each(Node::start);
    others.iter().for_each(is_left_behind);
    others.iter().for_each(Node::wipe);
    others.iter().for_each(Node::start);
    join(survivor, others);
    cluster.wait_healthy();
    cluster.assert_digests_equal();
    for node in &cluster.nodes {
        assert_eq!((raw(node, "x").as_str(), raw(node, "kept/49").as_str()), ("after", "v"), "{}", node.name);
    }
}
