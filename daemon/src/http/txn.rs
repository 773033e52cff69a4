//! `PUT /v1/txn`: up to so many operations, all or nothing. One that only reads does not go through the log.

use super::body::Body;
use super::context::{Ask, Context};
use super::error::{ApiError, status};
use super::gojson::{self, Kind, Value, unknown_field};
use super::headers::{self, value};
use super::kv::{self, NO_SESSIONS};
use super::upload::{self, Upload};
use super::{json, query};
use base64::{DecodeError, Engine as _, engine::general_purpose::STANDARD};
use hyper::Response;
use hyper::header::CONTENT_TYPE;
use konsul_state::{Command, KvWrite, Outcome, TxnEntry, TxnFailure, TxnOp};
use std::borrow::Cow;

/// One operation as it came.
#[derive(Debug, PartialEq, Eq)]
enum Op<'b> {
    Kv(KvOp<'b>),
    /// A node, service or check.
    Catalog {
        writes: bool,
    },
}

#[derive(Debug, Default, PartialEq, Eq)]
struct KvOp<'b> {
    verb: Cow<'b, [u8]>,
    key: Cow<'b, [u8]>,
    value: Vec<u8>,
    flags: u64,
    index: u64,
}

pub(super) async fn put(context: &Context, ask: &Ask<'_>, body: Upload) -> Result<Response<Body>, ApiError> {
    let limits = context.deps.limits.hold();
    let text = upload::read(body, context.txn_limit()).await?;
    let ops = parse(&text).map_err(|why| ApiError::bad_request(format!("Failed to parse body: {why}")))?;
    check_sizes(&ops, limits.txn_ops_max, limits.value_bytes_max)?;
    if ops.iter().any(Op::writes) { write(context, ask, &ops).await } else { read(context, ask, &ops).await }
}

async fn write(context: &Context, ask: &Ask<'_>, ops: &[Op<'_>]) -> Result<Response<Body>, ApiError> {
    ask.query.datacenter(&context.deps.config.datacenter)?;
    if let Some(elsewhere) = context.send_elsewhere(ask)? {
        return Ok(elsewhere);
    }
    let commands = match commands(ops) {
        Ok(commands) => commands,
        Err(failures) => return Ok(respond(ask, &Err(failures), None)),
    };
    let committed = context.deps.consensus.propose(&Command::Txn(commands)).await?;
    match committed.outcome {
        Outcome::Txn(result) => Ok(respond(ask, &result, None)),
        Outcome::Refused(text) => Err(ApiError::refused(text)),
        other @ (Outcome::None
        | Outcome::Written(_)
        | Outcome::Batch { .. }
        | Outcome::Admitted { .. }
        | Outcome::Restored { .. }
        | Outcome::TokenUsed(_)
        | Outcome::Group(_)) => Err(ApiError::unexpected(&other)),
    }
}

async fn read(context: &Context, ask: &Ask<'_>, ops: &[Op<'_>]) -> Result<Response<Body>, ApiError> {
    let options = ask.query.read_options(ask.headers)?;
    ask.query.datacenter(&context.deps.config.datacenter)?;
    let result = match commands(ops) {
        Ok(commands) => {
            let permit = context.permit(options).await?;
            context.deps.consensus.view(&permit)?.txn(&commands)?
        }
        Err(failures) => Err(failures),
    };
    let contact = context.contact();
    let mut response = respond(ask, &result, Some(contact.known_leader));
    // No index: a transaction does not block, so there is none to pass on.
    headers::contact_meta(response.headers_mut(), contact);
    Ok(response)
}

