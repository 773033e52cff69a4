//! `/v1/kv/<key>`: read, write and delete keys, as Consul does.

use super::body::Body;
use super::context::{Ask, Context};
use super::error::{ApiError, status};
use super::headers::{self, value};
use super::question::{Answer, Question, Shape};
use super::upload::{self, Upload};
use bytes::Bytes;
use hyper::Response;
use hyper::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use konsul_state::{Command, Index, KEY_BYTES_MAX, KvWrite, Outcome};

/// `GET`: one entry, a value, a tree, or keys; waits if an index is given.
pub(super) async fn get(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let options = ask.query.read_options(ask.headers)?;
    let shape = shape(ask);
    match shape {
        Shape::Entry | Shape::Raw => require_key(ask.rest)?,
        Shape::Tree | Shape::Keys { .. } => {}
    }
    check_length(ask.rest)?;
    ask.query.datacenter(&context.deps.config.datacenter)?;
    let permit = context.permit(options).await?;
    let (index, answer) = match options.seen {
        None => {
            let look = shape.look(&context.deps.consensus.view(&permit)?, ask.rest, ask.pretty(), 0)?;
            (look.index, look.answer.expect("an index is at least 1, so greater than 0, and then there is an answer"))
        }
        Some(seen) => {
            let question = Question { shape, pretty: ask.pretty(), key: ask.rest.into() };
            // On the heap, so that requests that do not wait stay small.
            Box::pin(context.blocking.answer(question, &permit, seen, options.wait)).await?
        }
    };
    Ok(respond(context, index, answer))
}

fn shape(ask: &Ask<'_>) -> Shape {
    let query = &ask.query;
    if query.has("keys") {
        let separator = query.first("separator").filter(|separator| !separator.is_empty());
        // The misspelling is as old as Consul's API.
        let separator = separator.or_else(|| query.first("seperator")).unwrap_or_default();
        return Shape::Keys { separator: separator.into() };
    }
    if query.has("recurse") {
        Shape::Tree
    } else if query.has("raw") {
        Shape::Raw
    } else {
        Shape::Entry
    }
}

fn respond(context: &Context, index: Index, answer: Answer) -> Response<Body> {
    let mut response = match answer {
        Answer::Absent => headers::response(status::ABSENT, Body::EMPTY),
        Answer::Json(body) => headers::ok(value::JSON, Body::Whole(body)),
        Answer::Raw(body) => {
            let mut response = headers::response(status::OK, Body::Whole(body));
            // Nobody knows what the value is: no browser shall guess, or run it.
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, value::RAW);
            headers.insert(X_CONTENT_TYPE_OPTIONS, value::NOSNIFF);
            headers.insert(CONTENT_SECURITY_POLICY, value::SANDBOX);
            response
        }
    };
    headers::read_meta(response.headers_mut(), index, context.contact());
    response
}

/// `PUT`: the body is the value.
pub(super) async fn put(context: &Context, ask: &Ask<'_>, body: Upload) -> Result<Response<Body>, ApiError> {
    ask.query.read_options(ask.headers)?;
    let key = ask.rest;
    require_key(key)?;
    ask.query.exclusive(&["cas", "acquire", "release"])?;
    let flags = ask.query.uint("flags")?.unwrap_or(0);
    let cas = ask.query.uint("cas")?;
    if let Some(session) = ask.query.first("acquire").or_else(|| ask.query.first("release")) {
        return Err(ApiError::refused(if session.is_empty() { "missing session" } else { NO_SESSIONS }));
    }
    check_length(key)?;
    ask.query.datacenter(&context.deps.config.datacenter)?;
    let value = upload::read(body, context.value_limit()).await?;
    let write = match cas {
        None => KvWrite::Set { key, value: &value, flags },
        Some(index) => KvWrite::Cas { key, value: &value, flags, index },
    };
    propose(context, ask, write).await
}

/// Locks come with sessions.
pub(super) const NO_SESSIONS: &str = "locks need sessions, which this server does not have yet";

