//! `konsulctl cluster can-restart`: whether the answering node may stop for a moment without the cluster missing it.
//!
//! Packages ask it before an upgrade restarts the service, and so may whoever restarts nodes one after the other. Of two
//! hosts that ask at the same time only one is told to go on: it is the turn of one node at a time.

use crate::{
    Context,
    client::{Ask, ClientError, Payload},
    exit::Exit,
    path::Path,
};
use hyper::StatusCode;
use konsul_api::{
    cluster::{ClusterStatus, RestartTurn, TransferAnswer},
    operator::{AutopilotHealth, ServerHealth},
};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Between two looks: a node that was restarted needs about a second to be well again.
const LOOK: Duration = Duration::from_millis(300);
/// How old what the leader tells may be: it looks ten times a second.
const TOLD_LATE: Duration = Duration::from_millis(200);
/// A voter that is silent for so long is not well by then, whatever is set.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// `konsulctl cluster can-restart`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 0 if it can, 1 if it cannot or nobody knows.\n\n\
        Examples:\n  konsulctl cluster can-restart\n  konsulctl cluster can-restart --hand-over --wait 1m && systemctl restart konsul")]
pub(crate) struct CanRestart {
    /// Say that it restarts now: no other node is told that it may until this one is back, or for half a minute; and if it
    /// leads, have another one lead first
    #[arg(long)]
    hand_over: bool,
    /// How long to wait until it can
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = crate::duration::parse)]
    wait: Duration,
}

/// Whether it can, and why or why not.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Sure(Verdict),
    /// It could, if those were still there that were lately; the verdict holds as long as they are not heard.
    Unheard(Verdict),
}

/// What is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Verdict {
    can_restart: bool,
    reason: String,
    /// The node that was asked leads others.
    leads_others: bool,
    /// There are others whose restart would matter to this one.
    #[serde(skip)]
    others_may_restart: bool,
}

pub(crate) async fn run(args: &CanRestart, context: &Context) -> anyhow::Result<Exit> {
    let end = Instant::now() + args.wait;
    let mut verdict = judged(args, context).await?;
    while !verdict.can_restart && Instant::now() < end {
        tokio::time::sleep(LOOK).await;
        verdict = judged(args, context).await?;
    }
    if verdict.can_restart && verdict.leads_others && args.hand_over {
        verdict = hand_over(verdict, context).await?;
    }
    let said = if verdict.can_restart { "yes" } else { "no" };
    context.output.result(&verdict, || format!("{said}: {}", verdict.reason))?;
    Ok(if verdict.can_restart { Exit::Done } else { Exit::Failed })
}

async fn judged(args: &CanRestart, context: &Context) -> anyhow::Result<Verdict> {
    let verdict = look(context).await?;
    if !(verdict.can_restart && verdict.others_may_restart && args.hand_over) {
        return Ok(verdict);
    }
    let ask = Ask::post(Path::new("/v1/cluster/restart-turn"), Payload::Nothing);
    let answer = context.client.send(&ask).await?;
    // An older daemon knows of no turns, and is to be replaced.
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(verdict);
    }
    if !answer.status.is_success() {
        let reason = match answer.into_error().await {
            ClientError::Status { text, .. } => text,
            error => error.to_string(),
        };
        return Ok(Verdict { can_restart: false, reason, ..verdict });
    }
    let _turn: RestartTurn = answer.json().await?;
    // Whoever had the turn before may be away since the first look.
    look(context).await
}

/// Whom the others count on has to be heard from now on: of a node that died a moment ago the leader does not know yet.
async fn look(context: &Context) -> anyhow::Result<Verdict> {
    let began = Instant::now();
    loop {
        let waited = began.elapsed();
        match look_once(context, waited).await? {
            Judgement::Unheard(_) if waited < HEARD_WITHIN => tokio::time::sleep(TOLD_LATE / 2).await,
            Judgement::Sure(verdict) | Judgement::Unheard(verdict) => return Ok(verdict),
        }
    }
}

async fn look_once(context: &Context, waited: Duration) -> anyhow::Result<Judgement> {
    let status: ClusterStatus = context.client.json(&Ask::get(Path::new("/v1/cluster/status"))).await?;
    // The leader's view: only the leader knows who answers.
    let answer = match status.members.is_empty() {
        true => None,
        false => Some(context.client.send(&Ask::get(Path::new("/v1/operator/autopilot/health"))).await?),
    };
    let servers = match answer {
        None => None,
        // 429: somebody is not well, which may be the very node that is to be restarted.
        Some(answer) if answer.status.is_success() || answer.status == StatusCode::TOO_MANY_REQUESTS => {
            answer.json::<AutopilotHealth>().await?.servers
        }
        Some(answer) => {
            let reason = match answer.into_error().await {
                ClientError::Status { text, .. } => format!("nobody knows how the others are: {text}"),
                error => error.to_string(),
            };
            let verdict = Verdict { can_restart: false, reason, leads_others: false, others_may_restart: true };
            return Ok(Judgement::Sure(verdict));
        }
    };
    Ok(judge(&status, servers.as_deref(), waited))
}

