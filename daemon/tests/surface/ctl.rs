//! konsulctl against a real cluster: it reaches every operation of the route table, and each command does what it says.

use crate::calm_cluster;
use crate::support::ctl::konsulctl;
use crate::support::{Cluster, wait_until};
use konsuld::http::{Method, Pattern, ROUTES, Route};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

/// konsulctl in a directory of its own; remembers what it was asked.
struct Ctl {
    dir: tempfile::TempDir,
    asked: RefCell<Vec<String>>,
}

impl Ctl {
    fn new() -> Ctl {
        Ctl { dir: tempfile::tempdir().unwrap(), asked: RefCell::default() }
    }

    fn command(&self, node: SocketAddr, line: &str) -> Command {
        self.asked.borrow_mut().push(line.to_owned());
        let mut command = Command::new(konsulctl());
        command.env("KONSUL_HTTP_ADDR", format!("http://{node}")).current_dir(self.dir.path());
        command.args(line.split(' ')).stdin(Stdio::null());
        command
    }

    fn run(&self, node: SocketAddr, line: &str) -> Output {
        self.command(node, line).output().unwrap()
    }

    /// What it prints; it must succeed.
    #[track_caller]
    fn done(&self, node: SocketAddr, line: &str) -> String {
        let output = self.run(node, line);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "konsulctl {line}\nstdout: {out}\nstderr: {err}");
        out
    }

    #[track_caller]
    fn json(&self, node: SocketAddr, line: &str) -> Value {
        serde_json::from_str(&self.done(node, &format!("{line} --json"))).unwrap()
    }

    /// Why it fails; it must, with code 1.
    #[track_caller]
    fn failed(&self, node: SocketAddr, line: &str) -> String {
        let output = self.run(node, line);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "konsulctl {line}\nstdout: {out}\nstderr: {err}");
        err
    }

    /// With bytes on stdin: exit code and what it prints.
    fn with_stdin(&self, node: SocketAddr, line: &str, stdin: &str) -> (Option<i32>, String) {
        let mut command = self.command(node, line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), text(&output.stdout))
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn count(listed: &str) -> usize {
    listed.lines().count()
}

/// (method, path, command) of every operation that konsulctl claims to reach.
fn coverage() -> Vec<(String, String, String)> {
    let output = Command::new(konsulctl()).args(["debug", "coverage", "--json"]).output().unwrap();
    let operations: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let member = |operation: &Value, name: &str| operation[name].as_str().unwrap().to_owned();
    operations.iter().map(|o| (member(o, "method"), member(o, "path"), member(o, "command"))).collect()
}

/// A second spelling of an operation, or something that is no operation.
fn needs_no_command(route: &Route) -> bool {
    let by_put = |other: &Route| other.method == Method::Put && other.template() == route.template();
    let is_greeting = route.pattern == Pattern::Exact("/");
    is_greeting || (route.method == Method::Post && ROUTES.iter().any(by_put))
}

#[test]
fn konsulctl_reaches_every_operation_of_the_route_table_and_claims_no_other() {
    let named = |route: &Route| (route.method.name().to_owned(), route.template().to_owned());
    let routes: BTreeSet<_> = ROUTES.iter().filter(|route| !needs_no_command(route)).map(named).collect();
    let covered: BTreeSet<_> = coverage().into_iter().map(|(method, path, _)| (method, path)).collect();
    assert_eq!(covered, routes);
}

fn keys(ctl: &Ctl, node: SocketAddr) {
    ctl.done(node, "kv put app/color blue --flags 42");
    assert_eq!(ctl.done(node, "kv get app/color"), "blue\n");
    assert_eq!(ctl.done(node, "kv get app/color --raw --consistent"), "blue");
    let entry = ctl.json(node, "kv get app/color");
    assert_eq!((&entry["Value"], &entry["Flags"]), (&"Ymx1ZQ==".into(), &42.into()));
    let index = entry["ModifyIndex"].as_u64().unwrap();
    ctl.done(node, &format!("kv cas app/color green --index {index}"));
    ctl.failed(node, &format!("kv cas app/color red --index {index}"));
    assert_eq!(ctl.done(node, "kv get app/color"), "green\n");
    ctl.done(node, "kv cas app/size 10 --index 0");
    assert_eq!(ctl.done(node, "kv list app/"), "app/color\napp/size\n");
    assert_eq!(ctl.done(node, "kv list --separator /"), "app/\n");
    ctl.done(node, "kv delete app/size");
    assert!(ctl.failed(node, "kv get app/size").contains("no such key: app/size"));
    ctl.done(node, "kv delete app/ --recurse");
    assert_eq!(ctl.done(node, "kv list"), "");
}

