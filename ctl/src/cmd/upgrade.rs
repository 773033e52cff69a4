//! `konsulctl upgrade`: programs of several versions in one cluster, and ending that.

use crate::{
    Context,
    client::{Ask, Payload},
    exit::Exit,
    output,
    path::Path,
};
use konsul_api::upgrade::{FinalizeAnswer, UpgradeMember, UpgradeStatus};

/// `konsulctl upgrade …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Upgrade {
    /// Show what every member runs, and what finalizing the upgrade would bring
    #[command(after_help = "Examples:\n  konsulctl upgrade status\n  konsulctl upgrade status --json")]
    Status,
    /// Raise the cluster version to what all members understand; older programs cannot come back after that
    #[command(
        after_help = "Refused while a member is too old, or does not answer. Until then every node may go back to the \
            program that it ran before.\n\nExamples:\n  konsulctl upgrade finalize"
    )]
    Finalize,
}

pub(crate) async fn run(upgrade: Upgrade, context: &Context) -> anyhow::Result<Exit> {
    match upgrade {
        Upgrade::Status => status(context).await,
        Upgrade::Finalize => finalize(context).await,
    }
}

async fn status(context: &Context) -> anyhow::Result<Exit> {
    let status: UpgradeStatus = context.client.json(&Ask::get(Path::new("/v1/cluster/upgrade"))).await?;
    context.output.result(&status, || format!("{}\n\n{}", head(&status), members(&status.members)))?;
    Ok(Exit::Done)
}

fn head(status: &UpgradeStatus) -> String {
    let mut pairs = vec![("Cluster version", status.cluster_version.to_string())];
    if status.newest == status.cluster_version {
        pairs.push(("To finalize", "nothing".to_owned()));
        return output::fields(&pairs);
    }
    pairs.push(("To finalize", format!("version {}", status.newest)));
    pairs.extend(status.brings.iter().map(|what| ("Brings", what.clone())));
    match status.blocked.as_slice() {
        [] => pairs.push(("Next", "konsulctl upgrade finalize; older programs cannot come back after that".to_owned())),
        blocked => pairs.extend(blocked.iter().map(|why| ("Blocked", why.clone()))),
    }
    output::fields(&pairs)
}

fn members(members: &[UpgradeMember]) -> String {
    let row = |member: &UpgradeMember| {
        let understands = match (member.oldest, member.newest) {
            (Some(oldest), Some(newest)) => format!("{oldest} to {newest}"),
            _ => "-".to_owned(),
        };
        vec![
            member.name.clone(),
            member.id.to_string(),
            if member.voter { "yes" } else { "no" }.to_owned(),
            member.version.clone().unwrap_or_else(|| "-".to_owned()),
            understands,
            member.why.clone().unwrap_or_default(),
        ]
    };
    output::table(&["NODE", "ID", "VOTER", "VERSION", "UNDERSTANDS", ""], members.iter().map(row))
}

async fn finalize(context: &Context) -> anyhow::Result<Exit> {
    let ask = Ask::post(Path::new("/v1/cluster/upgrade"), Payload::Nothing);
    let answer: FinalizeAnswer = context.client.json(&ask).await?;
    context.output.result(&answer, || {
        let FinalizeAnswer { from, to } = answer;
        if from == to {
            format!("The cluster is at version {to} already: nothing to finalize.")
        } else {
            format!("The cluster is at version {to} now, it was at {from}. Older programs cannot come back.")
        }
    })?;
    Ok(Exit::Done)
}
