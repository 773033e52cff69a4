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
    let report = BackupReport { kind, index: facts.index, bytes: facts.bytes, took_ms };
    let body = serde_json::to_vec(&report).context("encode the report")?;
    let ask = Ask::put(place(), Payload::Bytes(Bytes::from(body)));
    let told: Result<BackupStatus, _> = context.client.json(&ask).await;
    told.context("it was done, but the cluster could not be told")?;
    Ok(())
}

pub(super) async fn status(context: &Context) -> anyhow::Result<Exit> {
    let status: BackupStatus = context.client.json(&Ask::get(place())).await?;
    let done = |done: &Option<BackupDone>| match done {
        Some(done) => format!("{}, index {}, {} bytes", done.time, done.index, done.bytes),
        None => "never, as far as was reported".to_owned(),
    };
    context
        .output
        .result(&status, || output::fields(&[("Saved", done(&status.saved)), ("Verified", done(&status.verified))]))?;
    Ok(Exit::Done)
}
