//! `bench`: what it does to a server, and what it tells.

use super::{
    run::{assert_code, konsulctl, run, stderr, stdout},
    server::Server,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

fn bench(server: &Server, args: &[&str]) -> Value {
    let dir = tempfile::tempdir().expect("directory");
    let output = run(server, dir.path(), &[&["--json", "bench"], args].concat());
    assert_code(&output, 0);
    serde_json::from_str(&stdout(&output)).expect("json")
}

fn seen(server: &Server, word: &str) -> usize {
    server.with(|s| s.seen.iter().filter(|r| r.contains(word)).count())
}

#[test]
fn as_many_operations_are_done_and_told_as_were_asked_for() {
    let server = Server::start();
    let args = ["put", "--clients", "3", "--requests", "100", "--warmup", "0s", "--keys", "10", "--value-size", "100"];
    let report = bench(&server, &args);
    assert_eq!(
        (&report["op"], &report["ops"], &report["errors"]),
        (&"put".into(), &100.into(), &serde_json::json!({}))
    );
    assert_eq!(seen(&server, "PUT /v1/kv/bench/"), 100);
    assert!(server.with(|s| s.entries.values().all(|e| e.value.len() == 100)));
    let at = |name: &str| report[name].as_u64().expect(name);
    assert!(at("p50_us") > 0 && at("p50_us") <= at("p90_us") && at("p90_us") <= at("p99_us"), "{report}");
    assert!(at("p99_us") <= at("p999_us") && at("p999_us") <= at("max_us") && at("ops_per_s") > 0, "{report}");
}

#[test]
fn reads_load_the_missing_keys_and_ask_in_the_mode_given() {
    let server = Server::start();
    let common = ["--clients", "2", "--requests", "50", "--warmup", "0s", "--keys", "200"];
    let report = bench(&server, &[&["get", "--mode", "stale"], &common[..]].concat());
    assert_eq!(
        (&report["ops"], &report["mode"], &report["errors"]),
        (&50.into(), &"stale".into(), &serde_json::json!({}))
    );
    assert_eq!((seen(&server, "PUT /v1/txn"), seen(&server, "?stale")), (4, 50));
    let report = bench(&server, &[&["mixed", "--mode", "strong", "--write-percent", "50"], &common[..]].concat());
    assert_eq!(report["ops"], 50);
    let (reads, writes) = (seen(&server, "?consistent"), seen(&server, "PUT /v1/kv/"));
    assert!(reads + writes == 50 && reads > 5 && writes > 5, "{reads} reads, {writes} writes");
}

#[test]
fn lost_races_are_counted_apart() {
    let server = Server::start();
    let args = ["cas", "--clients", "8", "--requests", "400", "--warmup", "0s", "--keys", "1"];
    let report = bench(&server, &args);
    let ops = report["ops"].as_u64().expect("ops");
    let conflicts = report["errors"]["cas_conflict"].as_u64().unwrap_or(0);
    assert_eq!(ops + conflicts, 400, "{report}");
    assert!(ops > 0 && conflicts > 0, "{report}");
}

#[test]
fn every_watcher_is_woken_in_every_round() {
    let server = Server::start();
    let report = bench(&server, &["watch", "--watchers", "20", "--rounds", "3", "--settle", "20ms"]);
    assert_eq!(
        (&report["ops"], &report["errors"], &report["watchers"]),
        (&3.into(), &serde_json::json!({}), &20.into())
    );
    assert_eq!(seen(&server, "&wait="), 60);
}

#[test]
fn load_writes_each_key_once_in_every_way() {
    for (via, requests) in [("txn", "PUT /v1/txn"), ("batch", "PUT /v1/batch"), ("put", "PUT /v1/kv/")] {
        let server = Server::start();
        bench(&server, &["load", "--keys", "130", "--value-size", "64", "--via", via, "--clients", "2"]);
        assert_eq!(server.with(|s| (s.entries.len(), s.index)), (130, 140), "{via}");
        assert!(seen(&server, requests) > 0, "{via}");
    }
}

#[test]
fn failures_are_told_by_kind_and_a_run_without_a_success_fails() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    server.with(|s| s.is_leaderless = true);
    let args = ["--json", "bench", "put", "--clients", "2", "--requests", "10", "--warmup", "0s"];
    let output = run(&server, dir.path(), &args);
    assert_code(&output, 1);
    let report: Value = serde_json::from_str(&stdout(&output)).expect("json");
    assert_eq!(report["errors"], serde_json::json!({"status_500": 10}));
}

#[test]
fn the_leader_is_found_and_a_dead_server_is_passed_over() {
    let server = Server::start();
    let servers = format!("http://127.0.0.1:1,{}", server.url());
    for how in ["--leader-only", "--spread"] {
        let args = ["--server", &servers, "put", how, "--clients", "2", "--requests", "10", "--warmup", "0s"];
        assert_eq!(bench(&server, &args)["ops"], 10, "{how}");
    }
}

