//! An archive into a host that holds no node: the beginning of a cluster that goes on where the archive was made.
//!
//! The cluster keeps its identity and gets a new recovery epoch: nodes of the lost one that come back after all are refused.

use super::archive::{of, open};
use super::{FAILED, Found, PRECONDITION, failed};
use crate::backup::{ForwardError, Forwarded, carry_forward, leap};
use crate::config::Config;
use crate::durable;
use crate::metrics::Metrics;
use crate::raft_types::NodeInfo;
use crate::storage::{Identity, OpenError, Storage};
use crate::telemetry::chain;
use crate::watch::Watches;
use konsul_api::archive::OfflineRestoreAnswer;
use std::io;
use std::path::Path;

/// Why the restored state was not kept.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("carry the restored state forward")]
    Forward(#[from] ForwardError),
    #[error("open the storage")]
    Open(#[from] OpenError),
    #[error("write the restored state as the node's own")]
    Begin(#[from] io::Error),
}

pub(super) fn restore(config: &Config, path: &Path) -> Found<OfflineRestoreAnswer> {
    let data_dir = &config.storage.data_dir;
    let refused = |why: String| (PRECONDITION, format!("{why}; nothing was changed"));
    if data_dir.join("raft").exists() || data_dir.join("snap").exists() {
        return Err(refused(format!("{} holds a node's data: move it away first", data_dir.display())));
    }
    if config.cluster.is_entered() {
        let why = "the authority of this cluster is lost with its hosts, a new one has to be made: form a new cluster with \
                   `konsulctl cluster init`, then `konsulctl snapshot restore --allow-cluster-change`";
        return Err(refused(why.to_owned()));
    }
    durable::create_dir_all(data_dir).map_err(|error| failed(format!("make {}", data_dir.display()), &error))?;
    let mut archive = open(path)?;
    let restored = archive.restore_on_trial(data_dir).map_err(|error| of(path, &error))?;
    let header = &archive.header;
    let first = leap(header.last.index);
    let epoch = header.epoch + 1;
    let name = config.node.name.clone();
    let kept = carry_forward(restored.store(), first, &name).map_err(KeepError::from).and_then(|forwarded| {
        let node_id = forwarded.node_id;
        let info = NodeInfo {
            name: name.clone(),
            rpc: config.peer.advertise.clone().unwrap_or_default(),
            http: config.http.advertise.clone(),
        };
        let identity = Identity { cluster_id: header.cluster_id, node_id, name: name.clone(), former: false, epoch };
        let term = header.last.committed_leader_id().term + 1;
        let metrics = Metrics::new(&name, &config.http.datacenter);
        let mut storage = Storage::open(&config.storage(), Watches::new(), &metrics.storage)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        runtime.block_on(async {
            storage.begin_with(restored.store(), identity, info, (term, forwarded.last.get())).await?;
            storage.close().await
        })?;
        Ok(forwarded)
    });
    let Forwarded { node_id, last } = kept.map_err(|error| {
        let text = format!("{}; remove what is in {} and try again", chain(&error), data_dir.display());
        (FAILED, text)
    })?;
    let cluster_id = uuid::Uuid::from_bytes(header.cluster_id).to_string();
    Ok(OfflineRestoreAnswer { archive: archive.facts(), cluster_id, epoch, name, node_id, index: last.get() })
}
