//! One request: its path, its route, its answer.

use super::awaited::Awaited;
use super::body::Body;
use super::client::Client;
use super::config::Reception;
use super::context::{Ask, Context, Desk};
use super::error::{ApiError, status};
use super::headers::{self, value};
use super::metrics::RouteMetrics;
use super::query::Query;
use super::reception::{GREETING, Own};
use super::router::{self, Errors, Found, Handler, ROUTES, Route, Writes};
use super::upload::Upload;
use super::{
    agent, autopilot, backup, batch, ca, cluster, compare, health, join_token, kv, membership, metrics, openapi,
    operator, path, reception, snapshot, status as consul_status, turn, txn, upgrade,
};
use crate::telemetry::trace;
use flate2::{Compression, write::GzEncoder};
use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, LOCATION, VARY};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Below this, compressing costs more than it saves.
const GZIP_BYTES_MIN: usize = 1024;

/// Answers one request, whatever it is.
pub(super) async fn answer(
    desk: Desk<'_>,
    metrics: &RouteMetrics,
    client: &Client,
    request: Request<Incoming>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = Upload::new(body, desk.limits().now().transfer_timeout);
    answer_parts(desk, metrics, client, &parts, body).await
}

/// Answers a request that has no body.
pub(super) async fn answer_read(
    desk: Desk<'_>,
    metrics: &RouteMetrics,
    client: &Client,
    parts: &Parts,
) -> Response<Body> {
    answer_parts(desk, metrics, client, parts, Upload::none()).await
}

async fn answer_parts(
    desk: Desk<'_>,
    metrics: &RouteMetrics,
    client: &Client,
    parts: &Parts,
    body: Upload,
) -> Response<Body> {
    let begun = Instant::now();
    let (route, response) = match client.address().map(|from| desk.limits().ask(from).map_err(|wait| (from, wait))) {
        Some(Err((from, wait))) => (None, too_often(desk, from, wait)),
        Some(Ok(())) | None => match trace::request(|| traceparent(&parts.headers)) {
            None => route(desk, client, parts, body).await,
            // On the heap: those who are not traced are not to pay for it.
            Some(traced) => {
                let answered = Box::pin(traced.around(route(desk, client, parts, body))).await;
                let (endpoint, method) = metrics::names(answered.0);
                traced.answered(method, endpoint, answered.1.status().as_u16());
                answered
            }
        },
    };
    metrics.count(route, response.status().as_u16(), begun.elapsed());
    response
}

/// Said twice, it says nothing.
fn traceparent(headers: &HeaderMap) -> Option<&[u8]> {
    let mut said = headers.get_all("traceparent").iter();
    let first = said.next()?;
    said.next().is_none().then_some(first.as_bytes())
}

fn too_often(desk: Desk<'_>, client: IpAddr, wait: Duration) -> Response<Body> {
    desk.refused().rate.inc();
    let wait_s = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
    let per_second = desk.limits().now().rate.times;
    ApiError::TooOften { client, per_second, wait_s }.respond(false)
}

/// The answer, and the place of its route in the table.
async fn route(desk: Desk<'_>, client: &Client, parts: &Parts, body: Upload) -> (Option<usize>, Response<Body>) {
    let Some(decoded) = path::unescape(parts.uri.path().as_bytes(), false) else {
        return (None, ApiError::BadPath.respond(false));
    };
    if desk.config().strict_paths && !path::printable(&decoded) {
        return (None, ApiError::BadPath.respond(false));
    }
    if let Some(clean) = path::cleaned(&decoded) {
        return (None, moved(parts, &clean));
    }
    let found = router::find(&parts.method, &decoded);
    if found == Found::Slash {
        return (None, moved(parts, &[&decoded, &b"/"[..]].concat()));
    }
    if found == Found::Unknown {
        return (None, ApiError::UnknownPath.respond(false));
    }
    let (at, mut response) = match Query::parse(parts.uri.query()) {
        Ok(query) => respond(desk, client, parts, query, found, body).await,
        Err(error) => (None, error.respond(false)),
    };
    response.headers_mut().insert(VARY, value::ACCEPT_ENCODING);
    compress(&parts.headers, &mut response);
    (at, response)
}

