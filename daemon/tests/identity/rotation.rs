//! Replacing the authority of a running cluster.

use crate::node::{Node, wait_for, writes};
use konsuld::cluster::ca::Stage;
use std::time::Duration;

const LIFE: Duration = Duration::from_secs(3600);
const HOUR: Duration = Duration::from_secs(3600);

fn stages(node: &Node) -> Vec<(u64, Stage)> {
    let record = node.authority.stored().unwrap().unwrap().record;
    record.generations().iter().map(|generation| (generation.number, generation.stage)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_is_replaced_under_writes_and_an_old_token_still_finds_the_cluster() {
    let n1 = Node::found("n1", LIFE).await;
    let token = n1.token(2, HOUR).await;
    let n2 = n1.admit("n2", &token, LIFE).await;
    wait_for("n2 votes", || n1.voters() == 2).await;
    let (old_pin, term) = (n1.authority.pin().unwrap().unwrap(), n1.consensus.status().term);
    // Asked at a follower: the leader does it.
    assert_eq!(n2.authority.rotate().await.unwrap(), 2);
    assert!(n1.authority.rotate().await.is_err(), "one at a time");
    let mut writing = 0u32;
    while stages(&n1) != [(2, Stage::Active)] {
        for node in [&n1, &n2] {
            assert!(writes(node, &writing.to_be_bytes()).await);
            writing += 1;
        }
        assert!(writing < 100_000, "{:?} waits for {:?}", stages(&n1), n1.authority.waiting().await);
    }
    assert_ne!(n1.authority.pin().unwrap().unwrap(), old_pin);
    wait_for("both forget the old authority", || [&n1, &n2].iter().all(|node| node.authority.tls().roots().len() == 1))
        .await;
    assert_eq!(n1.consensus.status().term, term, "nobody was elected anew");
    // The token names the old authority.
    let n3 = n1.admit("n3", &token, LIFE).await;
    wait_for("n3 votes", || n1.voters() == 3).await;
    assert!(writes(&n3, b"after").await);
    for node in [n3, n2, n1] {
        node.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_waits_for_a_member_that_is_away_and_says_for_whom() {
    let n1 = Node::found("n1", LIFE).await;
    let token = n1.token(2, HOUR).await;
    let n2 = n1.admit("n2", &token, LIFE).await;
    let n3 = n1.admit("n3", &token, LIFE).await;
    wait_for("all vote", || n1.voters() == 3).await;
    n3.end().await;
    n1.authority.rotate().await.unwrap();
    let mut waiting = Vec::new();
    while waiting.len() != 1 {
        waiting = n2.authority.waiting().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(waiting[0].name, "n3");
    assert!(waiting[0].why.contains("does not answer"), "{waiting:?}");
    assert_eq!(stages(&n1), [(1, Stage::Active), (2, Stage::Next)]);
    n2.end().await;
    n1.end().await;
}
