//! A cluster that spoke in the clear is encrypted by restarting one node after the other.

use crate::support::wait::so;
use crate::support::workload::Written;
use crate::support::{Cluster, Options, Outcome, Storm, check_writes, wait_until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// What protects the leader's connections to the others, as its status tells.
fn protection(cluster: &Cluster) -> Result<Vec<String>, String> {
    let status = cluster.nodes[cluster.leader()].status()?;
    let others = status.members.iter().filter(|member| member.id != status.node.id);
    others.map(|member| member.encryption.clone().ok_or_else(|| format!("no connection to {}", member.name))).collect()
}

fn wait_protection(cluster: &Cluster, wanted: &str) {
    wait_until(&format!("all connections of the leader are protected by {wanted:?}"), || {
        let found = protection(cluster)?;
        so(found.len() == 2 && found.iter().all(|encryption| encryption == wanted), format!("{found:?}"))
    });
}

/// One node after the other; the cluster is whole before the next one.
fn restart_with(cluster: &Cluster, from: &str, to: &str, between: impl Fn(&Cluster)) {
    for node in &cluster.nodes {
        node.replace_in_config(&format!("mode = \"{from}\""), &format!("mode = \"{to}\""));
        node.terminate();
        node.start();
        cluster.wait_healthy();
        between(cluster);
    }
}

/// A request failed if a node heard it and did not do it. A node that is down hears nothing, and its clients go on to
/// the next one.
fn failed(written: &[Written]) -> Vec<String> {
    let failed = |w: &&Written| w.outcome != Outcome::Acknowledged && !w.answer.starts_with("not sent");
    written.iter().filter(failed).map(|w| format!("{}: {}", w.key, w.answer)).collect()
}

/// What a node says to somebody who speaks in the clear.
fn speaks_in_the_clear(address: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    // The length of a short frame, as a member in the clear begins.
    stream.write_all(&[0, 0, 0, 1, 0]).unwrap();
    let mut answer = Vec::new();
    // A reset is a refusal as well.
    let _end = stream.read_to_end(&mut answer);
    // A TLS alert, or nothing: no frame.
    !(answer.is_empty() || answer[0] == 21)
}

#[test]
fn a_cluster_in_the_clear_becomes_encrypted_by_rolling_restarts_without_a_failed_request() {
    let cluster = Cluster::with(Options { nodes: 3, tls: "mode = \"off\"\n", ..Options::default() });
    wait_protection(&cluster, "none");
    let storm = Storm::start(&cluster.addresses(), 4, "w");
    storm.wait_progress(100);
    restart_with(&cluster, "off", "permissive", |_| storm.wait_progress(20));
    wait_protection(&cluster, "TLS 1.3");
    let rpc = |at: usize| SocketAddr::new(cluster.nodes[at].http.ip(), 8300);
    restart_with(&cluster, "permissive", "required", |cluster| {
        storm.wait_progress(20);
        wait_protection(cluster, "TLS 1.3");
    });
    for at in 0..3 {
        assert!(!speaks_in_the_clear(rpc(at)), "{} requires encryption", cluster.nodes[at].name);
    }
    storm.wait_progress(100);
    let written = storm.finish();
    check_writes(&cluster.nodes.iter().collect::<Vec<_>>(), "w", &written);
    assert_eq!(failed(&written), Vec::<String>::new());
    cluster.assert_digests_equal();
}
