//! Payloads of the peer protocol: Raft's requests and answers in our own bytes, each starting with a version.
//!
//! openraft's error types never travel: an error is a text in a `Failed` frame.

use super::LeaderStanding;
use super::frame::with_writer;
use crate::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotMeta, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, Vote, VoteRequest, VoteResponse,
};
use crate::storage::codec as stored;
use bytes::Bytes;
use konsul_state::{DecodeError, Reader, Writer};

/// Version of every payload written here, but of one.
const VERSION: u8 = 1;
/// Of an append whose leader says that it is cut off: the same bytes, in words that a program from before cluster version 2
/// does not know.
const VERSION_CUT_OFF: u8 = 2;
const ENTRY_LENGTH_BYTES: usize = 4;

/// What a snapshot transfer starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SnapshotBegin {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    pub(super) len: u64,
    pub(super) sha256: [u8; 32],
}

fn versioned<'a>(bytes: &'a [u8], what: &'static str) -> Result<Reader<'a>, DecodeError> {
    let mut from = Reader::new(bytes);
    match from.u8(what)? {
        VERSION => Ok(from),
        found => Err(DecodeError::Unknown { what, found: u64::from(found), known: u64::from(VERSION) }),
    }
}

/// Writes an append request, or the first part of it: entries beyond `bytes_max` are left for the next request, but one
/// entry is always written. Returns how many were.
pub(super) fn put_append(
    out: &mut Vec<u8>,
    (request, standing): (&AppendEntriesRequest, LeaderStanding),
    bytes_max: usize,
) -> usize {
    let start = out.len();
    with_writer(out, |out| {
        out.u8(match standing {
            LeaderStanding::Acknowledged => VERSION,
            LeaderStanding::CutOff => VERSION_CUT_OFF,
        });
        stored::put_vote(out, &request.vote);
        stored::put_log_id_opt(out, request.prev_log_id.as_ref());
        stored::put_log_id_opt(out, request.leader_commit.as_ref());
    });
    for (written, entry) in request.entries.iter().enumerate() {
        let before = out.len();
        with_writer(out, |out| {
            out.u64(entry.log_id.index);
            out.raw(&[0; ENTRY_LENGTH_BYTES]);
        });
        let body = out.len();
        with_writer(out, |out| stored::put_entry(out, entry));
        let length = u32::try_from(out.len() - body).unwrap_or(u32::MAX);
        out[body - ENTRY_LENGTH_BYTES..body].copy_from_slice(&length.to_le_bytes());
        if written > 0 && out.len() - start > bytes_max {
            out.truncate(before);
            return written;
        }
    }
    request.entries.len()
}

/// An append request; its entries share `bytes`.
pub(super) fn append(bytes: &Bytes) -> Result<(AppendEntriesRequest, LeaderStanding), DecodeError> {
    let mut from = Reader::new(bytes);
    let standing = match from.u8("append version")? {
        VERSION => LeaderStanding::Acknowledged,
        VERSION_CUT_OFF => LeaderStanding::CutOff,
        found => {
            let known = u64::from(VERSION_CUT_OFF);
            return Err(DecodeError::Unknown { what: "append version", found: u64::from(found), known });
        }
    };
    let vote = stored::vote(&mut from)?;
    let prev_log_id = stored::log_id_opt(&mut from)?;
    let leader_commit = stored::log_id_opt(&mut from)?;
    let mut entries = Vec::new();
    while !from.rest().is_empty() {
        let index = from.u64("entry index")?;
        let length = u32::from_le_bytes(from.array("entry length")?);
        let length = usize::try_from(length).map_err(|_| DecodeError::Invalid { what: "entry length" })?;
        entries.push(stored::entry(index, &bytes.slice_ref(from.raw(length, "entry")?))?);
    }
    Ok((AppendEntriesRequest { vote, prev_log_id, entries, leader_commit }, standing))
}

const APPEND_SUCCESS: u8 = 0;
const APPEND_PARTIAL: u8 = 1;
const APPEND_CONFLICT: u8 = 2;
const APPEND_HIGHER_VOTE: u8 = 3;

pub(super) fn put_append_answer(out: &mut Writer, answer: &AppendEntriesResponse) {
    out.u8(VERSION);
    match answer {
        AppendEntriesResponse::Success => out.u8(APPEND_SUCCESS),
        AppendEntriesResponse::PartialSuccess(last) => {
            out.u8(APPEND_PARTIAL);
            stored::put_log_id_opt(out, last.as_ref());
        }
        AppendEntriesResponse::Conflict => out.u8(APPEND_CONFLICT),
        AppendEntriesResponse::HigherVote(vote) => {
            out.u8(APPEND_HIGHER_VOTE);
            stored::put_vote(out, vote);
        }
    }
}

pub(super) fn append_answer(bytes: &[u8]) -> Result<AppendEntriesResponse, DecodeError> {
    let mut from = versioned(bytes, "append answer version")?;
    let answer = match from.u8("append answer")? {
        APPEND_SUCCESS => AppendEntriesResponse::Success,
        APPEND_PARTIAL => AppendEntriesResponse::PartialSuccess(stored::log_id_opt(&mut from)?),
        APPEND_CONFLICT => AppendEntriesResponse::Conflict,
        APPEND_HIGHER_VOTE => AppendEntriesResponse::HigherVote(stored::vote(&mut from)?),
        found => {
            let known = u64::from(APPEND_HIGHER_VOTE);
            return Err(DecodeError::Unknown { what: "append answer", found: u64::from(found), known });
        }
    };
    from.end("append answer")?;
    Ok(answer)
}

