//! Join tokens: what the cluster knows of them. Never the secret: only the public key that it proves.
//!
//! Every change leaves a row in the audit. The texts of those rows are replicated state: other words would be another
//! digest, so they never change.

use crate::codec::{DecodeError, Reader, Writer};
use crate::schema::TableId;
use crate::writes::Writes;
use crate::{
    AUDIT_TEXT_BYTES_MAX, AuditEvent, Index, Outcome, Role, StateError, TokenRefusal, TokenWrite, View, audit,
};

/// The most nodes that may join with one token.
pub const TOKEN_USES_MAX: u32 = 1_000;
/// The most tokens there may be.
pub const TOKENS_MAX: u64 = 1_000;

const RECORD_VERSION: u8 = 1;

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Eight characters of `a-z2-7`.
    pub id: [u8; 8],
    /// The public key that its secret proves.
    pub key: [u8; 32],
    /// What a node becomes that joins with it.
    pub role: Role,
    /// How many nodes may join with it.
    pub uses_max: u32,
    /// When it was made.
    pub created_ms: u64,
    /// From then on nobody joins with it.
    pub expires_ms: u64,
    /// Who made it.
    pub by: String,
    /// From which address.
    pub from: String,
    /// That it was revoked.
    pub revoked: Option<TokenRevoked>,
    /// The nodes that joined with it, oldest first.
    pub uses: Vec<TokenUse>,
}

/// That a token was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRevoked {
    /// When.
    pub at_ms: u64,
    /// By whom.
    pub by: String,
}

/// A node that joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUse {
    /// SHA-256 of its public key (SPKI).
    pub spki: [u8; 32],
    /// Its name.
    pub name: String,
    /// Its address.
    pub from: String,
    /// When.
    pub at_ms: u64,
}

impl Token {
    /// The id as its users see it.
    pub fn id_text(&self) -> String {
        id_text(&self.id)
    }

    /// Whether the node with this key may join, and as what. Time is up before anything else counts but a revocation:
    /// a node that missed its answer has as long to ask again as it had to ask.
    pub fn check(&self, now_ms: u64, spki: &[u8; 32]) -> Result<Role, TokenRefusal> {
        if self.revoked.is_some() {
            return Err(TokenRefusal::Revoked);
        }
        if now_ms >= self.expires_ms {
            return Err(TokenRefusal::Expired);
        }
        if !self.was_used_by(spki) && self.is_used_up() {
            return Err(TokenRefusal::UsedUp);
        }
        Ok(self.role)
    }

    /// Whether as many nodes have joined with it as may.
    pub fn is_used_up(&self) -> bool {
        u32::try_from(self.uses.len()).is_ok_and(|used| used >= self.uses_max)
    }

    fn was_used_by(&self, spki: &[u8; 32]) -> bool {
        self.uses.iter().any(|u| u.spki == *spki)
    }

    /// Nobody can join with it at this time or later.
    pub fn is_of_no_use(&self, now_ms: u64) -> bool {
        self.revoked.is_some() || now_ms >= self.expires_ms || self.is_used_up()
    }

    fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.u8(RECORD_VERSION);
        to.raw(&self.key);
        self.role.encode(&mut to);
        to.u64(u64::from(self.uses_max));
        to.u64(self.created_ms);
        to.u64(self.expires_ms);
        to.str(&self.by);
        to.str(&self.from);
        to.bool(self.revoked.is_some());
        if let Some(revoked) = &self.revoked {
            to.u64(revoked.at_ms);
            to.str(&revoked.by);
        }
        to.usize(self.uses.len());
        for used in &self.uses {
            to.raw(&used.spki);
            to.str(&used.name);
            to.str(&used.from);
            to.u64(used.at_ms);
        }
        to.into_vec()
    }
}

/// The token of a record.
pub(crate) fn decode(key: &[u8], record: &[u8]) -> Result<Token, DecodeError> {
    let id = key.try_into().map_err(|_| DecodeError::Invalid { what: "token id" })?;
    let mut from = Reader::new(record);
    from.version("token record version", RECORD_VERSION)?;
    let token = Token {
        id,
        key: from.array("token key")?,
        role: Role::decode(&mut from)?,
        uses_max: from.u32("uses")?,
        created_ms: from.u64("time of creation")?,
        expires_ms: from.u64("time of expiry")?,
        by: from.str("who")?.to_owned(),
        from: from.str("from")?.to_owned(),
        revoked: if from.bool("revoked flag")? { Some(decode_revoked(&mut from)?) } else { None },
        uses: from.list("uses", decode_use)?,
    };
    from.end("token record")?;
    Ok(token)
}

