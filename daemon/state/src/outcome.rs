//! What a command did, as told to whoever proposed it.

use crate::codec::{DecodeError, Reader, Writer};

/// The answer to one command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Outcome {
    /// Nothing to tell.
    #[default]
    None,
    /// Whether a single write applied (a condition that did not hold: `false`).
    Written(bool),
    /// A transaction: its results, or every failed operation (then nothing was written).
    Txn(Result<Vec<TxnEntry>, Vec<TxnFailure>>),
    /// A batch: each operation's own result; `applied` is false if an atomic batch was undone.
    Batch {
        /// False only if it was atomic and undone.
        applied: bool,
        /// For each operation, whether its condition held.
        results: Vec<bool>,
    },
    /// The id granted to a new node.
    Admitted {
        /// Never granted before.
        node_id: u64,
    },
    /// A restore step: how many entries are staged, or now in place.
    Restored {
        /// Entries so far.
        entries: u64,
    },
    /// The command was understood and refused; the text says why and what to do.
    Refused(String),
}

/// One result entry of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnEntry {
    /// The key.
    pub key: Vec<u8>,
    /// Present only for the verbs that read.
    pub value: Option<Vec<u8>>,
    /// Client flags.
    pub flags: u64,
    /// Grows with each lock.
    pub lock_index: u64,
    /// Log index of the creation.
    pub create_index: u64,
    /// Log index of the last change.
    pub modify_index: u64,
}

/// One failed operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnFailure {
    /// Which operation, from 0.
    pub op: u32,
    /// The text clients match on.
    pub what: String,
}

const VERSION: u8 = 1;

/// What follows the version. Numbers are never given twice.
mod kind {
    pub(super) const NONE: u8 = 0;
    pub(super) const WRITTEN: u8 = 1;
    pub(super) const TXN: u8 = 2;
    pub(super) const TXN_FAILED: u8 = 3;
    pub(super) const BATCH: u8 = 4;
    pub(super) const ADMITTED: u8 = 5;
    pub(super) const RESTORED: u8 = 6;
    pub(super) const REFUSED: u8 = 7;
}

impl Outcome {
    /// Appends the encoded outcome: a format version, then the fields.
    pub fn encode(&self, out: &mut Writer) {
        out.u8(VERSION);
        match self {
            Outcome::None => out.u8(kind::NONE),
            Outcome::Written(held) => {
                out.u8(kind::WRITTEN);
                out.bool(*held);
            }
            Outcome::Txn(Ok(entries)) => {
                out.u8(kind::TXN);
                out.usize(entries.len());
                entries.iter().for_each(|e| e.encode(out));
            }
            Outcome::Txn(Err(failures)) => {
                out.u8(kind::TXN_FAILED);
                out.usize(failures.len());
                for failure in failures {
                    out.u64(u64::from(failure.op));
                    out.str(&failure.what);
                }
            }
            Outcome::Batch { applied, results } => {
                out.u8(kind::BATCH);
                out.bool(*applied);
                out.usize(results.len());
                results.iter().for_each(|held| out.bool(*held));
            }
            Outcome::Admitted { node_id } => {
                out.u8(kind::ADMITTED);
                out.u64(*node_id);
            }
            Outcome::Restored { entries } => {
                out.u8(kind::RESTORED);
                out.u64(*entries);
            }
            Outcome::Refused(why) => {
                out.u8(kind::REFUSED);
                out.str(why);
            }
        }
    }

    /// The outcome at the reader's position.
    pub fn decode(from: &mut Reader<'_>) -> Result<Outcome, DecodeError> {
        from.version("outcome version", VERSION)?;
        Ok(match from.u8("outcome kind")? {
            kind::NONE => Outcome::None,
            kind::WRITTEN => Outcome::Written(from.bool("written")?),
            kind::TXN => Outcome::Txn(Ok(from.list("results", TxnEntry::decode)?)),
            kind::TXN_FAILED => Outcome::Txn(Err(from.list("failures", TxnFailure::decode)?)),
            kind::BATCH => Outcome::Batch {
                applied: from.bool("applied")?,
                results: from.list("results", |from| from.bool("result"))?,
            },
            kind::ADMITTED => Outcome::Admitted { node_id: from.u64("node id")? },
            kind::RESTORED => Outcome::Restored { entries: from.u64("entries")? },
            kind::REFUSED => Outcome::Refused(from.str("reason")?.to_owned()),
            found => {
                let (found, known) = (u64::from(found), u64::from(kind::REFUSED));
                return Err(DecodeError::Unknown { what: "outcome kind", found, known });
            }
        })
    }
}

impl TxnEntry {
    fn encode(&self, out: &mut Writer) {
        out.bytes(&self.key);
        out.bool(self.value.is_some());
        if let Some(value) = &self.value {
            out.bytes(value);
        }
        for number in [self.flags, self.lock_index, self.create_index, self.modify_index] {
            out.u64(number);
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<TxnEntry, DecodeError> {
        Ok(TxnEntry {
            key: from.bytes("key")?.to_vec(),
            value: if from.bool("value flag")? { Some(from.bytes("value")?.to_vec()) } else { None },
            flags: from.u64("flags")?,
            lock_index: from.u64("lock index")?,
            create_index: from.u64("create index")?,
            modify_index: from.u64("modify index")?,
        })
    }
}

impl TxnFailure {
    fn decode(from: &mut Reader<'_>) -> Result<TxnFailure, DecodeError> {
        let op = u32::try_from(from.u64("operation")?).map_err(|_| DecodeError::Invalid { what: "operation" })?;
        Ok(TxnFailure { op, what: from.str("failure")?.to_owned() })
    }
}
