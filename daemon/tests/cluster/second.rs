//! A second cluster beside the first: refused while the first is in reach.

use crate::support::wait::so;
use crate::support::{Cluster, Node, Reply, wait_until};

/// Ends the node with the test.
struct Ended<'n>(&'n Node);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.kill9();
    }
}

fn init(node: &Node) -> Reply {
    wait_until(&format!("{} answers", node.name), || {
        node.client().request("POST", "/v1/cluster/init", b"").map_err(|error| error.to_string())
    })
}

#[test]
fn no_second_cluster_is_formed_while_discovery_finds_the_first() {
    let cluster = Cluster::start(3);
    let seeds: Vec<String> = cluster.nodes.iter().map(|node| format!("\"{}:8300\"", node.http.ip())).collect();
    let seeds = format!("seeds = [{}]", seeds.join(", "));
    let node = cluster.stranger(4, &format!("[cluster]\nform = \"init\"\n[discovery]\n{seeds}\n"));
    node.start();
    let _ended = Ended(&node);
    let refused = init(&node);
    assert_eq!(refused.status, 409, "{refused}");
    let text = refused.text();
    assert!(
        text.contains("a member of a cluster, answers at 127.") && text.contains("konsulctl cluster join"),
        "{text}"
    );
    let status = node.status().unwrap();
    assert_eq!((status.cluster_id.as_str(), status.members.len()), ("", 0), "nothing was formed");
    // One of three is enough to refuse it; none is in reach only when none runs.
    cluster.nodes[0].terminate();
    cluster.nodes[1].kill9();
    assert_eq!(init(&node).status, 409);
    cluster.nodes[2].kill9();
    let formed = init(&node);
    assert_eq!(formed.status, 200, "{formed}");
    wait_until("the new cluster serves", || {
        let status = node.status()?;
        so(status.has_quorum && status.members.len() == 1, format!("{status:?}"))
    });
}
