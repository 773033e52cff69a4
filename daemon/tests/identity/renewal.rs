//! Certificates that last for seconds, in a cluster that does not notice.

use crate::node::{Node, Seat, now_ms, port, wait_for, writes};
use konsuld::cluster::identity::IdentityFiles;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(10);

fn ends_ms(node: &Node) -> u64 {
    node.authority.tls().own().unwrap().validity.not_after_ms
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_ten_seconds_are_renewed_on_all_nodes_without_a_lost_write() {
    let n1 = Node::found("n1", SHORT).await;
    let token = n1.token(2, Duration::from_secs(3600)).await;
    let n2 = n1.admit("n2", &token, SHORT).await;
    let n3 = n1.admit("n3", &token, SHORT).await;
    wait_for("all vote", || n1.voters() == 3).await;
    let nodes = [&n1, &n2, &n3];
    let (first, term) = (nodes.map(ends_ms), n1.consensus.status().term);
    // Two lives of the first certificates: whoever missed a renewal is cut off long before.
    let end = now_ms() + 20_000;
    let mut written = 0u32;
    while now_ms() < end {
        for node in nodes {
            assert!(writes(node, &written.to_be_bytes()).await, "write {written} on {}", node.id());
            written += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(written > 100, "{written}");
    for (node, first) in nodes.into_iter().zip(first) {
        assert!(ends_ms(node) > first + 10_000, "node {} renewed more than once", node.id());
        assert!(ends_ms(node) > now_ms(), "and is valid now");
        let kept = IdentityFiles::in_data_dir(node.dir.path()).load().unwrap().unwrap();
        assert_eq!(kept.chain, node.authority.tls().material().unwrap().chain, "what is used is what is kept");
        let text = node.metrics.encode();
        assert!(text.contains("konsul_tls_cert_not_after_timestamp_seconds{cluster=\"dc1\",node="), "{text}");
        assert!(text.contains("cert=\"authority\""), "{text}");
    }
    assert_eq!(n1.consensus.status().term, term, "nobody was elected anew");
    for node in [n3, n2, n1] {
        node.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_off_until_every_certificate_expired_comes_back_by_itself() {
    let life = Duration::from_secs(3);
    let n1 = Node::found("n1", life).await;
    let n2 = n1.admit("n2", &n1.token(1, Duration::from_secs(3600)).await, life).await;
    wait_for("n2 votes", || n1.voters() == 2).await;
    wait_for("n2 can sign", || n2.authority.sign(&konsuld::cluster::ca::request().unwrap().1, 1, "n1").is_ok()).await;
    assert!(writes(&n1, b"before").await);
    let (ids, rpcs) = ([n1.id(), n2.id()], [n1.rpc.clone(), n2.rpc.clone()]);
    let last = ends_ms(&n1).max(ends_ms(&n2));
    let dirs = [n2.end().await, n1.end().await];
    wait_for("both certificates have expired", || now_ms() > last + 1_000).await;
    let [dir2, dir1] = dirs;
    let mut back = Vec::new();
    for (at, dir) in [dir1, dir2].into_iter().enumerate() {
        let material = IdentityFiles::in_data_dir(dir.path()).load().unwrap().unwrap();
        let listener = tokio::net::TcpListener::bind(&rpcs[at]).await.unwrap();
        let (name, node_id) = (format!("n{}", at + 1), ids[at]);
        let port = (listener, rpcs[at].clone());
        back.push(Node::start(Seat { dir, name, node_id, former: at == 0, material, life, port }).await);
    }
    assert!(writes(&back[0], b"after").await, "they elected a leader: each signed for itself");
    for node in back {
        node.end().await;
    }
    drop(port().await);
}