fn decode_revoked(from: &mut Reader<'_>) -> Result<TokenRevoked, DecodeError> {
    Ok(TokenRevoked { at_ms: from.u64("time of revocation")?, by: from.str("who")?.to_owned() })
}

fn decode_use(from: &mut Reader<'_>) -> Result<TokenUse, DecodeError> {
    Ok(TokenUse {
        spki: from.array("key hash")?,
        name: from.str("node name")?.to_owned(),
        from: from.str("from")?.to_owned(),
        at_ms: from.u64("time of use")?,
    })
}

/// Whoever claims a token may claim any id: what is not text is shown, not trusted.
fn id_text(id: &[u8; 8]) -> String {
    id.escape_ascii().to_string()
}

/// One change of a token.
pub(crate) fn apply(w: &mut Writes<'_>, index: Index, write: &TokenWrite<'_>) -> Result<Outcome, StateError> {
    if let Some(why) = refusal(write) {
        return Ok(Outcome::Refused(why));
    }
    match *write {
        TokenWrite::Create { id, key, role, uses_max, created_ms, expires_ms, by, from } => {
            let (by, from) = (by.to_owned(), from.to_owned());
            let (revoked, uses) = (None, Vec::new());
            create(w, index, &Token { id, key, role, uses_max, created_ms, expires_ms, by, from, revoked, uses })
        }
        TokenWrite::Revoke { id, now_ms, by, from } => {
            let event = AuditEvent { time_ms: now_ms, event: "token.revoke", who: by, from, what: "", outcome: "ok" };
            revoke(w, index, &id, event)
        }
        TokenWrite::Use { id, now_ms, name, spki, from } => {
            let (name, from) = (name.to_owned(), from.to_owned());
            spend(w, index, &id, TokenUse { spki, name, from, at_ms: now_ms })
        }
    }
}

/// Why a change cannot be, whatever the state, if so.
fn refusal(write: &TokenWrite<'_>) -> Option<String> {
    let texts = match write {
        TokenWrite::Create { by, from, .. } | TokenWrite::Revoke { by, from, .. } => [by, from],
        TokenWrite::Use { name, from, .. } => [name, from],
    };
    if let Some(text) = texts.iter().find(|text| text.len() > AUDIT_TEXT_BYTES_MAX) {
        return Some(format!("a text of {} bytes; the longest has {AUDIT_TEXT_BYTES_MAX}", text.len()));
    }
    let TokenWrite::Create { id, uses_max, created_ms, expires_ms, .. } = write else {
        return None;
    };
    if !id.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7')) {
        return Some(format!("a token id is 8 characters of a-z and 2-7, not {}", id_text(id)));
    }
    if !(1..=TOKEN_USES_MAX).contains(uses_max) {
        return Some(format!("a token is for 1 to {TOKEN_USES_MAX} nodes, not {uses_max}"));
    }
    (expires_ms <= created_ms).then(|| "a token must expire after it is made".to_owned())
}

fn get(w: &Writes<'_>, id: &[u8; 8]) -> Result<Option<Token>, StateError> {
    let record = w.tables.tokens.get(&w.txn, id)?;
    record.map(|record| decode(id, record)).transpose().map_err(|e| TableId::Tokens.damaged(e))
}

fn put(w: &mut Writes<'_>, token: &Token) -> Result<(), StateError> {
    w.changes.cluster = true;
    w.tables.tokens.put(&mut w.txn, &token.id, &token.encode())
}

