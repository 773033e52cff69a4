//! What a scrape of a cluster tells.

use crate::calm_cluster;
use crate::support::{Node, wait_until};
use konsuld::metrics::Metrics;
use std::collections::BTreeSet;

/// What only a leader knows of its peers.
const OF_PEERS: [&str; 4] = [
    "konsul_raft_replication_lag",
    "konsul_raft_replication_lag_seconds",
    "konsul_raft_last_contact_seconds",
    "konsul_raft_peer_rtt_seconds",
];

/// Names of consensus with a help text.
fn names(text: &str) -> BTreeSet<String> {
    let helps = text.lines().filter_map(|line| line.strip_prefix("# HELP "));
    let named = helps.filter_map(|line| line.split_once(' ')).filter(|(_, help)| !help.trim().is_empty());
    named.map(|(name, _)| name.to_owned()).filter(|name| name.starts_with("konsul_raft_")).collect()
}

fn has_series(text: &str, name: &str) -> bool {
    let of_it = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ', '_']));
    text.lines().any(of_it)
}

fn value(node: &Node, name: &str, labels: &str) -> f64 {
    node.metric(name, labels).unwrap()
}

#[test]
fn every_name_of_consensus_is_there_on_every_node_with_its_help() {
    let cluster = calm_cluster("");
    let of_all = |text: &str| -> BTreeSet<String> {
        names(text).into_iter().filter(|name| !OF_PEERS.contains(&name.as_str())).collect()
    };
    let expected = of_all(&Metrics::new("n", "c").encode());
    assert!(expected.len() >= 20, "{expected:?}");
    for node in &cluster.nodes {
        let text = node.get("/metrics").unwrap().text();
        assert_eq!(of_all(&text), expected, "{}", node.name);
        for name in &expected {
            assert!(has_series(&text, name), "{} has no series of {name}", node.name);
        }
    }
}

#[test]
fn leader_and_followers_tell_their_parts() {
    let cluster = calm_cluster("");
    let leader = cluster.leader();
    let term = f64::from(u32::try_from(cluster.nodes[leader].status().unwrap().node.term).unwrap());
    for (at, node) in cluster.nodes.iter().enumerate() {
        let (leads, role) = if at == leader { (1.0, "leader") } else { (0.0, "follower") };
        let told = |name: &str, labels: &str| value(node, name, labels);
        // A scrape tells of its own moment: nothing has to be waited for.
        assert_eq!(told("konsul_raft_is_leader", ""), leads, "{}", node.name);
        assert_eq!(told("konsul_raft_role", &format!("role=\"{role}\"")), 1.0, "{}", node.name);
        assert_eq!((told("konsul_raft_voters", ""), told("konsul_raft_members", "")), (3.0, 3.0), "{}", node.name);
        assert_eq!((told("konsul_raft_term", ""), told("konsul_raft_has_quorum", "")), (term, 1.0), "{}", node.name);
    }
    assert!(cluster.nodes[leader].client().put("m/c", "", b"v").unwrap().is_true());
    let commits = |node: &Node| value(node, "konsul_raft_commit_latency_ms_count", "");
    assert!(commits(&cluster.nodes[leader]) >= 1.0, "a write came to a majority");
    assert!(value(&cluster.nodes[leader], "konsul_raft_commit_latency_ms_sum", "") > 0.0);
    let sum = |name: &str| cluster.nodes.iter().map(|node| value(node, name, "")).sum::<f64>();
    assert_eq!((sum("konsul_raft_is_leader"), sum("konsul_raft_role")), (1.0, 3.0));
    for name in OF_PEERS {
        wait_until(&format!("{name} of all peers"), || {
            let text = cluster.nodes[leader].get("/metrics").map_err(|e| e.to_string())?.text();
            // A gauge by its name, a histogram by its count.
            let forms = [format!("{name}{{"), format!("{name}_count{{")];
            let peers = text.lines().filter(|line| forms.iter().any(|form| line.starts_with(form))).count();
            if peers >= 2 { Ok(()) } else { Err(format!("{peers} peers")) }
        });
    }
}

#[test]
fn indexes_grow_on_all_nodes_and_commands_are_counted_where_they_came_in() {
    let cluster = calm_cluster("");
    let follower = &cluster.nodes[cluster.followers()[0]];
    let before: Vec<f64> = cluster.nodes.iter().map(|node| value(node, "konsul_raft_applied_index", "")).collect();
    let applied = |command: &str| value(follower, "konsul_raft_apply_total", &format!("type=\"{command}\""));
    let commands = ["kv_set", "kv_cas", "kv_delete", "kv_delete_cas", "kv_delete_tree", "txn", "batch", "restore"];
    let counted: Vec<f64> = commands.iter().map(|command| applied(command)).collect();
    let mut client = follower.client();
    let archive = client.get("/v1/snapshot").unwrap().body;
    let (txn, batch) =
        (&br#"[{"KV":{"Verb":"set","Key":"m/t","Value":"dg=="}}]"#[..], br#"{"ops":[{"op":"delete","key":"m"}]}"#);
    let requests: [(&str, &str, &[u8]); 8] = [
        ("PUT", "/v1/kv/m/a", b"v"),
        ("PUT", "/v1/kv/m/b?cas=0", b"v"),
        ("DELETE", "/v1/kv/m/a", b""),
        ("DELETE", "/v1/kv/m/absent?cas=7", b""),
        ("DELETE", "/v1/kv/m/?recurse", b""),
        ("PUT", "/v1/txn", txn),
        ("PUT", "/v1/batch", batch),
        ("PUT", "/v1/snapshot", &archive),
    ];
    for (method, path, body) in requests {
        let reply = client.request(method, path, body).unwrap();
        assert_eq!(reply.status, 200, "{method} {path}: {reply}");
    }
    for (command, before) in commands.iter().zip(counted) {
        let more = applied(command) - before;
        assert!(if *command == "restore" { more >= 2.0 } else { more == 1.0 }, "{more} more of {command}");
    }
    for (node, before) in cluster.nodes.iter().zip(before) {
        wait_until(&format!("{} applies what was written", node.name), || {
            let now = node.metric("konsul_raft_applied_index", "")?;
            if now >= before + 9.0 { Ok(()) } else { Err(format!("{before} before, {now} now")) }
        });
        let (last, committed) =
            (value(node, "konsul_raft_last_log_index", ""), value(node, "konsul_raft_commit_index", ""));
        assert!(committed <= last, "{}: {committed} committed of {last}", node.name);
    }
}
