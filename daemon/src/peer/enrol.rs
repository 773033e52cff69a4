//! The question of somebody without a certificate: one connection, one request, one answer.
//!
//! The request is made after TLS stands, because what it proves is bound to this very connection (its exporter): the
//! same bytes are worth nothing on another one. What request and answer say is for others to know.

use super::frame::{self, FrameError};
use super::handshake::{ConnectError, connect};
use super::protocol::{HANDSHAKE_TIMEOUT, Kind};
use super::stream::connect_to_join;
use crate::tls::{Certified, JoinTrust};
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Longest request: a certificate signing request and a few names.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// The frame around it: a kind and an id more.
pub(super) const REQUEST_FRAME_BYTES_MAX: usize = REQUEST_BYTES_MAX + 11;
/// Longest answer: a few certificates and addresses.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A question that got no answer.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Nothing was asked.
    #[error("not connected")]
    Connect(#[source] ConnectError),
    /// Nothing was asked: there is nobody who may be trusted with the question.
    #[error("{address} did not show what the token asks for; is it of this cluster, and is the token up to date?")]
    Tls {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the request of {bytes} bytes is longer than the {REQUEST_BYTES_MAX} allowed")]
    TooLong { bytes: usize },
    #[error("send the request to {address}")]
    Send {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("receive the answer of {address}")]
    Receive {
        address: SocketAddr,
        #[source]
        source: FrameError,
    },
    #[error("{address} answered with a {found}")]
    Unexpected { address: SocketAddr, found: String },
    #[error("{address} did not answer within {waited_ms} ms")]
    TimedOut { address: SocketAddr, waited_ms: u128 },
}

/// An answer, and what it was said over.
#[derive(Debug, Clone)]
pub struct Enrolled {
    pub answer: Bytes,
    /// The exporter of the connection: proofs in the answer are over it.
    pub exporter: [u8; 32],
    /// Whose certificate the server showed: verified if an authority was pinned, a mere claim otherwise.
    pub server: Option<Certified>,
    pub address: SocketAddr,
}

/// Whose certificate is shown at `address` (`host:port`) to somebody who has none; `None`: one that names no node. It is a
/// claim that nobody verified.
pub async fn who(address: &str, limit: Duration) -> Result<Option<Certified>, EnrolError> {
    let start = Instant::now();
    let (stream, address) = connect(address, SILENCE_MAX).await.map_err(EnrolError::Connect)?;
    let secured = timeout_at(start + limit, connect_to_join(address, stream, &JoinTrust::Proven)).await;
    let secured = secured.map_err(|_| EnrolError::TimedOut { address, waited_ms: start.elapsed().as_millis() })?;
    let (mut wire, _exporter) = secured.map_err(|source| EnrolError::Tls { address, source })?;
    let shown = wire.certified.take();
    wire.close().await.map_err(|source| EnrolError::Send { address, source })?;
    Ok(shown)
}

/// Asks whoever answers at `address` (`host:port`); `request` is given the connection's exporter.
pub async fn enrol(
    address: &str,
    trust: &JoinTrust,
    request: impl FnOnce(&[u8; 32]) -> Vec<u8>,
    limit: Duration,
) -> Result<Enrolled, EnrolError> {
    let start = Instant::now();
    let (stream, address) = connect(address, SILENCE_MAX).await.map_err(EnrolError::Connect)?;
    let timed_out = |_| EnrolError::TimedOut { address, waited_ms: start.elapsed().as_millis() };
    let secured = timeout(HANDSHAKE_TIMEOUT, connect_to_join(address, stream, trust)).await.map_err(timed_out)?;
    let (mut wire, exporter) = secured.map_err(|source| EnrolError::Tls { address, source })?;
    let request = request(&exporter);
    if request.len() > REQUEST_BYTES_MAX {
        return Err(EnrolError::TooLong { bytes: request.len() });
    }
    let mut out = Vec::new();
    frame::put(&mut out, Kind::Enrol, 1, |out| out.extend_from_slice(&request)).expect("far shorter than a frame");
    wire.allow_frames_of(ANSWER_BYTES_MAX);
    let deadline = start + limit;
    let sent = timeout_at(deadline, wire.send(&out)).await.map_err(timed_out)?;
    sent.map_err(|source| EnrolError::Send { address, source })?;
    let answer = timeout_at(deadline, wire.next()).await.map_err(timed_out)?;
    let answer = answer.map_err(|source| EnrolError::Receive { address, source })?;
    match answer.kind {
        Kind::Answer => Ok(Enrolled { answer: answer.payload, exporter, server: wire.certified, address }),
        other => Err(EnrolError::Unexpected { address, found: format!("{other:?}") }),
    }
}
