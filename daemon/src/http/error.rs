//! Every refusal and failure of the API, its status code and its two texts: one for the client, one for the log.
//!
//! Consul answers nearly everything with 500 and plain text, and clients match on the texts: those of its endpoints
//! are its own, letter by letter (recorded pairs in `tests/wire`). Our endpoints answer JSON and honest codes.

use super::body::Body;
use super::headers::{self, value};
use crate::raft::{CompareError, MembershipError, ProposeError, ReadError, TransferError};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use konsul_api::cluster::ErrorAnswer;
use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::net::IpAddr;

/// The status codes of answers that are no failures.
pub(super) mod status {
    use hyper::StatusCode;

    pub(in crate::http) const OK: StatusCode = StatusCode::OK;
    /// Nothing is there; the headers still tell the index to wait for.
    pub(in crate::http) const ABSENT: StatusCode = StatusCode::NOT_FOUND;
    /// A transaction or atomic batch that was undone.
    pub(in crate::http) const UNDONE: StatusCode = StatusCode::CONFLICT;
    /// The answer is that somebody has to look.
    pub(in crate::http) const UNHEALTHY: StatusCode = StatusCode::TOO_MANY_REQUESTS;
    pub(in crate::http) const NOT_READY: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    /// The path, cleaned.
    pub(in crate::http) const MOVED: StatusCode = StatusCode::MOVED_PERMANENTLY;
    /// The same request, body included, to the leader.
    pub(in crate::http) const AT_LEADER: StatusCode = StatusCode::TEMPORARY_REDIRECT;
}

/// Why a request was not answered as it wished. `Display` is the client's text; empty = no body.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("")]
    UnknownPath,
    #[error("")]
    BadPath,
    #[error("")]
    BadQuery,
    #[error("method {method} not allowed")]
    Method { method: String, allow: String },
    #[error("{text}")]
    BadRequest { text: Cow<'static, str> },
    /// A semantic error of Consul's endpoints: 500, whatever the cause.
    #[error("{text}")]
    Refused { text: Cow<'static, str> },
    #[error("{text}")]
    TooLarge { text: String },
    #[error("this node is not the leader; send the request to {leader} at {url}")]
    NotLeader { leader: String, url: String },
    #[error("{text}")]
    Conflict { text: String },
    #[error("{text}")]
    Absent { text: String },
    #[error("{text}")]
    NotInTime { text: String },
    /// In no cluster yet: hardly anything can be answered.
    #[error("{text}")]
    NoCluster { text: String },
    #[error("read the request body")]
    Body {
        #[source]
        source: hyper::Error,
    },
    #[error("{doing} in {dir}")]
    WorkFile {
        doing: &'static str,
        dir: String,
        #[source]
        source: io::Error,
    },
    #[error("the answer does not fit the question; this is a defect of this program")]
    Unexpected { what: String },
    #[error("{}", read_text(.0))]
    Read(#[source] ReadError),
    #[error("{}", propose_text(.0))]
    Propose(#[source] ProposeError),
    #[error("{0}")]
    Transfer(TransferError),
    #[error("{0}")]
    Membership(MembershipError),
    #[error("{0}")]
    Compare(CompareError),
    #[error(
        "too many requests from {client}: {per_second} per second are allowed in the long run; ask again in {wait_s} s and less often, or have `http.rate_per_client` raised or this network named in `http.rate_exempt`"
    )]
    TooOften { client: IpAddr, per_second: u32, wait_s: u32 },
    #[error(
        "the body did not come in time: {bytes} bytes in {waited_s} s; send it faster, or raise `http.transfer_timeout`"
    )]
    SlowBody { bytes: u64, waited_s: u64 },
    #[error("{waiting} queries wait already, the limit is {max}; retry later or raise `http.watches_max`")]
    Waiters { waiting: usize, max: usize },
}

/// The text every Consul client knows.
const NO_LEADER: &str = "No cluster leader";

fn read_text(error: &ReadError) -> String {
    match error {
        ReadError::NoLeader { .. } => NO_LEADER.to_owned(),
        ReadError::Behind { .. } | ReadError::State { .. } | ReadError::Stopping | ReadError::Fenced { .. } => {
            error.to_string()
        }
    }
}

