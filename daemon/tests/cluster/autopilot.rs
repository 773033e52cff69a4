//! Autopilot on real processes: the dead are removed when that is safe and never when it is not, newcomers vote when
//! they are stable, and who was only restarted stays.

use crate::membership::wait_members;
use crate::support::wait::{so, wait_beyond};
use crate::support::{Cluster, Node, Options, Storm, check_writes, wait_until};
use konsul_api::operator::{AutopilotConfiguration, AutopilotHealth, AutopilotState, RaftConfiguration};
use konsuld::raft::Policy;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const CONFIGURATION: &str = "/v1/operator/autopilot/configuration";

fn configure(node: &Node, json: &str) {
    let reply = node.client().request("PUT", CONFIGURATION, json.as_bytes()).unwrap();
    assert!(reply.is_true(), "{reply}");
}

fn state(node: &Node) -> Result<AutopilotState, String> {
    let reply = node.client().get("/v1/operator/autopilot/state").map_err(|e| e.to_string())?;
    so(reply.status == 200, reply.to_string())?;
    Ok(reply.json())
}

fn health(node: &Node) -> Result<(u16, AutopilotHealth), String> {
    let reply = node.client().get("/v1/operator/autopilot/health").map_err(|e| e.to_string())?;
    so(reply.status == 200 || reply.status == 429, reply.to_string())?;
    Ok((reply.status, reply.json()))
}

fn raft(node: &Node) -> RaftConfiguration {
    let reply = node.client().get("/v1/operator/raft/configuration").unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    reply.json()
}

/// The numbers of members that were seen, until there are `last`, some time `after` now.
fn watch_members(node: &Node, last: usize, after: Duration) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    wait_beyond(after, &format!("{last} members are left"), || {
        let now = node.status()?.members.len();
        seen.insert(now);
        so(now == last, format!("{now} members"))
    });
    seen
}

