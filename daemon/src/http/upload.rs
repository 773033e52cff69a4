//! The body of a request, read up to a limit.

use super::error::ApiError;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use std::time::Duration;
use tokio::time::Instant;

/// A limit on a request body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) bytes_max: u64,
    /// What the refusal says after the sizes.
    pub(super) advice: &'static str,
}

impl Limit {
    pub(super) fn refusal(&self, bytes: u64) -> ApiError {
        ApiError::TooLarge {
            text: format!("Request body({bytes} bytes) too large, max size: {} bytes. {}", self.bytes_max, self.advice),
        }
    }
}

/// The body of a request, and how long it may take: a time, and a second more for each KiB, so that nobody holds a place
/// by sending a byte now and then.
#[derive(Debug)]
pub(super) struct Upload {
    /// `None`: the request has none.
    body: Option<Incoming>,
    allowed: Duration,
    began: Instant,
    bytes: u64,
}

impl Upload {
    /// From now on.
    pub(super) fn new(body: Incoming, allowed: Duration) -> Upload {
        Upload { body: Some(body), allowed, began: Instant::now(), bytes: 0 }
    }

    /// Of a request without a body.
    pub(super) fn none() -> Upload {
        Upload { body: None, allowed: Duration::ZERO, began: Instant::now(), bytes: 0 }
    }

    /// Its length, if that was announced.
    fn announced(&self) -> Option<u64> {
        self.body.as_ref().map_or(Some(0), |body| body.size_hint().exact())
    }

    fn is_over(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    /// Refuses by the announced length, before anything is read.
    pub(super) fn check(&self, limit: Limit) -> Result<(), ApiError> {
        match self.announced() {
            Some(bytes) if bytes > limit.bytes_max => Err(limit.refusal(bytes)),
            Some(_) | None => Ok(()),
        }
    }

    /// The next piece of data; trailers are passed over.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let until = self.began + self.allowed + Duration::from_secs(self.bytes >> 10);
            let Some(body) = &mut self.body else { return Ok(None) };
            // What is there already costs no timer.
            let Ok(frame) = tokio::time::timeout_at(until, body.frame()).await else {
                return Err(ApiError::SlowBody { bytes: self.bytes, waited_s: self.began.elapsed().as_secs() });
            };
            let Some(frame) = frame else { return Ok(None) };
            if let Ok(data) = frame.map_err(|source| ApiError::Body { source })?.into_data() {
                self.bytes += length(&data);
                return Ok(Some(data));
            }
        }
    }
}

/// The whole body; one that came in one piece is not copied. A chunked one is counted while it comes.
pub(super) async fn read(mut body: Upload, limit: Limit) -> Result<Bytes, ApiError> {
    body.check(limit)?;
    let announced = body.announced().unwrap_or(0);
    let Some(first) = body.next().await? else {
        return Ok(Bytes::new());
    };
    let mut bytes = length(&first);
    if bytes > limit.bytes_max {
        return Err(limit.refusal(bytes));
    }
    if body.is_over() {
        return Ok(first);
    }
    let mut whole = Vec::with_capacity(usize::try_from(announced).unwrap_or(0).max(first.len()));
    whole.extend_from_slice(&first);
    while let Some(chunk) = body.next().await? {
        bytes += length(&chunk);
        if bytes > limit.bytes_max {
            return Err(limit.refusal(bytes));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(Bytes::from(whole))
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).expect("usize is at most 64 bits")
}