fn check_sizes(ops: &[Op<'_>], ops_max: usize, value_bytes_max: u64) -> Result<(), ApiError> {
    if ops.len() > ops_max {
        let text = format!("Transaction contains too many operations ({} > {ops_max})", ops.len());
        return Err(ApiError::TooLarge { text });
    }
    for op in ops {
        let Op::Kv(op) = op else { continue };
        let bytes = u64::try_from(op.value.len()).expect("usize is at most 64 bits");
        if bytes > value_bytes_max {
            let key = query::quoted(&op.key);
            let text = format!("Value for key {key} is too large ({bytes} > {value_bytes_max} bytes)");
            return Err(ApiError::TooLarge { text });
        }
    }
    Ok(())
}

impl Op<'_> {
    fn writes(&self) -> bool {
        match self {
            Op::Catalog { writes } => *writes,
            // An unknown verb counts as a read, as in Consul.
            Op::Kv(op) => {
                matches!(&*op.verb, b"set" | b"cas" | b"delete" | b"delete-cas" | b"delete-tree" | b"lock" | b"unlock")
            }
        }
    }

    /// The operation as the state machine knows it, or what is wrong with it.
    fn command(&self) -> Result<TxnOp<'_>, String> {
        let Op::Kv(op) = self else {
            return Err("nodes, services and checks need the catalog, which this server does not have yet".to_owned());
        };
        let KvOp { key, value, flags, index, .. } = op;
        let (flags, index) = (*flags, *index);
        if key.is_empty() && *op.verb != *b"delete-tree" {
            return Err("Must provide key".to_owned());
        }
        if let Some(text) = kv::too_long(key) {
            return Err(text);
        }
        Ok(match &*op.verb {
            b"set" => TxnOp::Write(KvWrite::Set { key, value, flags }),
            b"cas" => TxnOp::Write(KvWrite::Cas { key, value, flags, index }),
            b"delete" => TxnOp::Write(KvWrite::Delete { key }),
            b"delete-cas" => TxnOp::Write(KvWrite::DeleteCas { key, index }),
            b"delete-tree" => TxnOp::Write(KvWrite::DeleteTree { prefix: key }),
            b"get" => TxnOp::Get { key },
            b"get-tree" => TxnOp::GetTree { prefix: key },
            b"check-index" => TxnOp::CheckIndex { key, index },
            b"check-not-exists" => TxnOp::CheckNotExists { key },
            b"lock" | b"unlock" | b"check-session" => return Err(NO_SESSIONS.to_owned()),
            other => return Err(format!("unknown KV verb {}", query::quoted(other))),
        })
    }
}

/// Every operation, or everything that is wrong before any is tried.
fn commands<'o>(ops: &'o [Op<'_>]) -> Result<Vec<TxnOp<'o>>, Vec<TxnFailure>> {
    let mut commands = Vec::with_capacity(ops.len());
    let mut failures = Vec::new();
    for (n, op) in (0..).zip(ops) {
        match op.command() {
            Ok(command) => commands.push(command),
            Err(what) => failures.push(TxnFailure { op: n, what }),
        }
    }
    if failures.is_empty() { Ok(commands) } else { Err(failures) }
}

/// The operations in the body; one without any known member is dropped, as in Consul.
fn parse(text: &[u8]) -> Result<Vec<Op<'_>>, String> {
    let mut elements = gojson::parse(text)?.elements("api.TxnOps")?;
    let mut ops = Vec::new();
    while let Some(element) = elements.element() {
        ops.extend(parse_op(element)?);
    }
    Ok(ops)
}