fn several_at_once(ctl: &Ctl, node: SocketAddr) {
    let set = r#"[{"KV":{"Verb":"set","Key":"t/a","Value":"MQ=="}},{"KV":{"Verb":"get","Key":"t/a"}}]"#;
    let (code, out) = ctl.with_stdin(node, "txn -", set);
    assert_eq!(code, Some(0));
    assert!(out.contains("t/a"), "{out}");
    let check = r#"[{"KV":{"Verb":"check-not-exists","Key":"t/a"}},{"KV":{"Verb":"set","Key":"t/b","Value":"MQ=="}}]"#;
    assert_eq!(ctl.with_stdin(node, "txn -", check).0, Some(1));
    ctl.failed(node, "kv get t/b");
    let batch = r#"{"ops":[{"op":"set","key":"t/c","value":"MQ=="},{"op":"delete","key":"t/a"}]}"#;
    let (code, out) = ctl.with_stdin(node, "batch -", batch);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("2 of 2 operations applied"), "{out}");
    assert_eq!(ctl.done(node, "kv list t/"), "t/c\n");
    let stale =
        r#"{"atomic":true,"ops":[{"op":"cas","key":"t/c","value":"Mg==","index":1},{"op":"delete","key":"t/c"}]}"#;
    assert_eq!(ctl.with_stdin(node, "batch -", stale).0, Some(1));
    assert_eq!(ctl.done(node, "kv get t/c"), "1\n");
}

fn watch(ctl: &Ctl, cluster: &Cluster) {
    let (follower, leader) = (cluster.nodes[cluster.followers()[0]].http, cluster.nodes[cluster.leader()].http);
    ctl.done(leader, "kv put w/key before");
    let mut command = ctl.command(follower, "kv watch --prefix w/ --once --json");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let first = line();
    assert_eq!((&first["event"], &first["key"]), (&"present".into(), &"w/key".into()));
    ctl.done(leader, "kv put w/key after");
    let second = line();
    assert_eq!((&second["event"], &second["value"]), (&"set".into(), &"YWZ0ZXI=".into()));
    assert!(second["index"].as_u64() > first["index"].as_u64());
    assert_eq!(child.wait().unwrap().code(), Some(0), "--once ends after the change");
}

fn export_and_import(ctl: &Ctl, cluster: &Cluster, node: SocketAddr) {
    let lines: String =
        (0..1500).map(|n| format!("{{\"key\":\"i/{n:04}\",\"value\":\"dg==\",\"flags\":{n}}}\n")).collect();
    std::fs::write(ctl.dir.path().join("in.ndjson"), lines).unwrap();
    ctl.done(node, "kv import in.ndjson --batch 100");
    assert_eq!(count(&ctl.done(node, "kv list i/")), 1500);
    cluster.assert_digests_equal();
    ctl.done(node, "kv export i/ --output out.ndjson");
    ctl.done(node, "kv delete i/ --recurse");
    ctl.done(node, "kv import out.ndjson --prefix copy/");
    ctl.done(node, "kv export copy/ -o again.ndjson");
    assert_eq!(ctl.file("again.ndjson").replace("copy/", ""), ctl.file("out.ndjson"));
    assert_eq!(ctl.json(node, "kv get copy/i/0007")["Flags"], 7);
    cluster.assert_digests_equal();
}

