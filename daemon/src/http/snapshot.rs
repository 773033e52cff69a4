//! `/v1/snapshot`: everything as an archive, and back.
//!
//! Saving streams from one moment of the state. Restoring verifies the whole archive before the first change, stages
//! the entries through the log and puts them in place at once: nobody ever sees half of it.

use super::archive::{self, ArchiveError, Configuration, Limits, Meta, Server, Verified};
use super::body::Body;
use super::context::{Ask, Context};
use super::error::{ApiError, status};
use super::headers::{self, value};
use super::state_file::{StateReader, StateWriter, Written};
use super::upload::{Limit, Upload};
use crate::backup::{self, Chunker};
use crate::raft::{Consensus, Status};
use crate::telemetry::chain;
use bytes::Bytes;
use hyper::Response;
use konsul_state::{Index, View};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Pieces of an answer that wait for a slow client.
const CHUNKS_WAITING_MAX: usize = 4;
const CHUNK_BYTES: usize = 64 * 1024;

/// `GET`
pub(super) async fn save(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let options = ask.query.read_options(ask.headers)?;
    ask.query.datacenter(&context.deps.config.datacenter)?;
    let permit = context.permit(options).await?;
    let consensus = context.deps.consensus.clone();
    let dir = context.deps.work_dir.clone();
    // tar tells each size ahead of the content: so the state is written to a file first.
    let spooled = context.tasks.spawn_blocking(move || {
        let view = consensus.view(&permit)?;
        let index = view.applied()?;
        let (state, written) = spool(&view, &dir)?;
        Ok::<_, ApiError>((state, written, index))
    });
    let (state, written, index) = joined(spooled.await)??;
    let meta = meta(&context.deps.consensus.status(), index, written);
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    let packing = context.tasks.spawn_blocking(move || stream(&meta, state, written, sender));
    // Ends by itself: when the archive is complete or when the client is gone.
    drop(packing);
    let mut response = headers::ok(value::GZIP_FILE, Body::Stream(receiver));
    headers::read_meta(response.headers_mut(), index, context.contact());
    Ok(response)
}

pub(super) fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, ApiError> {
    result.map_err(|error| ApiError::Unexpected { what: error.to_string() })
}

pub(super) fn work_file(doing: &'static str, dir: &Path) -> impl FnOnce(io::Error) -> ApiError {
    let dir = dir.display().to_string();
    move |source| ApiError::WorkFile { doing, dir, source }
}

fn spool(view: &View, dir: &Path) -> Result<(File, Written), ApiError> {
    let file = archive::unnamed_file(dir).map_err(work_file("make a temporary file", dir))?;
    let failed = || work_file("write a temporary file", dir);
    let mut writer = StateWriter::start(BufWriter::with_capacity(CHUNK_BYTES, &file)).map_err(failed())?;
    view.kv_each(b"", |entry| writer.record(&entry).map_err(failed()))?;
    let written = writer.finish().map_err(failed())?;
    Ok((file, written))
}

fn meta(status: &Status, index: Index, written: Written) -> Meta {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let servers = status.members.iter().map(|member| Server {
        suffrage: if member.voter { 0 } else { 1 },
        id: member.peer.id.to_string(),
        address: member.peer.info.rpc.clone(),
    });
    Meta {
        version: 1,
        id: format!("{}-{index}-{}", status.term, since_1970.as_millis()),
        index: index.get(),
        term: status.term,
        peers: None,
        configuration: Configuration { servers: servers.collect() },
        configuration_index: 0,
        size: written.bytes,
    }
}

/// Packs into the answer; a failure cuts the answer short, so that the client cannot take it for whole.
fn stream(meta: &Meta, state: File, written: Written, sender: mpsc::Sender<Result<Bytes, io::Error>>) {
    let mut out = BufWriter::with_capacity(CHUNK_BYTES, ChunkWriter { sender: sender.clone() });
    let packed = archive::pack(meta, state, written, &mut out).and_then(|()| out.flush());
    if let Err(error) = packed {
        if error.kind() != io::ErrorKind::BrokenPipe {
            tracing::error!(error = %error, "snapshot was cut short");
        }
        // An error means that the client is gone already.
        sender.blocking_send(Err(error)).unwrap_or(());
    }
}

struct ChunkWriter {
    sender: mpsc::Sender<Result<Bytes, io::Error>>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = Bytes::copy_from_slice(bytes);
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `PUT`
pub(super) async fn restore(context: &Context, ask: &Ask<'_>, body: Upload) -> Result<Response<Body>, ApiError> {
    ask.query.datacenter(&context.deps.config.datacenter)?;
    let limits = context.deps.limits.hold();
    let limit = Limit { bytes_max: limits.restore_bytes_max, advice: "Raise `http.restore_bytes_max` to accept it." };
    let dir = context.deps.work_dir.clone();
    let archive = receive(body, &dir, limit).await?;
    let limits = Limits { state_bytes_max: limits.restore_bytes_max, value_bytes_max: limits.value_bytes_max };
    let verified = joined(context.tasks.spawn_blocking(move || archive::unpack(archive, &dir, limits)).await)?;
    let verified = verified.map_err(|error| refused(&error))?;
    // In a task of its own: a client that goes away does not leave half a restore behind.
    let restoring = context.tasks.spawn(replace(context.deps.consensus.clone(), context.tasks.clone(), verified));
    joined(restoring.await)??;
    Ok(headers::response(status::OK, Body::EMPTY))
}

/// The whole chain of causes in one text, status 500 as Consul has it.
fn refused(error: &ArchiveError) -> ApiError {
    ApiError::refused(chain(error))
}

/// The body in a file without a name.
pub(super) async fn receive(mut body: Upload, dir: &Path, limit: Limit) -> Result<File, ApiError> {
    body.check(limit)?;
    let file = archive::unnamed_file(dir).map_err(work_file("make a temporary file", dir))?;
    let mut file = tokio::fs::File::from_std(file);
    let mut bytes = 0;
    while let Some(chunk) = body.next().await? {
        bytes += u64::try_from(chunk.len()).expect("usize is at most 64 bits");
        if bytes > limit.bytes_max {
            return Err(limit.refusal(bytes));
        }
        file.write_all(&chunk).await.map_err(work_file("write a temporary file", dir))?;
    }
    file.flush().await.map_err(work_file("write a temporary file", dir))?;
    Ok(file.into_std().await)
}

/// Puts the verified entries in place of everything.
async fn replace(consensus: Consensus, tasks: TaskTracker, verified: Verified) -> Result<(), ApiError> {
    let entries = verified.records;
    let reader = verified.reader().map_err(|error| refused(&error))?;
    let (chunker, chunks) = Chunker::channel();
    let reading = tasks.spawn_blocking(move || read(reader, chunker));
    // It ends when nobody takes its entries any more.
    drop(reading);
    backup::replace(&consensus, entries, chunks).await?;
    Ok(())
}

/// Sends every record.
fn read(mut reader: StateReader<BufReader<File>>, mut to: Chunker) {
    loop {
        match reader.next() {
            Ok(Some(record)) => {
                if to.put(record).is_err() {
                    return;
                }
            }
            Ok(None) => return to.end(Ok(())),
            Err(error) => return to.end(Err(chain(&error))),
        }
    }
}
