//! Commands about the cluster itself: join tokens and the audit.

use crate::codec::{DecodeError, Reader, Writer};

/// What a node becomes that joins with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It votes as soon as it has caught up and is stable.
    Voter,
    /// It holds the data and never votes.
    Learner,
}

impl Role {
    /// The word of the HTTP API and of the audit. The audit is replicated: the words never change.
    pub const fn word(self) -> &'static str {
        match self {
            Role::Voter => "voter",
            Role::Learner => "learner",
        }
    }

    /// Writes one byte.
    pub fn encode(self, to: &mut Writer) {
        to.u8(match self {
            Role::Voter => 1,
            Role::Learner => 2,
        });
    }

    /// The role at the reader's position.
    pub fn decode(from: &mut Reader<'_>) -> Result<Role, DecodeError> {
        match from.u8("role")? {
            1 => Ok(Role::Voter),
            2 => Ok(Role::Learner),
            found => Err(DecodeError::Unknown { what: "role", found: u64::from(found), known: 2 }),
        }
    }
}

/// A change of a join token. Times are those of the proposer, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenWrite<'a> {
    /// Makes a token and drops those that have expired. The same token again (id and key) changes nothing; answers
    /// [`crate::Outcome::None`].
    Create {
        /// Eight characters of `a-z2-7`, which its users see.
        id: [u8; 8],
        /// The public key that its secret proves. The secret is nowhere in the state.
        key: [u8; 32],
        /// What a node becomes that joins with it.
        role: Role,
        /// How many nodes may join with it.
        uses_max: u32,
        /// When it was made; what has expired by then is dropped.
        created_ms: u64,
        /// From then on nobody joins with it.
        expires_ms: u64,
        /// Who asked for it.
        by: &'a str,
        /// From which address.
        from: &'a str,
    },
    /// Nobody joins with it any more. Answers [`crate::Outcome::Written`]: whether there is such a token; revoking it
    /// again changes nothing.
    Revoke {
        /// Which.
        id: [u8; 8],
        /// When.
        now_ms: u64,
        /// Who asked for it.
        by: &'a str,
        /// From which address.
        from: &'a str,
    },
    /// A node that proved the secret joins; answers [`crate::Outcome::TokenUsed`]. The same key again, while the token
    /// lasts, is the same node that missed the answer: it is granted again and takes no further use.
    Use {
        /// Which.
        id: [u8; 8],
        /// When.
        now_ms: u64,
        /// The node's name.
        name: &'a str,
        /// SHA-256 of its public key (SPKI).
        spki: [u8; 32],
        /// Its address.
        from: &'a str,
    },
}

/// Something that somebody may ask about later. All texts are those of the proposer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuditEvent<'a> {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// What kind of event, as `token.create`.
    pub event: &'a str,
    /// Who did it, or tried.
    pub who: &'a str,
    /// From which address.
    pub from: &'a str,
    /// To what it was done.
    pub what: &'a str,
    /// `ok`, or `refused: ` and why.
    pub outcome: &'a str,
}

/// What follows the version of a command. Numbers are never given twice: the others are in `command.rs`.
pub(super) mod kind {
    pub(in crate::command) const TOKEN_CREATE: u8 = 10;
    pub(in crate::command) const TOKEN_REVOKE: u8 = 11;
    pub(in crate::command) const TOKEN_USE: u8 = 12;
    pub(in crate::command) const AUDIT: u8 = 13;
}

pub(super) fn encode_token(write: &TokenWrite<'_>, to: &mut Writer) {
    match write {
        TokenWrite::Create { id, key, role, uses_max, created_ms, expires_ms, by, from } => {
            to.u8(kind::TOKEN_CREATE);
            to.raw(id);
            to.raw(key);
            role.encode(to);
            to.u64(u64::from(*uses_max));
            to.u64(*created_ms);
            to.u64(*expires_ms);
            to.str(by);
            to.str(from);
        }
        TokenWrite::Revoke { id, now_ms, by, from } => {
            to.u8(kind::TOKEN_REVOKE);
            to.raw(id);
            to.u64(*now_ms);
            to.str(by);
            to.str(from);
        }
        TokenWrite::Use { id, now_ms, name, spki, from } => {
            to.u8(kind::TOKEN_USE);
            to.raw(id);
            to.u64(*now_ms);
            to.str(name);
            to.raw(spki);
            to.str(from);
        }
    }
}

pub(super) fn decode_create<'a>(from: &mut Reader<'a>) -> Result<TokenWrite<'a>, DecodeError> {
    Ok(TokenWrite::Create {
        id: from.array("token id")?,
        key: from.array("token key")?,
        role: Role::decode(from)?,
        uses_max: from.u32("uses")?,
        created_ms: from.u64("time of creation")?,
        expires_ms: from.u64("time of expiry")?,
        by: from.str("who")?,
        from: from.str("from")?,
    })
}

pub(super) fn decode_revoke<'a>(from: &mut Reader<'a>) -> Result<TokenWrite<'a>, DecodeError> {
    Ok(TokenWrite::Revoke {
        id: from.array("token id")?,
        now_ms: from.u64("time")?,
        by: from.str("who")?,
        from: from.str("from")?,
    })
}

pub(super) fn decode_use<'a>(from: &mut Reader<'a>) -> Result<TokenWrite<'a>, DecodeError> {
    Ok(TokenWrite::Use {
        id: from.array("token id")?,
        now_ms: from.u64("time")?,
        name: from.str("node name")?,
        spki: from.array("key hash")?,
        from: from.str("from")?,
    })
}

impl<'a> AuditEvent<'a> {
    pub(crate) fn encode(&self, to: &mut Writer) {
        to.u64(self.time_ms);
        self.texts().iter().for_each(|text| to.str(text));
    }

    pub(crate) fn decode(from: &mut Reader<'a>) -> Result<AuditEvent<'a>, DecodeError> {
        Ok(AuditEvent {
            time_ms: from.u64("time")?,
            event: from.str("event")?,
            who: from.str("who")?,
            from: from.str("from")?,
            what: from.str("what")?,
            outcome: from.str("outcome")?,
        })
    }

    /// In the order in which they are written.
    pub(crate) fn texts(&self) -> [&'a str; 5] {
        [self.event, self.who, self.from, self.what, self.outcome]
    }
}
