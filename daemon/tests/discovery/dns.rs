//! DNS as it is: records of all kinds, servers that are away, records that change.

use crate::dnsmasq::Dnsmasq;
use crate::{LIMIT, Seeker};
use konsuld::cluster::discovery::{DiscoveryConfig, DnsConfig, Method};
use std::time::{Duration, Instant};

const SERVICE: &str = "_konsul._tcp.example.test";

fn config(server: &Dnsmasq) -> DiscoveryConfig {
    let dns = DnsConfig { domain: "example.test".into(), service: "_konsul._tcp".into(), port: None };
    DiscoveryConfig { dns: Some(dns), dns_server: Some(server.address()), ..DiscoveryConfig::default() }
}

fn srv(target: &str, port: u16, priority: u16) -> String {
    format!("srv-host={SERVICE},{target},{port},{priority},10")
}

fn host(name: &str, address: &str) -> String {
    format!("host-record={name}.example.test,{address}")
}

fn refs(records: &[String]) -> Vec<&str> {
    records.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn priorities_are_kept_and_wrong_records_are_skipped_and_said_once() {
    let records = [
        srv("n1.example.test", 8300, 20),
        srv("n2.example.test", 8301, 10),
        srv("n3.example.test", 8302, 30),
        srv("nowhere.example.test", 8300, 1),
        srv("n1.example.test", 0, 2),
        format!("srv-host={SERVICE}"),
        host("n1", "127.0.0.11"),
        host("n2", "127.0.0.12,fd00::12"),
        host("n3", "127.0.0.13"),
    ];
    let server = Dnsmasq::start(1, &refs(&records));
    let node = Seeker::new(&config(&server));
    let mut found = node.round().await;
    // Which family comes first is the resolver's choice.
    found[..2].sort();
    assert_eq!(found, ["127.0.0.12:8301", "[fd00::12]:8301", "127.0.0.11:8300", "127.0.0.13:8302"]);
    assert!(node.discovery.last().iter().all(|point| point.source == Method::Dns));
    // Asked again, once the TTL is over, it is no news.
    node.rounds_until("second question", |_| node.log.count("the same contact points") > 0).await;
    assert_eq!((node.log.count(" INFO "), node.log.count("wrong record skipped")), (1, 3));
    assert_eq!(node.metric(r#"konsul_discovery_contact_points{method="dns"}"#), 4);
    assert_eq!(node.metric(r#"konsul_discovery_failures_total{method="dns"}"#), 0);
    assert!(node.metric("konsul_discovery_rounds_total{") >= 2);
}

#[tokio::test]
async fn a_server_that_is_down_at_first_only_delays() {
    let mut server = Dnsmasq::reserve();
    let node = Seeker::new(&config(&server));
    assert_eq!(node.round().await, [""; 0]);
    assert_eq!(node.discovery.failing()[0].0, Method::Dns);
    node.rounds_until("second failure", |_| node.log.count("discovery failed again") > 0).await;
    server.restart(60, &refs(&[srv("n1.example.test", 8300, 1), host("n1", "127.0.0.11")]));
    let found = node.rounds_until("contact point", |found| !found.is_empty()).await;
    assert_eq!(found, ["127.0.0.11:8300"]);
    assert_eq!((node.log.count(" WARN "), node.discovery.failing()), (1, Vec::new()), "a failure is said once");
    assert!(node.metric(r#"konsul_discovery_failures_total{method="dns"}"#) >= 2);
}

#[tokio::test]
async fn what_was_found_stays_in_use_while_the_server_is_away() {
    let mut server = Dnsmasq::start(1, &refs(&[srv("n1.example.test", 8300, 1), host("n1", "127.0.0.11")]));
    let node = Seeker::new(&config(&server));
    assert_eq!(node.round().await, ["127.0.0.11:8300"]);
    server.stop();
    let found = node.rounds_until("failure", |_| !node.discovery.failing().is_empty()).await;
    assert_eq!(found, ["127.0.0.11:8300"]);
}

#[tokio::test]
async fn a_changed_record_is_seen_when_its_ttl_is_over_and_not_before() {
    const TTL_S: u32 = 2;
    let records = |address| [srv("n1.example.test", 8300, 1), host("n1", address)];
    let mut server = Dnsmasq::start(TTL_S, &refs(&records("127.0.0.11")));
    let node = Seeker::new(&config(&server));
    let before = Instant::now();
    assert_eq!(node.round().await, ["127.0.0.11:8300"]);
    server.restart(TTL_S, &refs(&records("127.0.0.99")));
    let ttl = Duration::from_secs(TTL_S.into());
    loop {
        let found = node.round().await;
        if found == ["127.0.0.99:8300"] {
            break;
        }
        assert_eq!(found, ["127.0.0.11:8300"]);
        assert!(before.elapsed() < LIMIT, "the new record is not seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(before.elapsed() >= ttl, "asked again {:?} after an answer that holds for {ttl:?}", before.elapsed());
}

#[tokio::test]
async fn records_that_are_added_later_are_found() {
    let mut server = Dnsmasq::start(3600, &[]);
    let node = Seeker::new(&config(&server));
    assert_eq!(node.round().await, [""; 0]);
    assert_eq!(node.discovery.failing(), Vec::new(), "that there is nobody is an answer");
    server.restart(3600, &refs(&[srv("n1.example.test", 8300, 1), host("n1", "127.0.0.11")]));
    let found = node.rounds_until("contact point", |found| !found.is_empty()).await;
    assert_eq!((found, node.log.count("no contact points")), (vec!["127.0.0.11:8300".to_owned()], 1));
}

#[tokio::test]
async fn a_domain_without_records_gives_its_addresses_if_the_port_is_known() {
    let server = Dnsmasq::start(60, &["host-record=example.test,127.0.0.21"]);
    assert_eq!(Seeker::new(&config(&server)).round().await, [""; 0]);
    let mut config = config(&server);
    config.dns.as_mut().unwrap().port = Some(8300);
    assert_eq!(Seeker::new(&config).round().await, ["127.0.0.21:8300"]);
}

#[tokio::test]
async fn more_records_than_fit_into_a_datagram_are_all_found() {
    let records = (10..50).flat_map(|n| {
        let name = format!("a-host-with-a-rather-long-name-to-fill-datagrams-{n}");
        [srv(&format!("{name}.example.test"), 8300, n), host(&name, &format!("127.0.1.{n}"))]
    });
    let server = Dnsmasq::start(60, &refs(&records.collect::<Vec<_>>()));
    let expected: Vec<String> = (10..50).map(|n| format!("127.0.1.{n}:8300")).collect();
    assert_eq!(Seeker::new(&config(&server)).round().await, expected);
}

#[tokio::test]
async fn several_methods_are_used_at_once_and_seeds_are_resolved_anew() {
    let records = |address| [srv("n1.example.test", 8300, 1), host("n1", "127.0.0.11"), host("seed", address)];
    let mut server = Dnsmasq::start(1, &refs(&records("127.0.0.31")));
    let mut config = config(&server);
    config.seeds = ["seed.example.test:8300", "127.0.0.11:8300", "nowhere.example.test:8300"].map(Into::into).into();
    let node = Seeker::new(&config);
    assert_eq!(node.round().await, ["127.0.0.11:8300", "127.0.0.31:8300"], "each address once");
    let sources: Vec<Method> = node.discovery.last().iter().map(|point| point.source).collect();
    assert_eq!(sources, [Method::Dns, Method::Static]);
    assert_eq!(node.log.count("the seed nowhere.example.test:8300 has no address"), 1);
    server.restart(1, &refs(&records("127.0.0.32")));
    node.rounds_until("new address", |found| found == ["127.0.0.11:8300", "127.0.0.32:8300"]).await;
}