async fn respond(
    desk: Desk<'_>,
    client: &Client,
    parts: &Parts,
    query: Query<'_>,
    found: Found<'_>,
    body: Upload,
) -> (Option<usize>, Response<Body>) {
    match found {
        Found::Route { at, rest } => {
            let route = &ROUTES[at];
            let ask = Ask { client, uri: &parts.uri, headers: &parts.headers, rest, query };
            let answered = match desk {
                Desk::Reception(reception, context) => {
                    Box::pin(before_member(reception, context, route, &ask, body)).await
                }
                Desk::Member(context) => member(context, route, &ask, body).await,
            };
            let response = answered.unwrap_or_else(|error| {
                if let ApiError::SlowBody { .. } = error {
                    desk.refused().slow_body.inc();
                }
                error.respond(route.errors == Errors::Json)
            });
            (Some(at), response)
        }
        Found::Options { allow } => {
            let mut response = headers::response(status::OK, Body::EMPTY);
            response.headers_mut().insert(ALLOW, headers::text_value(&allow));
            (None, response)
        }
        Found::OtherMethod { allow, errors } => {
            let error = ApiError::Method { method: parts.method.to_string(), allow };
            (None, error.respond(errors == Errors::Json))
        }
        Found::Slash | Found::Unknown => (None, ApiError::UnknownPath.respond(false)),
    }
}

/// A node that is restarted is a member again in a moment: what only a member can answer waits for that.
async fn before_member(
    reception: &Reception,
    context: &Awaited<Context>,
    route: &Route,
    ask: &Ask<'_>,
    body: Upload,
) -> Result<Response<Body>, ApiError> {
    if let Some(answer) = Own::of(route.handler) {
        return reception::dispatch(reception, answer, ask, body).await;
    }
    let context = match reception.hold {
        Some(hold) => context.within(hold).await,
        None => None,
    };
    match context {
        Some(context) => member(context, route, ask, body).await,
        None => Err(reception::refusal(reception)),
    }
}

async fn member(context: &Context, route: &Route, ask: &Ask<'_>, body: Upload) -> Result<Response<Body>, ApiError> {
    if route.writes == Writes::Yes
        && let Some(elsewhere) = context.send_elsewhere(ask)?
    {
        return Ok(elsewhere);
    }
    dispatch(context, route.handler, ask, body).await
}

/// Everything but reading keys is on the heap while it runs: so a connection that waits for a change is small. To a
/// write, which waits for a disk, an allocation is nothing.
async fn dispatch(
    context: &Context,
    handler: Handler,
    ask: &Ask<'_>,
    body: Upload,
) -> Result<Response<Body>, ApiError> {
    match handler {
        Handler::KvGet => kv::get(context, ask).await,
        Handler::KvPut => Box::pin(kv::put(context, ask, body)).await,
        Handler::KvDelete => Box::pin(kv::delete(context, ask)).await,
        Handler::Txn => Box::pin(txn::put(context, ask, body)).await,
        Handler::Batch => Box::pin(batch::write(context, ask, body)).await,
        Handler::StatusLeader => consul_status::leader(context, ask),
        Handler::StatusPeers => consul_status::peers(context, ask),
        Handler::AgentSelf => Ok(agent::describe(context, ask)),
        Handler::SnapshotSave => Box::pin(snapshot::save(context, ask)).await,
        Handler::SnapshotRestore => Box::pin(snapshot::restore(context, ask, body)).await,
        Handler::ArchiveSave => Box::pin(backup::save(context, ask)).await,
        Handler::BackupStatus => Box::pin(backup::status(context, ask)).await,
        Handler::BackupReport => Box::pin(backup::report(context, ask, body)).await,
        Handler::ArchiveRestore => Box::pin(backup::restore(context, ask, body)).await,
        Handler::ClusterStatus => Ok(cluster::status(context, ask)),
        Handler::ClusterLeader => cluster::leader(context, ask),
        Handler::ClusterPeers => Ok(cluster::peers(context, ask)),
        Handler::ClusterDigest => Box::pin(cluster::digest(context, ask)).await,
        Handler::ClusterCompare => Box::pin(compare::compare(context, ask)).await,
        Handler::UpgradeStatus => Box::pin(upgrade::status(context, ask)).await,
        Handler::UpgradeFinalize => Box::pin(upgrade::finalize(context, ask)).await,
        Handler::ClusterSnapshot => Box::pin(cluster::snapshot(context, ask)).await,
        Handler::ClusterTransfer => Box::pin(cluster::transfer(context, ask, body)).await,
        Handler::RestartTurn => Box::pin(turn::take(context, ask)).await,
        Handler::JoinTokenCreate => Box::pin(join_token::create(context, ask, body)).await,
        Handler::JoinTokenList => Box::pin(join_token::list(context, ask)).await,
        Handler::JoinTokenRevoke => Box::pin(join_token::revoke(context, ask)).await,
        Handler::CaStatus => Box::pin(ca::status(context, ask)).await,
        Handler::CaRotate => Box::pin(ca::rotate(context, ask)).await,
        Handler::Audit => Box::pin(join_token::audit(context, ask)).await,
        Handler::ClusterInit | Handler::ClusterJoin => Err(cluster::is_member(context)),
        Handler::ClusterChange(op) => Box::pin(membership::change(context, ask, op, body)).await,
        Handler::RaftConfiguration => Box::pin(operator::configuration(context, ask)).await,
        Handler::RaftRemovePeer => Box::pin(operator::remove_peer(context, ask)).await,
        Handler::RaftTransferLeader => Box::pin(operator::transfer_leader(context, ask)).await,
        Handler::AutopilotConfiguration => Box::pin(autopilot::configuration(context, ask)).await,
        Handler::AutopilotConfigure => Box::pin(autopilot::configure(context, ask, body)).await,
        Handler::AutopilotHealth => Box::pin(autopilot::health(context, ask)).await,
        Handler::AutopilotState => Box::pin(autopilot::state(context, ask)).await,
        Handler::Live => Ok(health::live(ask)),
        Handler::Ready => Ok(health::ready(context, ask)),
        Handler::Metrics => Ok(metrics::expose_now(context)),
        Handler::OpenApi => Ok(ask.serialized(&openapi::document())),
        Handler::Root => Ok(headers::ok(value::TEXT, Body::Whole(GREETING.into()))),
    }
}