fn backups(ctl: &Ctl, cluster: &Cluster, node: SocketAddr) {
    let saved = ctl.json(node, "snapshot save --format consul backup.snap");
    assert_eq!(saved, ctl.json(node, "snapshot inspect backup.snap"));
    let before = ctl.done(node, "kv export");
    assert!(count(&before) >= 1500);
    ctl.done(node, "kv put after/backup 1");
    ctl.done(node, "kv delete copy/ --recurse");
    assert_eq!(ctl.run(node, "snapshot restore backup.snap").status.code(), Some(2), "nobody confirmed");
    ctl.done(node, "kv get after/backup");
    ctl.done(node, "snapshot restore backup.snap --yes");
    assert_eq!(ctl.done(node, "kv export"), before);
    cluster.assert_digests_equal();
    std::fs::write(ctl.dir.path().join("bad.snap"), "no backup").unwrap();
    for line in ["snapshot inspect bad.snap", "snapshot restore bad.snap --yes"] {
        assert_eq!(ctl.run(node, line).status.code(), Some(4), "{line}");
    }
    assert_eq!(ctl.done(node, "kv export"), before);
}

fn archives(ctl: &Ctl, cluster: &Cluster, node: SocketAddr) {
    assert!(ctl.json(node, "snapshot status")["saved"].is_null());
    let reported = ctl.json(node, "snapshot save --verify --report reported.kbs");
    let status = ctl.json(node, "snapshot status");
    for done in ["saved", "verified"] {
        assert_eq!(
            (&status[done]["index"], &status[done]["bytes"]),
            (&reported["index"], &reported["bytes"]),
            "{done}"
        );
    }
    std::fs::write(ctl.dir.path().join("none.kbs"), "no backup").unwrap();
    assert_eq!(ctl.run(node, "snapshot verify --report none.kbs").status.code(), Some(4));
    assert_eq!(ctl.json(node, "snapshot status"), status, "a failure is counted, and changes nothing else");
    let metrics = ctl.done(node, "metrics");
    let failures = |kind: &str, count: &str| {
        let is_it = |line: &str| line.starts_with("konsul_backup_failures_total{") && line.contains(kind);
        metrics.lines().any(|line| is_it(line) && line.ends_with(count))
    };
    assert!(failures("kind=\"rehearsal\"", " 1") && failures("kind=\"base\"", " 0"), "{metrics}");
    let saved = ctl.json(node, "snapshot save --verify backup.kbs");
    assert_eq!(saved["verified"], true);
    let inspected = ctl.json(node, "snapshot inspect backup.kbs");
    let verified = ctl.json(node, "snapshot verify backup.kbs");
    assert_eq!((&verified["archive"], &verified["digest"]), (&inspected, &inspected["digest"]));
    let at = saved["index"].as_u64().unwrap();
    let digest = ctl.json(node, &format!("cluster digest --index {at}"));
    assert_eq!((&digest["index"], &digest["digest"]), (&saved["index"], &saved["digest"]), "nothing was written since");
    let before = ctl.done(node, "kv export");
    ctl.done(node, "kv put after/archive 1");
    assert_eq!(ctl.run(node, "snapshot restore backup.kbs").status.code(), Some(2), "nobody confirmed");
    let would = ctl.json(node, "snapshot restore backup.kbs --dry-run");
    assert_eq!((&would["dry_run"], &would["keys"]), (&true.into(), &saved["keys"]));
    ctl.done(node, "kv get after/archive");
    let restored = ctl.json(node, "cluster snapshot restore --file backup.kbs --yes");
    assert_eq!((&restored["keys"], &restored["dry_run"]), (&saved["keys"], &false.into()));
    assert!(restored["index"].as_u64().unwrap() > at);
    assert_eq!(ctl.done(node, "kv export"), before);
    cluster.assert_digests_equal();
    damaged_archives(ctl, node);
    assert_eq!(ctl.done(node, "kv export"), before);
}

fn damaged_archives(ctl: &Ctl, node: SocketAddr) {
    let path = ctl.dir.path().join("bad.kbs");
    let good = std::fs::read(ctl.dir.path().join("backup.kbs")).unwrap();
    for at in [0, 9, 40, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        for line in ["snapshot inspect bad.kbs", "snapshot verify bad.kbs", "snapshot restore bad.kbs --yes"] {
            let output = ctl.run(node, line);
            assert_eq!(output.status.code(), Some(4), "{line}, byte {at}: {}", text(&output.stderr));
            assert!(text(&output.stderr).contains("damaged"), "{line}: {}", text(&output.stderr));
        }
    }
}