fn create(w: &mut Writes<'_>, index: Index, token: &Token) -> Result<Outcome, StateError> {
    if let Some(old) = get(w, &token.id)? {
        if old.key == token.key {
            return Ok(Outcome::None);
        }
        return Ok(Outcome::Refused(format!("another token has the id {}: make a new one", token.id_text())));
    }
    sweep(w, |old| token.created_ms >= old.expires_ms)?;
    if w.tables.tokens.len(&w.txn)? >= TOKENS_MAX {
        sweep(w, |old| old.is_of_no_use(token.created_ms))?;
    }
    if w.tables.tokens.len(&w.txn)? >= TOKENS_MAX {
        let why = format!("there are {TOKENS_MAX} tokens that nodes can join with: revoke some, or let them expire");
        return Ok(Outcome::Refused(why));
    }
    put(w, token)?;
    let (id, role) = (token.id_text(), token.role.word());
    let what = format!("token {id} role={role} uses={} expires_ms={}", token.uses_max, token.expires_ms);
    let (who, from) = (token.by.as_str(), token.from.as_str());
    let event = AuditEvent { time_ms: token.created_ms, event: "token.create", who, from, what: &what, outcome: "ok" };
    audit::append(w, index, &[event])?;
    Ok(Outcome::None)
}

/// Drops the tokens for which `is_over`. A used one is kept until it expires: whoever tries it again is told why not.
fn sweep(w: &mut Writes<'_>, is_over: impl Fn(&Token) -> bool) -> Result<(), StateError> {
    let tokens = all(w.tables.tokens.under(&w.txn, &[])?)?;
    for token in tokens.iter().filter(|token| is_over(token)) {
        w.tables.tokens.delete(&mut w.txn, &token.id)?;
        w.changes.cluster = true;
    }
    Ok(())
}

fn all<'t>(records: impl Iterator<Item = Result<(&'t [u8], &'t [u8]), StateError>>) -> Result<Vec<Token>, StateError> {
    records.map(|r| r.and_then(|(key, value)| decode(key, value).map_err(|e| TableId::Tokens.damaged(e)))).collect()
}

fn revoke(w: &mut Writes<'_>, index: Index, id: &[u8; 8], event: AuditEvent<'_>) -> Result<Outcome, StateError> {
    let Some(mut token) = get(w, id)? else {
        return Ok(Outcome::Written(false));
    };
    if token.revoked.is_some() {
        return Ok(Outcome::Written(true));
    }
    token.revoked = Some(TokenRevoked { at_ms: event.time_ms, by: event.who.to_owned() });
    put(w, &token)?;
    let what = format!("token {}", id_text(id));
    audit::append(w, index, &[AuditEvent { what: &what, ..event }])?;
    Ok(Outcome::Written(true))
}

fn spend(w: &mut Writes<'_>, index: Index, id: &[u8; 8], used: TokenUse) -> Result<Outcome, StateError> {
    let token = get(w, id)?;
    let checked = token.as_ref().map_or(Err(TokenRefusal::Unknown), |t| t.check(used.at_ms, &used.spki));
    // The same node again, whose answer was lost: nothing happened that was not audited.
    if checked.is_ok() && token.as_ref().is_some_and(|t| t.was_used_by(&used.spki)) {
        return Ok(Outcome::TokenUsed(checked));
    }
    let (what, outcome) = match checked {
        Ok(role) => (format!("token {} role={}", id_text(id), role.word()), "ok".to_owned()),
        Err(refusal) => (format!("token {}", id_text(id)), format!("refused: {}", refusal.word())),
    };
    let (time_ms, who, from) = (used.at_ms, used.name.as_str(), used.from.as_str());
    let event = AuditEvent { time_ms, event: "token.use", who, from, what: &what, outcome: &outcome };
    audit::append(w, index, &[event])?;
    if let (Ok(_), Some(mut token)) = (checked, token) {
        token.uses.push(used);
        put(w, &token)?;
    }
    Ok(Outcome::TokenUsed(checked))
}

impl View {
    /// The token with this id; also one that has expired, was revoked or is used up, until it is swept.
    pub fn token(&self, id: &[u8; 8]) -> Result<Option<Token>, StateError> {
        let record = self.store.tables.tokens.get(&self.txn, id)?;
        record.map(|record| decode(id, record)).transpose().map_err(|e| TableId::Tokens.damaged(e))
    }

    /// Every token, by id.
    pub fn tokens(&self) -> Result<Vec<Token>, StateError> {
        all(self.store.tables.tokens.under(&self.txn, &[])?)
    }
}
