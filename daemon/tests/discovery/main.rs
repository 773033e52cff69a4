//! Contact points from real servers: dnsmasq, and moto for EC2.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::expect_used, reason = "tests")]

#[cfg(feature = "discovery-aws")]
mod aws;
mod dns;
#[allow(dead_code, reason = "shared with tests that use the rest of it")]
#[path = "../cluster/support/dnsmasq.rs"]
mod dnsmasq;
#[path = "../cluster/support/janitor.rs"]
mod janitor;
#[cfg(feature = "discovery-aws")]
mod moto;

use konsuld::clock::Clock;
use konsuld::cluster::discovery::{ContactPoint, Discovery, DiscoveryConfig};
use konsuld::metrics::Metrics;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing::instrument::WithSubscriber;
use tracing_subscriber::fmt::MakeWriter;

/// Longer than anything here takes, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A node that looks for contact points.
struct Seeker {
    discovery: Discovery,
    metrics: Metrics,
    log: Log,
}

/// What was logged, a line each.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

impl Log {
    fn count(&self, text: &str) -> usize {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().filter(|line| line.contains(text)).count()
    }
}

impl Seeker {
    fn new(config: &DiscoveryConfig) -> Seeker {
        let metrics = Metrics::new("n1", "c1");
        let discovery = Discovery::new(config, Clock::start(), metrics.discovery.clone());
        Seeker { discovery, metrics, log: Log::default() }
    }

    async fn round(&self) -> Vec<String> {
        let layers = tracing_subscriber::fmt().with_writer(self.log.clone()).with_ansi(false);
        let subscriber = layers.with_max_level(tracing::Level::DEBUG).finish();
        let found = self.discovery.round().with_subscriber(subscriber).await;
        assert_eq!(found, self.discovery.last());
        addresses(&found)
    }

    /// Goes on as a node does, until it sees what it looks for.
    async fn rounds_until(&self, what: &str, seen: impl Fn(&[String]) -> bool) -> Vec<String> {
        let began = Instant::now();
        loop {
            let found = self.round().await;
            if seen(&found) {
                return found;
            }
            assert!(began.elapsed() < LIMIT, "no {what}; last seen: {found:?}, {:?}", self.discovery.failing());
            tokio::time::sleep(self.discovery.next_pause()).await;
        }
    }

    /// The value of the series whose name and labels start like this.
    fn metric(&self, start: &str) -> u64 {
        let text = self.metrics.encode();
        let line = text.lines().find(|line| line.replace(r#"cluster="c1",node="n1","#, "").starts_with(start));
        line.unwrap_or_else(|| panic!("no {start} in {text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

fn addresses(points: &[ContactPoint]) -> Vec<String> {
    points.iter().map(|point| point.address.clone()).collect()
}
