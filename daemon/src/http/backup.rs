//! `/v1/cluster/archive` and `/v1/cluster/backup`: everything as one file that proves itself, and back. Errors are JSON with honest codes.
//!
//! Saving writes one moment of the state into a file without a name and sends it from there: a slow client holds no state
//! back. Restoring proves the whole archive on trial before the first change; then the keys go through the log and are put
//! in place at once: nobody ever sees half of it.

use super::archive::unnamed_file;
use super::body::Body;
use super::context::{Ask, Context};
use super::error::ApiError;
use super::headers::{self, name, value};
use super::snapshot::{self, joined, work_file};
use super::upload::{self, Limit, Upload};
use crate::backup::{
    self, Archive, ArchiveError, ArchiveFault, Chunker, Done, Made, Maker, ReportError, Reported, RestoreError,
    Restored,
};
use crate::metrics;
use crate::raft::Consistency;
use crate::telemetry::chain;
use bytes::Bytes;
use hyper::Response;
use konsul_api::archive::{ArchiveFacts, BackupDone, BackupKind, BackupReport, BackupStatus, RestoreAnswer};
use konsul_api::time::rfc3339;
use std::io::{self, Read};
use tokio::sync::mpsc;

/// Pieces of an answer that wait for a slow client.
const CHUNKS_WAITING_MAX: usize = 4;
const CHUNK_BYTES: usize = 64 * 1024;

impl From<ArchiveError> for ApiError {
    fn from(error: ArchiveError) -> ApiError {
        let text = format!("{}; nothing was changed", chain(&error));
        match error.fault() {
            ArchiveFault::Damaged | ArchiveFault::Unsupported => ApiError::bad_request(text),
            ArchiveFault::Host => ApiError::refused(text),
        }
    }
}

impl From<RestoreError> for ApiError {
    fn from(error: RestoreError) -> ApiError {
        match error {
            RestoreError::Propose { source } => ApiError::Propose(source),
            RestoreError::Refused { why } => ApiError::refused(why),
            RestoreError::Unexpected { outcome } => ApiError::Unexpected { what: outcome },
            RestoreError::Source { .. } => ApiError::refused(error.to_string()),
        }
    }
}

/// `GET`
pub(super) async fn save(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let options = ask.query.read_options(ask.headers)?;
    let permit = context.permit(options).await?;
    let consensus = context.deps.consensus.clone();
    let dir = context.deps.work_dir.clone();
    let identity = consensus.identity();
    let maker = Maker {
        cluster_id: identity.cluster_id,
        epoch: identity.epoch,
        node: context.deps.node_name.clone(),
        now_ms: context.deps.clock.wall().as_millis(),
    };
    let reader = consensus.clone();
    let made = context.tasks.spawn_blocking(move || {
        let view = reader.view(&permit)?;
        let content = unnamed_file(&dir).map_err(work_file("make a temporary file", &dir))?;
        backup::make(&view, maker, content).map_err(|error| ApiError::refused(chain(&error)))
    });
    let made = joined(made.await)??;
    let facts = made.facts();
    tracing::info!(index = facts.index, keys = facts.keys, bytes = facts.bytes, archive = %facts.id, "archive made");
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    let sending = context.tasks.spawn_blocking(move || send(made, &sender));
    // Ends by itself: when the archive is sent or when the client is gone.
    drop(sending);
    let mut response = headers::ok(value::OCTETS, Body::Stream(receiver));
    let told = serde_json::to_string(&facts).expect("strings and numbers are JSON");
    response.headers_mut().insert(name::ARCHIVE, headers::text_value(&told));
    headers::read_meta(response.headers_mut(), konsul_state::Index::new(facts.index), context.contact());
    Ok(response)
}