/// `DELETE`: a key, or with `?recurse` everything under a prefix.
pub(super) async fn delete(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    ask.query.read_options(ask.headers)?;
    let key = ask.rest;
    ask.query.exclusive(&["recurse", "cas"])?;
    let recurse = ask.query.has("recurse");
    if !recurse {
        require_key(key)?;
    }
    let cas = ask.query.uint("cas")?;
    check_length(key)?;
    ask.query.datacenter(&context.deps.config.datacenter)?;
    let write = match cas {
        _ if recurse => KvWrite::DeleteTree { prefix: key },
        None => KvWrite::Delete { key },
        Some(index) => KvWrite::DeleteCas { key, index },
    };
    propose(context, ask, write).await
}

async fn propose(context: &Context, ask: &Ask<'_>, write: KvWrite<'_>) -> Result<Response<Body>, ApiError> {
    let committed = context.deps.consensus.propose(&Command::Kv(write)).await?;
    match committed.outcome {
        Outcome::Written(applied) => Ok(truth(applied, ask.pretty())),
        Outcome::Refused(text) => Err(ApiError::refused(text)),
        other @ (Outcome::None
        | Outcome::Txn(_)
        | Outcome::Batch { .. }
        | Outcome::Admitted { .. }
        | Outcome::Restored { .. }
        | Outcome::TokenUsed(_)
        | Outcome::Group(_)) => Err(ApiError::unexpected(&other)),
    }
}

/// `true` or `false`, as JSON.
fn truth(applied: bool, pretty: bool) -> Response<Body> {
    let text: &'static [u8] = match (applied, pretty) {
        (true, false) => b"true",
        (false, false) => b"false",
        (true, true) => b"true\n",
        (false, true) => b"false\n",
    };
    headers::ok(value::JSON, Body::Whole(Bytes::from_static(text)))
}

fn require_key(key: &[u8]) -> Result<(), ApiError> {
    if key.is_empty() { Err(ApiError::bad_request("Missing key name")) } else { Ok(()) }
}

/// Consul has no limit here, the store has one.
fn check_length(key: &[u8]) -> Result<(), ApiError> {
    match too_long(key) {
        Some(text) => Err(ApiError::bad_request(text)),
        None => Ok(()),
    }
}

/// Why a key is refused for its length, if it is.
pub(super) fn too_long(key: &[u8]) -> Option<String> {
    (key.len() > KEY_BYTES_MAX)
        .then(|| format!("Key is too long: {} bytes, at most {KEY_BYTES_MAX} bytes are accepted", key.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::client::Client;
    use crate::http::query::Query;
    use hyper::Uri;
    use hyper::header::HeaderMap;

    #[test]
    fn the_shape_is_what_the_query_says() {
        let (uri, headers) = (Uri::default(), HeaderMap::new());
        let client = Client::Remote(([10, 0, 0, 1], 1).into());
        let keys = |separator: &str| Shape::Keys { separator: separator.as_bytes().into() };
        let table = [
            ("", Shape::Entry),
            ("raw&pretty", Shape::Raw),
            ("recurse&raw", Shape::Tree),
            ("keys&recurse", keys("")),
            ("keys&separator=/", keys("/")),
            ("keys&seperator=%2F", keys("/")),
        ];
        for (raw, expected) in table {
            let query = Query::parse(Some(raw)).unwrap();
            let ask = Ask { client: &client, uri: &uri, headers: &headers, rest: b"", query };
            assert_eq!(shape(&ask), expected, "{raw}");
        }
    }

    #[test]
    fn a_key_is_there_and_fits() {
        assert_eq!(require_key(b"").unwrap_err().to_string(), "Missing key name");
        require_key(b"a").unwrap();
        check_length(&[b'a'; 1024]).unwrap();
        let error = check_length(&[b'a'; 1025]).unwrap_err();
        assert!(error.to_string().contains("1025 bytes, at most 1024"), "{error}");
    }
}
