//! `/v1/cluster/join-token` and `/v1/cluster/audit`: who may join, and who did what. Errors are JSON with honest codes.

use super::body::Body;
use super::context::{Ask, Context};
use super::error::ApiError;
use super::headers::value;
use super::query;
use super::upload::{self, Limit, Upload};
use crate::cluster::audit::{self, Event, event};
use crate::cluster::ca::{self, CaRecord};
use crate::cluster::token::{self, Purpose, Token, TokenId};
use crate::raft::Consistency;
use crate::tls::Facts;
use hyper::Response;
use hyper::header::CACHE_CONTROL;
use konsul_api::audit::AuditRow;
use konsul_api::join_token::{
    JoinRole, JoinTokenAnswer, JoinTokenInfo, JoinTokenRequest, JoinTokenRevoked, JoinTokenState, JoinTokenUse,
};
use konsul_api::time::rfc3339;
use konsul_state::{AuditId, Command, Outcome, Role, TOKEN_USES_MAX, TokenRefusal, TokenWrite};
use ring::rand::SystemRandom;
use std::time::Duration;

const TTL_DEFAULT: Duration = Duration::from_secs(3_600);
const TTL_MIN: Duration = Duration::from_secs(60);
const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// A joiner needs one that answers; the others are for when it does not.
const CONTACTS: usize = 5;
const AUDIT_LIMIT: u64 = 100;
const AUDIT_LIMIT_MAX: u64 = 10_000;
const REQUEST_LIMIT: Limit =
    Limit { bytes_max: 4096, advice: "The body is {\"ttl\", \"uses\", \"role\"}, all optional." };

/// A request, checked.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    ttl: Duration,
    uses: u32,
    role: JoinRole,
}

impl Wish {
    fn parse(body: &[u8]) -> Result<Wish, ApiError> {
        let request = if body.trim_ascii().is_empty() {
            JoinTokenRequest::default()
        } else {
            let example = r#"send {"ttl": "24h", "uses": 1, "role": "voter"}, or nothing"#;
            serde_json::from_slice(body)
                .map_err(|error| ApiError::bad_request(format!("token request: {error}; {example}")))?
        };
        let ttl = request.ttl.as_deref().map_or(Ok(TTL_DEFAULT), parse_ttl)?;
        let uses = request.uses.unwrap_or(1);
        if !(1..=TOKEN_USES_MAX).contains(&uses) {
            let text = format!("`uses` is {uses}; a token is for 1 to {TOKEN_USES_MAX} nodes");
            return Err(ApiError::bad_request(text));
        }
        Ok(Wish { ttl, uses, role: request.role.unwrap_or_default() })
    }
}

fn parse_ttl(text: &str) -> Result<Duration, ApiError> {
    let nanos = query::parse_duration(text.as_bytes()).and_then(|nanos| u64::try_from(nanos).ok());
    let ttl = nanos.map(Duration::from_nanos).filter(|ttl| (TTL_MIN..=TTL_MAX).contains(ttl));
    ttl.ok_or_else(|| {
        ApiError::bad_request(format!("`ttl` is {text:?}; a token lasts from 1m to 720h (30 days), as in \"24h\""))
    })
}

