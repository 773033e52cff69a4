//! What changes while a node runs: certificates that people bring, limits, what is logged.

use crate::support::{Cluster, Node, Outcome, Storm, certs, check_writes, wait_until};
use std::fs;

fn count(node: &Node, of: &str, result: &str) -> Result<f64, String> {
    node.metric("konsul_reloads_total", &format!("of=\"{of}\",result=\"{result}\""))
}

fn wait_count(node: &Node, of: &str, result: &str, wanted: f64) {
    wait_until(&format!("{wanted} reloads of {of} {result}"), || {
        let now = count(node, of, result)?;
        if now == wanted { Ok(()) } else { Err(format!("{now}")) }
    });
}

#[test]
fn a_reload_changes_what_may_change_names_what_waits_and_is_refused_as_a_whole() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let put = |bytes: usize| node.client().put("k", "", &vec![b'v'; bytes]).unwrap().status;
    assert_eq!(put(4096), 200);
    node.replace_in_config("[http]\n", "[http]\nvalue_bytes_max = \"1KiB\"\ndatacenter = \"dc9\"\n");
    node.replace_in_config("[log]\n", "[log]\nlevel = \"debug\"\n");
    node.hang_up();
    wait_count(node, "configuration", "ok", 1.0);
    assert_eq!((put(1024), put(1025)), (200, 413));
    node.wait_log(&["configuration reloaded", "http.value_bytes_max log.level"]);
    node.wait_log(&["a restart puts them into force", "\"keys\":\"http.datacenter\""]);
    assert_eq!(node.get("/v1/kv/k?dc=dc1").unwrap().status, 200, "the datacenter is what it was");
    // A mistake in one key keeps the good ones out as well.
    node.replace_in_config("value_bytes_max = \"1KiB\"", "value_bytes_max = \"2KiB\"");
    node.replace_in_config("level = \"debug\"", "level = \"loud\"");
    node.hang_up();
    wait_count(node, "configuration", "refused", 1.0);
    node.wait_log(&["all is as it was", "`log.level`", "n1.toml:"]);
    assert_eq!((put(1024), put(1025)), (200, 413));
    node.replace_in_config("level = \"loud\"", "level = \"info\"");
    node.hang_up();
    wait_count(node, "configuration", "ok", 2.0);
    assert_eq!((put(2048), put(2049)), (200, 413));
}

/// Of the certificate that others are shown.
fn ends(node: &Node) -> Result<String, String> {
    let certificate = node.status()?.node.certificate;
    certificate.map(|own| own.not_after).ok_or_else(|| "no certificate".to_owned())
}

fn wait_ends(node: &Node, year: &str) {
    wait_until(&format!("{} shows a certificate until {year}", node.name), || {
        let end = ends(node)?;
        if end.starts_with(year) { Ok(()) } else { Err(end) }
    });
}

#[test]
fn changed_certificate_files_come_into_use_and_broken_ones_do_not_without_a_failed_request() {
    let cluster = Cluster::start(3);
    let storm = Storm::start(&cluster.addresses(), 3, "w");
    storm.wait_progress(50);
    let node = &cluster.nodes[1];
    let (address, cert) = (node.http.ip(), cluster.dir.join("n2.pem"));
    assert!(ends(node).unwrap().starts_with("2090"));
    assert!(node.metric("konsul_tls_cert_not_after_timestamp_seconds", "cert=\"node\"").unwrap() > 3.7e9);
    assert!(node.metric("konsul_tls_cert_not_after_timestamp_seconds", "cert=\"authority\"").unwrap() > 3.7e9);

    // Noticed without being told; the old certificate goes on.
    let good = fs::read_to_string(&cert).unwrap();
    fs::write(&cert, "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    wait_count(node, "certificates", "refused", 1.0);
    node.wait_log(&["changed certificate files cannot be used", "n2.pem is not PEM"]);
    let health = node.get("/health/ready").unwrap();
    assert!(health.status == 200 && health.text().contains("n2.pem is not PEM"), "{health}");
    assert!(node.status().unwrap().node.warnings[0].contains("n2.pem is not PEM"));
    node.hang_up();
    wait_count(node, "configuration", "refused", 1.0);
    node.wait_log(&["all is as it was", "n2.pem is not PEM"]);
    storm.wait_progress(50);

    // As they were: nothing is new, and the warning goes.
    fs::write(&cert, good).unwrap();
    wait_count(node, "certificates", "ok", 1.0);
    assert_eq!(node.status().unwrap().node.warnings, Vec::<String>::new());

    // Exchanged on every node, by itself or when told; at other places too.
    certs::issue(&cluster.dir, "n2", address, 2091);
    wait_ends(node, "2091");
    for (at, name) in [(0, "n1"), (2, "n3")] {
        let node = &cluster.nodes[at];
        let moved = cluster.dir.join("moved");
        fs::create_dir_all(&moved).unwrap();
        fs::copy(cluster.dir.join("ca.key"), moved.join("ca.key")).unwrap();
        certs::issue(&moved, name, node.http.ip(), 2092);
        for file in [format!("{name}.pem"), format!("{name}.key")] {
            node.replace_in_config(&format!("/{file}\""), &format!("/moved/{file}\""));
        }
        node.hang_up();
        wait_ends(node, "2092");
    }
    // Connections made from now on show them: a node that was away meets all three.
    cluster.nodes[2].terminate();
    cluster.nodes[2].start();
    cluster.wait_healthy();
    storm.wait_progress(50);
    let written = storm.finish();
    check_writes(&cluster.nodes.iter().collect::<Vec<_>>(), "w", &written);
    let failed = written.iter().filter(|w| w.outcome == Outcome::Unknown).count();
    assert_eq!(failed, 0, "{:?}", written.iter().find(|w| w.outcome == Outcome::Unknown));
}
