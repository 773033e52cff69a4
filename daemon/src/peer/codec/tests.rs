use super::*;
use crate::mangled::survive;
use crate::raft_types::{
    CommittedLeaderId, Entry, EntryPayload, LeaderId, LogId, Membership, NodeInfo, Proposal, StoredMembership,
};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn log_ids() -> impl Strategy<Value = LogId> {
    (any::<u64>(), any::<u64>(), any::<u64>())
        .prop_map(|(term, node_id, index)| LogId::new(CommittedLeaderId { term, node_id }, index))
}

fn votes() -> impl Strategy<Value = Vote> {
    (any::<u64>(), any::<u64>(), any::<bool>())
        .prop_map(|(term, node_id, committed)| Vote { leader_id: LeaderId { term, node_id }, committed })
}

fn memberships() -> impl Strategy<Value = Membership> {
    (btree_set(any::<u64>(), 1..5), ".{0,9}").prop_map(|(ids, name)| {
        let info = NodeInfo { name, rpc: "10.0.0.1:8300".to_owned(), http: String::new() };
        let nodes: BTreeMap<u64, NodeInfo> = ids.iter().map(|id| (*id, info.clone())).collect();
        Membership::new(vec![ids], nodes).unwrap()
    })
}

fn payloads() -> impl Strategy<Value = EntryPayload> {
    prop_oneof![
        Just(EntryPayload::Blank),
        vec(any::<u8>(), 0..300).prop_map(|bytes| EntryPayload::Normal(Proposal(bytes.into()))),
        memberships().prop_map(EntryPayload::Membership),
    ]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    vec((log_ids(), payloads()).prop_map(|(log_id, payload)| Entry { log_id, payload }), 0..8)
}

fn metas() -> impl Strategy<Value = SnapshotMeta> {
    (option::of(log_ids()), option::of(log_ids()), memberships()).prop_map(|(last_log_id, set_by, membership)| {
        SnapshotMeta { last_log_id, last_membership: StoredMembership::new(set_by, membership) }
    })
}

fn append_answers() -> impl Strategy<Value = AppendEntriesResponse> {
    prop_oneof![
        Just(AppendEntriesResponse::Success),
        Just(AppendEntriesResponse::Conflict),
        option::of(log_ids()).prop_map(AppendEntriesResponse::PartialSuccess),
        votes().prop_map(AppendEntriesResponse::HigherVote),
    ]
}

fn transfer_answers() -> impl Strategy<Value = TransferLeaderResponse> {
    prop_oneof![
        Just(Ok(())),
        (votes(), votes()).prop_map(|(expected, actual)| Err(TransferLeaderError::VoteChanged { expected, actual })),
        (option::of(log_ids()), option::of(log_ids()))
            .prop_map(|(expected, actual)| Err(TransferLeaderError::LogNotFlushed { expected, actual })),
    ]
}

fn standings() -> impl Strategy<Value = LeaderStanding> {
    prop_oneof![Just(LeaderStanding::Acknowledged), Just(LeaderStanding::CutOff)]
}

fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer::new();
    write(&mut out);
    out.into_vec()
}

proptest! {
    #[test]
    fn an_append_survives_the_wire_and_its_entries_share_the_bytes(
        vote in votes(), prev_log_id in option::of(log_ids()), leader_commit in option::of(log_ids()), entries in entries(),
        standing in standings(),
    ) {
        let request = AppendEntriesRequest { vote, prev_log_id, entries, leader_commit };
        let mut out = Vec::new();
        prop_assert_eq!(put_append(&mut out, (&request, standing), usize::MAX), request.entries.len());
        let bytes = Bytes::from(out);
        let (read, said) = append(&bytes).unwrap();
        prop_assert_eq!(said, standing);
        prop_assert_eq!(read.vote, request.vote);
        prop_assert_eq!(read.prev_log_id, request.prev_log_id);
        prop_assert_eq!(read.leader_commit, request.leader_commit);
        prop_assert_eq!(&read.entries, &request.entries);
        for entry in &read.entries {
            if let EntryPayload::Normal(Proposal(data)) = &entry.payload
                && !data.is_empty()
            {
                prop_assert!(bytes.as_ptr_range().contains(&data.as_ptr()));
            }
        }
    }

    #[test]
    fn an_append_beyond_its_bound_is_cut_between_entries(
        vote in votes(), entries in entries(), bytes_max in 0..2_000usize,
    ) {
        let request = AppendEntriesRequest { vote, prev_log_id: None, entries, leader_commit: None };
        let mut out = Vec::new();
        let count = put_append(&mut out, (&request, LeaderStanding::Acknowledged), bytes_max);
        prop_assert!(count >= request.entries.len().min(1));
        prop_assert!(count <= 1 || out.len() <= bytes_max);
        prop_assert_eq!(&append(&out.into()).unwrap().0.entries, &request.entries[..count]);
    }

    #[test]
    fn votes_and_transfers_survive_the_wire(
        vote_value in votes(), last_log_id in option::of(log_ids()), flag: bool, to: u64, answer in transfer_answers(),
    ) {
        let request = VoteRequest { vote: vote_value, last_log_id, leadership_transfer: flag };
        prop_assert_eq!(vote(&written(|out| put_vote(out, &request))).unwrap(), request);
        let response = VoteResponse { vote: vote_value, last_log_id, vote_granted: flag };
        prop_assert_eq!(vote_answer(&written(|out| put_vote_answer(out, &response))).unwrap(), response);
        let request = TransferLeaderRequest::new(vote_value, to, last_log_id);
        prop_assert_eq!(transfer(&written(|out| put_transfer(out, &request))).unwrap(), request);
        prop_assert_eq!(transfer_answer(&written(|out| put_transfer_answer(out, &answer))).unwrap(), answer);
    }

    #[test]
    fn append_answers_and_snapshots_survive_the_wire(
        answer in append_answers(), vote in votes(), meta in metas(), len: u64, sha256: [u8; 32],
    ) {
        prop_assert_eq!(append_answer(&written(|out| put_append_answer(out, &answer))).unwrap(), answer);
        let begin = SnapshotBegin { vote, meta, len, sha256 };
        prop_assert_eq!(snapshot_begin(&written(|out| put_snapshot_begin(out, &begin))).unwrap(), begin);
        let answer = SnapshotResponse { vote };
        prop_assert_eq!(snapshot_answer(&written(|out| put_snapshot_answer(out, &answer))).unwrap(), answer);
    }

    #[test]
    fn random_bytes_are_an_error_or_a_message_never_a_panic(mut bytes: Vec<u8>, right_version: bool) {
        if right_version && let Some(version) = bytes.first_mut() {
            *version = VERSION;
        }
        let _ = (append_answer(&bytes), vote(&bytes), vote_answer(&bytes), transfer(&bytes), transfer_answer(&bytes));
        let _ = (snapshot_begin(&bytes), snapshot_answer(&bytes), append(&bytes.into()));
    }
}