/// By the node's own view and the leader's; `None`: the leader is new and has not looked yet. Who was not heard for as long as
/// was `waited` is not relied on.
fn judge(status: &ClusterStatus, servers: Option<&[ServerHealth]>, waited: Duration) -> Judgement {
    let name = &status.node.name;
    let voters = status.members.iter().filter(|member| member.voter).count();
    let is_leader = status.leader.as_ref().is_some_and(|leader| leader.id == status.node.id);
    let is_one_of_many = voters > 1 && status.members.iter().any(|member| member.id == status.node.id && member.voter);
    let verdict = |can_restart, reason| Verdict {
        can_restart,
        reason,
        leads_others: is_leader && voters > 1,
        others_may_restart: is_one_of_many,
    };
    let sure = |can_restart, reason| Judgement::Sure(verdict(can_restart, reason));
    let Some(myself) = status.members.iter().find(|member| member.id == status.node.id) else {
        return sure(true, format!("{name} is in no cluster yet"));
    };
    if !myself.voter {
        return sure(true, format!("{name} is a learner: the others do not need its vote"));
    }
    if voters == 1 {
        return sure(true, format!("{name} is the only voter: requests wait until it is back"));
    }
    let Some(servers) = servers else {
        return sure(false, "the leader is new and does not know yet how the others are; try again".to_owned());
    };
    let others = servers.iter().filter(|server| server.voter && server.name != *name);
    let (well, unwell): (Vec<_>, Vec<_>) = others.partition(|server| server.healthy);
    let majority = voters / 2 + 1;
    let (heard, unheard): (Vec<_>, Vec<_>) = well.iter().partition(|server| is_heard(server, waited));
    if heard.len() >= majority {
        return sure(true, format!("{} of {voters} voters are well without {name}", heard.len()));
    }
    if well.len() >= majority {
        let named = names(&unheard);
        return Judgement::Unheard(verdict(false, format!("the leader has not heard lately from {named}; try again")));
    }
    let unwell = if unwell.is_empty() { String::new() } else { format!("; not well: {}", names(&unwell)) };
    let well = well.len();
    sure(false, format!("without {name} {well} of {voters} voters would be well, and {majority} are needed{unwell}"))
}

/// Whether the leader heard from it within the time that was `waited`.
fn is_heard(server: &ServerHealth, waited: Duration) -> bool {
    crate::duration::parse_go(&server.last_contact).is_some_and(|silent| silent + TOLD_LATE <= waited)
}

