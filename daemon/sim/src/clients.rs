//! What clients do meanwhile: each writes keys of its own, in rising numbers, and reads those of all.

use crate::cluster::{Cluster, LEASE, Running};
use crate::event::Event;
use crate::machine::Raft;
use crate::mutant::Mutant;
use crate::types::sleep;
use bytes::Bytes;
use konsul_state::{Command, KvWrite};
use konsuld::raft_types::Proposal;
use openraft::{LinearizerOption, ReadPolicy};
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Between two requests of one client.
const PAUSE_US: std::ops::Range<u64> = 500..20_000;
/// After this the outcome of a write is unknown.
const WRITE_LIMIT: Duration = Duration::from_secs(2);

/// What all clients share.
#[derive(Clone)]
pub(crate) struct Clients {
    cluster: Cluster,
    /// Which key each writes at the moment: a key whose last write has an unknown outcome is left as it is.
    current: Arc<Mutex<Vec<u64>>>,
    reads: Arc<AtomicU64>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) left: Arc<AtomicU64>,
    /// Whether a leader may answer by its lease. With transfers of leadership it may not, in konsuld neither.
    by_lease: bool,
}

fn key(client: usize, number: u64) -> String {
    format!("c{client}/{number}")
}

impl Clients {
    pub(crate) fn new(cluster: Cluster, count: usize, by_lease: bool) -> Clients {
        Clients {
            cluster,
            current: Arc::new(Mutex::new(vec![0; count])),
            reads: Arc::default(),
            stop: Arc::default(),
            left: Arc::new(AtomicU64::new(0)),
            by_lease,
        }
    }

    fn current(&self) -> Vec<u64> {
        self.current.lock().expect("nothing panics while it holds the lock").clone()
    }

    /// All keys that were ever written.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.current().iter().enumerate().flat_map(|(client, last)| (0..=*last).map(move |n| key(client, n))).collect()
    }

    /// One client, until it is stopped.
    pub(crate) async fn run(self, client: usize, seed: u64) {
        self.left.fetch_add(1, Ordering::SeqCst);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut number = 0;
        while !self.stop.load(Ordering::SeqCst) && !self.cluster.oracle.is_violated() {
            sleep(Duration::from_micros(rng.random_range(PAUSE_US))).await;
            let nodes = self.cluster.running();
            if nodes.is_empty() {
                continue;
            }
            let node = &nodes[rng.random_range(0..nodes.len())];
            if rng.random_bool(0.5) {
                let current = self.current();
                let whose = rng.random_range(0..current.len());
                let by_lease = self.by_lease && rng.random_bool(0.5);
                self.read(node, key(whose, current[whose]), by_lease).await;
            } else if node.leads() {
                number += 1;
                let mine = key(client, self.current()[client]);
                if !self.write(node, mine, number).await {
                    self.current.lock().expect("nothing panics while it holds the lock")[client] += 1;
                    number = 0;
                }
            }
        }
        self.left.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether it was acknowledged; otherwise the outcome is unknown.
    pub(crate) async fn write(&self, node: &Running, key: String, number: u64) -> bool {
        let oracle = &self.cluster.oracle;
        oracle.see(Event::WriteBegan { key: key.clone(), number });
        let value = number.to_string();
        let mut command = Vec::new();
        Command::Kv(KvWrite::Set { key: key.as_bytes(), value: value.as_bytes(), flags: 0 }).encode(&mut command);
        let write = node.raft.client_write(Proposal(Bytes::from(command)));
        match SimRuntime::timeout(WRITE_LIMIT, write).await {
            Ok(Ok(_)) => {
                oracle.see(Event::WriteAcknowledged { key, number });
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// A linearizable read on any node.
    async fn read(&self, node: &Running, key: String, by_lease: bool) {
        let read = self.reads.fetch_add(1, Ordering::SeqCst);
        let oracle = &self.cluster.oracle;
        oracle.see(Event::ReadBegan { read, node: node.id, key: key.clone() });
        if !self.is_current(node, by_lease).await {
            return;
        }
        if let Ok(number) = node.machine.number(&key) {
            oracle.see(Event::ReadEnded { read, node: node.id, key, number });
        }
    }

    /// Waits until this node has applied what was committed when it was asked; whether it did.
    async fn is_current(&self, node: &Running, by_lease: bool) -> bool {
        let policy = if by_lease { ReadPolicy::LeaseRead } else { ReadPolicy::ReadIndex };
        let option = LinearizerOption::from(policy).with_wait_timeout(LEASE);
        if node.leads() {
            if self.cluster.mutant == Mutant::ReadsUnasked {
                return true;
            }
            return node.raft.ensure_linearizable(option).await.is_ok();
        }
        let Some(leader) = node.leader() else { return false };
        let ask = |raft: Raft, _| async move {
            let asked = raft.get_read_linearizer(option).await.map_err(|error| error.to_string())?;
            Ok(asked.read_log_id().index())
        };
        let from = (node.id, node.life);
        let Ok(index) = self.cluster.network.ask(from, leader, WRITE_LIMIT, ask).await else { return false };
        node.raft.wait(Some(WRITE_LIMIT)).applied_index_at_least(Some(index), "read index").await.is_ok()
    }
}
