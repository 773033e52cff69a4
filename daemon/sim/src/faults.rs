//! What goes wrong, by seed.

use crate::cluster::Cluster;
use crate::event::Event;
use crate::types::{now, sleep};
use rand::Rng as _;
use rand::rngs::StdRng;
use std::time::Duration;

/// Between two faults.
const PAUSE_MS: std::ops::Range<u64> = 100..1500;
/// Entries that stay when a node purges its log.
const KEPT: u64 = 5;

/// Breaks and mends for so long.
pub(crate) async fn go_on(cluster: &Cluster, rng: &mut StdRng, time: Duration, transfers: bool) -> Result<(), String> {
    let until = now() + time;
    while now() < until && !cluster.oracle.is_violated() {
        sleep(Duration::from_millis(rng.random_range(PAUSE_MS))).await;
        one(cluster, rng, transfers).await?;
        for id in cluster.ids() {
            if cluster.node(id).is_none() && rng.random_bool(0.4) {
                cluster.start(id).await?;
            }
        }
    }
    Ok(())
}

async fn one(cluster: &Cluster, rng: &mut StdRng, transfers: bool) -> Result<(), String> {
    let ids = cluster.ids();
    let id = ids[rng.random_range(0..ids.len())];
    let others = ids.iter().copied().filter(|other| *other != id);
    let leader = cluster.running().into_iter().find(|node| node.leads());
    let note = |text: String| cluster.oracle.see(Event::Fault(text));
    match rng.random_range(0..14) {
        0 | 1 => cluster.kill(id).await,
        2 => {
            for id in ids {
                cluster.kill(id).await;
            }
        }
        3 => {
            if let Some(leader) = leader {
                cluster.kill(leader.id).await;
            }
        }
        4 | 5 => {
            let id = leader.map_or(id, |leader| leader.id);
            note(format!("node {id} is cut off"));
            for other in ids.iter().copied().filter(|other| *other != id) {
                cluster.network.cut(id, other);
                cluster.network.cut(other, id);
            }
        }
        6 => {
            note(format!("nobody hears node {id}"));
            others.for_each(|other| cluster.network.cut(id, other));
        }
        7 | 8 => {
            note("the network is healed".to_owned());
            cluster.network.heal();
        }
        9 => {
            let lost = rng.random_range(10..200);
            note(format!("{lost} of 1000 messages are lost"));
            cluster.network.lose(lost);
        }
        10 => {
            let times = rng.random_range(1..100);
            note(format!("the disk of node {id} takes {times} times as long"));
            cluster.disk(id).slow_down(times);
        }
        11 => {
            note(format!("the links of node {id} are slow"));
            others.for_each(|other| cluster.network.slow_down(id, other));
        }
        12 => snapshot(cluster, id).await,
        _ if transfers => {
            if let Some(leader) = leader {
                note(format!("node {} hands over to node {id}", leader.id));
                // Not to itself; and one that stops meanwhile hands nothing over.
                drop(leader.raft.trigger().transfer_leader(id).await);
            }
        }
        _ => {}
    }
    Ok(())
}

/// A node that runs takes a snapshot and forgets most of its log.
async fn snapshot(cluster: &Cluster, id: u64) {
    let Some(node) = cluster.node(id) else { return };
    cluster.oracle.see(Event::Fault(format!("node {id} takes a snapshot")));
    let Ok((applied, _)) = node.machine.digest() else { return };
    // A node that stops meanwhile takes none.
    if node.raft.trigger().snapshot().await.is_ok() {
        sleep(Duration::from_millis(20)).await;
        drop(node.raft.trigger().purge_log(applied.saturating_sub(KEPT)).await);
    }
}