pub(super) async fn create(context: &Context, ask: &Ask<'_>, body: Upload) -> Result<Response<Body>, ApiError> {
    let wish = Wish::parse(&upload::read(body, REQUEST_LIMIT).await?)?;
    let pin = pin(context).await?;
    let token = token::generate(Purpose::Join { pin }, contacts(context), &SystemRandom::new())
        .map_err(|error| ApiError::Unexpected { what: error.to_string() })?;
    let created_ms = context.deps.clock.wall().as_millis();
    let expires_ms = created_ms.saturating_add(millis(wish.ttl));
    let (who, from) = (ask.client.who(), ask.client.to_string());
    let command = Command::Token(TokenWrite::Create {
        id: token.id().bytes(),
        key: token::public_key(&token),
        role: to_state(wish.role),
        uses_max: wish.uses,
        created_ms,
        expires_ms,
        by: &who,
        from: &from,
    });
    match context.deps.consensus.propose(&command).await?.outcome {
        Outcome::None => {}
        Outcome::Refused(text) => return Err(ApiError::Conflict { text }),
        other @ (Outcome::Written(_)
        | Outcome::Txn(_)
        | Outcome::Batch { .. }
        | Outcome::Admitted { .. }
        | Outcome::Restored { .. }
        | Outcome::TokenUsed(_)
        | Outcome::Group(_)) => return Err(ApiError::unexpected(&other)),
    }
    let what =
        format!("token {} role={} uses={} ttl={:?}", token.id(), to_state(wish.role).word(), wish.uses, wish.ttl);
    log(context, event::TOKEN_CREATE, (who, from), what);
    let mut response = ask.serialized(&answer(&token, &wish, expires_ms));
    // The only answer that holds a secret: nothing on the way shall keep it.
    response.headers_mut().insert(CACHE_CONTROL, value::NO_STORE);
    Ok(response)
}

fn answer(token: &Token, wish: &Wish, expires_ms: u64) -> JoinTokenAnswer {
    JoinTokenAnswer {
        token: token.render(),
        id: token.id().to_string(),
        role: wish.role,
        uses: wish.uses,
        expires_at: rfc3339(expires_ms),
    }
}

/// By what a joiner knows this cluster: the key of its authority.
async fn pin(context: &Context) -> Result<[u8; 32], ApiError> {
    let permit = context.deps.consensus.permit(Consistency::Leader).await?;
    let view = context.deps.consensus.view(&permit)?;
    let Some((record, _)) = view.record(ca::KEY.as_bytes())? else {
        let text = "this cluster has no authority of its own, because its certificates come from files \
                    (`tls.cert_file`): nobody joins it with a token; give the new node a certificate of the same \
                    authority, and the addresses of the others";
        return Err(ApiError::Conflict { text: text.to_owned() });
    };
    let unreadable = |error: &dyn std::error::Error| ApiError::Unexpected { what: format!("the record `ca`: {error}") };
    let record = CaRecord::decode(record).map_err(|error| unreadable(&error))?;
    let facts = Facts::of(&record.active().certificate).map_err(|error| unreadable(&error))?;
    Ok(facts.spki_sha256)
}

/// Where a joiner may knock: the leader first, because it decides.
fn contacts(context: &Context) -> Vec<String> {
    let mut members = context.deps.consensus.status().members;
    members.sort_by_key(|member| (!member.is_leader, !member.voter, member.peer.id));
    let rpc = members.into_iter().map(|member| member.peer.info.rpc).filter(|rpc| token::is_contact(rpc));
    rpc.take(CONTACTS).collect()
}

pub(super) async fn revoke(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let text = String::from_utf8_lossy(ask.rest);
    let id = TokenId::parse(&text).ok_or_else(|| {
        let text = format!("{text:?} is no token id: eight characters of a-z and 2-7; see `konsulctl cluster tokens`");
        ApiError::bad_request(text)
    })?;
    let (who, from) = (ask.client.who(), ask.client.to_string());
    let now_ms = context.deps.clock.wall().as_millis();
    let command = Command::Token(TokenWrite::Revoke { id: id.bytes(), now_ms, by: &who, from: &from });
    match context.deps.consensus.propose(&command).await?.outcome {
        Outcome::Written(true) => {}
        Outcome::Written(false) => {
            let text = format!("there is no token {id}: it expired and was dropped, or is of another cluster");
            return Err(ApiError::Absent { text });
        }
        Outcome::Refused(text) => return Err(ApiError::Conflict { text }),
        other @ (Outcome::None
        | Outcome::Txn(_)
        | Outcome::Batch { .. }
        | Outcome::Admitted { .. }
        | Outcome::Restored { .. }
        | Outcome::TokenUsed(_)
        | Outcome::Group(_)) => return Err(ApiError::unexpected(&other)),
    }
    log(context, event::TOKEN_REVOKE, (who, from), format!("token {id}"));
    Ok(ask.serialized(&JoinTokenRevoked { id: id.to_string() }))
}

