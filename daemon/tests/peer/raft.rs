//! Raft's own requests, through openraft's traits.

use crate::certs::Authority;
use crate::fake::{CLUSTER, HELD_TERM, Server, beta, connect_as, pair, vote};
use bytes::Bytes;
use konsuld::peer::{PeerClient, Pool, Transport};
use konsuld::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, CommittedLeaderId, Entry, EntryPayload, LogId, Membership, Proposal,
    SnapshotMeta, StoredMembership, TransferLeaderError, TransferLeaderRequest, TypeConfig, VoteRequest,
};
use konsuld::storage::SnapshotFile;
use openraft::alias::SnapshotOf;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn option() -> RPCOption {
    RPCOption::new(Duration::from_secs(20))
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId { term: 3, node_id: 1 }, index)
}

fn append(term: u64, entries: Vec<Entry>) -> AppendEntriesRequest {
    AppendEntriesRequest { vote: vote(term), prev_log_id: Some(log_id(4)), entries, leader_commit: Some(log_id(3)) }
}

fn entry(index: u64, bytes: usize) -> Entry {
    let payload = EntryPayload::Normal(Proposal(Bytes::from(vec![7; bytes])));
    Entry { log_id: log_id(index), payload }
}

async fn client(pool: &Pool, server: &Server) -> PeerClient {
    pool.clone().new_client(1, &server.info).await
}

#[tokio::test]
async fn every_request_of_raft_reaches_the_node_and_its_answer_comes_back() {
    let (_authority, server, pool) = pair().await;
    let mut client = client(&pool, &server).await;

    let nodes = BTreeMap::from([(1, server.info.clone())]);
    let members = Membership::new(vec![[1].into()], nodes).unwrap();
    let entries = vec![
        entry(5, 100),
        Entry { log_id: log_id(6), payload: EntryPayload::Blank },
        Entry { log_id: log_id(7), payload: EntryPayload::Membership(members) },
    ];
    let answer = client.append_entries(append(1, entries.clone()), option()).await.unwrap();
    assert_eq!(answer, AppendEntriesResponse::Success);
    assert_eq!(server.handler.appends.lock().unwrap()[0].entries, entries);
    let answer = client.append_entries(append(8, Vec::new()), option()).await.unwrap();
    assert_eq!(answer, AppendEntriesResponse::HigherVote(vote(9)));

    let request = VoteRequest { vote: vote(5), last_log_id: Some(log_id(7)), leadership_transfer: true };
    let granted = client.vote(request.clone(), option()).await.unwrap();
    assert_eq!((granted.vote, granted.vote_granted, granted.last_log_id), (vote(5), true, Some(log_id(7))));
    assert!(!client.pre_vote(request, option()).await.unwrap().vote_granted);

    let request = TransferLeaderRequest::new(vote(5), 2, None);
    let refused = client.transfer_leader(request, option()).await.unwrap().unwrap_err();
    assert_eq!(refused, TransferLeaderError::VoteChanged { expected: vote(5), actual: vote(2) });
}

