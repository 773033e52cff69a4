//! Writers that remember what they were told.

use super::http::{Failed, Http, Reply};
use super::node::Node;
use super::wait::{so, wait_until};
use konsul_api::kv::KvEntry;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a writer knows of its write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is committed.
    Acknowledged,
    /// It was surely not done.
    Refused,
    /// It may be done, now or later.
    Unknown,
}

/// One write: the value is the key.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) key: String,
    pub(crate) outcome: Outcome,
    pub(crate) sent: Instant,
    /// When the answer came.
    pub(crate) at: Instant,
    pub(crate) answer: String,
}

/// Writers that put unique keys through all nodes until they are told to stop.
pub(crate) struct Storm {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    /// Writes that ended in any other way.
    failed: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Vec<Written>>>,
}

/// Shorter than the nodes hold a request without a leader, so that a writer soon tries another node.
const PATIENCE: Duration = Duration::from_secs(4);

/// What an answer means for the one who wrote.
pub(crate) fn outcome(result: &Result<Reply, Failed>) -> Outcome {
    match result {
        Ok(reply) if reply.is_true() => Outcome::Acknowledged,
        Ok(reply) if reply.status == 429 || reply.status == 503 => Outcome::Refused,
        Ok(reply) if reply.status == 500 && reply.text() == "No cluster leader" => Outcome::Refused,
        Ok(_) | Err(Failed::Unanswered(_) | Failed::Broken(_)) => Outcome::Unknown,
        Err(Failed::NotSent(_)) => Outcome::Refused,
    }
}

