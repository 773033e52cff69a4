//! Snapshots on their way: read from a file in chunks, written to a file in chunks, verified before anybody uses them.
//!
//! Neither side holds more than a few chunks in memory. Files and digests are worked on outside the async threads: a
//! megabyte of SHA-256 there would delay a heartbeat.

use super::PeerHandler;
use super::codec::{self, SnapshotBegin};
use super::frame::{self, Frame, FrameError};
use super::handshake::{ConnectError, Dialer, PeerIdentity, Target};
use super::protocol::{Kind, Purpose, SNAPSHOT_CHUNK_BYTES};
use super::stream::{FrameReader, Stream, Wire};
use crate::metrics::PeerMetrics;
use crate::raft_types::SnapshotResponse;
use crate::storage::SnapshotFile;
use crate::telemetry::chain;
use bytes::Bytes;
use konsul_state::DecodeError;
use prometheus_client::metrics::counter::Counter;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

/// A sender that sends nothing for so long is gone.
const RECEIVE_STALL_MAX: Duration = Duration::from_secs(30);
/// While a snapshot is installed the sender hears from us this often.
const WORKING_INTERVAL: Duration = Duration::from_secs(1);
/// After a refusal, what is on its way is still read for so long: closing at once would drop the refusal too.
const LINGER: Duration = Duration::from_secs(5);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
const PROGRESS_PERCENT: u64 = 10;

