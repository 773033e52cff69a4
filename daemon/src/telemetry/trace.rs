//! Where a request spends its time, over several nodes: spans, sent by OTLP to whoever collects them. Off unless asked for.
//!
//! A span says what was done, for how long, and as part of what; never a key, a value or a token. There are spans of
//! requests that are sampled only; for all others nothing is made.  Knows nothing about: what a span is about.

#[cfg(not(feature = "otlp"))]
#[path = "trace/absent.rs"]
mod collect;
#[cfg(feature = "otlp")]
mod collect;
#[cfg(feature = "otlp")]
mod send;

pub use collect::{Span, flush, is_on, start};

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Spans that nobody has received.
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// Spans that the collector took.
static SENT: AtomicU64 = AtomicU64::new(0);

/// Where spans go, and of which requests there are any.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceConfig {
    /// `http://host:port`, or https.
    pub endpoint: String,
    /// The share of requests, 0 to 1, that are sampled although nobody asked for it.
    pub sample_ratio: f64,
    /// PEM: who signs the collector's certificate; `None`: whom this system trusts.
    pub ca_file: Option<PathBuf>,
    /// Whose spans they are.
    pub node: String,
}

/// Traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("read telemetry.otlp_ca_file {path}")]
    Authority {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("telemetry.otlp_ca_file {path} holds no certificate that can sign others")]
    NoAuthority { path: PathBuf },
    #[error(
        "this system trusts no certificate authority (package ca-certificates); install it, or set telemetry.otlp_ca_file"
    )]
    Roots,
    #[error("choose TLS versions")]
    Tls {
        #[source]
        source: rustls::Error,
    },
    #[error("telemetry.otlp_endpoint {endpoint} names no host")]
    Endpoint { endpoint: String },
}

/// What a span is part of; sampled, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    trace: [u8; 16],
    span: [u8; 8],
    /// Made by another process.
    is_remote: bool,
}

/// Who does what a span is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// This process, by itself.
    Internal,
    /// Another process, and this one waits for it.
    Client,
    /// This process, for another one.
    Server,
}

/// What a client says of the trace that its request is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Nothing that can be understood.
    Nothing,
    Unsampled,
    Sampled(Parent),
}

impl Parent {
    /// Of its form on the wire.
    pub const BYTES: usize = 24;

    /// Between nodes.
    pub fn to_bytes(self) -> [u8; Parent::BYTES] {
        let mut bytes = [0; Parent::BYTES];
        bytes[..16].copy_from_slice(&self.trace);
        bytes[16..].copy_from_slice(&self.span);
        bytes
    }

    /// From another node; `None`: no ids.
    pub fn of_bytes(bytes: &[u8; Parent::BYTES]) -> Option<Parent> {
        let (trace, span) = bytes.split_first_chunk::<16>()?;
        Parent::remote(*trace, span.try_into().ok()?)
    }

    fn remote(trace: [u8; 16], span: [u8; 8]) -> Option<Parent> {
        (trace != [0; 16] && span != [0; 8]).then_some(Parent { trace, span, is_remote: true })
    }
}

tokio::task_local! {
    static CURRENT: Arc<Mutex<Span>>;
}

/// A sampled request, while it is answered.
pub struct Traced(Arc<Mutex<Span>>);

impl Traced {
    /// Everything that is done in here is part of the request.
    pub async fn around<F: Future>(&self, work: F) -> F::Output {
        CURRENT.scope(Arc::clone(&self.0), work).await
    }

    /// The request was answered. `route`: as in the table of routes, never as it was asked for.
    pub fn answered(self, method: &'static str, route: &'static str, status: u16) {
        let mut span = lock(&self.0);
        span.name(format!("{method} {route}"));
        span.text("http.request.method", method);
        span.text("http.route", route);
        span.number("http.response.status_code", u64::from(status));
        if status >= 500 {
            span.fail("the answer is an error of this side");
        }
    }
}

/// A request arrives; `None` if it is not sampled. `traceparent` is asked only if anything is traced.
pub fn request<'h>(traceparent: impl FnOnce() -> Option<&'h [u8]>) -> Option<Traced> {
    if !is_on() {
        return None;
    }
    let span = match asked(traceparent()) {
        Asked::Unsampled => None,
        Asked::Sampled(parent) => collect::child(parent, SpanKind::Server, "request"),
        Asked::Nothing => collect::root("request"),
    };
    span.map(|span| Traced(Arc::new(Mutex::new(span))))
}

