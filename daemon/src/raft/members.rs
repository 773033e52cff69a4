//! What members ask of each other besides consensus: carried here, meant for others to understand.

use super::forward::{Answer, Request};
use super::{Consensus, Peer};
use bytes::Bytes;
use std::time::Duration;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    pub node_id: u64,
    pub name: String,
    /// Its certificate carries this very node id: only then is the id more than a claim.
    pub vouched: bool,
}

/// Answers members' requests that consensus does not understand.
pub trait MemberService: Send + Sync {
    fn answer(&self, from: Asker, request: Bytes) -> impl Future<Output = Bytes> + Send;
}

/// A member that did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("ask {name}: {why}")]
    Call { name: String, why: String },
    #[error("{name} does not understand the request: {why}; it may be an older version")]
    Unreadable { name: String, why: String },
}

impl Consensus {
    /// Asks another member. Its answer is what its [`MemberService`] says.
    pub async fn ask_member(&self, peer: &Peer, request: &[u8], limit: Duration) -> Result<Bytes, AskError> {
        let name = || peer.info.name.clone();
        let request = Bytes::from(Request::Member { request }.encode());
        let answer = self.inner.pool.call(peer.id, &peer.info, request, limit).await;
        let answer = answer.map_err(|error| {
            // The cause is what helps; the error itself only says that a request was not sent.
            let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            AskError::Call { name: name(), why }
        })?;
        match Answer::decode(&answer) {
            Ok(Answer::Member(answer)) => Ok(answer),
            Ok(Answer::Unreadable(why)) => Err(AskError::Unreadable { name: name(), why }),
            Ok(other) => Err(AskError::Unreadable { name: name(), why: format!("it answered {other:?}") }),
            Err(error) => Err(AskError::Unreadable { name: name(), why: error.to_string() }),
        }
    }
}