impl Storm {
    /// Keys begin with `prefix`. A writer that gets no answer goes on at the next node.
    pub(crate) fn start(nodes: &[SocketAddr], writers: usize, prefix: &str) -> Storm {
        let (stop, acknowledged, failed) = (Arc::default(), Arc::default(), Arc::default());
        let writers = (0..writers).map(|writer| {
            let nodes = nodes.to_vec();
            let (stop, acknowledged, failed) = (Arc::clone(&stop), Arc::clone(&acknowledged), Arc::clone(&failed));
            let prefix = format!("{prefix}/{writer}");
            std::thread::spawn(move || write(&nodes, writer, &prefix, &stop, [&acknowledged, &failed]))
        });
        let writers = writers.collect();
        Storm { stop, acknowledged, failed, writers }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until this many more writes are acknowledged.
    pub(crate) fn wait_progress(&self, more: u64) {
        let before = self.acknowledged();
        wait_until(&format!("{more} more acknowledged writes"), || {
            let now = self.acknowledged();
            so(now >= before + more, format!("{} more", now - before))
        });
    }

    /// Waits until this many more writes were not acknowledged.
    pub(crate) fn wait_failures(&self, more: u64) {
        let before = self.failed.load(Ordering::Relaxed);
        wait_until(&format!("{more} more writes that fail"), || {
            let now = self.failed.load(Ordering::Relaxed);
            so(now >= before + more, format!("{} more", now - before))
        });
    }

    pub(crate) fn finish(self) -> Vec<Written> {
        self.stop.store(true, Ordering::Relaxed);
        let writers = self.writers.into_iter();
        writers.flat_map(|writer| writer.join().expect("a writer does not panic")).collect()
    }
}

fn write(
    nodes: &[SocketAddr],
    first: usize,
    prefix: &str,
    stop: &AtomicBool,
    [acknowledged, failed]: [&AtomicU64; 2],
) -> Vec<Written> {
    let mut clients: Vec<Http> = nodes.iter().map(|node| Http::with_timeout(*node, PATIENCE)).collect();
    let mut written = Vec::new();
    let mut at = first % nodes.len();
    for number in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{prefix}/{number:06}");
        let sent = Instant::now();
        let result = clients[at].put(&key, "", key.as_bytes());
        let outcome = outcome(&result);
        let answer = result.map_or_else(|e| e.to_string(), |reply| reply.to_string());
        written.push(Written { key, outcome, sent, at: Instant::now(), answer });
        if outcome == Outcome::Acknowledged {
            acknowledged.fetch_add(1, Ordering::Relaxed);
        } else {
            failed.fetch_add(1, Ordering::Relaxed);
            at = (at + 1) % nodes.len();
            // A node that is down refuses at once: no need to ask a thousand times a second.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    written
}

/// The longest time within `from..to` in which nothing was acknowledged.
pub(crate) fn longest_gap(written: &[Written], from: Instant, to: Instant) -> Duration {
    let inside = |w: &&Written| w.outcome == Outcome::Acknowledged && w.at >= from && w.at <= to;
    let mut times: Vec<Instant> = written.iter().filter(inside).map(|w| w.at).collect();
    times.extend([from, to]);
    times.sort();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// All keys below `prefix`, as this node tells them with `?consistent`.
pub(crate) fn read_all(node: &Node, prefix: &str) -> HashMap<String, Vec<u8>> {
    let reply = wait_until(&format!("{} answers a consistent read", node.name), || {
        let reply = node.client().get(&format!("/v1/kv/{prefix}?recurse&consistent")).map_err(|e| e.to_string())?;
        so(reply.status == 200 || reply.status == 404, reply.to_string())?;
        Ok(reply)
    });
    if reply.status == 404 {
        return HashMap::new();
    }
    let entries: Vec<KvEntry> = reply.json();
    entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

/// Writes were acknowledged in the order of the log: one that was sent after another had been acknowledged stands behind
/// it, whoever took the two. That would not be so if two nodes acknowledged at the same time.
pub(crate) fn check_order(node: &Node, prefix: &str, written: &[Written]) {
    let reply = node.client().get(&format!("/v1/kv/{prefix}?recurse&consistent")).unwrap();
    let entries: Vec<KvEntry> = reply.json();
    let index: HashMap<&str, u64> = entries.iter().map(|entry| (entry.key.as_str(), entry.modify_index)).collect();
    let mut acknowledged: Vec<&Written> = written.iter().filter(|w| w.outcome == Outcome::Acknowledged).collect();
    let mut begun = acknowledged.clone();
    acknowledged.sort_by_key(|w| w.at);
    begun.sort_by_key(|w| w.sent);
    let (mut before, mut last) = (acknowledged.into_iter().peekable(), None::<(u64, &Written)>);
    for write in begun {
        while let Some(earlier) = before.next_if(|earlier| earlier.at < write.sent) {
            let index = index[earlier.key.as_str()];
            if last.is_none_or(|(highest, _)| highest < index) {
                last = Some((index, earlier));
            }
        }
        if let Some((highest, earlier)) = last {
            let own = index[write.key.as_str()];
            assert!(own > highest, "{write:?} has index {own}, {earlier:?} was acknowledged before with {highest}");
        }
    }
}

/// Every node holds every acknowledged write and none that was refused.
pub(crate) fn check_writes(nodes: &[&Node], prefix: &str, written: &[Written]) {
    let count = |outcome| written.iter().filter(|w| w.outcome == outcome).count();
    let (acknowledged, unknown) = (count(Outcome::Acknowledged), count(Outcome::Unknown));
    println!("{acknowledged} writes acknowledged, {unknown} unknown, {} refused", count(Outcome::Refused));
    assert!(acknowledged > 0, "nothing was written");
    for node in nodes {
        let found = read_all(node, prefix);
        let lost: Vec<&Written> = written
            .iter()
            .filter(|w| w.outcome == Outcome::Acknowledged && found.get(&w.key).is_none_or(|v| v != w.key.as_bytes()))
            .collect();
        assert!(lost.is_empty(), "{} lost {} acknowledged writes, such as {:?}", node.name, lost.len(), lost[0]);
        let undead: Vec<&Written> =
            written.iter().filter(|w| w.outcome == Outcome::Refused && found.contains_key(&w.key)).collect();
        assert!(undead.is_empty(), "{} holds {} refused writes, such as {:?}", node.name, undead.len(), undead[0]);
    }
}
