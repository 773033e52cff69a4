//! A node whose state is not that of the others, because bytes changed on its disk: found, fenced, and brought back.

use crate::damage::flip;
use crate::support::ctl::konsulctl;
use crate::support::wait::so;
use crate::support::{Cluster, Http, Node, Options, wait_until};
use konsul_api::audit::AuditRow;
use konsul_api::cluster::CompareAnswer;
use std::process::Command;
use std::time::Duration;

const MARKER: &str = "this value will be damaged";
/// A request that a node on its way out need not answer.
const SHORT: Duration = Duration::from_secs(2);

fn start(nodes: usize, raft: &'static str) -> Cluster {
    let cluster = Cluster::with(Options { nodes, raft, ..Options::default() });
    (0..20).for_each(|n| put(&cluster.nodes[0], &format!("kept/{n}"), "v"));
    put(&cluster.nodes[0], "marked", MARKER);
    cluster.assert_digests_equal();
    cluster
}

fn put(node: &Node, key: &str, value: &str) {
    let reply = node.client().put(key, "", value.as_bytes()).unwrap();
    assert!(reply.is_true(), "{}: {reply}", node.name);
}

fn compare(node: &Node) -> CompareAnswer {
    let reply = node.client().request("POST", "/v1/cluster/compare", b"").unwrap();
    assert_eq!(reply.status, 200, "{}: {reply}", node.name);
    reply.json()
}

/// Flips a bit of the value in the state of a node that does not run. The state is trusted: it was closed cleanly.
fn damage(node: &Node) {
    node.terminate();
    flip(&node.state_dir.join("gen-1/data.mdb"), MARKER.as_bytes());
    node.start();
}

fn marked(node: &Node, how: &str) -> Result<(u16, String), String> {
    let reply = node.get(&format!("/v1/kv/marked?raw&{how}")).map_err(|error| error.to_string())?;
    Ok((reply.status, reply.text()))
}

/// It answers nobody, and tells everybody why.
fn is_fenced(node: &Node) {
    for how in ["stale", "consistency=leader", "consistent", "index=1&wait=1s"] {
        let (status, text) = marked(node, how).unwrap();
        assert_eq!(status, 503, "{} shows what it holds: {how}: {text}", node.name);
        assert!(text.contains("fenced") && text.contains("corrupted-storage"), "{text}");
    }
    let reply = node.client().put("x", "", b"y").unwrap();
    assert!(reply.status == 503 && reply.text().contains("fenced"), "{reply}");
    let (code, reasons) = node.ready().unwrap();
    assert!(code == 503 && reasons.iter().any(|why| why.contains("fenced")), "{code} {reasons:?}");
    assert!(node.status().unwrap().node.fenced.is_some());
    assert_eq!(node.metric("konsul_raft_fenced", ""), Ok(1.0));
}

fn member<'a>(answer: &'a CompareAnswer, name: &str) -> &'a konsul_api::cluster::ComparedMember {
    answer.members.iter().find(|member| member.name == name).unwrap()
}

