//! Members that leave, are removed, lose their vote and get it back, or move: what is asked for happens, and what would
//! stop the cluster does not.

use crate::pause::{NONE, Shared, client};
use crate::support::cluster::elsewhere;
use crate::support::wait::so;
use crate::support::{Cluster, Node, Options, Reply, Storm, check_writes, wait_until};
use konsul_api::cluster::{ClusterStatus, ErrorAnswer, Member, MembershipAnswer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// What a node that was removed ends with: a restart would not help it.
const REMOVED: Option<i32> = Some(3);

/// Asks for a change of the membership.
pub(crate) fn ask(node: &Node, what: &str, body: &str) -> Reply {
    node.client().request("POST", &format!("/v1/cluster/{what}"), body.as_bytes()).unwrap()
}

fn done(reply: &Reply) -> MembershipAnswer {
    assert_eq!(reply.status, 200, "{reply}");
    reply.json()
}

fn why(reply: &Reply, status: u16) -> String {
    assert_eq!(reply.status, status, "{reply}");
    let answer: ErrorAnswer = reply.json();
    answer.error
}

fn member<'s>(status: &'s ClusterStatus, name: &str) -> Option<&'s Member> {
    status.members.iter().find(|member| member.name == name)
}

/// As these nodes see it, all of them.
pub(crate) fn wait_members(nodes: &[&Node], voters: usize, learners: usize) {
    wait_until(&format!("{voters} voters and {learners} learners"), || {
        for node in nodes {
            let status = node.status()?;
            let votes = status.members.iter().filter(|member| member.voter).count();
            so((votes, status.members.len() - votes) == (voters, learners), format!("{:?}", status.members))?;
            so(status.leader.is_some(), "no leader")?;
        }
        Ok(())
    });
}

/// It ends by itself, says why, and a restart ends the same way.
fn assert_ends_as_removed(node: &Node) {
    assert_eq!(node.ended().code(), REMOVED, "{}", node.name);
    node.wait_log(&["no member any more and stops"]);
    node.start();
    assert_eq!(node.ended().code(), REMOVED, "{} was started again", node.name);
}

