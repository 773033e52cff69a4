//! The nodes: started, and without power.

use crate::disk::Disk;
use crate::event::Event;
use crate::machine::{Machine, Raft};
use crate::mutant::Mutant;
use crate::network::{Network, Sender};
use crate::oracle::Oracle;
use crate::types::{now, sleep, spawn};
use konsuld::config::Timing;
use konsuld::raft::RaftConfig;
use konsuld::raft_types::NodeInfo;
use openraft::{Config, ServerState};
use openraft_rt::WatchReceiver;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Of konsuld's default timing.
pub(crate) const LEASE: Duration = Timing::LAN.election_max;

/// A node that runs.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) id: u64,
    pub(crate) life: u64,
    pub(crate) raft: Raft,
    pub(crate) machine: Machine,
}

impl Running {
    /// By its own account.
    pub(crate) fn leads(&self) -> bool {
        self.raft.server_metrics().borrow_watched().state == ServerState::Leader
    }

    /// Whom it takes for the leader.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.raft.server_metrics().borrow_watched().current_leader
    }
}

/// Cloned handles are the same cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    nodes: Arc<Mutex<BTreeMap<u64, Running>>>,
    disks: Arc<BTreeMap<u64, Disk>>,
    pub(crate) network: Network,
    pub(crate) oracle: Oracle,
    pub(crate) mutant: Mutant,
    config: Arc<Config>,
}

/// konsuld's, with its default timing; snapshots and purging are among the faults.
fn config() -> Result<Arc<Config>, String> {
    let Timing { heartbeat, election_min, election_max } = Timing::LAN;
    let config = RaftConfig {
        heartbeat,
        election_min,
        election_max,
        hold: Duration::ZERO,
        propose_timeout: Duration::ZERO,
        inflight_bytes_max: 0,
        command_bytes_max: 0,
        payload_entries_max: 64,
        snapshot_entries: 0,
        keep_entries: 10,
        hints: HashMap::new(),
    };
    config.core("simulated").map_err(|error| error.to_string())
}

impl Cluster {
    /// `nodes` disks, and nothing that runs.
    pub(crate) fn new(nodes: u64, network: Network, oracle: Oracle, mutant: Mutant) -> Result<Cluster, String> {
        let disks = (1..=nodes).map(|id| (id, Disk::new(mutant))).collect();
        Ok(Cluster { nodes: Arc::default(), disks: Arc::new(disks), network, oracle, mutant, config: config()? })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Running>> {
        self.nodes.lock().expect("nothing panics while it holds the lock")
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.disks.keys().copied().collect()
    }

    pub(crate) fn disk(&self, id: u64) -> &Disk {
        &self.disks[&id]
    }

    pub(crate) fn running(&self) -> Vec<Running> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn node(&self, id: u64) -> Option<Running> {
        self.lock().get(&id).cloned()
    }

    /// All of them for the first time.
    pub(crate) async fn form(&self) -> Result<(), String> {
        for id in self.ids() {
            self.start(id).await?;
        }
        let members = self.ids().into_iter().map(|id| (id, NodeInfo { name: format!("n{id}"), ..NodeInfo::default() }));
        let members: BTreeMap<u64, NodeInfo> = members.collect();
        let first = self.node(1).ok_or("node 1 does not run")?;
        first.raft.initialize(members).await.map_err(|error| error.to_string())
    }

    /// Starts a node on what its disk has; one that runs is left alone.
    pub(crate) async fn start(&self, id: u64) -> Result<(), String> {
        if self.node(id).is_some() {
            return Ok(());
        }
        let disk = self.disk(id).clone();
        let (log, life) = disk.next_life();
        let machine = Machine::start(id, disk, self.oracle.clone(), self.mutant)
            .map_err(|error| format!("node {id}: {error}"))?;
        let sender = Sender { network: self.network.clone(), id, life };
        let raft = Raft::build(id, Arc::clone(&self.config), sender, log, machine.clone()).await;
        let raft = raft.map_err(|error| format!("node {id}: {error}"))?;
        raft.run();
        self.network.plug_in(id, life, raft.clone(), now() + LEASE);
        self.oracle.see(Event::Fault(format!("node {id} starts")));
        self.lock().insert(id, Running { id, life, raft: raft.clone(), machine });
        if life == 1 || self.mutant != Mutant::NeverElects {
            let campaigner = raft.clone();
            spawn(async move {
                // The lease that it may have granted before its start is over then.
                sleep(LEASE).await;
                campaigner.runtime_config().elect(true);
            });
        }
        let cluster = self.clone();
        spawn(async move {
            watch(id, &raft, &cluster.oracle).await;
            if cluster.network.lives(id, life) {
                cluster.oracle.see(Event::Stuck("no raft core ends by itself"));
            }
        });
        Ok(())
    }

    /// The power goes.
    pub(crate) async fn kill(&self, id: u64) {
        let Some(node) = self.lock().remove(&id) else { return };
        self.network.plug_out(id);
        // Nothing of this life is written from here on.
        drop(self.disk(id).next_life());
        self.oracle.see(Event::Fault(format!("node {id} loses its power")));
        // That it ends with an error is what a power cut is.
        drop(node.raft.shutdown().await);
    }
}

/// Tells of every term in which this life of the node leads, until its raft core ends.
async fn watch(node: u64, raft: &Raft, oracle: &Oracle) {
    let mut metrics = raft.server_metrics();
    let mut told = None;
    loop {
        let leads = {
            let now = metrics.borrow_watched();
            (now.state == ServerState::Leader).then(|| now.vote.leader_id.term)
        };
        if let Some(term) = leads
            && told != Some(term)
        {
            told = Some(term);
            let last = raft.data_metrics().borrow_watched().last_log.map_or(0, |id| id.index);
            oracle.see(Event::Leads { node, term, last });
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