pub(super) async fn list(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let options = ask.query.read_options(ask.headers)?;
    let permit = context.permit(options).await?;
    let now_ms = context.deps.clock.wall().as_millis();
    let mut tokens = context.deps.consensus.view(&permit)?.tokens()?;
    tokens.sort_by_key(|token| (token.created_ms, token.id));
    let infos: Vec<JoinTokenInfo> = tokens.iter().map(|token| info(token, now_ms)).collect();
    Ok(ask.serialized(&infos))
}

fn info(token: &konsul_state::Token, now_ms: u64) -> JoinTokenInfo {
    // As for a node that has not joined with it yet.
    let state = match token.check(now_ms, &[0; 32]) {
        Ok(_) => JoinTokenState::Valid,
        Err(TokenRefusal::Expired | TokenRefusal::Unknown) => JoinTokenState::Expired,
        Err(TokenRefusal::UsedUp) => JoinTokenState::UsedUp,
        Err(TokenRefusal::Revoked) => JoinTokenState::Revoked,
    };
    let used_by = |used: &konsul_state::TokenUse| JoinTokenUse {
        name: used.name.clone(),
        from: used.from.clone(),
        at: rfc3339(used.at_ms),
    };
    JoinTokenInfo {
        id: token.id_text(),
        state,
        role: match token.role {
            Role::Voter => JoinRole::Voter,
            Role::Learner => JoinRole::Learner,
        },
        uses: token.uses_max,
        used_by: token.uses.iter().map(used_by).collect(),
        created_at: rfc3339(token.created_ms),
        created_from: token.from.clone(),
        expires_at: rfc3339(token.expires_ms),
        revoked_at: token.revoked.as_ref().map(|revoked| rfc3339(revoked.at_ms)),
    }
}

pub(super) async fn audit(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let limit = ask.query.uint("limit")?.unwrap_or(AUDIT_LIMIT);
    if !(1..=AUDIT_LIMIT_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "`limit` is {limit}; 1 to {AUDIT_LIMIT_MAX} rows are told at a time"
        )));
    }
    let after = ask.query.first("after").map(parse_place).transpose()?;
    let options = ask.query.read_options(ask.headers)?;
    let permit = context.permit(options).await?;
    let view = context.deps.consensus.view(&permit)?;
    let rows = view.audit(after, usize::try_from(limit).expect("at most ten thousand"))?;
    let row = |row: &konsul_state::AuditRow<'_>| AuditRow {
        id: format!("{}.{}", row.id.index, row.id.seq),
        time: rfc3339(row.event.time_ms),
        event: row.event.event.to_owned(),
        who: row.event.who.to_owned(),
        from: row.event.from.to_owned(),
        what: row.event.what.to_owned(),
        outcome: row.event.outcome.to_owned(),
    };
    let rows: Vec<AuditRow> = rows.iter().map(row).collect();
    Ok(ask.serialized(&rows))
}

fn parse_place(text: &[u8]) -> Result<AuditId, ApiError> {
    let place = std::str::from_utf8(text).ok().and_then(|text| text.split_once('.'));
    let place = place.and_then(|(index, seq)| Some(AuditId { index: index.parse().ok()?, seq: seq.parse().ok()? }));
    place.ok_or_else(|| ApiError::bad_request("`after` is the `id` of a row, as in after=1234.0"))
}

/// The state leaves the row in the audit; the log tells it here.
fn log(context: &Context, event: &'static str, (who, from): (String, String), what: String) {
    context.deps.audit.logged(&Event { event, who, from, what, outcome: audit::Outcome::Done });
}