fn parse_op(element: Value<'_>) -> Result<Option<Op<'_>>, String> {
    let mut op = None;
    let mut members = element.members("api.TxnOp")?;
    while let Some((name, value)) = members.member() {
        let parsed = match name.to_ascii_lowercase().as_slice() {
            b"kv" => Op::Kv(parse_kv(value)?),
            b"node" | b"service" | b"check" => Op::Catalog { writes: catalog_writes(value)? },
            _ => return Err(unknown_field(&name)),
        };
        if !value.is_null() && op.is_none() {
            op = Some(parsed);
        }
    }
    Ok(op)
}

fn parse_kv(value: Value<'_>) -> Result<KvOp<'_>, String> {
    let mut op = KvOp::default();
    let mut members = value.members("api.KVTxnOp")?;
    while let Some((name, value)) = members.member() {
        match name.to_ascii_lowercase().as_slice() {
            b"verb" => op.verb = value.string("KVTxnOp.KV.Verb")?,
            b"key" => op.key = value.string("KVTxnOp.KV.Key")?,
            b"value" => op.value = base64(value)?,
            b"flags" => op.flags = value.uint("KVTxnOp.KV.Flags")?,
            b"index" => op.index = value.uint("KVTxnOp.KV.Index")?,
            b"session" => drop(value.string("KVTxnOp.KV.Session")?),
            b"namespace" => drop(value.string("KVTxnOp.KV.Namespace")?),
            _ => return Err(unknown_field(&name)),
        }
    }
    Ok(op)
}

fn catalog_writes(value: Value<'_>) -> Result<bool, String> {
    let mut members = value.members("api.TxnOp")?;
    while let Some((name, value)) = members.member() {
        if name.eq_ignore_ascii_case(b"verb") && value.kind() == Kind::String {
            return Ok(*value.string("TxnOp.Verb")? != *b"get");
        }
    }
    Ok(false)
}

fn base64(value: Value<'_>) -> Result<Vec<u8>, String> {
    let mut text = value.string("KVTxnOp.KV.Value")?;
    if text.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        // Go passes over line ends.
        text.to_mut().retain(|b| !matches!(b, b'\r' | b'\n'));
    }
    STANDARD.decode(&text).map_err(|error| {
        let at = match error {
            DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => text.len(),
        };
        format!("illegal base64 data at input byte {at}")
    })
}

/// 200 with the results, or 409 with every failure. `known_leader` for a transaction that only read.
fn respond(
    ask: &Ask<'_>,
    result: &Result<Vec<TxnEntry>, Vec<TxnFailure>>,
    known_leader: Option<bool>,
) -> Response<Body> {
    let mut out = encode(result);
    if let Some(known_leader) = known_leader {
        out.extend_from_slice(b",\"Index\":0,\"LastContact\":0,\"KnownLeader\":");
        out.extend_from_slice(if known_leader { b"true" } else { b"false" });
        out.extend_from_slice(b",\"ConsistencyLevel\":\"\"");
    }
    out.push(b'}');
    if result.is_ok() {
        return ask.json(out);
    }
    let mut response = headers::response(status::UNDONE, Body::from(out));
    response.headers_mut().insert(CONTENT_TYPE, value::JSON);
    response
}

/// Without the closing bracket.
fn encode(result: &Result<Vec<TxnEntry>, Vec<TxnFailure>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    match result {
        Ok(entries) => {
            out.extend_from_slice(b"{\"Results\":[");
            for (n, entry) in entries.iter().enumerate() {
                out.extend_from_slice(if n > 0 { b",{\"KV\":" } else { b"{\"KV\":" });
                write_entry(&mut out, entry);
                out.push(b'}');
            }
            out.extend_from_slice(b"],\"Errors\":null");
        }
        Err(failures) => {
            out.extend_from_slice(b"{\"Results\":null,\"Errors\":[");
            for (n, failure) in failures.iter().enumerate() {
                out.extend_from_slice(if n > 0 { b",{\"OpIndex\":" } else { b"{\"OpIndex\":" });
                json::number(&mut out, failure.op.into());
                out.extend_from_slice(b",\"What\":");
                json::string(&mut out, failure.what.as_bytes());
                out.push(b'}');
            }
            out.push(b']');
        }
    }
    out
}

fn write_entry(out: &mut Vec<u8>, entry: &TxnEntry) {
    json::entry(
        out,
        &json::KvEntry {
            lock_index: entry.lock_index,
            key: &entry.key,
            flags: entry.flags,
            value: entry.value.as_deref().unwrap_or_default(),
            session: None,
            create_index: entry.create_index,
            modify_index: entry.modify_index,
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_parsed_as_consul_parses_it() {
        let ops = parse(br#"[{"KV":{"verb":"cas","KEY":"a","Value":"b25l","Flags":3,"Index":9}},{},{"KV":null}]"#);
        let op = KvOp { verb: b"cas".into(), key: b"a".into(), value: b"one".to_vec(), flags: 3, index: 9 };
        assert_eq!(ops.unwrap(), [Op::Kv(op)]);
        assert_eq!(parse(b"null").unwrap(), []);
    }

    #[test]
    fn parse_errors_have_consuls_texts() {
        let table = [
            ("", "EOF"),
            ("{}", "json: cannot unmarshal object into Go value of type api.TxnOps"),
            (r#"[{"Bogus":{}}]"#, "json: unknown field \"Bogus\""),
            (r#"[{"KV":{"Verb":"set","Key":"k","Value":"***"}}]"#, "illegal base64 data at input byte 0"),
            (r#"[{"KV":{"Lock":1}}]"#, "json: unknown field \"Lock\""),
        ];
        for (body, error) in table {
            assert_eq!(parse(body.as_bytes()).unwrap_err(), error, "{body}");
        }
    }

    #[test]
    fn only_writing_verbs_write() {
        let writes = |verb: &str| Op::Kv(KvOp { verb: verb.as_bytes().to_vec().into(), ..KvOp::default() }).writes();
        for verb in ["set", "cas", "delete", "delete-cas", "delete-tree", "lock", "unlock"] {
            assert!(writes(verb), "{verb}");
        }
        for verb in ["get", "get-tree", "check-index", "check-not-exists", "check-session", "nonsense"] {
            assert!(!writes(verb), "{verb}");
        }
        let catalog = |body: &'static str| parse(body.as_bytes()).unwrap()[0].writes();
        assert!(catalog(r#"[{"Node":{"Verb":"set","Node":{"Node":"n"}}}]"#));
        assert!(!catalog(r#"[{"Check":{"Verb":"get"}}]"#));
    }

    #[test]
    fn what_is_wrong_beforehand_is_told_for_each_operation() {
        let body = br#"[{"KV":{"Verb":"set","Key":""}},{"KV":{"Verb":"delete-tree","Key":""}},
            {"KV":{"Verb":"nonsense","Key":"k"}},{"KV":{"Verb":"lock","Key":"k"}},{"Node":{"Verb":"get"}}]"#;
        let ops = parse(body).unwrap();
        let failures = commands(&ops).unwrap_err();
        let found: Vec<_> = failures.iter().map(|failure| (failure.op, failure.what.as_str())).collect();
        assert_eq!(found[0], (0, "Must provide key"));
        assert_eq!(found[1], (2, "unknown KV verb \"nonsense\""));
        assert_eq!(found[2], (3, NO_SESSIONS));
        assert_eq!(found[3].0, 4);
    }

    #[test]
    fn sizes_are_limited_with_consuls_texts() {
        let ops = parse(br#"[{"KV":{"Verb":"set","Key":"k","Value":"b25l"}}]"#).unwrap();
        check_sizes(&ops, 1, 3).unwrap();
        let error = |ops_max, bytes_max| check_sizes(&ops, ops_max, bytes_max).unwrap_err().to_string();
        assert_eq!(error(0, 3), "Transaction contains too many operations (1 > 0)");
        assert_eq!(error(1, 2), "Value for key \"k\" is too large (3 > 2 bytes)");
    }

    #[test]
    fn answers_are_what_the_wire_types_say() {
        let entry = TxnEntry {
            key: b"k".to_vec(),
            value: Some(b"v".to_vec()),
            flags: 1,
            lock_index: 0,
            create_index: 5,
            modify_index: 6,
        };
        let mut out = encode(&Ok(vec![entry.clone(), TxnEntry { value: None, ..entry }]));
        out.push(b'}');
        let answer: konsul_api::txn::TxnAnswer = serde_json::from_slice(&out).unwrap();
        let results = answer.results.unwrap();
        assert_eq!((results[0].kv.value.as_slice(), results[1].kv.value.as_slice()), (&b"v"[..], &b""[..]));
        let mut out = encode(&Err(vec![TxnFailure { op: 2, what: "key \"a\" exists".to_owned() }]));
        out.push(b'}');
        let expected = r#"{"Results":null,"Errors":[{"OpIndex":2,"What":"key \"a\" exists"}]}"#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
