//! Archives of a cluster that works: what is in one is of one moment, and putting it back goes forward.

use crate::support::ctl::konsulctl;
use crate::support::wait::so;
use crate::support::{Cluster, Http, Node, wait_until};
use konsul_api::archive::{ArchiveFacts, OfflineRestoreAnswer, RestoreAnswer, VerifyAnswer};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const WATCHERS: usize = 100;

fn put(node: &Node, key: &str, value: &str) {
    let reply = node.client().put(key, "", value.as_bytes()).unwrap();
    assert!(reply.is_true(), "{}: {reply}", node.name);
}

fn archive(node: &Node, query: &str) -> (ArchiveFacts, Vec<u8>) {
    let reply = node.client().get(&format!("/v1/cluster/archive{query}")).unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    (serde_json::from_str(reply.header("X-Konsul-Archive").unwrap()).unwrap(), reply.body)
}

/// By the program, as `konsulctl snapshot verify` has it done.
fn verify(dir: &Path, bytes: &[u8]) -> VerifyAnswer {
    let path = dir.join("archive.kbs");
    std::fs::write(&path, bytes).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_konsuld")).args(["archive", "verify"]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn restore(node: &Node, query: &str, bytes: &[u8]) -> RestoreAnswer {
    let reply = node.client().request("PUT", &format!("/v1/cluster/archive{query}"), bytes).unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    reply.json()
}

/// Everything below a prefix, as the node itself has it: keys and values.
pub(crate) fn export(node: &Node, prefix: &str) -> Vec<(String, String, u64)> {
    let reply = node.get(&format!("/v1/kv/{prefix}?recurse&stale")).unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    let entries: Vec<serde_json::Value> = reply.json();
    let text = |entry: &serde_json::Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    entries.iter().map(|e| (text(e, "Key"), text(e, "Value"), e["Flags"].as_u64().unwrap())).collect()
}

#[test]
fn an_archive_taken_on_a_follower_under_load_is_of_one_moment() {
    let cluster = Cluster::start(3);
    let follower = &cluster.nodes[cluster.followers()[0]];
    let stop = AtomicBool::new(false);
    let archives = thread::scope(|scope| {
        for writer in 0..4 {
            let (address, stop) = (cluster.nodes[writer % 3].http, &stop);
            scope.spawn(move || {
                let mut client = Http::new(address);
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Two keys that are never seen with different values by anybody who sees one moment.
                    let ops = ["a", "b"].map(|half| {
                        format!("{{\"op\":\"set\",\"key\":\"pair/{writer}/{half}\",\"value\":\"{round:08}\"}}")
                    });
                    let body = format!("{{\"atomic\":true,\"ops\":[{}]}}", ops.join(","));
                    let reply = client.request("PUT", "/v1/batch", body.as_bytes()).unwrap();
                    assert_eq!(reply.status, 200, "{reply}");
                }
            });
        }
        wait_until("every writer has written", || {
            so(follower.get("/v1/kv/pair/?keys&stale").is_ok_and(|r| r.text().matches("pair/").count() == 8), "not yet")
        });
        let archives: Vec<_> = (0..5).map(|_| archive(follower, "?stale")).collect();
        stop.store(true, Ordering::Relaxed);
        archives
    });
    for (facts, bytes) in &archives {
        let verified = verify(&cluster.dir, bytes);
        assert_eq!((&verified.archive, &verified.digest), (facts, &facts.digest));
        assert_eq!(facts.made_by, follower.name);
        restore(follower, "", bytes);
        cluster.assert_digests_equal();
        for node in &cluster.nodes {
            let pairs = export(node, "pair/");
            assert_eq!(pairs.len(), 8);
            for pair in pairs.chunks(2) {
                assert_eq!(pair[0].1, pair[1].1, "{} holds half of a batch of index {}", node.name, facts.index);
            }
        }
    }
    assert!(archives.is_sorted_by_key(|(facts, _)| facts.index));
}

/// What one client is told while it watches a key from all nodes in turn.
/// Archives that are damaged on purpose, each in another place.
const DAMAGED: usize = 200;
const SEED: u64 = 0x6b6f_6e73_756c;

