//! The body of a request, read up to a limit.

use super::error::ApiError;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

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

    /// Refuses by the announced length, before anything is read.
    pub(super) fn check(&self, body: &Incoming) -> Result<(), ApiError> {
        match body.size_hint().exact() {
            Some(bytes) if bytes > self.bytes_max => Err(self.refusal(bytes)),
            Some(_) | None => Ok(()),
        }
    }
}

/// The whole body; one that came in one piece is not copied. A chunked one is counted while it comes.
pub(super) async fn read(mut body: Incoming, limit: Limit) -> Result<Bytes, ApiError> {
    limit.check(&body)?;
    let announced = body.size_hint().exact().unwrap_or(0);
    let Some(first) = next(&mut body).await? else {
        return Ok(Bytes::new());
    };
    let mut bytes = length(&first);
    if bytes > limit.bytes_max {
        return Err(limit.refusal(bytes));
    }
    if body.is_end_stream() {
        return Ok(first);
    }
    let mut whole = Vec::with_capacity(usize::try_from(announced).unwrap_or(0).max(first.len()));
    whole.extend_from_slice(&first);
    while let Some(chunk) = next(&mut body).await? {
        bytes += length(&chunk);
        if bytes > limit.bytes_max {
            return Err(limit.refusal(bytes));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(Bytes::from(whole))
}

/// The next piece of data; trailers are passed over.
pub(super) async fn next(body: &mut Incoming) -> Result<Option<Bytes>, ApiError> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|source| ApiError::Body { source })?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).expect("usize is at most 64 bits")
}