fn the_shelf(ctl: &Ctl, node: SocketAddr) {
    let mut files = Vec::new();
    for round in 0..3 {
        ctl.done(node, &format!("kv put shelf/{round} 1"));
        files.push(ctl.json(node, "snapshot save --to shelf")["file"].as_str().unwrap().to_owned());
    }
    let listed = |line: &str| -> Vec<String> {
        let rows = ctl.json(node, line);
        rows.as_array().unwrap().iter().map(|row| row["file"].as_str().unwrap().to_owned()).collect()
    };
    files.reverse();
    assert_eq!(listed("snapshot list shelf"), files);
    assert_eq!(ctl.run(node, "snapshot prune shelf").status.code(), Some(2), "no rule");
    let planned = ctl.json(node, "snapshot prune shelf --keep-last 1 --dry-run");
    let kept: Vec<bool> = planned.as_array().unwrap().iter().map(|row| row["kept"].as_bool().unwrap()).collect();
    assert_eq!(kept, [true, false, false]);
    assert_eq!(listed("snapshot list shelf"), files);
    ctl.done(node, "snapshot prune shelf --keep-last 1");
    assert_eq!(listed("snapshot list shelf"), files[..1]);
}

fn about_the_cluster(ctl: &Ctl, cluster: &Cluster, node: SocketAddr) {
    let leader = &cluster.nodes[cluster.leader()].name;
    let status = ctl.json(node, "cluster status");
    assert_eq!((&status["leader"]["name"], status["members"].as_array().unwrap().len()), (&leader.as_str().into(), 3));
    let words = ctl.done(node, "cluster status");
    assert!(words.contains("Quorum") && words.contains("2 of 3 voters"), "{words}");
    assert_eq!(ctl.json(node, "cluster leader")["name"], leader.as_str());
    assert_eq!(ctl.json(node, "cluster peers").as_array().unwrap().len(), 3);
    let index = status["node"]["applied_index"].as_u64().unwrap();
    let digest = ctl.json(node, &format!("cluster digest --index {index}"));
    assert!(digest["index"].as_u64() >= Some(index));
    assert_eq!(digest["digest"].as_str().unwrap().len(), 64);
    let snapshot = ctl.json(node, "cluster snapshot");
    assert!(snapshot["index"].as_u64() >= Some(index));
    let address = ctl.done(node, "status leader");
    assert!(ctl.done(node, "status peers").lines().any(|peer| peer == address.trim_end()), "{address}");
    assert_eq!(count(&ctl.done(node, "status peers")), 3);
}

/// The certificates of this cluster come from files: it has no authority whose nodes could join with a token.
fn tokens_and_audit(ctl: &Ctl, node: SocketAddr) {
    let why = ctl.failed(node, "cluster generate-token --ttl 24h --uses 2 --role learner");
    assert!(why.contains("no authority of its own"), "{why}");
    assert!(ctl.failed(node, "cluster generate-token --ttl 30s").contains("a token lasts from 1m to 720h"));
    let token = ctl.done(node, "cluster generate-token --bootstrap --nodes 3");
    assert!(token.starts_with("konsul-bootstrap-v1."));
    // Whoever is in a cluster neither founds nor joins another one.
    for command in ["cluster init".to_owned(), format!("cluster join {}", token.trim())] {
        let why = ctl.failed(node, &command);
        assert!(why.contains("already"), "{command}: {why}");
    }
    assert_eq!(ctl.json(node, "cluster tokens"), serde_json::json!([]));
    assert!(ctl.failed(node, "cluster revoke-token abcdefg2").contains("there is no token abcdefg2"));
    for command in ["ca status", "ca rotate"] {
        let why = ctl.failed(node, command);
        assert!(why.contains("no authority of its own"), "{command}: {why}");
    }
    // What happened so far: two nodes were given their votes.
    let audit = ctl.json(node, "audit --limit 10");
    let event = |n: usize| (audit[n]["event"].as_str().unwrap(), audit[n]["who"].as_str().unwrap());
    assert_eq!((audit.as_array().unwrap().len(), event(0), event(1)), {
        let promoted = ("member.promote", "autopilot");
        (2, promoted, promoted)
    });
}