/// `bench put --acked`: 40 keys, each written once.
fn put_acked(server: &Server, dir: &Path) {
    let args = ["bench", "put", "--acked", "acked", "--clients", "3", "--requests", "40", "--warmup", "0s", "--json"];
    let output = run(server, dir, &args);
    assert_code(&output, 0);
    let report: Value = serde_json::from_str(&stdout(&output)).expect("json");
    assert_eq!((&report["ops"], &report["keys"]), (&40.into(), &40.into()));
    assert!(report["longest_gap_ms"].is_u64(), "{report}");
}

#[test]
fn acknowledged_keys_are_recorded_each_once_and_no_run_uses_those_of_another() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    for runs in 1..=2 {
        put_acked(&server, dir.path());
        let acked = fs::read_to_string(dir.path().join("acked")).expect("acked");
        let keys: BTreeSet<&str> = acked.lines().collect();
        assert_eq!(keys.len(), 40);
        server.with(|s| {
            assert!(keys.iter().all(|key| s.entries.contains_key(*key)));
            assert_eq!(s.entries.len(), 40 * runs);
        });
    }
}

#[test]
fn keys_that_were_not_acknowledged_are_not_recorded() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    server.with(|s| s.is_leaderless = true);
    let args = ["bench", "put", "--acked", "acked", "--clients", "2", "--requests", "10", "--warmup", "0s"];
    assert_code(&run(&server, dir.path(), &args), 1);
    assert_eq!(fs::read_to_string(dir.path().join("acked")).expect("acked"), "");
    let output = run(&server, dir.path(), &["bench", "check", "--acked", "acked"]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("nothing was acknowledged"), "{}", stderr(&output));
}

#[test]
fn the_check_asks_every_server_for_every_key_and_names_what_is_missing() {
    let (server, other) = (Server::start(), Server::start());
    let dir = tempfile::tempdir().expect("directory");
    put_acked(&server, dir.path());
    let acked = fs::read_to_string(dir.path().join("acked")).expect("acked");
    let lost = acked.lines().nth(7).expect("a key").to_owned();
    acked.lines().filter(|key| *key != lost).for_each(|key| other.put(key, b"x"));

    let output = run(&server, dir.path(), &["bench", "check", "--acked", "acked"]);
    assert_code(&output, 0);
    assert_eq!(seen(&server, "?consistent"), 40);

    let servers = format!("{},{}", server.url(), other.url());
    let args = ["--server", &servers, "--json", "bench", "check", "--acked", "acked", "--mode", "stale"];
    let output = run(&server, dir.path(), &args);
    assert_code(&output, 1);
    let report: Value = serde_json::from_str(&stdout(&output)).expect("json");
    assert_eq!((&report["keys"], &report["missing"]), (&40.into(), &1.into()));
    assert_eq!(report["missing_keys"], serde_json::json!([lost]));
    let missing: Vec<&Value> = report["servers"].as_array().expect("servers").iter().map(|s| &s["missing"]).collect();
    assert_eq!(missing, [0, 1]);
    assert_eq!((seen(&server, "?stale"), seen(&other, "?stale")), (40, 40));
}

#[test]
fn a_server_that_cannot_be_read_is_no_clean_check() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    put_acked(&server, dir.path());
    let servers = format!("{},http://127.0.0.1:1", server.url());
    let output = run(&server, dir.path(), &["--server", &servers, "bench", "check", "--acked", "acked"]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("read from http://127.0.0.1:1: connect"), "{}", stderr(&output));
}

#[test]
fn the_longest_gap_spans_the_time_without_a_leader_and_the_clients_go_on() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    let mut bench = konsulctl(&server, dir.path());
    bench.args(["bench", "put", "--clients", "2", "--duration", "3s", "--warmup", "0s", "--json"]);
    let child = bench.stdout(Stdio::piped()).spawn().expect("run konsulctl");
    server.until(|s| s.entries.len() > 10);
    server.with(|s| s.is_leaderless = true);
    let (begin, seen) = (Instant::now(), server.with(|s| s.seen.len()));
    server.until(|s| s.seen.len() > seen + 100 && begin.elapsed() > Duration::from_millis(200));
    let (index, gap) = (server.with(|s| s.index), begin.elapsed());
    server.with(|s| s.is_leaderless = false);
    server.until(|s| s.index > index);
    let output = child.wait_with_output().expect("wait");
    assert_code(&output, 0);
    let report: Value = serde_json::from_str(&stdout(&output)).expect("json");
    let told = Duration::from_millis(report["longest_gap_ms"].as_u64().expect("gap") + 1);
    assert!(told >= gap && told < Duration::from_secs(3), "{told:?} told, {gap:?} made");
}