/// A vote or pre-vote request.
pub(super) fn put_vote(out: &mut Writer, request: &VoteRequest) {
    out.u8(VERSION);
    stored::put_vote(out, &request.vote);
    stored::put_log_id_opt(out, request.last_log_id.as_ref());
    out.bool(request.leadership_transfer);
}

pub(super) fn vote(bytes: &[u8]) -> Result<VoteRequest, DecodeError> {
    let mut from = versioned(bytes, "vote version")?;
    let request = VoteRequest {
        vote: stored::vote(&mut from)?,
        last_log_id: stored::log_id_opt(&mut from)?,
        leadership_transfer: from.bool("leadership transfer")?,
    };
    from.end("vote")?;
    Ok(request)
}

pub(super) fn put_vote_answer(out: &mut Writer, answer: &VoteResponse) {
    out.u8(VERSION);
    stored::put_vote(out, &answer.vote);
    stored::put_log_id_opt(out, answer.last_log_id.as_ref());
    out.bool(answer.vote_granted);
}

pub(super) fn vote_answer(bytes: &[u8]) -> Result<VoteResponse, DecodeError> {
    let mut from = versioned(bytes, "vote answer version")?;
    let vote = stored::vote(&mut from)?;
    let last_log_id = stored::log_id_opt(&mut from)?;
    let answer = VoteResponse { vote, last_log_id, vote_granted: from.bool("vote granted")? };
    from.end("vote answer")?;
    Ok(answer)
}

pub(super) fn put_transfer(out: &mut Writer, request: &TransferLeaderRequest) {
    out.u8(VERSION);
    stored::put_vote(out, request.from_leader());
    out.u64(*request.to_node_id());
    stored::put_log_id_opt(out, request.last_log_id());
}

pub(super) fn transfer(bytes: &[u8]) -> Result<TransferLeaderRequest, DecodeError> {
    let mut from = versioned(bytes, "transfer version")?;
    let from_leader = stored::vote(&mut from)?;
    let to = from.u64("transfer target")?;
    let request = TransferLeaderRequest::new(from_leader, to, stored::log_id_opt(&mut from)?);
    from.end("transfer")?;
    Ok(request)
}

const TRANSFER_OK: u8 = 0;
const TRANSFER_VOTE_CHANGED: u8 = 1;
const TRANSFER_LOG_NOT_FLUSHED: u8 = 2;

pub(super) fn put_transfer_answer(out: &mut Writer, answer: &TransferLeaderResponse) {
    out.u8(VERSION);
    match answer {
        Ok(()) => out.u8(TRANSFER_OK),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.u8(TRANSFER_VOTE_CHANGED);
            stored::put_vote(out, expected);
            stored::put_vote(out, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.u8(TRANSFER_LOG_NOT_FLUSHED);
            stored::put_log_id_opt(out, expected.as_ref());
            stored::put_log_id_opt(out, actual.as_ref());
        }
    }
}

pub(super) fn transfer_answer(bytes: &[u8]) -> Result<TransferLeaderResponse, DecodeError> {
    let mut from = versioned(bytes, "transfer answer version")?;
    let answer = match from.u8("transfer answer")? {
        TRANSFER_OK => Ok(()),
        TRANSFER_VOTE_CHANGED => {
            let expected = stored::vote(&mut from)?;
            Err(TransferLeaderError::VoteChanged { expected, actual: stored::vote(&mut from)? })
        }
        TRANSFER_LOG_NOT_FLUSHED => {
            let expected = stored::log_id_opt(&mut from)?;
            Err(TransferLeaderError::LogNotFlushed { expected, actual: stored::log_id_opt(&mut from)? })
        }
        found => {
            let known = u64::from(TRANSFER_LOG_NOT_FLUSHED);
            return Err(DecodeError::Unknown { what: "transfer answer", found: u64::from(found), known });
        }
    };
    from.end("transfer answer")?;
    Ok(answer)
}

pub(super) fn put_snapshot_begin(out: &mut Writer, begin: &SnapshotBegin) {
    out.u8(VERSION);
    stored::put_vote(out, &begin.vote);
    stored::put_snapshot_meta(out, &begin.meta);
    out.u64(begin.len);
    out.raw(&begin.sha256);
}

pub(super) fn snapshot_begin(bytes: &[u8]) -> Result<SnapshotBegin, DecodeError> {
    let mut from = versioned(bytes, "snapshot version")?;
    let begin = SnapshotBegin {
        vote: stored::vote(&mut from)?,
        meta: stored::snapshot_meta(&mut from)?,
        len: from.u64("snapshot length")?,
        sha256: from.array("snapshot digest")?,
    };
    from.end("snapshot begin")?;
    Ok(begin)
}

pub(super) fn put_snapshot_answer(out: &mut Writer, answer: &SnapshotResponse) {
    out.u8(VERSION);
    stored::put_vote(out, &answer.vote);
}

pub(super) fn snapshot_answer(bytes: &[u8]) -> Result<SnapshotResponse, DecodeError> {
    let mut from = versioned(bytes, "snapshot answer version")?;
    let answer = SnapshotResponse { vote: stored::vote(&mut from)? };
    from.end("snapshot answer")?;
    Ok(answer)
}

#[cfg(test)]
mod tests;