fn about_the_node(ctl: &Ctl, node: SocketAddr, name: &str) {
    assert_eq!(ctl.done(node, "health"), "live\nready\n");
    assert_eq!(ctl.done(node, "health --live"), "live\n");
    assert_eq!(ctl.done(node, "health --ready"), "ready\n");
    assert!(ctl.done(node, "metrics").contains("konsul_raft_is_leader{"));
    assert_eq!(ctl.json(node, "agent self")["Config"]["NodeName"], name);
    let document: Value = serde_json::from_str(&ctl.done(node, "openapi")).unwrap();
    for route in &ROUTES {
        let operation = &document["paths"][route.template()][route.method.name().to_ascii_lowercase()];
        assert!(operation.is_object(), "{} {} is not in the document", route.method.name(), route.template());
    }
}

fn leadership(ctl: &Ctl, cluster: &Cluster) {
    let (from, to) = (cluster.leader(), cluster.followers()[0]);
    let name = &cluster.nodes[to].name;
    // Asked at the third node: neither the one that leads nor the one that shall.
    let asked = cluster.nodes[3 - from - to].http;
    let moved = ctl.json(asked, &format!("cluster transfer-leadership --to {name}"));
    assert_eq!(moved["to"]["name"], name.as_str());
    wait_until("it leads", || {
        let now = cluster.leader();
        if now == to { Ok(()) } else { Err(format!("node {now} leads")) }
    });
    ctl.failed(asked, "cluster transfer-leadership --to n9");
    ctl.done(asked, "cluster transfer-leadership");
    wait_until("another one leads", || {
        let now = cluster.leader();
        if now == to { Err(format!("node {now} leads")) } else { Ok(()) }
    });
}

fn states_and_versions(ctl: &Ctl, node: SocketAddr) {
    let compared = ctl.json(node, "cluster compare");
    let agreed = &compared["agreed"];
    assert!(compared["same"] == true && agreed.as_str().is_some_and(|digest| digest.len() == 64), "{compared}");
    let members = compared["members"].as_array().unwrap();
    assert!(
        members.len() == 3 && members.iter().all(|it| it["digest"] == *agreed && it["fenced"] == false),
        "{compared}"
    );
    assert!(ctl.done(node, "cluster compare").contains("All 3 hold the same state"));
    let status = ctl.json(node, "upgrade status");
    assert!(status["cluster_version"] == status["newest"] && status["blocked"] == serde_json::json!([]), "{status}");
    assert!(ctl.done(node, "upgrade status").contains("nothing"));
    let finalized = ctl.json(node, "upgrade finalize");
    assert_eq!(finalized["from"], finalized["to"]);
    assert!(ctl.done(node, "cluster can-restart --wait 20s").starts_with("yes"));
}

fn autopilot(ctl: &Ctl, cluster: &Cluster, node: SocketAddr) {
    assert_eq!(ctl.json(node, "autopilot get")["ServerStabilizationTime"], "10s");
    let set = ctl.json(node, "autopilot set --server-stabilization-time 7s --dead-server-threshold 2m --min-quorum 1");
    assert_eq!((&set["ServerStabilizationTime"], &set["DeadServerThreshold"]), (&"7s".into(), &"2m0s".into()));
    // What is not named stays.
    ctl.done(node, "autopilot set --max-trailing-logs 500");
    let words = ctl.done(node, "autopilot get");
    assert!(words.contains("500") && words.contains("2m0s") && words.contains("7s"), "{words}");
    assert!(ctl.failed(node, "autopilot set --dead-server-threshold 1s").contains("at least 2s"));
    assert_eq!(ctl.run(node, "autopilot set").status.code(), Some(2));
    let leader = &cluster.nodes[cluster.leader()].name;
    // The leader is new, and hears everybody anew.
    let health = wait_until("all servers are well", || {
        let output = ctl.run(node, "autopilot health --json");
        if output.status.success() { Ok(output.stdout) } else { Err(text(&output.stdout)) }
    });
    let health: Value = serde_json::from_slice(&health).unwrap();
    assert_eq!((&health["Healthy"], &health["FailureTolerance"]), (&true.into(), &1.into()));
    let words = ctl.done(node, "autopilot health");
    assert!(words.contains("alive") && words.contains(leader), "{words}");
    let state = ctl.json(node, "autopilot state");
    assert_eq!(state["Servers"][state["Leader"].as_str().unwrap()]["Name"], leader.as_str());
    assert_eq!(state["Voters"].as_array().unwrap().len(), 3);
    assert!(ctl.done(node, "autopilot state").contains("voter"));
}

