//! Contact points: addresses at which a member of the cluster may listen.  Knows nothing about: who is a member.
//!
//! Several methods may be used at once: DNS SRV records, a fixed list of seeds, tags of EC2 instances. What they find
//! is where to ask, never whom to trust: identity comes from certificates and tokens. A method that fails delays and
//! is asked again after a growing, jittered pause; what it found before stays in use meanwhile. A change is logged
//! once, repeats are debug.

#[cfg(feature = "discovery-aws")]
mod aws;
mod dns_srv;
mod resolver;
mod static_list;
mod track;

pub use dns_srv::DnsConfig;

use crate::clock::Clock;
use crate::metrics::{DiscoveryMethodLabel, DiscoveryMetrics};
use futures_util::future::join_all;
use rand::Rng;
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use track::{Answer, Failure, News, Track};

/// Which methods are used, and how. A method that is not set is not used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiscoveryConfig {
    pub dns: Option<DnsConfig>,
    /// `host:port` each.
    pub seeds: Vec<String>,
    pub aws: Option<AwsConfig>,
    /// The DNS server to ask instead of those of the system.
    pub dns_server: Option<SocketAddr>,
}

/// Which EC2 instances are contact points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsConfig {
    /// `None`: that of the instance this node runs on.
    pub region: Option<String>,
    pub tag_key: String,
    /// `None`: whatever the tag says.
    pub tag_value: Option<String>,
    /// Instead of that of the region.
    pub endpoint: Option<String>,
    /// Where the nodes listen.
    pub port: u16,
    pub environment: AwsEnvironment,
}

/// What the environment says to every AWS tool. Empty values are as good as none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AwsEnvironment {
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    pub session_token: Option<String>,
    pub region: Option<String>,
    /// Instead of the metadata service of the instance.
    pub metadata_endpoint: Option<String>,
}

impl AwsEnvironment {
    /// Looks the variables up.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> AwsEnvironment {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        AwsEnvironment {
            access_key_id: set("AWS_ACCESS_KEY_ID"),
            secret_access_key: set("AWS_SECRET_ACCESS_KEY"),
            session_token: set("AWS_SESSION_TOKEN"),
            region: set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION")),
            metadata_endpoint: set("AWS_EC2_METADATA_SERVICE_ENDPOINT"),
        }
    }
}

// The configuration is printed now and then.
impl fmt::Debug for AwsEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsEnvironment").field("region", &self.region).finish_non_exhaustive()
    }
}

/// A way of finding contact points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    Dns,
    Static,
    Aws,
}

impl Method {
    /// As in the configuration, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Dns => "dns",
            Method::Static => "static",
            Method::Aws => "aws",
        }
    }
}

/// Where a member of the cluster may listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactPoint {
    /// `ip:port`.
    pub address: String,
    pub source: Method,
}

/// All methods that are used, and what they found.
#[derive(Debug)]
pub struct Discovery {
    sources: Vec<Source>,
    clock: Clock,
    metrics: DiscoveryMetrics,
    /// Rounds in a row that brought nothing new.
    still: Mutex<u32>,
}

#[derive(Debug)]
struct Source {
    way: Way,
    track: Mutex<Track>,
}

#[derive(Debug)]
enum Way {
    Dns {
        config: DnsConfig,
        server: Option<SocketAddr>,
    },
    Static {
        seeds: Vec<String>,
        server: Option<SocketAddr>,
    },
    #[cfg(feature = "discovery-aws")]
    Aws(aws::Aws),
}

/// One method takes no longer in a round: failing methods delay the others at most by this.
const ASK_MAX: Duration = Duration::from_secs(6);
/// The longest pause between rounds: a node that is just up is found after this long at the latest.
const PAUSE_MAX: Duration = Duration::from_secs(5);

impl DiscoveryConfig {
    /// Whether no method is used.
    pub fn is_off(&self) -> bool {
        *self == DiscoveryConfig { dns_server: self.dns_server, ..DiscoveryConfig::default() }
    }
}

impl Discovery {
    /// Asks nobody yet.
    pub fn new(config: &DiscoveryConfig, clock: Clock, metrics: DiscoveryMetrics) -> Discovery {
        let server = config.dns_server;
        let mut ways = Vec::new();
        ways.extend(config.dns.clone().map(|config| Way::Dns { config, server }));
        if !config.seeds.is_empty() {
            ways.push(Way::Static { seeds: config.seeds.clone(), server });
        }
        #[cfg(feature = "discovery-aws")]
        ways.extend(config.aws.clone().map(|config| Way::Aws(aws::Aws::new(config))));
        // Without the feature the configuration was refused; nothing is ignored here.
        #[cfg(not(feature = "discovery-aws"))]
        assert!(config.aws.is_none(), "built without discovery-aws");
        let sources = ways.into_iter().map(|way| Source { way, track: Mutex::new(Track::new()) }).collect();
        Discovery { sources, clock, metrics, still: Mutex::new(0) }
    }

