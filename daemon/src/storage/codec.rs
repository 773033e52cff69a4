//! Our own bytes for openraft's types: log records, votes, memberships, snapshot metadata.
//!
//! Every top-level value starts with a format version; what a released version wrote, every later one reads.
//! openraft's own serialised forms are not used anywhere, so its upgrades never change what is on disk or on the wire.

use crate::raft_types::{
    CommittedLeaderId, Entry, EntryPayload, LeaderId, LogId, Membership, NodeInfo, Proposal, SnapshotMeta,
    StoredMembership, Vote,
};
use bytes::Bytes;
use konsul_state::{DecodeError, Reader, Writer};
use std::collections::{BTreeMap, BTreeSet};

/// Version of every value written here.
pub const FORMAT: u8 = 1;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

fn version(from: &mut Reader<'_>, what: &'static str) -> Result<(), DecodeError> {
    match from.u8(what)? {
        FORMAT => Ok(()),
        found => Err(DecodeError::Unknown { what, found: u64::from(found), known: u64::from(FORMAT) }),
    }
}

/// A log id: term, node, index.
pub fn put_log_id(out: &mut Writer, id: &LogId) {
    out.u64(id.committed_leader_id().term);
    out.u64(id.committed_leader_id().node_id);
    out.u64(id.index);
}

/// The log id at the reader's position.
pub fn log_id(from: &mut Reader<'_>) -> Result<LogId, DecodeError> {
    let leader = CommittedLeaderId { term: from.u64("term")?, node_id: from.u64("node id")? };
    Ok(LogId::new(leader, from.u64("log index")?))
}

/// An optional log id.
pub fn put_log_id_opt(out: &mut Writer, id: Option<&LogId>) {
    out.bool(id.is_some());
    if let Some(id) = id {
        put_log_id(out, id);
    }
}

/// The optional log id at the reader's position.
pub fn log_id_opt(from: &mut Reader<'_>) -> Result<Option<LogId>, DecodeError> {
    if from.bool("log id present")? { Ok(Some(log_id(from)?)) } else { Ok(None) }
}

/// A vote.
pub fn put_vote(out: &mut Writer, vote: &Vote) {
    out.u64(vote.leader_id.term);
    out.u64(vote.leader_id.node_id);
    out.bool(vote.committed);
}

/// The vote at the reader's position.
pub fn vote(from: &mut Reader<'_>) -> Result<Vote, DecodeError> {
    let leader_id = LeaderId { term: from.u64("term")?, node_id: from.u64("node id")? };
    Ok(Vote { leader_id, committed: from.bool("vote committed")? })
}

fn put_membership(out: &mut Writer, membership: &Membership) {
    let configs = membership.get_joint_config();
    out.usize(configs.len());
    for config in configs {
        out.usize(config.len());
        config.iter().for_each(|id| out.u64(*id));
    }
    out.usize(membership.nodes().count());
    for (id, node) in membership.nodes() {
        out.u64(*id);
        put_node(out, node);
    }
}

