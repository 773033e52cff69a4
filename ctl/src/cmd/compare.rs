//! `konsulctl cluster compare`: whether all members hold the same state.

use crate::{
    Context,
    client::{Ask, Payload},
    exit::Exit,
    output,
    path::Path,
};
use konsul_api::cluster::{CompareAnswer, ComparedMember};
use std::time::Duration;

/// A member may have a part of the log to apply first, and then has to read its whole state.
const COMPARE: Duration = Duration::from_secs(90);

pub(crate) async fn run(context: &Context) -> anyhow::Result<Exit> {
    let ask = Ask::post(Path::new("/v1/cluster/compare"), Payload::Nothing).patient(COMPARE);
    let answer: CompareAnswer = context.client.json(&ask).await?;
    context.output.result(&answer, || format!("{}\n\n{}", verdict(&answer), members(&answer)))?;
    let sound = answer.same && answer.members.iter().all(|member| !member.fenced && member.digest.is_some());
    Ok(if sound { Exit::Done } else { Exit::Failed })
}

fn verdict(answer: &CompareAnswer) -> String {
    let known = answer.members.iter().filter(|member| member.digest.is_some()).count();
    let (index, all) = (answer.index, answer.members.len());
    match (answer.same, &answer.agreed) {
        (true, _) if known == all => format!("All {all} hold the same state at index {index}."),
        (true, _) => format!("The {known} of {all} that told hold the same state at index {index}."),
        (false, Some(_)) => {
            format!("The states differ at index {index}: who deviates from the majority is fenced, and answers nobody.")
        }
        (false, None) => format!(
            "The states differ at index {index}, and no majority holds the same: nobody knows who is right. Stop writing, \
             and see the runbook corrupted-storage."
        ),
    }
}

fn members(answer: &CompareAnswer) -> String {
    let row = |member: &ComparedMember| {
        vec![
            member.name.clone(),
            member.id.to_string(),
            if member.voter { "yes" } else { "no" }.to_owned(),
            state(answer, member).to_owned(),
            if member.fenced { "yes" } else { "no" }.to_owned(),
            member.digest.clone().or_else(|| member.why.clone()).unwrap_or_default(),
        ]
    };
    output::table(&["NODE", "ID", "VOTER", "STATE", "FENCED", "DIGEST"], answer.members.iter().map(row))
}

fn state(answer: &CompareAnswer, member: &ComparedMember) -> &'static str {
    match (&member.digest, &answer.agreed) {
        (None, _) => "unknown",
        (Some(_), _) if answer.same => "same",
        (Some(digest), Some(agreed)) if digest == agreed => "same",
        (Some(_), Some(_)) => "deviates",
        (Some(_), None) => "disputed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(agreed: Option<&str>, digests: &[Option<&str>]) -> CompareAnswer {
        let member = |(id, digest): (u64, &Option<&str>)| ComparedMember {
            id,
            name: format!("n{id}"),
            voter: true,
            digest: digest.map(str::to_owned),
            why: digest.is_none().then(|| "it is away".to_owned()),
            fenced: agreed.is_some() && digest.is_some() && *digest != agreed,
        };
        let same = digests.iter().flatten().collect::<std::collections::BTreeSet<_>>().len() < 2;
        let members = (1..).zip(digests).map(member).collect();
        CompareAnswer { index: 9, at: String::new(), same, agreed: agreed.map(str::to_owned), members }
    }

    #[test]
    fn each_member_is_told_as_it_is() {
        let table = [
            (answer(Some("a"), &[Some("a"), Some("a"), Some("a")]), "All 3 hold", ["same", "same", "same"]),
            (answer(Some("a"), &[Some("a"), Some("a"), None]), "The 2 of 3 that told", ["same", "same", "unknown"]),
            (answer(Some("a"), &[Some("a"), Some("b"), Some("a")]), "is fenced", ["same", "deviates", "same"]),
            (
                answer(None, &[Some("a"), Some("b"), None]),
                "nobody knows who is right",
                ["disputed", "disputed", "unknown"],
            ),
        ];
        for (answer, said, states) in table {
            assert!(verdict(&answer).contains(said), "{}", verdict(&answer));
            let found: Vec<&str> = answer.members.iter().map(|member| state(&answer, member)).collect();
            assert_eq!(found, states);
            assert!(members(&answer).contains("n3"));
        }
    }
}