/// What the work of this task is part of, if it is sampled.
pub fn current() -> Option<Parent> {
    if !is_on() {
        return None;
    }
    CURRENT.try_with(|span| lock(span).as_parent()).ok()
}

/// Says something of the request that this task answers, if it is sampled.
pub fn note(key: &'static str, text: &'static str) {
    if is_on() {
        // An error: this request is not sampled.
        let _ = CURRENT.try_with(|span| lock(span).text(key, text));
    }
}

/// A span for each of these, from now until it is dropped.
pub fn children(parents: &[Parent], kind: SpanKind, name: &'static str) -> Vec<Span> {
    parents.iter().filter_map(|parent| collect::child(*parent, kind, name)).collect()
}

/// A span that is over.
pub fn past(parent: Parent, name: &'static str, (began, ended): (SystemTime, SystemTime)) {
    collect::past(parent, name, began, ended);
}

/// Spans that were made and that nobody has received.
pub fn dropped_spans() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Spans that the collector took.
pub fn sent_spans() -> u64 {
    SENT.load(Ordering::Relaxed)
}

fn lock(span: &Mutex<Span>) -> MutexGuard<'_, Span> {
    span.lock().unwrap_or_else(PoisonError::into_inner)
}

/// <https://www.w3.org/TR/trace-context/#traceparent-header>: `version-trace-span-flags`, in small hexadecimal digits.
fn asked(traceparent: Option<&[u8]>) -> Asked {
    let parsed = || {
        let text = traceparent?;
        let (version, rest) = (hex::<1>(text.get(..2)?)?[0], text.get(2..)?);
        // Later versions may have more behind the flags; this one has not.
        let ends = if version == 0 { rest.len() == 53 } else { rest.len() == 53 || rest.get(53) == Some(&b'-') };
        let dashes = [rest.first(), rest.get(33), rest.get(50)] == [Some(&b'-'); 3];
        if version == u8::MAX || !ends || !dashes {
            return None;
        }
        let parent = Parent::remote(hex(&rest[1..33])?, hex(&rest[34..50])?)?;
        Some(if hex::<1>(&rest[51..53])?[0] & 1 == 1 { Asked::Sampled(parent) } else { Asked::Unsampled })
    };
    parsed().unwrap_or(Asked::Nothing)
}

fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_traceparent_is_read_as_w3c_says() {
        let parent =
            Parent { trace: hex(TRACE.as_bytes()).unwrap(), span: hex(SPAN.as_bytes()).unwrap(), is_remote: true };
        let table = [
            (format!("00-{TRACE}-{SPAN}-01"), Asked::Sampled(parent)),
            (format!("00-{TRACE}-{SPAN}-03"), Asked::Sampled(parent)),
            (format!("00-{TRACE}-{SPAN}-00"), Asked::Unsampled),
            (format!("cc-{TRACE}-{SPAN}-01"), Asked::Sampled(parent)),
            (format!("cc-{TRACE}-{SPAN}-01-more"), Asked::Sampled(parent)),
            (format!("cc-{TRACE}-{SPAN}-01more"), Asked::Nothing),
            (format!("00-{TRACE}-{SPAN}-01-more"), Asked::Nothing),
            (format!("ff-{TRACE}-{SPAN}-01"), Asked::Nothing),
            (format!("00-{}-{SPAN}-01", TRACE.to_ascii_uppercase()), Asked::Nothing),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), Asked::Nothing),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), Asked::Nothing),
            (format!("00-{TRACE}{SPAN}-01"), Asked::Nothing),
            (String::new(), Asked::Nothing),
        ];
        for (text, expected) in table {
            assert_eq!(asked(Some(text.as_bytes())), expected, "{text}");
        }
        assert_eq!(asked(None), Asked::Nothing);
    }

    #[test]
    fn a_parent_comes_back_from_its_bytes_and_no_ids_are_none() {
        let parent = Parent::remote([7; 16], [8; 8]).unwrap();
        assert_eq!(Parent::of_bytes(&parent.to_bytes()), Some(parent));
        assert_eq!(Parent::of_bytes(&[0; Parent::BYTES]), None);
    }

    #[test]
    fn nothing_is_made_while_nothing_is_collected() {
        assert!(request(|| panic!("nobody asks for the header")).is_none());
        assert_eq!(current(), None);
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_a_panic(bytes: Vec<u8>, at in 0_usize..60, byte: u8) {
            let mut valid = format!("00-{TRACE}-{SPAN}-01").into_bytes();
            if let Some(place) = valid.get_mut(at) {
                *place = byte;
            }
            let (_, _) = (asked(Some(&bytes)), asked(Some(&valid)));
        }
    }
}