fn to_state(role: JoinRole) -> Role {
    match role {
        JoinRole::Voter => Role::Voter,
        JoinRole::Learner => Role::Learner,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lasts_an_hour_for_one_voter_unless_somebody_says_otherwise() {
        let wish = |body: &str| Wish::parse(body.as_bytes());
        let usual = Wish { ttl: TTL_DEFAULT, uses: 1, role: JoinRole::Voter };
        for body in ["", " \n", "{}"] {
            assert_eq!(wish(body).unwrap(), usual);
        }
        let other = wish(r#"{"ttl":"24h","uses":1000,"role":"learner"}"#).unwrap();
        assert_eq!(other, Wish { ttl: Duration::from_secs(86_400), uses: 1000, role: JoinRole::Learner });
        for ttl in ["1m", "60s", "720h", "1h30m"] {
            assert!(wish(&format!(r#"{{"ttl":"{ttl}"}}"#)).is_ok(), "{ttl}");
        }
    }

    #[test]
    fn what_a_token_cannot_be_is_said() {
        let table = [
            (r#"{"ttl":"59s"}"#, "`ttl` is \"59s\"; a token lasts from 1m to 720h"),
            (r#"{"ttl":"721h"}"#, "a token lasts from 1m to 720h"),
            (r#"{"ttl":"-24h"}"#, "a token lasts from 1m to 720h"),
            (r#"{"ttl":"1d"}"#, "a token lasts from 1m to 720h"),
            (r#"{"ttl":3600}"#, "expected a string"),
            (r#"{"uses":0}"#, "`uses` is 0; a token is for 1 to 1000 nodes"),
            (r#"{"uses":1001}"#, "`uses` is 1001"),
            (r#"{"uses":-1}"#, "expected u32"),
            (r#"{"role":"leader"}"#, "expected `voter` or `learner`"),
            (r#"{"role":"voter","for":"me"}"#, "unknown field `for`"),
            ("token", "send {\"ttl\""),
        ];
        for (body, why) in table {
            let error = Wish::parse(body.as_bytes()).unwrap_err();
            assert!(matches!(error, ApiError::BadRequest { .. }), "{body}");
            assert!(error.to_string().contains(why), "{body}: {error}");
        }
    }

    #[test]
    fn a_place_in_the_audit_is_an_index_and_a_number() {
        assert_eq!(parse_place(b"12.3").unwrap(), AuditId { index: 12, seq: 3 });
        for text in [&b""[..], b"12", b"12.", b".3", b"12.65536", b"a.b", b"\xff.0"] {
            assert!(parse_place(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_list_says_what_is_left_of_a_token() {
        let uses = vec![konsul_state::TokenUse {
            spki: [1; 32],
            name: "n4".to_owned(),
            from: "10.0.0.4:1".to_owned(),
            at_ms: 1_500,
        }];
        let token = konsul_state::Token {
            id: *b"abcdefg2",
            key: [9; 32],
            role: Role::Learner,
            uses_max: 2,
            created_ms: 1_000,
            expires_ms: 2_000,
            by: "http client".to_owned(),
            from: "10.0.0.9:1".to_owned(),
            revoked: None,
            uses,
        };
        assert_eq!(info(&token, 1_999).state, JoinTokenState::Valid);
        assert_eq!(info(&token, 2_000).state, JoinTokenState::Expired);
        let used_up = konsul_state::Token { uses_max: 1, ..token.clone() };
        assert_eq!(info(&used_up, 1_999).state, JoinTokenState::UsedUp);
        let by = "http client".to_owned();
        let revoked = konsul_state::Token { revoked: Some(konsul_state::TokenRevoked { at_ms: 1_700, by }), ..token };
        let told = info(&revoked, 9_000);
        assert_eq!(told.state, JoinTokenState::Revoked);
        assert_eq!(told.revoked_at.as_deref(), Some("1970-01-01T00:00:01.700Z"));
        assert_eq!((told.used_by[0].name.as_str(), told.used_by[0].at.as_str()), ("n4", "1970-01-01T00:00:01.500Z"));
    }
}
