//! Whether a cluster is in reach that a node should join instead of founding a second one beside it.

use super::discovery::ContactPoint;
use crate::peer;
use crate::telemetry::chain;
use futures_util::future::join_all;
use std::fmt;
use std::time::Duration;

/// A contact point that does not answer within this time is taken for absent.
const ASK: Duration = Duration::from_secs(3);

/// A member of some cluster, by the certificate that it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    name: String,
    address: String,
    source: &'static str,
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Neighbour { name, address, source } = self;
        write!(
            f,
            "{name}, a member of a cluster, answers at {address}, found by discovery.methods {source:?}: join that one \
             with `konsulctl cluster join`; if a second cluster is meant, take that address out of `discovery` first"
        )
    }
}

/// A member that answers at one of these contact points. A newcomer shows a certificate that names nobody.
pub async fn neighbour(points: &[ContactPoint]) -> Option<Neighbour> {
    let asked = points.iter().map(|point| async move {
        match peer::who(&point.address, ASK).await {
            Ok(shown) => shown.map(|certified| Neighbour {
                name: certified.name,
                address: point.address.clone(),
                source: point.source.name(),
            }),
            Err(error) => {
                tracing::debug!(via = %point.address, error = chain(&error), "no member there");
                None
            }
        }
    });
    join_all(asked).await.into_iter().flatten().next()
}