#[test]
fn two_of_five_that_died_are_removed_one_after_the_other() {
    let cluster = Cluster::start(5);
    let leader = &cluster.nodes[cluster.leader()];
    // As it is when nobody configures it.
    let after = Policy::default().dead_server_after;
    let storm = Storm::start(&[leader.http], 2, "w");
    storm.wait_progress(20);
    let dead: Vec<&Node> = cluster.followers()[..2].iter().map(|at| &cluster.nodes[*at]).collect();
    let index = raft(leader).index;
    dead.iter().for_each(|node| node.kill9());
    let died = Instant::now();
    let seen = watch_members(leader, 3, after);
    println!("both were removed {} ms after they died", died.elapsed().as_millis());
    assert!(seen.contains(&4), "they were removed at once: {seen:?}");
    assert!(died.elapsed() >= after, "removed before they were dead for long enough");
    // Two changes, each of a joint membership and a uniform one.
    assert!(raft(leader).index > index);
    wait_until("the leader is content with three", || {
        let (code, health) = health(leader)?;
        so(code == 200 && health.healthy && health.failure_tolerance == 1, format!("{health:?}"))
    });
    assert_eq!(leader.metric("konsul_autopilot_removed_total", "reason=\"dead\"").unwrap(), 2.0);
    wait_until("the metrics say so", || {
        let tolerance = leader.metric("konsul_autopilot_failure_tolerance", "")?;
        let healthy = leader.metric("konsul_autopilot_healthy", "")?;
        so((tolerance, healthy) == (1.0, 1.0), format!("{tolerance} {healthy}"))
    });
    let audit = leader.get("/v1/cluster/audit?limit=20").unwrap().text();
    assert!(audit.matches("member.remove").count() >= 2 && audit.contains("autopilot"), "{audit}");
    // The third of three stays, however long it is dead.
    configure(leader, r#"{"DeadServerThreshold":"4s"}"#);
    let third = cluster.followers().into_iter().map(|at| &cluster.nodes[at]).find(|node| node.is_running()).unwrap();
    third.kill9();
    wait_until("autopilot says why it stays", || {
        let notes = state(leader)?.notes;
        so(notes.iter().any(|note| note.contains(&third.name) && note.contains("stays")), format!("{notes:?}"))
    });
    assert_eq!(leader.status().unwrap().members.len(), 3);
    third.start();
    wait_members(&[leader, third], 3, 0);
    storm.wait_progress(20);
    let survivors: Vec<&Node> = cluster.running().collect();
    check_writes(&survivors, "w", &storm.finish());
    // Who comes back hears that it is too late.
    dead[0].start();
    assert_eq!(dead[0].ended().code(), Some(3));
}

#[test]
fn three_stay_three_unless_two_are_said_to_be_enough() {
    let cluster = Cluster::start(3);
    let leader = &cluster.nodes[cluster.leader()];
    configure(leader, r#"{"DeadServerThreshold":"2s"}"#);
    let dead = &cluster.nodes[cluster.followers()[0]];
    dead.kill9();
    wait_until("it is dead for long enough to be removed", || {
        let notes = state(leader)?.notes;
        so(notes.iter().any(|note| note.contains("2 voters are fewer than 3")), format!("{notes:?}"))
    });
    let (code, unwell) = health(leader).unwrap();
    assert_eq!((code, unwell.healthy, unwell.failure_tolerance), (429, false, 0));
    let servers = unwell.servers.unwrap();
    let failed = servers.iter().find(|server| server.name == dead.name).unwrap();
    assert_eq!((failed.healthy, failed.serf_status.as_str(), failed.voter), (false, "failed", true));
    assert_eq!(leader.status().unwrap().members.len(), 3);
    // On the follower that is left: it asks the leader, and it takes the change.
    let other = cluster.running().find(|node| node.name != leader.name).unwrap();
    assert_eq!(health(other).unwrap().0, 429);
    configure(other, r#"{"DeadServerThreshold":"2s","MinQuorum":2}"#);
    wait_members(&[leader, other], 2, 0);
    assert!(leader.client().put("a", "", b"b").unwrap().is_true());
}

#[test]
fn a_voter_that_restarts_stays_the_voter_it_was() {
    let cluster = Cluster::start(5);
    let leader = &cluster.nodes[cluster.leader()];
    configure(leader, r#"{"DeadServerThreshold":"10s","ServerStabilizationTime":"10s"}"#);
    let before = raft(leader);
    for at in cluster.followers().into_iter().take(2) {
        cluster.nodes[at].kill9();
        wait_until("the leader misses it", || {
            let (code, _) = health(leader)?;
            so(code == 429, "healthy")
        });
        cluster.nodes[at].start();
        cluster.wait_healthy();
    }
    let after = raft(leader);
    let votes = |raft: &RaftConfiguration| raft.servers.iter().map(|s| (s.id.clone(), s.voter)).collect::<Vec<_>>();
    assert_eq!((votes(&after), after.index), (votes(&before), before.index), "the membership was touched");
}

#[test]
fn a_newcomer_to_a_complete_cluster_votes_when_it_is_stable() {
    let cluster = Cluster::with(Options { nodes: 3, spare: 1, ..Options::default() });
    let leader = &cluster.nodes[cluster.leader()];
    configure(leader, r#"{"ServerStabilizationTime":"3s"}"#);
    let storm = Storm::start(&[leader.http], 2, "w");
    storm.wait_progress(50);
    let fourth = &cluster.spare[0];
    fourth.start();
    let joined = wait_until("it is a learner", || {
        let status = leader.status()?;
        let member = status.members.iter().find(|member| member.name == fourth.name).ok_or("it is no member")?;
        so(!member.voter, format!("{member:?}"))?;
        Ok(Instant::now())
    });
    wait_until("autopilot says what it waits for", || {
        let notes = state(leader)?.notes;
        so(notes.iter().any(|note| note.contains(&fourth.name) && note.contains("of 3000 ms")), format!("{notes:?}"))
    });
    wait_members(&[leader, fourth], 4, 0);
    let waited = joined.elapsed();
    println!("it votes {} ms after it joined", waited.as_millis());
    assert!(waited >= Duration::from_millis(2_700), "promoted after {waited:?} already");
    let nodes: Vec<&Node> = cluster.nodes.iter().chain(&cluster.spare).collect();
    check_writes(&nodes, "w", &storm.finish());
}

#[test]
fn the_configuration_is_the_clusters_and_survives_leaders_and_restarts() {
    let cluster = Cluster::start(3);
    let read = |node: &Node| -> AutopilotConfiguration { node.client().get(CONFIGURATION).unwrap().json() };
    let follower = &cluster.nodes[cluster.followers()[0]];
    assert_eq!(read(follower), AutopilotConfiguration::default());
    configure(follower, r#"{"MinQuorum":3,"ServerStabilizationTime":"5s"}"#);
    let written = read(follower);
    assert_eq!((written.min_quorum, written.server_stabilization_time.as_str()), (3, "5s"));
    assert!(written.create_index > 0 && written.create_index == written.modify_index);
    let cas = |index: u64| {
        let path = format!("{CONFIGURATION}?cas={index}");
        follower.client().request("PUT", &path, br#"{"MinQuorum":4}"#).unwrap().text()
    };
    assert_eq!(cas(written.modify_index + 1), "false");
    assert_eq!(cas(written.modify_index), "true");
    cluster.nodes[cluster.leader()].terminate();
    let rest: Vec<&Node> = cluster.running().collect();
    cluster.leader_among(&rest);
    for node in rest {
        let now = read(node);
        assert_eq!((now.min_quorum, now.create_index), (4, written.create_index));
        assert!(now.modify_index > written.modify_index);
    }
}