#[test]
fn konsulctl_calls_every_damaged_archive_damaged_with_code_4() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    (0..100).for_each(|n| put(node, &format!("k/{n:03}"), "value"));
    let (_, bytes) = archive(node, "");
    let verify = |bytes: &[u8]| {
        std::fs::write(cluster.dir.join("a.kbs"), bytes).unwrap();
        let mut command = Command::new(konsulctl());
        command.args(["snapshot", "verify", "a.kbs"]).current_dir(&cluster.dir).output().unwrap()
    };
    let good = verify(&bytes);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let mut rng = SmallRng::seed_from_u64(SEED);
    for round in 0..DAMAGED {
        let mut changed = bytes.clone();
        // The first rounds: the head, a few hundred bytes of many.
        let at = rng.random_range(0..if round < DAMAGED / 4 { 200 } else { bytes.len() });
        let what = if round % 2 == 0 {
            changed[at] ^= 1 << rng.random_range(0..8);
            format!("a bit of byte {at}")
        } else {
            changed.truncate(at);
            format!("cut to {at} bytes")
        };
        let output = verify(&changed);
        let said = String::from_utf8_lossy(&output.stderr);
        let named = said.starts_with("Error: ") && said.contains("a.kbs") && !said.contains("panicked");
        assert!(output.status.code() == Some(4) && named, "{what} of {}: {}: {said}", bytes.len(), output.status);
        assert!(output.stdout.is_empty(), "{what}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

fn watch(nodes: &[std::net::SocketAddr], key: &str, stop: &AtomicBool) -> Vec<u64> {
    let mut told = vec![1];
    let mut clients: Vec<Http> = nodes.iter().map(|node| Http::new(*node)).collect();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let last = told[told.len() - 1];
        let client = &mut clients[turn % nodes.len()];
        let reply = client.get(&format!("/v1/kv/{key}?index={last}&wait=500ms")).unwrap();
        assert!(matches!(reply.status, 200 | 404), "{reply}");
        told.push(reply.header("X-Consul-Index").unwrap().parse().unwrap());
    }
    told
}

#[test]
fn no_index_goes_back_for_a_hundred_watchers_while_an_archive_is_restored() {
    let cluster = Cluster::start(3);
    let node = &cluster.nodes[cluster.followers()[0]];
    (0..20).for_each(|n| put(node, &format!("watched/{n}"), "old"));
    let (_, bytes) = archive(node, "");
    let (stop, addresses) = (AtomicBool::new(false), cluster.addresses());
    thread::scope(|scope| {
        let watchers: Vec<_> = (0..WATCHERS)
            .map(|n| {
                // Keys that are in the archive, one that comes and goes, one that never is, a list.
                let key = match n % 4 {
                    0 | 1 => format!("watched/{}", n % 20),
                    2 => "watched/later".to_owned(),
                    _ => "watched/never".to_owned(),
                };
                let (addresses, stop) = (&addresses, &stop);
                (key.clone(), scope.spawn(move || watch(addresses, &key, stop)))
            })
            .collect();
        let mut highest = 0;
        for round in 0..3 {
            put(node, "watched/0", &format!("new {round}"));
            put(node, "watched/later", "soon gone");
            let restored = restore(&cluster.nodes[round], "", &bytes);
            assert!(restored.index > highest && restored.index > restored.archive.index, "{restored:?}");
            highest = restored.index;
        }
        let seen = wait_until("the restored state on every node", || {
            cluster
                .nodes
                .iter()
                .map(|node| {
                    let reply = node.get("/v1/kv/watched/0?stale").map_err(|e| e.to_string())?;
                    let index: u64 = reply.header("X-Consul-Index").unwrap().parse().unwrap();
                    so(index >= highest, format!("{} at {index}", node.name))
                })
                .collect::<Result<Vec<()>, String>>()
        });
        assert_eq!(seen.len(), 3);
        stop.store(true, Ordering::Relaxed);
        for (key, watcher) in watchers {
            let told = watcher.join().unwrap();
            assert!(told.is_sorted(), "{key} went back: {told:?}");
        }
    });
    cluster.assert_digests_equal();
}

/// `konsulctl`, in the directory of the cluster: what it answers as JSON.
fn ctl<T: serde::de::DeserializeOwned>(cluster: &Cluster, line: &str) -> T {
    let mut command = Command::new(konsulctl());
    command.env("KONSUL_HTTP_ADDR", format!("http://{}", cluster.nodes[0].http)).current_dir(&cluster.dir);
    let output = command.args(line.split(' ')).arg("--json").output().unwrap();
    assert!(output.status.success(), "konsulctl {line}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn all_hosts_are_lost_and_the_cluster_goes_on_from_an_encrypted_archive_beyond_every_index() {
    let cluster = Cluster::start(3);
    let all: Vec<&Node> = cluster.nodes.iter().collect();
    for n in 0..200 {
        let reply = all[n % 3].client().put(&format!("kept/{n:03}"), &format!("flags={n}"), b"value").unwrap();
        assert!(reply.is_true(), "{reply}");
    }
    let keygen = Command::new("age-keygen").args(["-o", "key.txt"]).current_dir(&cluster.dir).output().unwrap();
    let told = String::from_utf8(keygen.stderr).unwrap();
    let recipient = told.trim().rsplit(' ').next().unwrap();
    let saved: serde_json::Value = ctl(&cluster, &format!("snapshot save b.kbs.age --recipient {recipient}"));
    assert_eq!(saved["encrypted"], true);
    let encrypted = std::fs::read(cluster.dir.join("b.kbs.age")).unwrap();
    assert!(!encrypted.windows(8).any(|bytes| bytes == b"KNSLARCH"), "it is in the clear");
    let verified: VerifyAnswer = ctl(&cluster, "snapshot verify b.kbs.age --identity key.txt");
    assert_eq!(verified.digest, saved["digest"]);
    let before = export(all[0], "kept/");
    put(all[0], "later/than", "the archive");
    let seen: u64 = all[0].get("/v1/kv/later/than").unwrap().header("X-Consul-Index").unwrap().parse().unwrap();
    let cluster_id = all[0].status().unwrap().cluster_id;
    cluster.nodes.iter().for_each(Node::kill9);
    cluster.nodes.iter().for_each(Node::wipe);
    let config = all[0].config.to_str().unwrap();
    let line = format!("snapshot restore b.kbs.age --empty-host --identity key.txt --config {config}");
    let restored: OfflineRestoreAnswer = ctl(&cluster, &line);
    assert_eq!((&restored.cluster_id, restored.epoch), (&cluster_id, 1));
    cluster.nodes.iter().for_each(Node::start);
    let status = cluster.wait_healthy();
    assert_eq!(status.cluster_id, cluster_id);
    cluster.assert_digests_equal();
    for node in all {
        assert_eq!(export(node, "kept/"), before, "{}", node.name);
        let index: u64 = node.get("/v1/kv/kept/000").unwrap().header("X-Consul-Index").unwrap().parse().unwrap();
        assert!(index > seen, "{index} after {seen}");
    }
}

#[test]
fn everything_is_lost_and_comes_back_from_an_archive() {
    let cluster = Cluster::start(3);
    let all: Vec<&Node> = cluster.nodes.iter().collect();
    for n in 0..200 {
        let reply = all[n % 3].client().put(&format!("kept/{n:03}"), &format!("flags={n}"), b"value").unwrap();
        assert!(reply.is_true(), "{reply}");
    }
    let (facts, bytes) = archive(all[cluster.followers()[0]], "");
    assert_eq!(facts.members.len(), 3);
    let before = export(all[0], "kept/");
    cluster.nodes.iter().for_each(Node::kill9);
    cluster.nodes.iter().for_each(Node::wipe);
    cluster.nodes.iter().for_each(Node::start);
    cluster.wait_healthy();
    let refused = all[0].client().request("PUT", "/v1/cluster/archive", &bytes).unwrap();
    assert_eq!(refused.status, 409, "another cluster's archive: {refused}");
    assert!(refused.text().contains("--allow-cluster-change"), "{refused}");
    let would = restore(all[0], "?allow-cluster-change&dry-run", &bytes);
    assert_eq!((would.dry_run, would.keys_before, would.keys), (true, 0, 200));
    assert_eq!(all[0].get("/v1/kv/kept/?recurse").unwrap().status, 404, "a dry run changes nothing");
    let restored = restore(all[1], "?allow-cluster-change", &bytes);
    assert_eq!((restored.keys, restored.archive), (200, facts));
    cluster.assert_digests_equal();
    for node in all {
        assert_eq!(export(node, "kept/"), before, "{}", node.name);
    }
}