#[test]
fn a_damaged_state_is_found_and_fenced_and_built_anew() {
    let cluster = start(3, "compare_interval = \"0s\"");
    let (leader, follower) = (&cluster.nodes[cluster.leader()], &cluster.nodes[cluster.followers()[0]]);
    let other = &cluster.nodes[cluster.followers()[1]];
    let sound = compare(other);
    assert!(
        sound.same && sound.agreed.is_some() && sound.members.iter().all(|it| it.digest == sound.agreed),
        "{sound:?}"
    );

    damage(follower);
    let wrong = wait_until("the damaged node serves", || match marked(follower, "stale")? {
        (200, text) => Ok(text),
        other => Err(format!("{other:?}")),
    });
    assert_ne!(wrong, MARKER, "nothing was damaged");
    // Somebody who waits there, while nothing changes.
    let waiting = {
        let mut client = Http::with_timeout(follower.http, Duration::from_secs(60));
        let seen = client.get("/v1/kv/marked?stale").unwrap().header("X-Consul-Index").unwrap().to_owned();
        std::thread::spawn(move || client.get(&format!("/v1/kv/marked?stale&index={seen}&wait=50s")).unwrap())
    };
    wait_until("the query waits", || so(follower.metric("konsul_blocking_queries", "")? >= 1.0, "nobody waits"));

    let found = compare(other);
    assert!(!found.same && found.agreed.is_some(), "{found:?}");
    for node in &cluster.nodes {
        let deviates = node.name == follower.name;
        let told = member(&found, &node.name);
        assert_eq!((told.fenced, told.digest != found.agreed), (deviates, deviates), "{found:?}");
    }
    is_fenced(follower);
    let waited = waiting.join().unwrap();
    assert_eq!(waited.status, 503, "who waited was shown what it holds: {waited}");
    follower.wait_log(&["fenced: at log index"]);
    assert_eq!(leader.metric("konsul_raft_state_digest_mismatch_total", ""), Ok(1.0));
    // Both comparisons had a majority: this one, and the one in which all were the same.
    assert_eq!(leader.metric("konsul_raft_states_compared_total", ""), Ok(2.0));
    wait_until("a row of the audit", || {
        let audit: Vec<AuditRow> = leader.get("/v1/cluster/audit").map_err(|error| error.to_string())?.json();
        let row = audit.iter().find(|row| row.event == "state.differs");
        so(row.is_some_and(|row| row.what.contains(&follower.name)), format!("{audit:?}"))
    });
    // The others go on, and the leader does not give way to the one that is fenced.
    put(other, "after", "written");
    assert_eq!(marked(other, "consistent"), Ok((200, MARKER.to_owned())));
    let reply = leader.client().request("PUT", "/v1/cluster/transfer-leadership", b"").unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    assert_eq!(cluster.leader_among(&[leader, other]), cluster.position(&other.name));

    // A restart changes nothing; a state that is built anew is the right one, and the leader sees it by itself.
    follower.terminate();
    follower.start();
    wait_until("it is fenced from the start", || {
        let (status, text) = marked(follower, "stale")?;
        so(status == 503 && text.contains("fenced"), format!("{status} {text}"))
    });
    other.wait_log(&["the states of the members differ"]);
    is_fenced(follower);
    follower.terminate();
    std::fs::remove_dir_all(&follower.state_dir).unwrap();
    follower.start();
    cluster.wait_healthy();
    follower.wait_log(&["the fence is down"]);
    assert_eq!(marked(follower, "stale"), Ok((200, MARKER.to_owned())));
    assert_eq!(follower.metric("konsul_raft_fenced", ""), Ok(0.0));
    assert!(compare(follower).same);
    cluster.assert_digests_equal();
}

#[test]
fn a_leader_whose_state_is_damaged_finds_that_out_by_itself_and_gives_way() {
    let cluster = start(3, "compare_interval = \"1s\"");
    for node in &cluster.nodes {
        wait_until("states are compared by themselves", || {
            so(node.metric("konsul_raft_state_digest_index", "")? > 0.0, "no digest was taken")
        });
    }
    // Nobody compares while the one that is damaged comes to lead.
    let damaged = &cluster.nodes[cluster.followers()[0]];
    for node in &cluster.nodes {
        node.replace_in_config("compare_interval = \"1s\"", "compare_interval = \"0s\"");
        node.terminate();
        node.start();
        cluster.wait_healthy();
    }
    damage(damaged);
    cluster.wait_healthy();
    let to = format!("{{\"to\": \"{}\"}}", damaged.name);
    let reply = damaged.client().request("PUT", "/v1/cluster/transfer-leadership", to.as_bytes()).unwrap();
    assert!(reply.status == 200 || reply.text().contains("leads already"), "{reply}");
    let others: Vec<&Node> = cluster.nodes.iter().filter(|node| node.name != damaged.name).collect();
    let found = compare(others[0]);
    assert!(member(&found, &damaged.name).fenced, "{found:?}");
    is_fenced(damaged);
    wait_until("another node leads", || {
        let status = others[0].status()?;
        let leader = status.leader.map(|leader| leader.name);
        so(leader.as_ref().is_some_and(|name| *name != damaged.name), format!("{leader:?}"))
    });
    let mut client = Http::with_timeout(others[0].http, SHORT);
    wait_until("writes go on", || match client.put("after", "", b"v") {
        Ok(reply) if reply.is_true() => Ok(()),
        Ok(reply) => Err(reply.to_string()),
        Err(error) => Err(error.to_string()),
    });
    for node in others {
        assert_eq!(marked(node, "consistent"), Ok((200, MARKER.to_owned())));
    }
}

#[test]
fn of_two_that_differ_nobody_is_right_and_both_say_so() {
    let cluster = start(2, "compare_interval = \"0s\"");
    damage(&cluster.nodes[1]);
    cluster.wait_healthy();
    let server = format!("http://{}", cluster.nodes[0].http);
    let output = Command::new(konsulctl()).args(["--server", &server, "cluster", "compare"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nobody knows who is right") && said.matches("disputed").count() == 2, "{said}");
    let leader = &cluster.nodes[cluster.leader()];
    leader.wait_log(&["no majority holds the same"]);
    assert_eq!(leader.metric("konsul_raft_state_digest_mismatch_total", ""), Ok(1.0));
    for node in &cluster.nodes {
        assert_eq!(node.metric("konsul_raft_fenced", ""), Ok(0.0));
        assert_eq!(marked(node, "consistent").unwrap().0, 200, "to fence one of two is a guess");
    }
}
