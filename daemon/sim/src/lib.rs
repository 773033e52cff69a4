//! Clusters of Konsul, simulated: openraft as konsuld configures it, the replicated state of konsul-state, and a
//! network, disks and clocks that are made of nothing but a seed.
//!
//! One run is a minute or so of simulated time in which nodes lose their power, links are cut one way or both, messages
//! are lost or late, disks are slow, leadership moves and logs are purged, while clients write and read. What must hold
//! is in `invariants`, one property per file. Every run with a seed is the same again; [`Mutant`]s prove that a broken
//! product does not pass.
//!
//! What is not simulated: threads, sockets, LMDB's files of the log, and konsuld's own way to read by its lease. For
//! those there are the tests with real processes.

mod clients;
mod cluster;
mod disk;
mod event;
mod faults;
mod invariants;
mod liveness;
mod machine;
mod mutant;
mod network;
mod oracle;
mod types;

pub use mutant::Mutant;
pub use oracle::{Report, Violation};

use clients::Clients;
use cluster::Cluster;
use network::Network;
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use oracle::Oracle;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::time::Duration;

const CLIENTS: usize = 4;

/// What a run is made of, beside its seed.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long things go wrong, in simulated time.
    pub time: Duration,
    /// What is broken on purpose.
    pub mutant: Mutant,
}

/// One run. An error is one of the simulation, not of what it simulates.
pub fn run(seed: u64, options: Options) -> Result<Report, String> {
    SimRuntime::with_seed(seed).block_on(simulate(seed, options))
}

async fn simulate(seed: u64, Options { time, mutant }: Options) -> Result<Report, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let oracle = Oracle::new(seed);
    let nodes = if rng.random_bool(0.7) { 3 } else { 5 };
    let transfers = rng.random_bool(0.5);
    let cluster = Cluster::new(nodes, Network::new(rng.random()), oracle.clone(), mutant)?;
    cluster.form().await?;
    let clients = Clients::new(cluster.clone(), CLIENTS, !transfers);
    for client in 0..CLIENTS {
        types::spawn(clients.clone().run(client, rng.random()));
    }
    faults::go_on(&cluster, &mut rng, time, transfers).await?;
    if !oracle.is_violated() {
        liveness::settle(&cluster, &clients).await?;
    }
    for id in cluster.ids() {
        cluster.kill(id).await;
    }
    Ok(oracle.report())
}
