//! When nothing is broken any more the cluster works again, and everybody has the same.

use crate::clients::Clients;
use crate::cluster::Cluster;
use crate::event::Event;
use crate::types::{now, sleep};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Simulated time in which it has to.
const LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// Mends everything, waits for a write that is acknowledged and applied everywhere, and looks at what is left.
pub(crate) async fn settle(cluster: &Cluster, clients: &Clients) -> Result<(), String> {
    let oracle = &cluster.oracle;
    clients.stop.store(true, Ordering::SeqCst);
    cluster.network.heal();
    for id in cluster.ids() {
        cluster.disk(id).slow_down(1);
        cluster.start(id).await?;
    }
    oracle.see(Event::Fault("all is mended".to_owned()));
    let until = now() + LIMIT;
    while clients.left.load(Ordering::SeqCst) > 0 {
        if now() > until {
            oracle.see(Event::Stuck("requests end"));
            return Ok(());
        }
        sleep(POLL).await;
    }
    let mut attempt = 0;
    let last = loop {
        if now() > until {
            oracle.see(Event::Stuck("writes are acknowledged"));
            return Ok(());
        }
        sleep(POLL).await;
        let Some(leader) = cluster.running().into_iter().find(|node| node.leads()) else { continue };
        attempt += 1;
        if clients.write(&leader, format!("last/{attempt}"), 1).await {
            break leader.machine.digest().map_err(|error| error.to_string())?.0;
        }
    };
    for node in cluster.running() {
        let waited = node.raft.wait(Some(LIMIT)).applied_index_at_least(Some(last), "all is applied").await;
        if waited.is_err() {
            oracle.see(Event::Stuck("every node applies what is committed"));
            return Ok(());
        }
    }
    for node in cluster.running() {
        let (index, digest) = node.machine.digest().map_err(|error| error.to_string())?;
        oracle.see(Event::State { node: node.id, index, digest });
        for key in clients.keys() {
            let number = node.machine.number(&key).map_err(|error| error.to_string())?;
            oracle.see(Event::Left { node: node.id, key, number });
        }
    }
    Ok(())
}
