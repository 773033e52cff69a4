//! Fresh nodes that are told a token and the name of a domain, nothing else.

use crate::support::cluster::Entry;
use crate::support::ctl::konsulctl as program;
use crate::support::dnsmasq::{self, Dnsmasq};
use crate::support::konsulctl;
use crate::support::net::{self, Net};
use crate::support::wait::so;
use crate::support::{Cluster, Node, Options, skip, wait_until};
use std::net::SocketAddr;
use std::process::Command;

const SERVICE: &str = "_konsul._tcp.example.test";

fn domain(options: Options) -> Cluster {
    let server = SocketAddr::new(Net::here(), dnsmasq::PORT);
    let lines = format!(
        "join_token_file = \"/nowhere\"\n[discovery]\ndns_domain = \"example.test\"\ndns_server = \"{server}\""
    );
    let cluster = Cluster::prepare(Options { net: true, entry: Entry::Own(lines), ..options });
    for node in cluster.nodes.iter().chain(&cluster.spare) {
        // As packaged: the credential is the default.
        node.replace_in_config("join_token_file = \"/nowhere\"\n", "");
    }
    cluster
}

/// An SRV record and the address it needs for each of these nodes.
fn records(nodes: std::ops::RangeInclusive<usize>) -> Vec<String> {
    let both = nodes.flat_map(|n| {
        let srv = format!("srv-host={SERVICE},n{n}.example.test,8300,10,10");
        [srv, format!("host-record=n{n}.example.test,{}", net::address(n))]
    });
    both.collect()
}

fn answers(server: &mut Dnsmasq, records: &[String]) {
    server.restart(1, &records.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn three_fresh_nodes_with_a_domain_and_a_token_form_one_cluster_by_themselves_once_dns_answers() {
    if let Some(why) = net::missing() {
        return skip(&why);
    }
    let cluster = domain(Options { nodes: 3, spare: 1, ..Options::default() });
    let mut make = Command::new(program());
    let made = make.args(["cluster", "generate-token", "--bootstrap", "--nodes", "3"]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let token = String::from_utf8(made.stdout).unwrap();
    for node in &cluster.nodes {
        node.give_credential("join-token", &token);
        node.start();
    }
    // Nobody answers for the domain.
    for node in &cluster.nodes {
        wait_until(&format!("{} says what it lacks", node.name), || {
            let (code, reasons) = node.ready()?;
            so(code == 503 && reasons.iter().any(|r| r.contains("no contact point")), format!("{code} {reasons:?}"))
        });
        node.wait_log(&["discovery failed"]);
    }
    let mut server = Dnsmasq::at(Net::here());
    let wrong = [
        format!("srv-host={SERVICE},nowhere.example.test,8300,1,10"),
        format!("srv-host={SERVICE},n1.example.test,0,2,10"),
        format!("srv-host={SERVICE},nobody.example.test,8300,3,10"),
        format!("host-record=nobody.example.test,{}", net::address(99)),
    ];
    answers(&mut server, &[records(1..=3), wrong.to_vec()].concat());
    let status = cluster.wait_healthy();
    for node in &cluster.nodes {
        assert_eq!(node.status().unwrap().cluster_id, status.cluster_id, "{}", node.name);
        node.wait_log(&["wrong record skipped"]);
        let once = node.log_text().lines().filter(|line| line.contains("\"discovery failed\"")).count();
        assert!(once <= 1, "{} says {once} times that DNS fails", node.name);
    }
    // One of them formed it: the lowest address of those that a majority reached, which need not be the lowest of all.
    let formed = cluster.nodes.iter().filter(|node| node.log_text().contains("founding a cluster"));
    assert_eq!(formed.count(), 1);
    // The bootstrap token is used up by the others.
    let listed = konsulctl::done(&cluster.nodes[1], "cluster tokens");
    assert!(listed.contains("used up") && listed.contains("2 of 2"), "{listed}");

    // A fourth, later, in the same way: the token of the first start is of no use to it, and it says so.
    let fourth = &cluster.spare[0];
    fourth.give_credential("join-token", &token);
    answers(&mut server, &records(1..=3));
    fourth.start();
    wait_until("n4 says why it is not admitted", || {
        let (_, reasons) = fourth.ready()?;
        so(reasons.iter().any(|reason| reason.contains("as often as it may be")), format!("{reasons:?}"))
    });
    fourth.kill9();
    fourth.give_credential("join-token", &konsulctl::done(&cluster.nodes[2], "cluster generate-token"));
    fourth.start();
    let all: Vec<&Node> = cluster.nodes.iter().chain(&cluster.spare).collect();
    let status = cluster.wait_healthy_of(&all);
    assert_eq!(status.members.len(), 4);

    // Restarts need neither the token nor DNS, and a member without either is encrypted as before.
    server.stop();
    for node in &all {
        std::fs::remove_dir_all(&node.credentials).unwrap();
        node.terminate();
        node.start();
        let status = cluster.wait_healthy_of(&all);
        assert_eq!(status.members.len(), 4);
    }
}