#[tokio::test]
async fn appends_and_votes_have_a_connection_each_and_votes_of_all_clients_share_theirs() {
    let (_authority, server, pool) = pair().await;
    let mut first = client(&pool, &server).await;
    first.append_entries(append(1, Vec::new()), option()).await.unwrap();
    first.append_entries(append(1, Vec::new()), option()).await.unwrap();
    assert_eq!(server.handler.asked.load(Ordering::SeqCst), 1);
    first.vote(VoteRequest::new(vote(5), None), option()).await.unwrap();
    drop(first);
    client(&pool, &server).await.pre_vote(VoteRequest::new(vote(6), None), option()).await.unwrap();
    assert_eq!(server.handler.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_late_answer_is_never_taken_for_the_next_one() {
    let (_authority, server, pool) = pair().await;
    let mut client = client(&pool, &server).await;
    client.append_entries(append(1, Vec::new()), option()).await.unwrap();
    let soon = RPCOption::new(Duration::from_millis(100));
    let error = client.append_entries(append(HELD_TERM, Vec::new()), soon).await.unwrap_err();
    assert!(matches!(error, RPCError::Timeout(_)), "{error}");
    server.handler.release.add_permits(1);
    let answer = client.append_entries(append(40, Vec::new()), option()).await.unwrap();
    assert_eq!(answer, AppendEntriesResponse::HigherVote(vote(41)));
    assert_eq!(server.handler.asked.load(Ordering::SeqCst), 1, "the connection is still the first");
}

#[tokio::test]
async fn an_append_too_large_for_one_request_is_sent_in_part() {
    let (_authority, server, pool) = pair().await;
    let mut client = client(&pool, &server).await;
    let entries = (5..9).map(|index| entry(index, 12 << 20)).collect();
    let answer = client.append_entries(append(1, entries), option()).await.unwrap();
    assert_eq!(answer, AppendEntriesResponse::PartialSuccess(Some(log_id(6))));
}

#[tokio::test]
async fn a_failure_at_the_peer_reaches_the_caller_as_a_text() {
    let (_authority, server, pool) = pair().await;
    let error = client(&pool, &server).await.append_entries(append(0, Vec::new()), option()).await.unwrap_err();
    assert!(matches!(&error, RPCError::Unreachable(_)) && error.to_string().contains("no such term"), "{error}");
}

#[tokio::test]
async fn a_restarted_node_is_reached_without_an_error_in_between() {
    let (authority, server, pool) = pair().await;
    let mut client = client(&pool, &server).await;
    client.append_entries(append(1, Vec::new()), option()).await.unwrap();
    let address = server.info.rpc.clone();
    server.kill().await;
    let _server = Server::at(&address, Transport::Tls(authority.tls("alpha")), Some(CLUSTER)).await;
    client.append_entries(append(1, Vec::new()), option()).await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_down_grants_nothing() {
    let authority = Authority::new();
    let server = Server::start(Transport::Tls(authority.tls("alpha"))).await;
    let pool = connect_as(Transport::Tls(authority.tls("beta")), beta());
    let mut client = client(&pool, &server).await;
    server.kill().await;
    let request = VoteRequest::new(vote(5), None);
    assert!(matches!(client.pre_vote(request.clone(), option()).await, Err(RPCError::Unreachable(_))));
    assert!(matches!(client.vote(request, option()).await, Err(RPCError::Unreachable(_))));
    let transfer = TransferLeaderRequest::new(vote(5), 1, None);
    assert!(matches!(client.transfer_leader(transfer, option()).await, Err(RPCError::Unreachable(_))));
    assert!(matches!(client.append_entries(append(1, Vec::new()), option()).await, Err(RPCError::Unreachable(_))));
    assert_eq!(
        client.backoff().unwrap().take(6).map(|pause| pause.as_millis()).collect::<Vec<_>>(),
        [50, 100, 200, 400, 800, 1_000]
    );
}

/// A snapshot file of `bytes` bytes.
fn snapshot(authority: &Authority, bytes: usize) -> (Vec<u8>, SnapshotOf<TypeConfig, SnapshotFile>) {
    let content: Vec<u8> = (0..bytes).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let path = authority.path("snapshot");
    std::fs::write(&path, &content).unwrap();
    let sha256 = Sha256::digest(&content).into();
    let len = u64::try_from(bytes).unwrap();
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(9)),
        last_membership: StoredMembership::new(Some(log_id(2)), Membership::default()),
    };
    (content, SnapshotOf::<TypeConfig, _> { meta, snapshot: SnapshotFile { path, len, sha256 } })
}

fn never() -> std::future::Pending<ReplicationClosed> {
    std::future::pending()
}

fn files_in(server: &Server) -> usize {
    use konsuld::peer::PeerHandler;
    std::fs::read_dir(server.handler.snapshot_dir()).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_twenty_megabytes_arrives_byte_for_byte() {
    let (authority, server, pool) = pair().await;
    let (content, snapshot) = snapshot(&authority, (20 << 20) + 17);
    let meta = snapshot.meta.clone();
    let mut client = pool.clone().new_snapshot_client(1, &server.info).await;
    let answer = client.full_snapshot(vote(5), snapshot, never(), option()).await.unwrap();
    assert_eq!(answer.vote, vote(5));
    let received = server.handler.snapshots.lock().unwrap().pop().unwrap();
    assert_eq!(received.0, meta);
    assert_eq!(received.1.path.extension().unwrap(), "tmp");
    assert!(std::fs::read(&received.1.path).unwrap() == content);
}

#[tokio::test]
async fn an_empty_snapshot_arrives_too() {
    let (authority, server, pool) = pair().await;
    let (_, snapshot) = snapshot(&authority, 0);
    client(&pool, &server).await.full_snapshot(vote(5), snapshot, never(), option()).await.unwrap();
    assert_eq!(server.handler.snapshots.lock().unwrap()[0].1.len, 0);
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_and_deleted() {
    let (authority, server, pool) = pair().await;
    let (mut content, snapshot) = snapshot(&authority, 3 << 20);
    content[1 << 20] ^= 1;
    std::fs::write(&snapshot.snapshot.path, &content).unwrap();
    let sent = client(&pool, &server).await.full_snapshot(vote(5), snapshot, never(), option()).await;
    let error = sent.unwrap_err();
    assert!(matches!(&error, StreamingError::Unreachable(_)) && error.to_string().contains("digest"), "{error}");
    assert!(server.handler.snapshots.lock().unwrap().is_empty());
    assert_eq!(files_in(&server), 0);
}

#[tokio::test]
async fn a_snapshot_the_handler_does_not_want_is_deleted() {
    let (authority, server, pool) = pair().await;
    let (_, snapshot) = snapshot(&authority, 3 << 20);
    let sent = client(&pool, &server).await.full_snapshot(vote(0), snapshot, never(), option()).await;
    assert!(sent.unwrap_err().to_string().contains("not wanted"));
    assert_eq!(files_in(&server), 0);
}

#[tokio::test]
async fn a_snapshot_cancelled_by_raft_ends_at_once() {
    let (authority, server, pool) = pair().await;
    let (_, snapshot) = snapshot(&authority, 20 << 20);
    let cancel = async { ReplicationClosed::new("no longer leader") };
    let sent = client(&pool, &server).await.full_snapshot(vote(5), snapshot, cancel, option()).await;
    assert!(matches!(sent.unwrap_err(), StreamingError::Closed(_)));
    assert!(server.handler.snapshots.lock().unwrap().is_empty());
}