fn membership(from: &mut Reader<'_>) -> Result<Membership, DecodeError> {
    let mut configs = Vec::new();
    for _ in 0..from.usize("configs")? {
        let mut config = BTreeSet::new();
        for _ in 0..from.usize("voters")? {
            config.insert(from.u64("voter id")?);
        }
        configs.push(config);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..from.usize("nodes")? {
        let id = from.u64("node id")?;
        nodes.insert(id, node(from)?);
    }
    Membership::new(configs, nodes).map_err(|_| DecodeError::Invalid { what: "membership" })
}

/// What the membership says of a node.
pub fn put_node(out: &mut Writer, node: &NodeInfo) {
    out.str(&node.name);
    out.str(&node.rpc);
    out.str(&node.http);
}

/// The node at the reader's position.
pub fn node(from: &mut Reader<'_>) -> Result<NodeInfo, DecodeError> {
    Ok(NodeInfo {
        name: from.str("node name")?.to_owned(),
        rpc: from.str("rpc address")?.to_owned(),
        http: from.str("http address")?.to_owned(),
    })
}

/// A membership with the log id that set it.
pub fn put_stored_membership(out: &mut Writer, stored: &StoredMembership) {
    put_log_id_opt(out, stored.log_id().as_ref());
    put_membership(out, stored.membership());
}

/// The membership at the reader's position.
pub fn stored_membership(from: &mut Reader<'_>) -> Result<StoredMembership, DecodeError> {
    let id = log_id_opt(from)?;
    Ok(StoredMembership::new(id, membership(from)?))
}

/// Snapshot metadata.
pub fn put_snapshot_meta(out: &mut Writer, meta: &SnapshotMeta) {
    put_log_id_opt(out, meta.last_log_id.as_ref());
    put_stored_membership(out, &meta.last_membership);
}

/// The snapshot metadata at the reader's position.
pub fn snapshot_meta(from: &mut Reader<'_>) -> Result<SnapshotMeta, DecodeError> {
    Ok(SnapshotMeta { last_log_id: log_id_opt(from)?, last_membership: stored_membership(from)? })
}

/// A log entry without its index: version, leader id, kind, payload. Used in log records and in peer messages.
pub fn put_entry(out: &mut Writer, entry: &Entry) {
    out.u8(FORMAT);
    out.u64(entry.log_id.committed_leader_id().term);
    out.u64(entry.log_id.committed_leader_id().node_id);
    match &entry.payload {
        EntryPayload::Blank => out.u8(BLANK),
        EntryPayload::Normal(proposal) => {
            out.u8(NORMAL);
            out.raw(&proposal.0);
        }
        EntryPayload::Membership(m) => {
            out.u8(MEMBERSHIP);
            put_membership(out, m);
        }
    }
}

/// The entry in `bytes`, at `index`. The payload shares the buffer.
pub fn entry(index: u64, bytes: &Bytes) -> Result<Entry, DecodeError> {
    let mut from = Reader::new(bytes);
    version(&mut from, "log record version")?;
    let leader = CommittedLeaderId { term: from.u64("term")?, node_id: from.u64("node id")? };
    let payload = match from.u8("entry kind")? {
        BLANK => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(Proposal(bytes.slice_ref(from.rest()))),
        MEMBERSHIP => EntryPayload::Membership(membership(&mut from)?),
        found => {
            return Err(DecodeError::Unknown { what: "entry kind", found: u64::from(found), known: MEMBERSHIP.into() });
        }
    };
    Ok(Entry { log_id: LogId::new(leader, index), payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mangled::survive;
    use crate::raft_types::LeaderId;

    #[test]
    fn mangled_records_of_the_log_and_of_snapshots_are_refused_without_a_panic() {
        let info = NodeInfo { name: "n1".into(), rpc: "h:8300".into(), http: "http://h:8500".into() };
        let nodes = BTreeMap::from([(1, info.clone()), (2, info)]);
        let membership = Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([1])], nodes).unwrap();
        let id = LogId::new(CommittedLeaderId { term: 3, node_id: 1 }, 300);
        let stored = StoredMembership::new(Some(id), membership.clone());
        let written = |write: &dyn Fn(&mut Writer)| {
            let mut out = Writer::new();
            write(&mut out);
            out.into_vec()
        };
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Proposal(Bytes::from_static(b"command"))),
            EntryPayload::Membership(membership),
        ];
        let entries =
            payloads.map(|payload| written(&|out| put_entry(out, &Entry { log_id: id, payload: payload.clone() })));
        survive(&entries, |bytes| drop(entry(300, &Bytes::copy_from_slice(bytes))));
        let meta = SnapshotMeta { last_log_id: Some(id), last_membership: stored.clone() };
        survive(&[written(&|out| put_snapshot_meta(out, &meta))], |bytes| drop(snapshot_meta(&mut Reader::new(bytes))));
        survive(&[written(&|out| put_stored_membership(out, &stored))], |bytes| {
            drop(stored_membership(&mut Reader::new(bytes)));
        });
        let vote = Vote { leader_id: LeaderId { term: 3, node_id: 1 }, committed: true };
        let small = [written(&|out| put_vote(out, &vote)), written(&|out| put_log_id_opt(out, Some(&id)))];
        survive(&small, |bytes| {
            let _ = (super::vote(&mut Reader::new(bytes)), log_id_opt(&mut Reader::new(bytes)));
        });
    }
}
