//! What a command did, as told to whoever proposed it.

use crate::codec::{DecodeError, Reader, Writer};
use crate::command::Role;

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
    /// Whether a node may join with a token, and as what.
    TokenUsed(Result<Role, TokenRefusal>),
    /// What each command of a group did.
    Group(Vec<Outcome>),
}

/// Why nobody joins with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// There is none with this id: mistyped, of another cluster, or expired long ago.
    #[error("this cluster has no such token; make one with `konsulctl cluster generate-token`")]
    Unknown,
    /// Its time is up.
    #[error("the token has expired; make a new one with `konsulctl cluster generate-token`")]
    Expired,
    /// As many nodes as it was made for have joined with it.
    #[error("the token was used as often as it may be; make a new one with `konsulctl cluster generate-token`")]
    UsedUp,
    /// Somebody revoked it.
    #[error("the token was revoked; ask whoever runs the cluster why")]
    Revoked,
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
    pub(super) const TOKEN_USED: u8 = 8;
    pub(super) const TOKEN_REFUSED: u8 = 9;
    pub(super) const GROUP: u8 = 20;
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
            Outcome::TokenUsed(Ok(role)) => {
                out.u8(kind::TOKEN_USED);
                role.encode(out);
            }
            Outcome::TokenUsed(Err(refusal)) => {
                out.u8(kind::TOKEN_REFUSED);
                out.u8(refusal.number());
            }
            Outcome::Group(members) => {
                out.u8(kind::GROUP);
                out.usize(members.len());
                members.iter().for_each(|member| member.encode(out));
            }
        }
    }

    /// The outcome at the reader's position.
    pub fn decode(from: &mut Reader<'_>) -> Result<Outcome, DecodeError> {
        from.version("outcome version", VERSION)?;
        match from.u8("outcome kind")? {
            // Its members are no groups, so nothing recurses deeper, whatever the bytes say.
            kind::GROUP => Ok(Outcome::Group(from.list("outcomes", |from| {
                from.version("outcome version", VERSION)?;
                let kind = from.u8("outcome kind")?;
                Outcome::decode_single(kind, from)
            })?)),
            kind => Outcome::decode_single(kind, from),
        }
    }

    fn decode_single(kind: u8, from: &mut Reader<'_>) -> Result<Outcome, DecodeError> {
        Ok(match kind {
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
            kind::TOKEN_USED => Outcome::TokenUsed(Ok(Role::decode(from)?)),
            kind::TOKEN_REFUSED => Outcome::TokenUsed(Err(TokenRefusal::decode(from)?)),
            found => {
                let (found, known) = (u64::from(found), u64::from(kind::GROUP));
                return Err(DecodeError::Unknown { what: "outcome kind", found, known });
            }
        })
    }
}

impl TokenRefusal {
    const ALL: [TokenRefusal; 4] =
        [TokenRefusal::Unknown, TokenRefusal::Expired, TokenRefusal::UsedUp, TokenRefusal::Revoked];

    /// Numbers are never given twice.
    const fn number(self) -> u8 {
        match self {
            TokenRefusal::Unknown => 1,
            TokenRefusal::Expired => 2,
            TokenRefusal::UsedUp => 3,
            TokenRefusal::Revoked => 4,
        }
    }

    /// One word, for the audit and as a label. The audit is replicated: the words never change.
    pub const fn word(self) -> &'static str {
        match self {
            TokenRefusal::Unknown => "unknown",
            TokenRefusal::Expired => "expired",
            TokenRefusal::UsedUp => "used_up",
            TokenRefusal::Revoked => "revoked",
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<TokenRefusal, DecodeError> {
        let number = from.u8("refusal")?;
        let known = TokenRefusal::ALL.into_iter().find(|refusal| refusal.number() == number);
        known.ok_or_else(|| DecodeError::Unknown { what: "refusal", found: u64::from(number), known: 4 })
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
