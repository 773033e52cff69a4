//! Join first, form second: one command line serves the first start, a restart and growth.
//!
//! A node without data asks its peers. One of them in a cluster: it joins that. None: the one that may form does so,
//! but only when a majority of the configured peers answered that they are in no cluster either and left the forming
//! to it. So a wiped node that cannot reach its cluster never forms a second one: any majority of the peers contains
//! a node that knows the first.

use super::join::{JoinAnswer, JoinRequest, Promise};
use crate::peer::Pool;
use crate::raft::Understands;
use crate::storage::Identity;
use bytes::Bytes;
use rand::Rng;
use std::time::Duration;

/// Whether this node may form a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Former {
    /// It is the only configured node.
    Alone,
    /// It is the one among its peers that forms.
    Yes,
    /// It only joins.
    No,
}

/// A node without data, and whom it may ask.
#[derive(Debug, Clone)]
pub struct Seat {
    pub name: String,
    pub wished: u64,
    pub rpc: String,
    pub http: String,
    /// Addresses of the other configured nodes.
    pub others: Vec<String>,
    pub former: Former,
}

/// One question takes at most this long; the leader writes a log entry and a membership change for it.
const ASK: Duration = Duration::from_secs(15);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A redirection to the leader is followed this often in a row.
const HOPS_MAX: usize = 3;

/// Who this node is to be: a member of a cluster that admitted it, or the first of a new one. Tries until it knows, or
/// the future is dropped.
pub async fn begin(seat: &Seat, pool: &Pool, promise: &Promise) -> Identity {
    if seat.former == Former::Alone {
        return form(seat);
    }
    let mut pause = PAUSE_MIN;
    let mut told = None;
    loop {
        let mut promised = 0;
        let mut reached = 0;
        for address in &seat.others {
            match ask(seat, pool, address).await {
                Some(JoinAnswer::Granted { cluster_id, epoch, node_id }) => {
                    tracing::info!(node = node_id, via = %address, "joined the cluster");
                    return Identity { cluster_id, node_id, name: seat.name.clone(), former: false, epoch };
                }
                Some(JoinAnswer::NotMember { promised: given }) => {
                    reached += 1;
                    promised += usize::from(given);
                }
                Some(JoinAnswer::NotLeader { .. }) => reached += 1,
                Some(JoinAnswer::Refused { why }) => {
                    reached += 1;
                    tracing::warn!(via = %address, %why, "not admitted");
                }
                None => {}
            }
        }
        let agreed = promised + 1 >= needed(seat.others.len() + 1);
        if seat.former == Former::Yes && agreed && promise.give(&seat.name) {
            return form(seat);
        }
        if told != Some(reached) {
            let (of, former) = (seat.others.len(), seat.former == Former::Yes);
            tracing::info!(reached, of, former, "no cluster yet: waiting for a majority of the peers");
            told = Some(reached);
        }
        let jitter = rand::rng().random_range(0.75..1.25);
        tokio::time::sleep(pause.mul_f64(jitter)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// How many nodes of a configuration of this size are a majority.
fn needed(nodes: usize) -> usize {
    nodes / 2 + 1
}

fn form(seat: &Seat) -> Identity {
    let cluster_id = uuid::Uuid::new_v4().into_bytes();
    let node_id = if seat.wished == 0 { 1 } else { seat.wished };
    tracing::info!(node = node_id, cluster = %uuid::Uuid::from_bytes(cluster_id), "forming a new cluster");
    Identity { cluster_id, node_id, name: seat.name.clone(), former: true, epoch: 0 }
}

/// Asks one peer, and the leader it names.
async fn ask(seat: &Seat, pool: &Pool, address: &str) -> Option<JoinAnswer> {
    let request = JoinRequest {
        name: seat.name.clone(),
        wished: seat.wished,
        rpc: seat.rpc.clone(),
        http: seat.http.clone(),
        former: seat.former == Former::Yes,
        understands: Understands::OWN,
    };
    let request = Bytes::from(request.encode());
    let mut address = address.to_owned();
    let mut last = None;
    for _ in 0..HOPS_MAX {
        let answer = match pool.join(&address, request.clone(), ASK).await {
            Ok((_, answer)) => answer,
            Err(error) => {
                tracing::debug!(via = %address, %error, "peer not reached");
                return last;
            }
        };
        match JoinAnswer::decode(&answer) {
            Ok(JoinAnswer::NotLeader { rpc: Some(rpc) }) if rpc != address => {
                last = Some(JoinAnswer::NotLeader { rpc: Some(rpc.clone()) });
                address = rpc;
            }
            Ok(answer) => return Some(answer),
            Err(error) => return Some(JoinAnswer::Refused { why: error.to_string() }),
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_counts_the_node_itself() {
        assert_eq!([1, 2, 3, 4, 5].map(needed), [1, 2, 2, 3, 3]);
    }
}