fn consuls_words_for_members(ctl: &Ctl, cluster: &Cluster, node: SocketAddr) {
    let raft = ctl.json(node, "operator raft list-peers");
    let servers = raft["Servers"].as_array().unwrap();
    assert_eq!(servers.len(), 3);
    assert_eq!(count(&ctl.done(node, "operator raft list-peers")), 4, "a header and a line each");
    let (before, target) = (cluster.leader(), servers.iter().find(|server| server["Leader"] == false).unwrap());
    let (id, name) = (target["ID"].as_str().unwrap(), target["Node"].as_str().unwrap());
    ctl.done(node, &format!("operator raft transfer-leader --id {id}"));
    wait_until("it leads", || {
        let now = cluster.leader();
        if cluster.nodes[now].name == name { Ok(()) } else { Err(format!("node {now} leads, {before} did")) }
    });
    assert!(ctl.failed(node, "operator raft transfer-leader --id nobody").contains("was not found"));
    // As safe as our own words for it.
    assert!(ctl.failed(node, &format!("operator raft remove-peer --id {id}")).contains("none of them may fail"));
    assert!(ctl.failed(node, "operator raft remove-peer --address 1.2.3.4:1").contains("was not found"));
    assert_eq!(ctl.run(node, "operator raft remove-peer").status.code(), Some(2));
}

/// Until one node is left.
fn membership(ctl: &Ctl, cluster: &Cluster) {
    let [first, second] = cluster.followers()[..] else { panic!("three nodes have two followers") };
    let (leader, first, second) = (&cluster.nodes[cluster.leader()], &cluster.nodes[first], &cluster.nodes[second]);
    assert!(ctl.failed(leader.http, &format!("cluster demote {}", first.name)).contains("--force"));
    let demoted = ctl.json(leader.http, &format!("cluster demote {} --force", first.name));
    assert_eq!((&demoted["voters"], &demoted["failure_tolerance"]), (&2.into(), &0.into()));
    let words = ctl.done(second.http, &format!("cluster promote {}", first.name));
    assert!(words.contains("votes") && words.contains("3 voters, of which 1 may fail"), "{words}");
    assert!(ctl.failed(leader.http, "cluster remove n9").contains("no member"));
    assert!(ctl.failed(second.http, "cluster leave").contains("--force"));
    let words = ctl.done(leader.http, &format!("cluster remove {} --force", first.name));
    assert!(words.contains("is no member any more; 2 voters"), "{words}");
    assert_eq!(first.ended().code(), Some(3));
    let left = ctl.json(second.http, "cluster leave");
    assert_eq!((&left["name"], &left["voters"]), (&second.name.as_str().into(), &1.into()));
    assert_eq!(second.ended().code(), Some(3));
    assert!(ctl.failed(leader.http, "cluster leave --force").contains("the only voter"));
    assert_eq!(ctl.json(leader.http, "cluster peers").as_array().unwrap().len(), 1);
    // A row is written soon, not at once.
    wait_until("all of it is in the audit", || {
        let audit = ctl.done(leader.http, "audit --limit 100");
        let kinds = ["member.demote", "member.promote", "member.remove", "member.leave"];
        if kinds.iter().all(|kind| audit.contains(kind)) { Ok(()) } else { Err(audit) }
    });
}

