//! What members ask of each other: a follower passes a client's write to the leader, asks it for a read index, and so on.
//!
//! A version leads every message; the errors are our own, never openraft's.

use super::{Committed, Consistency, ProposeError};
use konsul_state::{DecodeError, Index, Outcome, Reader, Writer};

const VERSION: u8 = 1;

/// A request to the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// An encoded command.
    Propose { command: &'a [u8] },
    /// The index a read of this consistency has to wait for.
    ReadIndex { consistency: Consistency },
    /// Hand leadership to this node.
    Transfer { to: u64 },
}

/// The leader's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Committed(Committed),
    /// Not committed, surely or perhaps: the error says which.
    Failed(ProposeError),
    ReadIndex(Index),
    /// The transfer was started.
    Transferring,
    /// Not the leader, or not acknowledged right now; surely nothing was done.
    NotLeader,
    /// The request could not be read: another version.
    Unreadable(String),
}

fn version(from: &mut Reader<'_>) -> Result<(), DecodeError> {
    match from.u8("version")? {
        VERSION => Ok(()),
        found => Err(DecodeError::Unknown { what: "forward version", found: found.into(), known: VERSION.into() }),
    }
}

impl<'a> Request<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        match self {
            Request::Propose { command } => {
                out.u8(0);
                out.raw(command);
            }
            Request::ReadIndex { consistency } => {
                out.u8(1);
                out.bool(*consistency == Consistency::Strong);
            }
            Request::Transfer { to } => {
                out.u8(2);
                out.u64(*to);
            }
        }
        out.into_vec()
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Result<Request<'a>, DecodeError> {
        let mut from = Reader::new(bytes);
        version(&mut from)?;
        match from.u8("request kind")? {
            0 => Ok(Request::Propose { command: from.rest() }),
            1 => {
                let strong = from.bool("strong")?;
                let consistency = if strong { Consistency::Strong } else { Consistency::Leader };
                Ok(Request::ReadIndex { consistency })
            }
            2 => Ok(Request::Transfer { to: from.u64("node id")? }),
            found => Err(DecodeError::Unknown { what: "request kind", found: found.into(), known: 2 }),
        }
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        match self {
            Answer::Committed(committed) => {
                out.u8(0);
                out.u64(committed.index.get());
                committed.outcome.encode(&mut out);
            }
            Answer::Failed(error) => {
                out.u8(1);
                put_error(&mut out, error);
            }
            Answer::ReadIndex(index) => {
                out.u8(2);
                out.u64(index.get());
            }
            Answer::Transferring => out.u8(3),
            Answer::NotLeader => out.u8(4),
            Answer::Unreadable(why) => {
                out.u8(5);
                out.str(why);
            }
        }
        out.into_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Answer, DecodeError> {
        let mut from = Reader::new(bytes);
        version(&mut from)?;
        match from.u8("answer kind")? {
            0 => {
                let index = Index::new(from.u64("log index")?);
                Ok(Answer::Committed(Committed { index, outcome: Outcome::decode(&mut from)? }))
            }
            1 => Ok(Answer::Failed(error(&mut from)?)),
            2 => Ok(Answer::ReadIndex(Index::new(from.u64("read index")?))),
            3 => Ok(Answer::Transferring),
            4 => Ok(Answer::NotLeader),
            5 => Ok(Answer::Unreadable(from.str("reason")?.to_owned())),
            found => Err(DecodeError::Unknown { what: "answer kind", found: found.into(), known: 5 }),
        }
    }
}

fn put_error(out: &mut Writer, error: &ProposeError) {
    match error {
        ProposeError::NoLeader { waited_ms } => {
            out.u8(0);
            out.u64(*waited_ms);
        }
        ProposeError::OutcomeUnknown { waited_ms } => {
            out.u8(1);
            out.u64(*waited_ms);
        }
        ProposeError::Busy { in_flight_bytes, max_bytes, retry_after_s } => {
            out.u8(2);
            out.usize(*in_flight_bytes);
            out.usize(*max_bytes);
            out.u64(u64::from(*retry_after_s));
        }
        ProposeError::ReadOnly { reason } => {
            out.u8(3);
            out.str(reason);
        }
        ProposeError::TooLarge { bytes, max_bytes } => {
            out.u8(4);
            out.usize(*bytes);
            out.usize(*max_bytes);
        }
        ProposeError::Stopping => out.u8(5),
    }
}

fn error(from: &mut Reader<'_>) -> Result<ProposeError, DecodeError> {
    Ok(match from.u8("error kind")? {
        0 => ProposeError::NoLeader { waited_ms: from.u64("wait")? },
        1 => ProposeError::OutcomeUnknown { waited_ms: from.u64("wait")? },
        2 => ProposeError::Busy {
            in_flight_bytes: from.usize("bytes in flight")?,
            max_bytes: from.usize("limit")?,
            retry_after_s: u32::try_from(from.u64("seconds")?).map_err(|_| DecodeError::Invalid { what: "seconds" })?,
        },
        3 => ProposeError::ReadOnly { reason: from.str("reason")?.to_owned() },
        4 => ProposeError::TooLarge { bytes: from.usize("bytes")?, max_bytes: from.usize("limit")? },
        5 => ProposeError::Stopping,
        found => return Err(DecodeError::Unknown { what: "error kind", found: found.into(), known: 5 }),
    })
}
