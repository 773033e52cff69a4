//! Clusters whose nodes were let in by a token: who joins slowly, who lost everything, and who moved.

use crate::membership::wait_members;
use crate::support::cluster::Entry;
use crate::support::konsulctl;
use crate::support::net;
use crate::support::wait::so;
use crate::support::workload::longest_gap;
use crate::support::{Cluster, Node, Options, Outcome, Storm, check_writes, skip, wait_until};
use konsul_api::cluster::{ClusterStatus, Member};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// They wait, and are told.
fn entered(options: Options) -> Cluster {
    let cluster = Cluster::prepare(Options { entry: Entry::Own("form = \"init\"".to_owned()), ..options });
    for node in &cluster.nodes {
        node.start();
        node.wait_waiting();
    }
    konsulctl::enter(&cluster.nodes);
    cluster.wait_healthy();
    cluster
}

fn member(status: &ClusterStatus, name: &str) -> Result<Member, String> {
    let found = status.members.iter().find(|member| member.name == name).cloned();
    found.ok_or_else(|| format!("{name} is no member"))
}

fn join(node: &Node, by: &Node) {
    node.start();
    node.wait_waiting();
    let token = konsulctl::done(by, "cluster generate-token");
    konsulctl::done(node, &format!("cluster join {token}"));
}

#[test]
fn a_slow_joiner_holds_up_neither_the_cluster_nor_another_joiner() {
    if let Some(why) = net::missing() {
        return skip(&why);
    }
    let cluster = entered(Options { nodes: 3, spare: 2, net: true, ..Options::default() });
    let leader = &cluster.nodes[cluster.leader()];
    // What it has to fetch: at its rate, minutes.
    let value = vec![b'x'; 256 << 10];
    for n in 0..48 {
        assert!(leader.client().put(&format!("big/{n}"), "", &value).unwrap().is_true());
    }
    let [slow, quick] = [&cluster.spare[0], &cluster.spare[1]];
    let storm = Storm::start(&cluster.addresses(), 4, "w");
    storm.wait_progress(50);
    let from = Instant::now();
    cluster.net().slow_down(4, Some(800));
    join(slow, leader);
    wait_until("the slow one is on its way", || {
        let member = member(&leader.status()?, &slow.name)?;
        so(!member.voter && member.lag.is_some_and(|lag| lag > 0), format!("{member:?}"))
    });
    join(quick, leader);
    wait_until("the quick one votes", || {
        let member = member(&leader.status()?, &quick.name)?;
        so(member.voter, format!("{member:?}"))
    });
    storm.wait_progress(200);
    let is_slow = member(&leader.status().unwrap(), &slow.name).unwrap();
    assert!(!is_slow.voter && is_slow.lag.is_some_and(|lag| lag > 0), "it was not slow at all: {is_slow:?}");
    let to = Instant::now();
    cluster.net().slow_down(4, None);
    let all: Vec<&Node> = cluster.nodes.iter().chain(&cluster.spare).collect();
    cluster.wait_healthy_of(&all);
    let written = storm.finish();
    let gap = longest_gap(&written, from, to);
    let failed = written.iter().filter(|w| w.outcome != Outcome::Acknowledged).count();
    println!("{} writes; at most {} ms between two acknowledgements", written.len(), gap.as_millis());
    assert_eq!(failed, 0, "writes failed while somebody joined");
    assert!(gap < Duration::from_secs(2), "nothing was acknowledged for {gap:?}");
    check_writes(&all, "w", &written);
}

#[test]
fn a_host_that_lost_its_data_comes_back_with_a_new_token_under_a_new_id() {
    let cluster = entered(Options { nodes: 3, ..Options::default() });
    let lost = &cluster.nodes[cluster.followers()[0]];
    let others: Vec<&Node> = cluster.nodes.iter().filter(|node| node.name != lost.name).collect();
    let storm = Storm::start(&others.iter().map(|node| node.http).collect::<Vec<_>>(), 2, "w");
    storm.wait_progress(20);
    let before = lost.status().unwrap().node.id;
    let token = konsulctl::done(others[0], "cluster generate-token");
    // While its former self seems to be alive, nobody takes its name.
    let impostor = konsulctl::failed(lost, &format!("cluster join {token}"));
    assert!(impostor.contains("already"), "{impostor}");
    lost.kill9();
    lost.wipe();
    lost.start();
    lost.wait_waiting();
    wait_until("its name is free", || {
        let leader = &cluster.nodes[cluster.leader_among(&others)];
        let silent = member(&leader.status()?, &lost.name)?.last_contact_ms;
        so(silent.is_none_or(|ms| ms > 2_000), format!("{silent:?}"))
    });
    konsulctl::done(lost, &format!("cluster join {token}"));
    let status = cluster.wait_healthy();
    let member = member(&status, &lost.name).unwrap();
    assert!(member.id > before && member.voter, "it was {before}: {member:?}");
    storm.wait_progress(20);
    check_writes(&cluster.nodes.iter().collect::<Vec<_>>(), "w", &storm.finish());
    let audit = konsulctl::done(others[0], "audit --limit 1000");
    let told = |what: &str| audit.lines().any(|line| line.contains(what) && line.contains(&lost.name));
    assert!(told(" join "), "{audit}");
    cluster.assert_digests_equal();
}

#[test]
fn a_host_with_another_address_after_its_restart_tells_the_others_so() {
    if let Some(why) = net::missing() {
        return skip(&why);
    }
    let mut cluster = entered_everywhere(3);
    let before = cluster.wait_healthy();
    let at = cluster.followers()[0];
    cluster.nodes[at].terminate();
    let to: IpAddr = net::address(100 + at);
    cluster.net().move_host(at + 1, to);
    cluster.nodes[at].http = SocketAddr::new(to, 8500);
    cluster.nodes[at].start();
    let name = cluster.nodes[at].name.clone();
    wait_until("the others know where it is", || {
        let leader = &cluster.nodes[cluster.leader()];
        let member = member(&leader.status()?, &name)?;
        so(member.rpc == format!("{to}:8300"), format!("{member:?}"))
    });
    let after = cluster.wait_healthy();
    let ids = |status: &ClusterStatus| status.members.iter().map(|m| (m.id, m.voter)).collect::<Vec<_>>();
    assert_eq!(ids(&after), ids(&before));
    // And it is asked there: it can lead.
    let moved = format!("cluster transfer-leadership --to {name}");
    konsulctl::done(&cluster.nodes[at], &moved);
    wait_members(&cluster.nodes.iter().collect::<Vec<_>>(), 3, 0);
}

/// As by default: nodes listen on every address, and find out by which one others reach them.
fn entered_everywhere(nodes: usize) -> Cluster {
    let own = Entry::Own("form = \"init\"".to_owned());
    let cluster = Cluster::prepare(Options { nodes, net: true, entry: own, ..Options::default() });
    for node in &cluster.nodes {
        let ip = node.http.ip();
        node.replace_in_config(&format!("[peer]\nlisten = \"{ip}:8300\"\n"), "");
        node.replace_in_config(&format!("listen = [\"{ip}:8500\"]"), "listen = [\"0.0.0.0:8500\"]");
        node.start();
        node.wait_waiting();
    }
    konsulctl::enter(&cluster.nodes);
    cluster.wait_healthy();
    cluster
}
