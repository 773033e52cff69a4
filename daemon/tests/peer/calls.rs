//! Forwarded requests and joins.

use crate::certs::Authority;
use crate::fake::{CLUSTER, Server, TOGETHER, answer, beta, connect_as, pair};
use bytes::Bytes;
use konsuld::peer::{CallError, LocalIdentity, LostReason, NotSentReason, Transport};
use konsuld::raft_types::NodeInfo;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;

const LONG: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_at_once_share_one_connection_and_each_gets_its_own_answer() {
    let (_authority, server, pool) = pair().await;
    let mut calls = JoinSet::new();
    for n in 0..TOGETHER {
        let (pool, info) = (pool.clone(), server.info.clone());
        calls.spawn(async move {
            let request = Bytes::from(format!("barrier {n} {}", "x".repeat(n)));
            let answered = pool.call(1, &info, request.clone(), LONG).await.unwrap();
            assert_eq!(answered, answer("beta", &request));
        });
    }
    let answered = calls.join_all().await;
    assert_eq!(answered.len(), TOGETHER);
    assert_eq!(server.handler.asked.load(Ordering::SeqCst), 1, "one handshake, hence one connection");
}

#[tokio::test]
async fn a_large_request_and_its_answer_arrive_whole() {
    let (_authority, server, pool) = pair().await;
    let request = Bytes::from((0..9_000_000u32).map(|n| n.to_le_bytes()[1]).collect::<Vec<u8>>());
    let answered = pool.call(1, &server.info, request.clone(), LONG).await.unwrap();
    assert!(answered == answer("beta", &request));
}

#[tokio::test]
async fn without_encryption_the_same_words_pass() {
    let server = Server::start(Transport::Plain).await;
    let pool = connect_as(Transport::Plain, beta());
    let answered = pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await.unwrap();
    assert_eq!(answered, answer("beta", b"hi"));
}

#[tokio::test]
async fn a_connection_that_breaks_after_sending_loses_the_call() {
    let (_authority, server, pool) = pair().await;
    let call = {
        let (pool, info) = (pool.clone(), server.info.clone());
        tokio::spawn(async move { pool.call(1, &info, Bytes::from_static(b"hold"), LONG).await })
    };
    server.handler.held.acquire().await.unwrap().forget();
    server.kill().await;
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Lost { reason: LostReason::Broken(_), .. }), "{error:?}");
}

#[tokio::test]
async fn a_call_without_an_answer_in_time_is_lost_and_the_connection_serves_on() {
    let (_authority, server, pool) = pair().await;
    let short = Duration::from_millis(300);
    let error = pool.call(1, &server.info, Bytes::from_static(b"hold"), short).await.unwrap_err();
    assert!(matches!(error, CallError::Lost { reason: LostReason::TimedOut { .. }, .. }), "{error:?}");
    pool.call(1, &server.info, Bytes::from_static(b"next"), LONG).await.unwrap();
    assert_eq!(server.handler.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_refused_connection_means_not_sent() {
    let (_authority, server, pool) = pair().await;
    let info = server.info.clone();
    server.kill().await;
    let error = pool.call(1, &info, Bytes::from_static(b"hi"), LONG).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { reason: NotSentReason::Connect(_), .. }), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_means_not_sent() {
    let authority = Authority::new();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let info = NodeInfo { rpc: silent.local_addr().unwrap().to_string(), ..NodeInfo::default() };
    let pool = connect_as(Transport::Tls(authority.tls("beta")), beta());
    let error = pool.call(1, &info, Bytes::from_static(b"hi"), Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { reason: NotSentReason::TimedOut { .. }, .. }), "{error:?}");
}

#[tokio::test]
async fn a_request_longer_than_a_frame_is_not_sent() {
    let (_authority, server, pool) = pair().await;
    let request = Bytes::from(vec![0; konsuld::peer::FRAME_BYTES_MAX]);
    let error = pool.call(1, &server.info, request, LONG).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { reason: NotSentReason::TooLong { .. }, .. }), "{error:?}");
}

#[tokio::test]
async fn a_restarted_peer_is_found_again_by_the_next_call() {
    let (authority, server, pool) = pair().await;
    let info = server.info.clone();
    pool.call(1, &info, Bytes::from_static(b"one"), LONG).await.unwrap();
    server.kill().await;
    let _server = Server::at(&info.rpc, Transport::Tls(authority.tls("alpha")), Some(CLUSTER)).await;
    // The broken connection may be noticed only by this call; what is lost then was sent, and says so.
    while let Err(error) = pool.call(1, &info, Bytes::from_static(b"two"), LONG).await {
        assert!(matches!(error, CallError::Lost { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_node_that_moved_is_called_at_its_new_address() {
    let (authority, old, pool) = pair().await;
    pool.call(1, &old.info, Bytes::from_static(b"one"), LONG).await.unwrap();
    let new = Server::start(Transport::Tls(authority.tls("alpha"))).await;
    pool.retain([(1, &new.info)]);
    pool.call(1, &new.info, Bytes::from_static(b"two"), LONG).await.unwrap();
    assert_eq!(new.handler.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_node_without_a_cluster_may_join_and_nothing_else() {
    let authority = Authority::new();
    let server = Server::start(Transport::Tls(authority.tls("alpha"))).await;
    let newcomer = LocalIdentity { cluster_id: None, node_id: 0, name: "gamma".to_owned(), epoch: 3 };
    let pool = connect_as(Transport::Tls(authority.tls("gamma")), newcomer);
    let (peer, answered) = pool.join(&server.info.rpc, Bytes::from_static(b"let me in"), LONG).await.unwrap();
    assert_eq!((peer.node_id, peer.name.as_str(), peer.cluster_id), (1, "alpha", CLUSTER));
    assert_eq!(answered, answer("gamma", b"let me in"));
    let call = pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await;
    assert!(matches!(call, Err(CallError::NotSent { .. })));
    pool.become_member(LocalIdentity { cluster_id: Some(CLUSTER), node_id: 3, name: "gamma".to_owned(), epoch: 3 });
    pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await.unwrap();
}

#[tokio::test]
async fn a_stopped_server_and_a_closed_pool_leave_no_task() {
    let (_authority, server, pool) = pair().await;
    pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await.unwrap();
    server.stop.cancel();
    server.task.await.unwrap();
    pool.close().await;
    let error = pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }), "{error:?}");
}