#[test]
fn an_append_is_in_the_words_of_before_unless_its_leader_is_cut_off() {
    let request = AppendEntriesRequest {
        vote: Vote::new_committed(7, 1),
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    let bytes = |standing| {
        let mut out = Vec::new();
        put_append(&mut out, (&request, standing), usize::MAX);
        out
    };
    let (before, cut_off) = (bytes(LeaderStanding::Acknowledged), bytes(LeaderStanding::CutOff));
    assert_eq!((before[0], cut_off[0], &before[1..]), (1, 2, &cut_off[1..]));
    // Older programs read the vote right behind the version.
    let mut vote = Writer::new();
    stored::put_vote(&mut vote, &request.vote);
    let vote = vote.into_vec();
    assert_eq!(before[1..=vote.len()], vote);
}

#[test]
fn a_newer_version_is_told_apart_from_damage() {
    let error = append_answer(&[VERSION + 1, APPEND_SUCCESS]).unwrap_err();
    assert!(matches!(error, DecodeError::Unknown { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn mangled_messages_of_peers_are_refused_without_a_panic() {
    let vote_value = Vote::new_committed(7, 1);
    let id = LogId::new(CommittedLeaderId { term: 7, node_id: 1 }, 300);
    let info = NodeInfo { name: "n1".into(), rpc: "h:8300".into(), http: String::new() };
    let membership = Membership::new(vec![[1].into()], BTreeMap::from([(1, info)])).unwrap();
    let payloads =
        [EntryPayload::Normal(Proposal(Bytes::from_static(b"command"))), EntryPayload::Membership(membership.clone())];
    let entries = payloads.map(|payload| Entry { log_id: id, payload }).to_vec();
    let request = AppendEntriesRequest { vote: vote_value, prev_log_id: Some(id), entries, leader_commit: Some(id) };
    let mut out = Vec::new();
    put_append(&mut out, (&request, LeaderStanding::CutOff), usize::MAX);
    survive(&[out], |bytes| drop(append(&Bytes::copy_from_slice(bytes))));
    let meta = SnapshotMeta { last_log_id: Some(id), last_membership: StoredMembership::new(Some(id), membership) };
    let begin = SnapshotBegin { vote: vote_value, meta, len: 5, sha256: [7; 32] };
    survive(&[written(|out| put_snapshot_begin(out, &begin))], |bytes| drop(snapshot_begin(bytes)));
    let ask = VoteRequest { vote: vote_value, last_log_id: Some(id), leadership_transfer: true };
    let told = VoteResponse { vote: vote_value, last_log_id: Some(id), vote_granted: true };
    let hand_over = TransferLeaderRequest::new(vote_value, 2, Some(id));
    let samples = [
        written(|out| put_vote(out, &ask)),
        written(|out| put_vote_answer(out, &told)),
        written(|out| put_transfer(out, &hand_over)),
        written(|out| put_append_answer(out, &AppendEntriesResponse::PartialSuccess(Some(id)))),
        written(|out| put_snapshot_answer(out, &SnapshotResponse { vote: vote_value })),
    ];
    survive(&samples, |bytes| {
        let _ = (vote(bytes), vote_answer(bytes), transfer(bytes), transfer_answer(bytes), append_answer(bytes));
        drop(snapshot_answer(bytes));
    });
}