/// A failure cuts the answer short, and the client, who knows how long it is to be, does not take it for whole.
fn send(made: Made, sender: &mpsc::Sender<Result<Bytes, io::Error>>) {
    let mut content = made.content;
    let mut next = Ok(Bytes::from(made.head));
    loop {
        let failed = next.is_err();
        if let Err(error) = &next {
            tracing::error!(%error, "archive was cut short");
        }
        if sender.blocking_send(next).is_err() || failed {
            return;
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        next = match content.read(&mut chunk) {
            Ok(0) => return,
            Ok(read) => {
                chunk.truncate(read);
                Ok(Bytes::from(chunk))
            }
            Err(error) => Err(error),
        };
    }
}

/// `PUT`
pub(super) async fn restore(context: &Context, ask: &Ask<'_>, body: Upload) -> Result<Response<Body>, ApiError> {
    let dry_run = ask.query.has("dry-run");
    let limit = Limit {
        bytes_max: context.deps.limits.hold().restore_bytes_max,
        advice: "Raise `http.restore_bytes_max` to accept it.",
    };
    let dir = context.deps.work_dir.clone();
    let file = snapshot::receive(body, &dir, limit).await?;
    let trial = context.tasks.spawn_blocking(move || {
        let mut archive = Archive::open(file)?;
        let facts = archive.facts();
        Ok::<_, ArchiveError>((facts, archive.header.cluster_id, archive.restore_on_trial(&dir)?))
    });
    let (facts, of_cluster, restored) = joined(trial.await)??;
    let ours = context.deps.consensus.identity().cluster_id;
    if of_cluster != ours && !ask.query.has("allow-cluster-change") {
        return Err(other_cluster(&facts, ours));
    }
    let before = before(context, &facts, ours).await?;
    if dry_run {
        return Ok(ask.serialized(&RestoreAnswer { dry_run, ..before }));
    }
    let replaced = joined(context.tasks.spawn(replace(context, facts.keys, restored)).await)??;
    Ok(ask.serialized(&RestoreAnswer { keys: replaced.entries, index: replaced.index.get(), ..before }))
}

/// A report is short.
const REPORT_LIMIT: Limit = Limit { bytes_max: 4096, advice: "A report names an archive and nothing else." };

/// `PUT /v1/cluster/backup`
pub(super) async fn report(context: &Context, ask: &Ask<'_>, body: Upload) -> Result<Response<Body>, ApiError> {
    let text = upload::read(body, REPORT_LIMIT).await?;
    let told: BackupReport = serde_json::from_slice(&text).map_err(|error| {
        let shape = "{\"kind\": \"saved\" or \"verified\", \"index\": N, \"bytes\": N, \"took_ms\": N}, with \"failed\": true if it did";
        ApiError::bad_request(format!("backup report: {error}; send {shape}"))
    })?;
    let kind = match told.kind {
        BackupKind::Saved => metrics::BackupKind::Saved,
        BackupKind::Verified => metrics::BackupKind::Verified,
    };
    if told.failed {
        // Not through the log: that there is no leader may be what it failed of.
        context.deps.metrics.backup.count_failure(kind);
        let (reported, _) = Reported::of(&context.deps.consensus.state().view()?)?;
        return Ok(ask.serialized(&status_of(&reported)));
    }
    let time_ms = context.deps.clock.wall().as_millis();
    let done = Done { time_ms, index: told.index, bytes: told.bytes, took_ms: told.took_ms };
    let reported = backup::report(&context.deps.consensus, kind, done).await?;
    Ok(ask.serialized(&status_of(&reported)))
}

/// `GET /v1/cluster/backup`
pub(super) async fn status(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let permit = context.permit(ask.query.read_options(ask.headers)?).await?;
    let (reported, _) = Reported::of(&context.deps.consensus.view(&permit)?)?;
    Ok(ask.serialized(&status_of(&reported)))
}

fn status_of(reported: &Reported) -> BackupStatus {
    let done = |done: Done| BackupDone {
        time: rfc3339(done.time_ms),
        index: done.index,
        bytes: done.bytes,
        took_ms: done.took_ms,
    };
    BackupStatus { saved: reported.saved.map(done), verified: reported.verified.map(done) }
}

impl From<ReportError> for ApiError {
    fn from(error: ReportError) -> ApiError {
        match error {
            ReportError::State(source) => source.into(),
            ReportError::Propose(source) => source.into(),
            ReportError::Busy => ApiError::Conflict { text: error.to_string() },
        }
    }
}

fn other_cluster(facts: &ArchiveFacts, ours: [u8; 16]) -> ApiError {
    let text = format!(
        "the archive is of cluster {}, this is cluster {}; nothing was changed. To bring its keys into this cluster all the \
         same, say so: `konsulctl snapshot restore --allow-cluster-change`",
        facts.cluster_id,
        uuid::Uuid::from_bytes(ours)
    );
    ApiError::Conflict { text }
}

/// What is there now, and what would be.
async fn before(context: &Context, facts: &ArchiveFacts, ours: [u8; 16]) -> Result<RestoreAnswer, ApiError> {
    let consensus = &context.deps.consensus;
    let permit = consensus.permit(Consistency::Leader).await?;
    let view = consensus.view(&permit)?;
    Ok(RestoreAnswer {
        archive: facts.clone(),
        cluster_id: uuid::Uuid::from_bytes(ours).to_string(),
        dry_run: false,
        keys_before: view.key_count()?,
        keys: facts.keys,
        index: view.applied()?.get(),
    })
}

/// In a task of its own: a client that goes away does not leave half a restore behind.
fn replace(
    context: &Context,
    keys: u64,
    restored: Restored,
) -> impl Future<Output = Result<backup::Replaced, RestoreError>> + Send + 'static {
    let (consensus, tasks) = (context.deps.consensus.clone(), context.tasks.clone());
    async move {
        let (chunker, chunks) = Chunker::channel();
        let walking = tasks.spawn_blocking(move || backup::entries_of(restored.store(), chunker));
        // It ends when nobody takes its entries any more.
        drop(walking);
        backup::replace(&consensus, keys, chunks).await
    }
}