fn propose_text(error: &ProposeError) -> String {
    match error {
        ProposeError::NoLeader { .. } => NO_LEADER.to_owned(),
        ProposeError::OutcomeUnknown { .. }
        | ProposeError::Busy { .. }
        | ProposeError::ReadOnly { .. }
        | ProposeError::TooLarge { .. }
        | ProposeError::Stopping => error.to_string(),
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> ApiError {
        ApiError::Read(error)
    }
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> ApiError {
        ApiError::Propose(error)
    }
}

impl From<MembershipError> for ApiError {
    fn from(error: MembershipError) -> ApiError {
        ApiError::Membership(error)
    }
}

impl From<konsul_state::StateError> for ApiError {
    fn from(source: konsul_state::StateError) -> ApiError {
        ApiError::Read(ReadError::State { source })
    }
}

impl ApiError {
    pub(super) fn bad_request(text: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::BadRequest { text: text.into() }
    }

    pub(super) fn refused(text: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::Refused { text: text.into() }
    }

    /// An outcome that its command cannot have.
    pub(super) fn unexpected(outcome: &konsul_state::Outcome) -> ApiError {
        ApiError::Unexpected { what: format!("outcome {outcome:?}") }
    }

    fn status(&self) -> StatusCode {
        match self {
            ApiError::UnknownPath | ApiError::Absent { .. } => StatusCode::NOT_FOUND,
            ApiError::BadPath | ApiError::BadRequest { .. } | ApiError::Body { .. } => StatusCode::BAD_REQUEST,
            ApiError::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::BadQuery | ApiError::Refused { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            ApiError::WorkFile { .. } | ApiError::Unexpected { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            ApiError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::NotLeader { .. } | ApiError::Conflict { .. } => StatusCode::CONFLICT,
            ApiError::NotInTime { .. } => StatusCode::GATEWAY_TIMEOUT,
            ApiError::NoCluster { .. } => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::Read(error) => match error {
                ReadError::NoLeader { .. } | ReadError::State { .. } => StatusCode::INTERNAL_SERVER_ERROR,
                ReadError::Behind { .. } | ReadError::Stopping | ReadError::Fenced { .. } => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
            },
            ApiError::Propose(error) => match error {
                ProposeError::NoLeader { .. } => StatusCode::INTERNAL_SERVER_ERROR,
                ProposeError::OutcomeUnknown { .. } => StatusCode::GATEWAY_TIMEOUT,
                ProposeError::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
                ProposeError::ReadOnly { .. } | ProposeError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
                ProposeError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            },
            ApiError::Transfer(error) => match error {
                TransferError::NoLeader => StatusCode::SERVICE_UNAVAILABLE,
                TransferError::NoSuchMember { .. } => StatusCode::NOT_FOUND,
                TransferError::Learner { .. } | TransferError::AlreadyLeads { .. } | TransferError::Alone => {
                    StatusCode::CONFLICT
                }
                TransferError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
            },
            ApiError::Membership(error) => match error {
                MembershipError::NoLeader { .. } => StatusCode::SERVICE_UNAVAILABLE,
                MembershipError::NoSuchMember { .. } => StatusCode::NOT_FOUND,
                MembershipError::Refused { .. } => StatusCode::CONFLICT,
                MembershipError::Unknown { .. } => StatusCode::GATEWAY_TIMEOUT,
                MembershipError::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            ApiError::Compare(error) => match error {
                CompareError::NoLeader => StatusCode::SERVICE_UNAVAILABLE,
                CompareError::Version { .. } => StatusCode::CONFLICT,
                CompareError::Propose(_) | CompareError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
            ApiError::Waiters { .. } | ApiError::TooOften { .. } => StatusCode::TOO_MANY_REQUESTS,
            ApiError::SlowBody { .. } => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// Seconds after which a retry may do better.
    fn retry_after(&self) -> Option<u32> {
        if let ApiError::Propose(ProposeError::Busy { retry_after_s, .. }) = self {
            return Some(*retry_after_s);
        }
        if let ApiError::TooOften { wait_s, .. } = self {
            return Some(*wait_s);
        }
        matches!(self, ApiError::Waiters { .. }).then_some(1)
    }

    /// The log's text: only what somebody must look at; a client's mistake or a missing leader is not.
    fn log(&self) {
        use ApiError::{Read, Unexpected, WorkFile};
        if !matches!(self, WorkFile { .. } | Unexpected { .. } | Read(ReadError::State { .. })) {
            return;
        }
        let mut text = self.to_string();
        if let Unexpected { what } = self {
            text = format!("{text}: {what}");
        }
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        tracing::error!(error = text, "request failed");
    }

    /// The answer; `json` for our own endpoints, plain text as Consul has it for the others.
    pub(super) fn respond(&self, json: bool) -> Response<Body> {
        self.log();
        let text = self.to_string();
        let (body, content_type) = if json {
            let body = serde_json::to_vec(&ErrorAnswer { error: text }).expect("a string is JSON");
            (body, Some(value::JSON))
        } else {
            let content_type = (!text.is_empty()).then_some(value::TEXT);
            (text.into_bytes(), content_type)
        };
        let mut response = headers::response(self.status(), Body::from(body));
        let headers = response.headers_mut();
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE, content_type);
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let ApiError::SlowBody { .. } = self {
            // What is left of the body is not waited for.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let ApiError::Method { allow, .. } = self {
            headers.insert(ALLOW, headers::text_value(allow));
        }
        if let ApiError::NotLeader { leader, url } = self {
            headers::leader(headers, leader, url);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_outcome_says_so_and_no_leader_has_consuls_text() {
        let unknown = ApiError::from(ProposeError::OutcomeUnknown { waited_ms: 5 });
        assert_eq!(unknown.status(), StatusCode::GATEWAY_TIMEOUT);
        assert!(unknown.to_string().contains("outcome unknown"));
        for error in [
            ApiError::from(ProposeError::NoLeader { waited_ms: 7000 }),
            ApiError::from(ReadError::NoLeader { waited_ms: 7000 }),
        ] {
            assert_eq!((error.status(), error.to_string()), (StatusCode::INTERNAL_SERVER_ERROR, NO_LEADER.to_owned()));
        }
    }

    #[test]
    fn a_busy_answer_says_when_to_retry() {
        let busy = ApiError::from(ProposeError::Busy { in_flight_bytes: 9, max_bytes: 8, retry_after_s: 3 });
        let response = busy.respond(false);
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[RETRY_AFTER], "3");
    }

    #[test]
    fn our_own_endpoints_answer_json_errors() {
        let response = ApiError::Transfer(TransferError::Alone).respond(true);
        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    }
}