#[test]
fn a_leader_leaves_under_load_and_no_request_fails() {
    let cluster = Cluster::start(5);
    let leader = cluster.leader();
    let shared =
        Arc::new(Shared { stop: AtomicBool::new(false), done: AtomicU64::new(0), restarting: AtomicUsize::new(NONE) });
    let clients = (0..8).map(|number| {
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
    // Its connections may be closed from now on, as in a restart.
    shared.restarting.store(leader, Ordering::SeqCst);
    let answer = done(&ask(&cluster.nodes[leader], "leave", ""));
    assert_eq!((answer.name.as_str(), answer.voters), (cluster.nodes[leader].name.as_str(), 4));
    progress(100);
    assert_eq!(cluster.nodes[leader].ended().code(), REMOVED);
    progress(100);
    shared.stop.store(true, Ordering::SeqCst);
    let results: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let failures: Vec<&String> = results.iter().flat_map(|(failures, _)| failures).collect();
    let longest = results.iter().map(|(_, longest)| *longest).max().unwrap();
    println!("{} requests, the longest took {} ms", shared.done.load(Ordering::SeqCst), longest.as_millis());
    assert!(failures.is_empty(), "{} requests failed: {failures:#?}", failures.len());
    wait_members(&cluster.running().collect::<Vec<_>>(), 4, 0);
    cluster.assert_digests_equal();
}

#[test]
fn a_node_that_is_removed_while_it_runs_stops_by_itself_and_stays_so() {
    let cluster = Cluster::start(5);
    let storm = Storm::start(&[cluster.nodes[cluster.leader()].http], 2, "w");
    let gone = &cluster.nodes[cluster.followers()[0]];
    let other = &cluster.nodes[cluster.followers()[1]];
    let id = gone.status().unwrap().node.id;
    let answer = done(&ask(other, "remove", &format!("{{\"node\":\"{}\"}}", gone.name)));
    assert_eq!(
        (answer.id, answer.done, answer.already, answer.voters, answer.failure_tolerance),
        (id, true, false, 4, 1)
    );
    assert_ends_as_removed(gone);
    // By id it is known for ever, by name it is nobody.
    assert!(done(&ask(other, "remove", &format!("{{\"node\":\"{id}\"}}"))).already);
    assert!(why(&ask(other, "remove", &format!("{{\"node\":\"{}\"}}", gone.name)), 404).contains("no member"));
    // Empty, it joins anew under another id.
    gone.wipe();
    gone.start();
    wait_until("it votes again under another id", || {
        let status = other.status()?;
        let member = member(&status, &gone.name).ok_or("it is no member")?;
        so(member.voter && member.id != id, format!("{member:?}"))
    });
    storm.wait_progress(20);
    cluster.wait_healthy();
    check_writes(&cluster.nodes.iter().collect::<Vec<_>>(), "w", &storm.finish());
    cluster.assert_digests_equal();
}

#[test]
fn what_would_stop_the_cluster_is_refused_with_numbers_and_what_it_survives_less_only_by_force() {
    let cluster = Cluster::start(3);
    let (one, two) = (&cluster.nodes[cluster.followers()[0]], &cluster.nodes[cluster.followers()[1]]);
    let node = |node: &Node, force: bool| format!("{{\"node\":\"{}\",\"force\":{force}}}", node.name);
    for what in ["leave", "remove", "demote"] {
        let why = why(&ask(one, what, &node(two, false)), 409);
        assert!(why.contains("2 voters would be left") && why.contains("--force"), "{what}: {why}");
    }
    // One is gone, this very moment: the other is needed.
    two.kill9();
    let text = why(&ask(one, "remove", &node(one, true)), 409);
    assert!(text.contains("the cluster would stop"), "{text}");
    let text = why(&ask(one, "demote", &node(one, true)), 409);
    assert!(text.contains("1 answers and 2 have to") && text.contains(&two.name), "{text}");
    let text = why(&ask(one, "leave", &node(two, false)), 409);
    assert!(text.contains("does not answer") && text.contains("cluster remove"), "{text}");
    // The dead one is not: without it the cluster survives as little as with it.
    assert_eq!(done(&ask(one, "remove", &node(two, false))).voters, 2);
    wait_members(&[one], 2, 0);
    // Back it comes only to hear that it was removed.
    two.start();
    assert_ends_as_removed(two);
    // And the last one never goes.
    let leader = &cluster.nodes[cluster.leader()];
    assert_eq!(done(&ask(leader, "leave", &node(one, false))).voters, 1);
    assert_ends_as_removed(one);
    let text = why(&ask(leader, "leave", "{\"force\":true}"), 409);
    assert!(text.contains("the only voter"), "{text}");
    assert!(leader.client().put("still", "", b"here").unwrap().is_true());
}

#[test]
fn a_voter_that_is_demoted_stays_a_learner_until_it_is_promoted() {
    let cluster = Cluster::start(3);
    let leader = &cluster.nodes[cluster.leader()];
    let other = &cluster.nodes[cluster.followers()[0]];
    let body = format!("{{\"node\":\"{}\",\"force\":true}}", leader.name);
    // The leader itself: leadership moves first.
    let answer = done(&ask(other, "demote", &body));
    assert_eq!((answer.voters, answer.failure_tolerance, answer.already), (2, 0, false));
    let all: Vec<&Node> = cluster.nodes.iter().collect();
    wait_members(&all, 2, 1);
    assert!(done(&ask(other, "demote", &body)).already);
    assert_ne!(other.status().unwrap().leader.unwrap().name, leader.name);
    // It is caught up, stable, and would be awaited: autopilot leaves it alone, also under another leader.
    assert!(leader.client().put("a", "", b"b").unwrap().is_true());
    other.client().request("PUT", "/v1/cluster/transfer-leadership", b"").unwrap();
    for _ in 0..20 {
        wait_members(&[other], 2, 1);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let answer = done(&ask(leader, "promote", &format!("{{\"node\":\"{}\"}}", leader.name)));
    assert_eq!((answer.done, answer.voters, answer.pending), (true, 3, None));
    assert!(done(&ask(leader, "promote", &format!("{{\"node\":\"{}\"}}", leader.name))).already);
    cluster.wait_healthy();
    cluster.assert_digests_equal();
}

impl Cluster {
    /// The node's address, in its own configuration; others are told by `told`.
    fn move_node(&mut self, at: usize, told: &[usize]) {
        let (from, to) = (self.nodes[at].http.ip(), elsewhere(at + 1));
        let (from_text, to_text) = (format!("{from}:"), format!("{to}:"));
        self.nodes[at].replace_in_config(&from_text, &to_text);
        for other in told {
            self.nodes[*other].replace_in_config(&from_text, &to_text);
        }
        self.nodes[at].http = SocketAddr::new(to, 8500);
    }

    /// Every node is where it is now, in the eyes of all.
    fn wait_moved(&self) {
        wait_until("every node is where the leader says", || {
            let leader = self.nodes[self.leader()].status()?;
            let moved =
                |node: &Node| member(&leader, &node.name).is_some_and(|m| m.http.ends_with(&node.http.to_string()));
            so(self.nodes.iter().all(moved), format!("{:?}", leader.members))
        });
        let status = self.wait_healthy();
        for node in &self.nodes {
            let member = member(&status, &node.name).unwrap();
            assert_eq!(
                (member.rpc.as_str(), member.http.as_str()),
                (format!("{}:8300", node.http.ip()).as_str(), format!("http://{}", node.http).as_str())
            );
        }
    }
}

#[test]
fn a_node_that_moved_tells_the_others_and_keeps_its_id_and_vote() {
    let mut cluster = Cluster::start(3);
    let before = cluster.wait_healthy();
    let storm = Storm::start(&[cluster.nodes[cluster.leader()].http], 2, "w");
    let at = cluster.followers()[0];
    cluster.nodes[at].terminate();
    // Nobody else is told, and nobody else is restarted.
    cluster.move_node(at, &[]);
    cluster.nodes[at].start();
    wait_until("the others know where it is", || {
        let leader = &cluster.nodes[cluster.leader()];
        let status = leader.status()?;
        let member = member(&status, &cluster.nodes[at].name).ok_or("it is no member")?;
        so(member.rpc.starts_with(&elsewhere(at + 1).to_string()), format!("{member:?}"))
    });
    cluster.wait_moved();
    let after = cluster.wait_healthy();
    let ids = |status: &ClusterStatus| status.members.iter().map(|m| (m.id, m.voter)).collect::<Vec<_>>();
    assert_eq!(ids(&after), ids(&before));
    // It can lead from there.
    let name = cluster.nodes[at].name.clone();
    let body = format!("{{\"to\":\"{name}\"}}");
    let moved = cluster.nodes[at].client().request("PUT", "/v1/cluster/transfer-leadership", body.as_bytes()).unwrap();
    assert_eq!(moved.status, 200, "{moved}");
    check_writes(&cluster.nodes.iter().collect::<Vec<_>>(), "w", &storm.finish());
    cluster.assert_digests_equal();
}

#[test]
fn a_cluster_that_moved_as_a_whole_finds_itself() {
    let mut cluster = Cluster::start(3);
    assert!(cluster.nodes[0].client().put("a", "", b"kept").unwrap().is_true());
    cluster.nodes.iter().for_each(Node::terminate);
    // As an operator does it: all addresses are other ones, and every configuration says so.
    for at in 0..3 {
        let others: Vec<usize> = (0..3).filter(|other| *other != at).collect();
        cluster.move_node(at, &others);
    }
    cluster.nodes.iter().for_each(Node::start);
    cluster.wait_moved();
    for node in &cluster.nodes {
        let reply = node.get("/v1/kv/a?raw&consistent").unwrap();
        assert_eq!((reply.status, reply.body.as_slice()), (200, &b"kept"[..]), "{}", node.name);
    }
    cluster.assert_digests_equal();
}

#[test]
fn a_removed_node_that_was_away_hears_it_when_it_comes_back() {
    let cluster = Cluster::with(Options { nodes: 5, ..Options::default() });
    let away = &cluster.nodes[cluster.followers()[0]];
    away.kill9();
    let leader = &cluster.nodes[cluster.leader()];
    let body = format!("{{\"node\":\"{}\"}}", away.name);
    assert_eq!(done(&ask(leader, "remove", &body)).voters, 4);
    away.start();
    // Its log says that it votes among five; the others say that it does not.
    assert_ends_as_removed(away);
    let status = leader.status().unwrap();
    assert_eq!((status.members.len(), status.has_quorum), (4, true));
    cluster.assert_digests_equal();
}
