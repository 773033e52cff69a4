//! Whose turn it is: a timer runs on every node, and one of them acts.

use super::{
    place::Place,
    report,
    shelf::{self, Shelved},
};
use crate::{
    Context,
    client::Ask,
    exit::{Exit, Stopped},
    path::Path,
};
use konsul_api::cluster::ClusterStatus;
use serde::Serialize;

/// What `--scheduled` says where there is nothing to do.
#[derive(Debug, Serialize)]
struct Skipped<'a> {
    skipped: &'a str,
}

/// That it is somebody else's turn is a good end.
pub(super) fn skipped(why: &str, context: &Context) -> anyhow::Result<Exit> {
    context.output.result(&Skipped { skipped: why }, || format!("Nothing to do: {why}"))?;
    Ok(Exit::Done)
}

async fn status(context: &Context) -> anyhow::Result<ClusterStatus> {
    Ok(context.client.json(&Ask::get(Path::new("/v1/cluster/status"))).await?)
}

/// `None` if the node that was asked leads; else why it is not its turn.
pub(super) async fn leaders(context: &Context) -> anyhow::Result<Option<String>> {
    leads(&status(context).await?)
}

fn leads(status: &ClusterStatus) -> anyhow::Result<Option<String>> {
    let name = &status.node.name;
    if status.cluster_id.is_empty() || status.members.is_empty() {
        return Ok(Some(format!("{name} is in no cluster yet")));
    }
    match &status.leader {
        Some(leader) if leader.id == status.node.id => Ok(None),
        Some(leader) => Ok(Some(format!("{name} does not lead, {} does", leader.name))),
        None => {
            let text =
                format!("{name} knows no leader, so nobody can tell whose turn it is; see: konsulctl cluster status");
            Err(Stopped::because(Exit::Leaderless, text))
        }
    }
}

/// The archive to rehearse with: the newest of the cluster, if this node is the one that has it; else why not.
pub(super) async fn rehearsal(place: &Place, context: &Context) -> anyhow::Result<Result<Shelved, String>> {
    let status = status(context).await?;
    let name = &status.node.name;
    if status.cluster_id.is_empty() {
        return Ok(Err(format!("{name} is in no cluster yet")));
    }
    if place.is_shared()
        && let Some(why) = leads(&status)?
    {
        return Ok(Err(why));
    }
    let saved = report::told(context).await?.saved;
    let Some(saved) = saved else { return Ok(Err("no backup was reported yet".to_owned())) };
    let archives = shelf::archives(place).await?;
    let newest = archives.into_iter().find(|archive| archive.cluster_id == status.cluster_id);
    Ok(match newest {
        Some(newest) if newest.index >= saved.index => Ok(newest),
        Some(_) | None => {
            Err(format!("the backup of {}, index {}, is not in {place}: another node has it", saved.time, saved.index))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(members: &[u64], leader: Option<u64>) -> ClusterStatus {
        let member = |id: &u64| {
            json!({ "id": id, "name": format!("n{id}"), "rpc": "", "http": "", "role": "follower", "voter": true,
                    "lag": null, "last_contact_ms": null })
        };
        let leader = leader.map(|id| json!({ "id": id, "name": format!("n{id}"), "rpc": "", "http": "" }));
        let status = json!({
            "cluster_id": if members.is_empty() { "" } else { "c" }, "leader": leader, "has_quorum": true,
            "members": members.iter().map(member).collect::<Vec<_>>(), "failure_tolerance": 0, "healthy": null,
            "node": { "id": 1, "name": "n1", "version": "0", "role": "follower", "term": 1, "last_log_index": 0,
                      "commit_index": 0, "applied_index": 0, "snapshot_index": 0, "last_contact_ms": 0,
                      "read_only": null },
        });
        serde_json::from_value(status).expect("status")
    }

    #[test]
    fn one_node_of_a_cluster_acts() {
        assert_eq!(leads(&status(&[1, 2, 3], Some(1))).expect("a leader"), None);
        let follower = leads(&status(&[1, 2, 3], Some(2))).expect("a leader");
        assert_eq!(follower.as_deref(), Some("n1 does not lead, n2 does"));
        assert_eq!(leads(&status(&[], None)).expect("no cluster").as_deref(), Some("n1 is in no cluster yet"));
        let stopped = leads(&status(&[1, 2, 3], None)).expect_err("nobody knows");
        assert_eq!(stopped.downcast_ref::<Stopped>().map(|stopped| stopped.exit), Some(Exit::Leaderless));
    }
}