#[test]
fn every_command_does_what_it_says_on_a_node_that_does_not_lead() {
    let cluster = calm_cluster("");
    let ctl = Ctl::new();
    let follower = &cluster.nodes[cluster.followers()[0]];
    keys(&ctl, follower.http);
    several_at_once(&ctl, follower.http);
    watch(&ctl, &cluster);
    export_and_import(&ctl, &cluster, follower.http);
    backups(&ctl, &cluster, follower.http);
    archives(&ctl, &cluster, follower.http);
    the_shelf(&ctl, follower.http);
    about_the_cluster(&ctl, &cluster, follower.http);
    tokens_and_audit(&ctl, follower.http);
    about_the_node(&ctl, follower.http, &follower.name);
    states_and_versions(&ctl, follower.http);
    leadership(&ctl, &cluster);
    autopilot(&ctl, &cluster, follower.http);
    consuls_words_for_members(&ctl, &cluster, follower.http);
    membership(&ctl, &cluster);
    let asked = ctl.asked.borrow();
    for (method, path, command) in coverage() {
        let was_asked = asked.iter().any(|line| line == &command || line.starts_with(&format!("{command} ")));
        assert!(was_asked, "`konsulctl {command}`, which reaches {method} {path}, was not tried");
    }
}

#[test]
fn whoever_cannot_be_reached_is_named_and_the_next_server_is_asked() {
    let cluster = calm_cluster("");
    let ctl = Ctl::new();
    let (gone, rest) = (&cluster.nodes[cluster.followers()[0]], &cluster.nodes[cluster.leader()]);
    gone.kill9();
    let why = ctl.failed(gone.http, "kv get a");
    assert!(why.contains(&gone.http.to_string()), "{why}");
    let line = format!("--server http://{},http://{} kv put a b", gone.http, rest.http);
    ctl.done(gone.http, &line);
    assert_eq!(ctl.done(rest.http, "kv get a"), "b\n");
}

#[test]
fn a_node_may_restart_only_while_a_majority_is_well_without_it() {
    let (cluster, ctl) = (Cluster::start(3), Ctl::new());
    let leader = &cluster.nodes[cluster.leader()];
    let asked = ctl.json(leader.http, "cluster can-restart --wait 20s");
    assert_eq!((asked["can_restart"].clone(), asked["leads_others"].clone()), (true.into(), true.into()), "{asked}");
    let moved = ctl.json(leader.http, "cluster can-restart --hand-over --wait 20s");
    assert_eq!((moved["can_restart"].clone(), moved["leads_others"].clone()), (true.into(), false.into()), "{moved}");
    let new_leader = &cluster.nodes[cluster.leader()];
    assert_ne!(new_leader.name, leader.name);
    let third = cluster.nodes.iter().find(|node| node.name != leader.name && node.name != new_leader.name).unwrap();
    third.kill9();
    // At once, when the leader does not miss it yet.
    let output = ctl.run(leader.http, "cluster can-restart");
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("not well: {}", third.name)), "{told}");
    third.start();
    ctl.done(leader.http, "cluster can-restart --wait 30s");
}

#[test]
fn of_two_nodes_that_want_to_restart_one_is_told_to_wait_until_the_other_is_back() {
    let (cluster, ctl) = (Cluster::start(3), Ctl::new());
    let [first, second] = [0, 1].map(|at| &cluster.nodes[cluster.followers()[at]]);
    ctl.done(first.http, "cluster can-restart --hand-over --wait 20s");
    // Asked again, it is still its turn.
    ctl.done(first.http, "cluster can-restart --hand-over");
    let output = ctl.run(second.http, "cluster can-restart --hand-over");
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("it is the turn of {} to restart", first.name)), "{told}");
    // Who only asks is not held up, and takes no turn.
    ctl.done(second.http, "cluster can-restart --wait 20s");
    first.terminate();
    first.start();
    wait_until("it gives its turn back when it is well again", || {
        let output = ctl.run(second.http, "cluster can-restart --hand-over");
        if output.status.success() { Ok(()) } else { Err(text(&output.stdout)) }
    });
    let output = ctl.run(first.http, "cluster can-restart --hand-over");
    let told = text(&output.stdout);
    assert!(told.contains(&format!("it is the turn of {} to restart", second.name)), "{told}");
}
