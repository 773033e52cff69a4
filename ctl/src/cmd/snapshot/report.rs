//! Telling the cluster what became of its backups, and asking it.

use crate::{
    Context,
    client::{Ask, Payload},
    exit::Exit,
    output, path,
};
use anyhow::Context as _;
use bytes::Bytes;
use konsul_api::archive::{ArchiveFacts, BackupDone, BackupKind, BackupReport, BackupStatus};

fn place() -> path::Path {
    path::Path::new("/v1/cluster/backup")
}

/// From then on its metrics tell it.
pub(super) async fn tell(
    kind: BackupKind,
    facts: &ArchiveFacts,
    took_ms: u64,
    context: &Context,
) -> anyhow::Result<()> {
    let report = BackupReport { kind, failed: false, index: facts.index, bytes: facts.bytes, took_ms };
    send(&report, context).await.context("it was done, but the cluster could not be told")
}

/// The node that is asked counts it. Where not even that is possible, the failure itself is what is to be told.
pub(super) async fn tell_failure(kind: BackupKind, context: &Context) {
    let report = BackupReport { kind, failed: true, index: 0, bytes: 0, took_ms: 0 };
    if let Err(error) = send(&report, context).await {
        context.output.note(&format!("the node could not be told of the failure: {error:#}"));
    }
}

async fn send(report: &BackupReport, context: &Context) -> anyhow::Result<()> {
    let body = serde_json::to_vec(report).context("encode the report")?;
    let _told: BackupStatus = context.client.json(&Ask::put(place(), Payload::Bytes(Bytes::from(body)))).await?;
    Ok(())
}

/// What was reported before.
pub(super) async fn told(context: &Context) -> anyhow::Result<BackupStatus> {
    Ok(context.client.json(&Ask::get(place())).await?)
}

pub(super) async fn status(context: &Context) -> anyhow::Result<Exit> {
    let status = told(context).await?;
    let done = |done: &Option<BackupDone>| match done {
        Some(done) => format!("{}, index {}, {} bytes", done.time, done.index, done.bytes),
        None => "never, as far as was reported".to_owned(),
    };
    context
        .output
        .result(&status, || output::fields(&[("Saved", done(&status.saved)), ("Verified", done(&status.verified))]))?;
    Ok(Exit::Done)
}
