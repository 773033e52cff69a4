//! `konsulctl cluster leave|remove|promote|demote`: who belongs to the cluster, and who votes.

use crate::{
    Context,
    client::{Ask, Payload},
    exit::Exit,
    path::Path,
};
use anyhow::Context as _;
use bytes::Bytes;
use konsul_api::cluster::{MembershipAnswer, MembershipRequest};
use std::time::Duration;

/// Leadership may have to move first, and every change goes through the log.
const CHANGE: Duration = Duration::from_secs(30);

/// What shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Leave,
    Remove,
    Promote,
    Demote,
}

impl Change {
    fn path(self) -> &'static str {
        match self {
            Change::Leave => "/v1/cluster/leave",
            Change::Remove => "/v1/cluster/remove",
            Change::Promote => "/v1/cluster/promote",
            Change::Demote => "/v1/cluster/demote",
        }
    }

    /// What became of the node.
    fn is(self) -> &'static str {
        match self {
            Change::Leave => "has left the cluster and stops by itself",
            Change::Remove => "is no member any more",
            Change::Promote => "votes",
            Change::Demote => "is a learner",
        }
    }
}

pub(crate) async fn run(change: Change, node: Option<String>, force: bool, context: &Context) -> anyhow::Result<Exit> {
    let request = serde_json::to_vec(&MembershipRequest { node, force }).context("encode the request")?;
    let ask = Ask::post(Path::new(change.path()), Payload::Bytes(Bytes::from(request))).patient(CHANGE);
    let answer: MembershipAnswer = context.client.json(&ask).await?;
    context.output.result(&answer, || in_words(change, &answer))?;
    Ok(Exit::Done)
}

fn in_words(change: Change, answer: &MembershipAnswer) -> String {
    let MembershipAnswer { id, name, already, pending, voters, failure_tolerance, .. } = answer;
    if let Some(pending) = pending {
        return format!("not yet: {pending}");
    }
    let (before, voters) = (if *already { " (as before)" } else { "" }, counted(*voters, "voter"));
    format!("{name} (node {id}) {}{before}; {voters}, of which {failure_tolerance} may fail", change.is())
}

fn counted(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_say_what_it_means_for_the_cluster() {
        let answer = MembershipAnswer {
            id: 3,
            name: "n3".to_owned(),
            done: true,
            already: false,
            pending: None,
            voters: 2,
            failure_tolerance: 0,
        };
        let removed = "n3 (node 3) is no member any more; 2 voters, of which 0 may fail";
        assert_eq!(in_words(Change::Remove, &answer), removed);
        let again = MembershipAnswer { already: true, voters: 1, ..answer.clone() };
        assert_eq!(in_words(Change::Promote, &again), "n3 (node 3) votes (as before); 1 voter, of which 0 may fail");
        let later = MembershipAnswer { done: false, pending: Some("n3 is 7 entries behind".to_owned()), ..answer };
        assert_eq!(in_words(Change::Promote, &later), "not yet: n3 is 7 entries behind");
    }
}