/// 301 to the cleaned path, with the little page that Go's mux sends along with it.
fn moved(parts: &Parts, path: &[u8]) -> Response<Body> {
    let mut location = path::escape_path(path);
    if let Some(query) = parts.uri.query() {
        location = format!("{location}?{query}");
    }
    let reads = parts.method == Method::GET;
    let page = || format!("<a href=\"{}\">Moved Permanently</a>.\n\n", escape_html(&location));
    let body = if reads { Body::from(page().into_bytes()) } else { Body::EMPTY };
    let mut response = headers::response(status::MOVED, body);
    if reads || parts.method == Method::HEAD {
        response.headers_mut().insert(CONTENT_TYPE, value::HTML);
    }
    response.headers_mut().insert(LOCATION, headers::text_value(&location));
    response
}

fn escape_html(text: &str) -> String {
    let pairs = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&#34;"), ("'", "&#39;")];
    pairs.into_iter().fold(text.to_owned(), |text, (raw, escaped)| text.replace(raw, escaped))
}

/// Compresses an answer that is worth it for a client that reads gzip.
fn compress(request: &HeaderMap, response: &mut Response<Body>) {
    let Body::Whole(bytes) = response.body() else { return };
    if bytes.len() < GZIP_BYTES_MIN || !accepts_gzip(request) {
        return;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes).expect("a Vec takes everything");
    let packed = encoder.finish().expect("a Vec takes everything");
    response.headers_mut().insert(CONTENT_ENCODING, value::GZIP);
    *response.body_mut() = Body::from(packed);
}

fn accepts_gzip(request: &HeaderMap) -> bool {
    let Some(accepted) = request.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    accepted.split(',').any(|part| {
        let (coding, quality) = part.split_once(';').unwrap_or((part, ""));
        let quality = quality.trim().strip_prefix("q=").unwrap_or("1");
        coding.trim().eq_ignore_ascii_case("gzip") && quality.parse::<f32>().is_ok_and(|quality| quality > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn parts(method: &str, uri: &str) -> Parts {
        Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0
    }

    fn text(response: Response<Body>) -> String {
        let Body::Whole(bytes) = response.into_body() else { panic!("a stream") };
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn a_path_that_is_not_clean_is_moved_as_go_moves_it() {
        let response = moved(&parts("GET", "/v1/kv/ckv/../ckv/a?x=1&y='"), b"/v1/kv/ckv/a");
        assert_eq!(response.status(), status::MOVED);
        assert_eq!(response.headers()[LOCATION], "/v1/kv/ckv/a?x=1&y='");
        assert_eq!(response.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        let page = "<a href=\"/v1/kv/ckv/a?x=1&amp;y=&#39;\">Moved Permanently</a>.\n\n";
        assert_eq!(text(response), page);
        let response = moved(&parts("PUT", "/v1/kv/ckv//dbl"), b"/v1/kv/ckv/dbl");
        assert!(!response.headers().contains_key(CONTENT_TYPE));
        assert_eq!(text(response), "");
    }

    #[test]
    fn gzip_is_for_those_who_accept_it_and_for_what_is_worth_it() {
        let table = [
            ("gzip", true),
            ("deflate, gzip;q=0.5", true),
            ("GZIP ; q=1", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("", false),
        ];
        for (accepted, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            assert_eq!(accepts_gzip(&headers), expected, "{accepted}");
            for length in [GZIP_BYTES_MIN - 1, GZIP_BYTES_MIN] {
                let mut response = headers::ok(value::JSON, Body::from(vec![b'1'; length]));
                compress(&headers, &mut response);
                let packed = response.headers().contains_key(CONTENT_ENCODING);
                assert_eq!(packed, expected && length == GZIP_BYTES_MIN, "{accepted} {length}");
            }
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