fn names(servers: &[&ServerHealth]) -> String {
    servers.iter().map(|server| server.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The requests of clients go on at the new leader; without this the node would hand over while it stops.
async fn hand_over(verdict: Verdict, context: &Context) -> anyhow::Result<Verdict> {
    let ask = Ask::put(Path::new("/v1/cluster/transfer-leadership"), Payload::Nothing);
    let moved: TransferAnswer = context.client.json(&ask).await?;
    let reason = format!("{}; {} leads now", verdict.reason, moved.to.name);
    Ok(Verdict { reason, leads_others: false, ..verdict })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Of nodes that are (voter, healthy), the first of which is asked and leads, when all have been heard.
    fn verdict(nodes: &[(bool, bool)]) -> Verdict {
        match judged(nodes, Duration::from_secs(1)) {
            Judgement::Sure(verdict) => verdict,
            Judgement::Unheard(verdict) => panic!("{verdict:?}"),
        }
    }

    /// The same, so long after it was asked first; all others were heard 40 ms before it is told.
    fn judged(nodes: &[(bool, bool)], waited: Duration) -> Judgement {
        let name = |at: usize| format!("n{}", at + 1);
        let member = |(at, (voter, _)): (usize, &(bool, bool))| {
            json!({ "id": at + 1, "name": name(at), "rpc": "", "http": "", "role": "follower", "voter": voter,
                    "lag": null, "last_contact_ms": null })
        };
        let members: Vec<_> = nodes.iter().enumerate().map(member).collect();
        let status = json!({
            "cluster_id": "c", "leader": { "id": 1, "name": "n1", "rpc": "", "http": "" }, "has_quorum": true,
            "members": members, "failure_tolerance": 0, "healthy": null,
            "node": { "id": if nodes.is_empty() { 0 } else { 1 }, "name": "n1", "version": "0", "role": "leader",
                      "term": 1, "last_log_index": 0, "commit_index": 0, "applied_index": 0, "snapshot_index": 0,
                      "last_contact_ms": 0, "read_only": null },
        });
        let server = |(at, (voter, healthy)): (usize, &(bool, bool))| {
            json!({ "ID": "", "Name": name(at), "Address": "", "SerfStatus": "alive", "Version": "", "Leader": at == 0,
                    "LastContact": if at == 0 { "0s" } else { "40ms" }, "LastTerm": 0, "LastIndex": 0, "Healthy": healthy, "Voter": voter,
                    "StableSince": "" })
        };
        let servers: Vec<_> = nodes.iter().enumerate().map(server).collect();
        let servers: Vec<ServerHealth> = serde_json::from_value(json!(servers)).expect("servers");
        judge(&serde_json::from_value(status).expect("status"), Some(&servers), waited)
    }

    #[test]
    fn a_node_can_restart_if_a_majority_is_well_without_it() {
        const WELL: (bool, bool) = (true, true);
        const ILL: (bool, bool) = (true, false);
        const LEARNER: (bool, bool) = (false, true);
        let table: [(&[_], bool, &str); 9] = [
            (&[], true, "n1 is in no cluster yet"),
            (&[WELL], true, "n1 is the only voter: requests wait until it is back"),
            (&[LEARNER, WELL], true, "n1 is a learner: the others do not need its vote"),
            (&[WELL, WELL], false, "without n1 1 of 2 voters would be well, and 2 are needed"),
            (&[WELL, WELL, WELL], true, "2 of 3 voters are well without n1"),
            (&[WELL, WELL, ILL], false, "without n1 1 of 3 voters would be well, and 2 are needed; not well: n3"),
            // It is the one that ails: a restart may heal it, and nobody needs it.
            (&[ILL, WELL, WELL], true, "2 of 3 voters are well without n1"),
            // A learner's health helps nobody.
            (
                &[WELL, WELL, ILL, LEARNER],
                false,
                "without n1 1 of 3 voters would be well, and 2 are needed; not well: n3",
            ),
            (&[WELL, WELL, WELL, WELL, ILL], true, "3 of 5 voters are well without n1"),
        ];
        for (nodes, can_restart, reason) in table {
            let verdict = verdict(nodes);
            assert_eq!((verdict.can_restart, verdict.reason.as_str()), (can_restart, reason), "{nodes:?}");
        }
    }

    #[test]
    fn a_node_that_was_not_heard_since_it_was_asked_is_not_relied_on() {
        const ALL: [(bool, bool); 3] = [(true, true); 3];
        let after = |ms| judged(&ALL, Duration::from_millis(ms));
        for ms in [0, 40, 239] {
            let Judgement::Unheard(verdict) = after(ms) else { panic!("it is sure after {ms} ms") };
            assert!(!verdict.can_restart);
        }
        let Judgement::Unheard(verdict) = after(239) else { panic!("it is sure") };
        assert_eq!(verdict.reason, "the leader has not heard lately from n2, n3; try again");
        assert!(matches!(after(240), Judgement::Sure(verdict) if verdict.can_restart));
        // Whoever is not well is not waited for.
        assert!(matches!(judged(&[(true, true), (true, true), (true, false)], Duration::ZERO), Judgement::Sure(_)));
    }

    #[test]
    fn only_who_leads_others_hands_over() {
        assert!(!verdict(&[(true, true)]).leads_others);
        assert!(verdict(&[(true, true), (true, true), (true, true)]).leads_others);
    }

    #[test]
    fn a_leader_that_has_not_looked_yet_is_not_believed() {
        let mut status: ClusterStatus = serde_json::from_value(json!({
            "cluster_id": "c", "leader": null, "has_quorum": true, "members": [], "failure_tolerance": 0, "healthy": null,
            "node": { "id": 1, "name": "n1", "version": "0", "role": "follower", "term": 1, "last_log_index": 0,
                      "commit_index": 0, "applied_index": 0, "snapshot_index": 0, "last_contact_ms": 0,
                      "read_only": null },
        }))
        .expect("status");
        for id in 1..=3 {
            let member = json!({ "id": id, "name": format!("n{id}"), "rpc": "", "http": "", "role": "follower",
                                 "voter": true, "lag": null, "last_contact_ms": null });
            status.members.push(serde_json::from_value(member).expect("member"));
        }
        let Judgement::Sure(verdict) = judge(&status, None, Duration::from_secs(1)) else {
            panic!("there is nothing to wait for")
        };
        assert!(!verdict.can_restart);
    }
}