/// A snapshot that was not installed at the peer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("not connected")]
    Connect(#[source] ConnectError),
    #[error("read snapshot {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the reading task ended early")]
    Reader(#[source] JoinError),
    #[error("snapshot {path} is {missing} bytes shorter than it was")]
    Short { path: PathBuf, missing: u64 },
    #[error("send the snapshot")]
    Send(#[source] io::Error),
    #[error("receive the answer")]
    Receive(#[source] FrameError),
    #[error("the peer made no progress for {} s", stall_max.as_secs_f32())]
    Stalled { stall_max: Duration },
    #[error("the peer refused the snapshot: {0}")]
    Refused(String),
    #[error("the peer's answer is malformed")]
    Malformed(#[source] DecodeError),
    #[error("the peer sent {0} in a snapshot transfer")]
    Unexpected(String),
}

/// Sends a snapshot over a connection of its own and waits until it is installed. May be dropped at any time.
pub(super) async fn send(
    dialer: &Dialer,
    target: &Target,
    begin: SnapshotBegin,
    path: PathBuf,
    stall_max: Duration,
) -> Result<SnapshotResponse, SendError> {
    let (wire, _) = dialer.dial(target, Purpose::Snapshot).await.map_err(SendError::Connect)?;
    let (mut read, write) = wire.split();
    let progress = Progress::new("snapshot sending", target.label(), begin.len, &dialer.metrics.snapshot_sent_bytes);
    // The answer is awaited from the start: a receiver with a full disk says so at once.
    let sent = tokio::select! {
        early = answer(&mut read, None) => return early,
        sent = send_file(write, &begin, path, progress, stall_max) => sent,
    };
    match sent {
        Ok(_open) => answer(&mut read, Some(stall_max)).await,
        // If the receiver closed the connection it may have said why.
        Err(error @ SendError::Send(_)) => match answer(&mut read, Some(WORKING_INTERVAL)).await {
            Err(refused @ SendError::Refused(_)) => Err(refused),
            Ok(_) | Err(_) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Waits for the answer; `silence_max` is the longest pause between frames. Cancel safe.
async fn answer(read: &mut FrameReader, silence_max: Option<Duration>) -> Result<SnapshotResponse, SendError> {
    loop {
        let frame = match silence_max {
            None => read.next().await,
            Some(stall_max) => timeout(stall_max, read.next()).await.map_err(|_| SendError::Stalled { stall_max })?,
        };
        let frame = frame.map_err(SendError::Receive)?;
        match frame.kind {
            Kind::Working => {}
            Kind::Answer => return codec::snapshot_answer(&frame.payload).map_err(SendError::Malformed),
            Kind::Failed => return Err(SendError::Refused(String::from_utf8_lossy(&frame.payload).into_owned())),
            other => return Err(SendError::Unexpected(format!("{other:?}"))),
        }
    }
}

/// Writes begin, data and end; gives the half back, for dropped it would close the connection.
async fn send_file(
    mut write: WriteHalf<Stream>,
    begin: &SnapshotBegin,
    path: PathBuf,
    mut progress: Progress,
    stall_max: Duration,
) -> Result<WriteHalf<Stream>, SendError> {
    let mut source = Source::open(path).await?;

    let mut out = Vec::new();
    put(&mut out, Kind::SnapshotBegin, |out| {
        frame::with_writer(out, |out| codec::put_snapshot_begin(out, begin));
    });
    send_frame(&mut write, &out, stall_max).await?;
    let mut left = begin.len;
    while left > 0 {
        let chunk = source.read(left.min(SNAPSHOT_CHUNK_BYTES)).await?;
        out.clear();
        put(&mut out, Kind::SnapshotData, |out| out.extend_from_slice(&chunk));
        send_frame(&mut write, &out, stall_max).await?;
        left -= length(&chunk);
        source.chunk = chunk;
        progress.at(begin.len - left);
    }
    out.clear();
    put(&mut out, Kind::SnapshotEnd, |_| {});
    send_frame(&mut write, &out, stall_max).await?;
    Ok(write)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("usize is at most 64 bits")
}

/// One transfer at a time on a connection: every frame of it has the id 1.
fn put(out: &mut Vec<u8>, kind: Kind, payload: impl FnOnce(&mut Vec<u8>)) {
    frame::put(out, kind, 1, payload).expect("a chunk is far shorter than a frame may be");
}

async fn send_frame(write: &mut WriteHalf<Stream>, frame: &[u8], stall_max: Duration) -> Result<(), SendError> {
    let send = async {
        write.write_all(frame).await?;
        write.flush().await
    };
    timeout(stall_max, send).await.map_err(|_| SendError::Stalled { stall_max })?.map_err(SendError::Send)
}

/// A file being read, outside the async threads.
struct Source {
    path: PathBuf,
    file: Option<File>,
    /// Taken for the next chunk, so that two buffers serve the whole file.
    chunk: Vec<u8>,
}

impl Source {
    async fn open(path: PathBuf) -> Result<Source, SendError> {
        let opened = {
            let path = path.clone();
            spawn_blocking(move || File::open(path)).await.map_err(SendError::Reader)?
        };
        match opened {
            Ok(file) => Ok(Source { path, file: Some(file), chunk: Vec::new() }),
            Err(source) => Err(SendError::Read { path, source }),
        }
    }

    async fn read(&mut self, bytes: u64) -> Result<Vec<u8>, SendError> {
        let mut file = self.file.take().expect("the file comes back with every chunk");
        let mut chunk = std::mem::take(&mut self.chunk);
        let read = spawn_blocking(move || {
            chunk.clear();
            let read = (&mut file).take(bytes).read_to_end(&mut chunk);
            (file, chunk, read)
        });
        let (file, chunk, read) = read.await.map_err(SendError::Reader)?;
        self.file = Some(file);
        read.map_err(|source| SendError::Read { path: self.path.clone(), source })?;
        match bytes - length(&chunk) {
            0 => Ok(chunk),
            missing => Err(SendError::Short { path: self.path.clone(), missing }),
        }
    }
}

/// Tells the log how far a transfer is: every tenth of it, or every few seconds.
struct Progress {
    what: &'static str,
    peer: String,
    total: u64,
    told_at: Instant,
    told_percent: u64,
    done: u64,
    counter: Counter,
}

impl Progress {
    fn new(what: &'static str, peer: String, total: u64, counter: &Counter) -> Progress {
        info!(peer, sent_bytes = 0, total_bytes = total, "{what}");
        Progress { what, peer, total, told_at: Instant::now(), told_percent: 0, done: 0, counter: counter.clone() }
    }

    fn at(&mut self, done: u64) {
        self.counter.inc_by(done - self.done);
        self.done = done;
        let percent = done.saturating_mul(100).checked_div(self.total).unwrap_or(100);
        let due = percent >= self.told_percent + PROGRESS_PERCENT || self.told_at.elapsed() >= PROGRESS_INTERVAL;
        if due {
            (self.told_percent, self.told_at) = (percent - percent % PROGRESS_PERCENT, Instant::now());
            info!(peer = self.peer, sent_bytes = done, total_bytes = self.total, percent, "{}", self.what);
        }
    }
}

/// A snapshot that did not arrive whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error("receive a snapshot")]
    Receive(#[source] FrameError),
    #[error("nothing received for {} s", RECEIVE_STALL_MAX.as_secs())]
    Stalled,
    #[error("a transfer begins with SnapshotBegin, not {0}")]
    NotBegun(String),
    #[error("the transfer's beginning is malformed")]
    Malformed(#[source] DecodeError),
    #[error("the sender sent {0} in a snapshot transfer")]
    Unexpected(String),
    #[error("create {path}; check the directory and its free space")]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {path}; check the free space")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the writing task ended early")]
    Writer(#[source] JoinError),
    #[error("the snapshot is damaged: {found} bytes arrived, {expected} were announced")]
    WrongLength { found: u64, expected: u64 },
    #[error("the snapshot is damaged: its digest is not the announced one")]
    WrongDigest,
    #[error("install the snapshot: {0}")]
    Install(String),
    #[error("send the answer")]
    Send(#[source] io::Error),
}

/// Receives one snapshot after the other until the sender closes the connection. May be dropped at any time.
pub(super) async fn receive<H: PeerHandler>(
    wire: &mut Wire,
    peer: &PeerIdentity,
    handler: &H,
    metrics: &PeerMetrics,
) -> Result<(), ReceiveError> {
    loop {
        let first = match wire.next().await {
            Err(FrameError::Closed) => return Ok(()),
            first => first.map_err(ReceiveError::Receive)?,
        };
        let mut out = Vec::new();
        match receive_one(wire, first, peer, handler, metrics).await {
            Ok(answer) => {
                put(&mut out, Kind::Answer, |out| {
                    frame::with_writer(out, |out| codec::put_snapshot_answer(out, &answer));
                });
                wire.send(&out).await.map_err(ReceiveError::Send)?;
            }
            Err(error) => {
                put(&mut out, Kind::Failed, |out| out.extend_from_slice(chain(&error).as_bytes()));
                wire.send(&out).await.map_err(ReceiveError::Send)?;
                linger(wire).await;
                return Err(error);
            }
        }
    }
}

/// Reads what is still on its way, so that the refusal is not lost to a reset.
async fn linger(wire: &mut Wire) {
    let drain = async { while wire.next().await.is_ok() {} };
    if timeout(LINGER, drain).await.is_err() {
        warn!(peer = %wire.address, "snapshot sender goes on after a refusal; closing the connection");
    }
}

async fn receive_one<H: PeerHandler>(
    wire: &mut Wire,
    first: Frame,
    peer: &PeerIdentity,
    handler: &H,
    metrics: &PeerMetrics,
) -> Result<SnapshotResponse, ReceiveError> {
    if first.kind != Kind::SnapshotBegin {
        return Err(ReceiveError::NotBegun(format!("{:?}", first.kind)));
    }
    let begin = codec::snapshot_begin(&first.payload).map_err(ReceiveError::Malformed)?;
    let mut sink = Sink::create(&handler.snapshot_dir(), peer).await?;
    let progress = Progress::new("snapshot receiving", peer.name.clone(), begin.len, &metrics.snapshot_received_bytes);
    receive_file(wire, &mut sink, &begin, progress).await?;
    let path = sink.finish(&begin).await?.keep();
    let file = SnapshotFile { path: path.clone(), len: begin.len, sha256: begin.sha256 };
    // From here on the handler may have passed the file on: it is deleted if it says no, and never because the sender
    // hung up or this future was dropped.
    match install(wire, handler.snapshot(begin.vote, begin.meta, file)).await {
        Ok(answer) => Ok(answer),
        Err(text) => {
            drop(Partial { path: Some(path) });
            Err(ReceiveError::Install(text))
        }
    }
}

async fn receive_file(
    wire: &mut Wire,
    sink: &mut Sink,
    begin: &SnapshotBegin,
    mut progress: Progress,
) -> Result<(), ReceiveError> {
    loop {
        let frame = timeout(RECEIVE_STALL_MAX, wire.next()).await.map_err(|_| ReceiveError::Stalled)?;
        let frame = frame.map_err(ReceiveError::Receive)?;
        match frame.kind {
            Kind::SnapshotData => {
                let found = sink.len + length(&frame.payload);
                if found > begin.len {
                    return Err(ReceiveError::WrongLength { found, expected: begin.len });
                }
                sink.write(frame.payload).await?;
                progress.at(sink.len);
            }
            Kind::SnapshotEnd => return Ok(()),
            other => return Err(ReceiveError::Unexpected(format!("{other:?}"))),
        }
    }
}

/// Runs the installation to its end and tells the sender meanwhile that it does.
async fn install<T>(wire: &mut Wire, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut tick = interval(WORKING_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut out = Vec::new();
    put(&mut out, Kind::Working, |_| {});
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = tick.tick() => {}
        }
        if let Err(error) = wire.send(&out).await {
            info!(peer = %wire.address, %error, "snapshot sender is gone; the installation goes on");
            return work.await;
        }
    }
}

/// A file that is deleted unless it is kept.
struct Partial {
    path: Option<PathBuf>,
}

impl Partial {
    fn path(&self) -> PathBuf {
        self.path.clone().expect("only keep() and drop() take it")
    }

    /// It is somebody else's now.
    fn keep(mut self) -> PathBuf {
        self.path.take().expect("only keep() and drop() take it")
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(path = %path.display(), %error, "partial snapshot not deleted; delete it by hand"),
        }
    }
}

/// A file being written and its digest, outside the async threads.
struct Sink {
    partial: Partial,
    len: u64,
    open: Option<(File, Sha256)>,
}

impl Sink {
    async fn create(dir: &Path, peer: &PeerIdentity) -> Result<Sink, ReceiveError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("received-{}-{}-{number}.tmp", peer.node_id, std::process::id()));
        let created = {
            let path = path.clone();
            spawn_blocking(move || File::options().write(true).create_new(true).open(path)).await
        };
        match created.map_err(ReceiveError::Writer)? {
            Ok(file) => {
                let partial = Partial { path: Some(path) };
                Ok(Sink { partial, len: 0, open: Some((file, Sha256::new())) })
            }
            Err(source) => Err(ReceiveError::Create { path, source }),
        }
    }

    async fn write(&mut self, chunk: Bytes) -> Result<(), ReceiveError> {
        let (mut file, mut digest) = self.open.take().expect("the file comes back with every chunk");
        self.len += length(&chunk);
        let written = spawn_blocking(move || {
            digest.update(&chunk);
            let written = file.write_all(&chunk);
            (file, digest, written)
        });
        let (file, digest, written) = written.await.map_err(ReceiveError::Writer)?;
        self.open = Some((file, digest));
        written.map_err(|source| ReceiveError::Write { path: self.partial.path(), source })
    }

    /// Checks length and digest and syncs the file.
    async fn finish(self, begin: &SnapshotBegin) -> Result<Partial, ReceiveError> {
        let Sink { partial, len, open } = self;
        if len != begin.len {
            return Err(ReceiveError::WrongLength { found: len, expected: begin.len });
        }
        let (file, digest) = open.expect("the file comes back with every chunk");
        if digest.finalize().as_slice() != begin.sha256 {
            return Err(ReceiveError::WrongDigest);
        }
        let synced = spawn_blocking(move || file.sync_all()).await.map_err(ReceiveError::Writer)?;
        synced.map_err(|source| ReceiveError::Write { path: partial.path(), source })?;
        Ok(partial)
    }
}