    /// Asks the methods whose answers are no longer good; gives the contact points of all, those to try first in front,
    /// each address once. Never fails, and ends within seconds.
    pub async fn round(&self) -> Vec<ContactPoint> {
        self.metrics.rounds.inc();
        let before = self.last();
        let now = self.clock.now();
        join_all(self.sources.iter().filter(|source| source.track().is_due(now)).map(|source| self.ask(source))).await;
        let found = self.last();
        let addresses = |points: &[ContactPoint]| -> BTreeSet<String> {
            points.iter().map(|point| point.address.clone()).collect()
        };
        let mut still = lock(&self.still);
        *still = if addresses(&before) == addresses(&found) { still.saturating_add(1) } else { 0 };
        found
    }

    /// How long to wait before the next round if no contact point helped: longer while nothing new is found, and never
    /// the same on two nodes.
    pub fn next_pause(&self) -> Duration {
        track::backoff(*lock(&self.still), PAUSE_MAX, chance())
    }

    /// What the last rounds found; asks nobody.
    pub fn last(&self) -> Vec<ContactPoint> {
        let mut seen = BTreeSet::new();
        let points = self.sources.iter().flat_map(|source| {
            let points = source.track().points().to_vec();
            points.into_iter().map(|address| ContactPoint { address, source: source.way.method() })
        });
        points.filter(|point| seen.insert(point.address.clone())).collect()
    }

    /// The methods that failed when they were last asked, and why.
    pub fn failing(&self) -> Vec<(Method, String)> {
        let failure = |source: &Source| {
            let why = source.track().failure()?.to_owned();
            Some((source.way.method(), why))
        };
        self.sources.iter().filter_map(failure).collect()
    }

    async fn ask(&self, source: &Source) {
        let method = source.way.method();
        let outcome = match tokio::time::timeout(ASK_MAX, source.way.ask()).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                let what = format!("no answer within {} s", ASK_MAX.as_secs());
                Err(Failure { why: what.clone(), what })
            }
        };
        let label = DiscoveryMethodLabel { method: method.name() };
        let now = self.clock.now();
        let mut track = source.track();
        match outcome {
            Ok(answer) => {
                let (news, wrong) = track.answered(answer, now, chance());
                tell_answer(method, news, &wrong, track.points());
            }
            Err(failure) => {
                self.metrics.failures.get_or_create(&label).inc();
                let why = failure.why.clone();
                tell_failure(method, track.failed(failure, now, chance()), &why, track.points().len());
            }
        }
        let points = u64::try_from(track.points().len()).unwrap_or(u64::MAX);
        self.metrics.contact_points.get_or_create(&label).set(points);
    }
}

impl Source {
    fn track(&self) -> MutexGuard<'_, Track> {
        lock(&self.track)
    }
}

impl Way {
    fn method(&self) -> Method {
        match self {
            Way::Dns { .. } => Method::Dns,
            Way::Static { .. } => Method::Static,
            #[cfg(feature = "discovery-aws")]
            Way::Aws(_) => Method::Aws,
        }
    }

    async fn ask(&self) -> Result<Answer, Failure> {
        match self {
            Way::Dns { config, server } => {
                let resolver = resolver::resolver(*server).map_err(|e| failure(&e))?;
                dns_srv::ask(config, &resolver).await.map_err(|e| failure(&e))
            }
            Way::Static { seeds, server } => {
                let resolver = resolver::resolver(*server).map_err(|e| failure(&e))?;
                static_list::ask(seeds, &resolver).await.map_err(|e| failure(&e))
            }
            #[cfg(feature = "discovery-aws")]
            Way::Aws(aws) => aws.ask().await.map_err(|e| failure(&e)),
        }
    }
}

fn failure(error: &dyn Error) -> Failure {
    let what = error.to_string();
    let mut why = what.clone();
    let mut next = error.source();
    while let Some(cause) = next {
        why.push_str(": ");
        why.push_str(&cause.to_string());
        next = cause.source();
    }
    Failure { what, why }
}

fn tell_answer(method: Method, news: News, new_wrong: &[String], points: &[String]) {
    let method = method.name();
    for record in new_wrong {
        tracing::warn!(method, %record, "wrong record skipped");
    }
    match news {
        News::Points => tracing::info!(method, contact_points = points.join(" "), "contact points found"),
        News::Empty => tracing::warn!(method, "no contact points: asking again until there are some"),
        News::Nothing => tracing::debug!(method, contact_points = points.join(" "), "the same contact points"),
        News::Failing => unreachable!("an answer is no failure"),
    }
}

fn tell_failure(method: Method, news: News, error: &str, kept: usize) {
    let method = method.name();
    match news {
        News::Failing => tracing::warn!(method, error, kept, "discovery failed: asking again until it works"),
        News::Nothing => tracing::debug!(method, error, kept, "discovery failed again"),
        News::Points | News::Empty => unreachable!("a failure is no answer"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds the lock")
}

/// From 0 to 1.
fn chance() -> f64 {
    rand::rng().random()
}
