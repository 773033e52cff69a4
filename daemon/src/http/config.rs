//! What can be configured of the HTTP API, and what it needs from the rest of the node.

use crate::clock::Clock;
use crate::clock::rate::{Rate, RateConfig};
use crate::cluster::audit::Audit;
use crate::cluster::identity::Papers;
use crate::cluster::lobby::Lobby;
use crate::metrics::Metrics;
use crate::raft::{Consensus, Consistency};
use arc_swap::{ArcSwap, Guard};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Section `http` of the configuration. Defaults and bounds are in the configuration's table of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Addresses to listen on; never empty.
    pub listen: Vec<SocketAddr>,
    /// The socket for the administrators of this host; `None`: where there is a place for it.
    pub admin_socket: Option<PathBuf>,
    /// URL of this node for clients of others.
    pub advertise: String,
    /// Name of the datacenter: what clients may name as `?dc=`.
    pub datacenter: String,
    /// What happens to a write on a node that does not lead.
    pub non_leader_writes: NonLeaderWrites,
    /// Consistency of a read that does not ask for one.
    pub default_consistency: DefaultConsistency,
    /// How long requests in flight may take to end when the node stops.
    pub shutdown_grace: Duration,
    /// Refuse paths with characters that do not print, as Consul does.
    pub strict_paths: bool,
    /// What may change while the node runs.
    pub limits: HttpLimits,
}

/// How much clients may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLimits {
    /// Largest value of a key.
    pub value_bytes_max: u64,
    /// Largest body of a transaction.
    pub txn_bytes_max: u64,
    /// Most operations in a transaction.
    pub txn_ops_max: usize,
    /// Largest body of a batch.
    pub batch_bytes_max: u64,
    /// Most operations in a batch.
    pub batch_ops_max: usize,
    /// Largest snapshot archive that may be restored.
    pub restore_bytes_max: u64,
    /// Most blocking queries that wait at a time; one more is answered 429.
    pub watches_max: usize,
    /// Most open connections; one more is closed at once.
    pub connections_max: usize,
    /// Most open connections of one client address; 0 = no limit.
    pub connections_per_client_max: usize,
    /// How often one client address may ask.
    pub rate: RateConfig,
    /// How long the head of a request may take from its first byte.
    pub header_timeout: Duration,
    /// How long a body, or the reading of an answer, may take, and a second more for each KiB.
    pub transfer_timeout: Duration,
}

#[cfg(test)]
impl HttpLimits {
    /// Nothing is too much.
    pub(super) fn none() -> HttpLimits {
        HttpLimits {
            value_bytes_max: u64::MAX,
            txn_bytes_max: u64::MAX,
            txn_ops_max: usize::MAX,
            batch_bytes_max: u64::MAX,
            batch_ops_max: usize::MAX,
            restore_bytes_max: u64::MAX,
            watches_max: usize::MAX,
            connections_max: usize::MAX,
            connections_per_client_max: 0,
            rate: RateConfig {
                times: 0,
                per: Duration::from_secs(1),
                burst: std::num::NonZeroU32::MIN,
                exempt: Vec::new(),
            },
            header_timeout: Duration::MAX,
            transfer_timeout: Duration::MAX,
        }
    }
}

/// The limits in force. Cheap to clone; all clones see a change.
#[derive(Debug, Clone)]
pub struct LiveLimits(Arc<Live>);

#[derive(Debug)]
struct Live {
    limits: ArcSwap<HttpLimits>,
    rate: ArcSwap<Rate>,
}

impl LiveLimits {
    pub fn new(limits: HttpLimits) -> LiveLimits {
        let rate = ArcSwap::from_pointee(Rate::new(limits.rate.clone()));
        LiveLimits(Arc::new(Live { limits: ArcSwap::from_pointee(limits), rate }))
    }

    /// What holds from now on; requests that began keep what they began with.
    pub fn set(&self, limits: HttpLimits) {
        // Who has used up their part of the same limit has still used it up.
        if *self.0.rate.load().config() != limits.rate {
            self.0.rate.store(Arc::new(Rate::new(limits.rate.clone())));
        }
        self.0.limits.store(Arc::new(limits));
    }

    /// For a look, not to be held.
    pub(super) fn now(&self) -> Guard<Arc<HttpLimits>> {
        self.0.limits.load()
    }

    /// For a whole request.
    pub(super) fn hold(&self) -> Arc<HttpLimits> {
        self.0.limits.load_full()
    }

    /// Whether this client may ask once more; if not, how long it should wait.
    pub(super) fn ask(&self, client: IpAddr) -> Result<(), Duration> {
        self.0.rate.load().ask(client)
    }
}

/// What a node does with a write when another one leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonLeaderWrites {
    /// Passes it to the leader, unseen by the client.
    Forward,
    /// Sends the client there: 307.
    Redirect,
    /// Refuses it: 409.
    Reject,
}

/// Consistency of reads that do not ask for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultConsistency {
    /// What the answering node has.
    Stale,
    /// What the leader has.
    Leader,
    /// What a quorum confirms.
    Strong,
}

impl HttpConfig {
    pub(super) fn consistency(&self) -> Consistency {
        match self.default_consistency {
            DefaultConsistency::Stale => Consistency::Stale,
            DefaultConsistency::Leader => Consistency::Leader,
            DefaultConsistency::Strong => Consistency::Strong,
        }
    }
}

/// A socket this node listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// What it is for.
    pub name: &'static str,
    /// `host:port`, or a path.
    pub address: String,
    /// The service manager holds it open while the node restarts.
    pub is_passed: bool,
}

/// What the API needs before the node is in a cluster.
#[derive(Clone)]
pub struct Reception {
    /// Where requests are counted.
    pub metrics: Metrics,
    /// Section `http` of the configuration, as it was at the start.
    pub config: HttpConfig,
    /// What of it may change.
    pub limits: LiveLimits,
    /// Name of this node.
    pub node_name: String,
    /// Where somebody may say `init` or `join`.
    pub lobby: Lobby,
    /// How long a request waits that only a member can answer, on a node that is about to be one again; `None`: it is in
    /// no cluster.
    pub hold: Option<Duration>,
    /// Where this node listens.
    pub listening: Arc<[Listening]>,
}

/// What the API needs from the node.
#[derive(Clone)]
pub struct Deps {
    /// The replicated state.
    pub consensus: Consensus,
    /// Where events are reported.
    pub audit: Audit,
    /// For what people read.
    pub clock: Clock,
    /// Who this node is.
    pub papers: Papers,
    /// Where requests are counted.
    pub metrics: Metrics,
    /// Section `http` of the configuration, as it was at the start.
    pub config: HttpConfig,
    /// What of it may change.
    pub limits: LiveLimits,
    /// Name of this node.
    pub node_name: String,
    /// UUID of this node, as text.
    pub node_uuid: String,
    /// A directory for files that live as long as a request.
    pub work_dir: PathBuf,
    /// Where this node listens.
    pub listening: Arc<[Listening]>,
}
