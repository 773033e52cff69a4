//! Many requests at once over one connection to one node; each caller learns whether its request can have arrived.
//!
//! A request is queued, then written (from then on its outcome is unknown until the answer comes), then answered. Caller
//! and writer settle with one atomic who was first: a request given up while it is queued is surely never sent.

use super::frame::{self, FrameError};
use super::handshake::{ConnectError, Dialer, Target};
use super::link::Tasks;
use super::protocol::{FRAME_BYTES_MAX, Kind, Purpose};
use super::stream::{FrameReader, Stream};
use crate::metrics::{Counted, PeerMetrics};
use crate::telemetry::chain;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, info};

/// A frame without its kind and the longest id.
const REQUEST_BYTES_MAX: usize = FRAME_BYTES_MAX - 11;
/// Requests waiting for the writer; beyond that callers wait.
const QUEUE_MAX: usize = 4096;
/// Requests are collected into one write up to this size.
const COALESCE_BYTES: usize = 256 << 10;
/// A connection nobody uses is closed after this time.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How often a connection that takes no more requests looks whether all are answered.
const DRAIN_INTERVAL: Duration = Duration::from_millis(100);

/// A request that got no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// Surely never reached the peer: it may be sent again, or elsewhere.
    #[error("request to {peer} was not sent")]
    NotSent {
        peer: String,
        #[source]
        reason: NotSentReason,
    },
    /// Sent, perhaps carried out: the outcome is unknown.
    #[error("request to {peer} was sent but not answered; its outcome is unknown")]
    Lost {
        peer: String,
        #[source]
        reason: LostReason,
    },
}

/// Why a request was not sent.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotSentReason {
    #[error(transparent)]
    Connect(Arc<ConnectError>),
    #[error("not sent within {waited_ms} ms")]
    TimedOut { waited_ms: u128 },
    #[error("it has {bytes} bytes, more than a message may have")]
    TooLong { bytes: usize },
    #[error("the connection was closed before its turn came")]
    Closed,
}

/// Why a sent request was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LostReason {
    #[error("{0}")]
    Broken(String),
    #[error("no answer within {waited_ms} ms")]
    TimedOut { waited_ms: u128 },
    #[error("the peer failed: {0}")]
    Failed(String),
}

#[derive(Debug)]
enum Failure {
    NotSent(NotSentReason),
    Lost(LostReason),
}

type Reply = oneshot::Sender<Result<Bytes, Failure>>;

/// A queued request.
struct Call {
    id: u64,
    request: Bytes,
    /// Set by whoever is first: the writer, or the caller that gives up.
    settled: Arc<AtomicBool>,
    reply: Reply,
}

/// Requests written and not answered.
#[derive(Debug, Clone, Default)]
struct Pending(Arc<Mutex<HashMap<u64, Reply>>>);

impl Pending {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Reply>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn fail_all(&self, text: &str) {
        let all = std::mem::take(&mut *self.lock());
        for (_, reply) in all {
            reply_to(reply, Err(Failure::Lost(LostReason::Broken(text.to_owned()))));
        }
    }
}

/// The caller may have given up: then nobody is to be told.
fn reply_to(reply: Reply, answer: Result<Bytes, Failure>) {
    if reply.send(answer).is_err() {
        debug!("an answer came after its caller had given up");
    }
}

/// One shared connection, made by a task of its own; the task ends when this is dropped and all is answered.
#[derive(Debug)]
pub(super) struct Mux {
    target: Target,
    queue: mpsc::Sender<Call>,
    pending: Pending,
    last_id: AtomicU64,
    metrics: PeerMetrics,
}

impl Mux {
    /// Begins to connect.
    pub(super) fn start(dialer: Dialer, target: Target, tasks: &Tasks) -> Mux {
        let (queue, calls) = mpsc::channel(QUEUE_MAX);
        let (pending, metrics) = (Pending::default(), dialer.metrics.clone());
        let driver = Driver { dialer, target: target.clone(), calls, pending: pending.clone() };
        let stop = tasks.stop.clone();
        tasks.tracker.spawn_on(async move { driver.run(stop.cancelled_owned()).await }, &tasks.runtime);
        Mux { target, queue, pending, last_id: AtomicU64::new(0), metrics }
    }

    /// Leads to that node, as far as is known.
    pub(super) fn serves(&self, target: &Target) -> bool {
        self.target == *target && !self.queue.is_closed()
    }

    /// Sends the request and waits for its answer. When dropped the request may still be sent, its answer is not kept.
    pub(super) async fn call(&self, request: Bytes, start: Instant, deadline: Instant) -> Result<Bytes, CallError> {
        if request.len() > REQUEST_BYTES_MAX {
            return Err(self.failed(Failure::NotSent(NotSentReason::TooLong { bytes: request.len() })));
        }
        let _counted = Counted::new(&self.metrics.calls_in_flight);
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let (reply, answer) = oneshot::channel();
        let settled = Arc::new(AtomicBool::new(false));
        let waiting = Waiting { id, settled: Arc::clone(&settled), pending: &self.pending };
        let call = Call { id, request, settled, reply };
        let waited_ms = || start.elapsed().as_millis();
        match timeout_at(deadline, self.queue.send(call)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(self.failed(Failure::NotSent(NotSentReason::Closed))),
            Err(_) => return Err(self.failed(Failure::NotSent(NotSentReason::TimedOut { waited_ms: waited_ms() }))),
        }
        let answer = match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) if waiting.give_up() => Err(Failure::NotSent(NotSentReason::Closed)),
            Ok(Err(_)) => Err(Failure::Lost(LostReason::Broken("this node is stopping".to_owned()))),
            Err(_) if waiting.give_up() => Err(Failure::NotSent(NotSentReason::TimedOut { waited_ms: waited_ms() })),
            Err(_) => Err(Failure::Lost(LostReason::TimedOut { waited_ms: waited_ms() })),
        };
        answer.map_err(|failure| self.failed(failure))
    }

    fn failed(&self, failure: Failure) -> CallError {
        let peer = self.target.label();
        match failure {
            Failure::NotSent(reason) => CallError::NotSent { peer, reason },
            Failure::Lost(reason) => CallError::Lost { peer, reason },
        }
    }
}

/// A caller that waits; dropped, its request is forgotten.
struct Waiting<'a> {
    id: u64,
    settled: Arc<AtomicBool>,
    pending: &'a Pending,
}

impl Waiting<'_> {
    /// True: the request was not sent and will not be.
    fn give_up(&self) -> bool {
        !self.settled.swap(true, Ordering::AcqRel)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Answered calls are out of the table already. A call not yet written is in no table, and now never will be.
        if !self.give_up() {
            self.pending.lock().remove(&self.id);
        }
    }
}

/// The task behind a `Mux`.
struct Driver {
    dialer: Dialer,
    target: Target,
    calls: mpsc::Receiver<Call>,
    pending: Pending,
}

impl Driver {
    async fn run(mut self, stopped: impl Future<Output = ()>) {
        let mut stopped = std::pin::pin!(stopped);
        let dialed = tokio::select! {
            () = &mut stopped => return self.refuse_queued(&NotSentReason::Closed).await,
            dialed = self.dialer.dial(&self.target, Purpose::Forward) => dialed,
        };
        let (mut read, write) = match dialed {
            Ok((wire, _)) => wire.split(),
            Err(error) => {
                info!(peer = self.target.label(), error = chain(&error), "peer not reached");
                return self.refuse_queued(&NotSentReason::Connect(Arc::new(error))).await;
            }
        };
        let ended = tokio::select! {
            () = &mut stopped => "this node is stopping".to_owned(),
            ended = write_calls(write, &mut self.calls, &self.pending) => ended,
            ended = read_answers(&mut read, &self.pending) => ended,
        };
        debug!(peer = self.target.label(), reason = ended, "forward connection ended");
        self.calls.close();
        self.pending.fail_all(&ended);
        self.refuse_queued(&NotSentReason::Closed).await;
    }

    async fn refuse_queued(&mut self, reason: &NotSentReason) {
        self.calls.close();
        while let Some(call) = self.calls.recv().await {
            reply_to(call.reply, Err(Failure::NotSent(reason.clone())));
        }
    }
}

/// Writes calls as they come; returns why it ended.
async fn write_calls(mut write: WriteHalf<Stream>, calls: &mut mpsc::Receiver<Call>, pending: &Pending) -> String {
    let mut out = Vec::new();
    loop {
        let call = match timeout(IDLE_MAX, calls.recv()).await {
            Ok(Some(call)) => call,
            Ok(None) => {
                // The pool let go of it: what was sent is still answered, each caller bounds its own patience.
                while !pending.is_empty() {
                    sleep(DRAIN_INTERVAL).await;
                }
                return "the connection is not needed any more".to_owned();
            }
            Err(_) if pending.is_empty() => return "the connection was idle".to_owned(),
            Err(_) => continue,
        };
        frame::reset(&mut out);
        put_call(&mut out, call, pending);
        while out.len() < COALESCE_BYTES
            && let Ok(call) = calls.try_recv()
        {
            put_call(&mut out, call, pending);
        }
        let written = async {
            write.write_all(&out).await?;
            write.flush().await
        };
        if let Err(error) = written.await {
            return format!("the connection broke while sending: {error}");
        }
    }
}

/// Into the table first, then settled: whoever gives up after that finds the call in the table.
fn put_call(out: &mut Vec<u8>, call: Call, pending: &Pending) {
    pending.lock().insert(call.id, call.reply);
    if call.settled.swap(true, Ordering::AcqRel) {
        pending.lock().remove(&call.id);
        return;
    }
    let put = frame::put(out, Kind::Forward, call.id, |out| out.extend_from_slice(&call.request));
    put.expect("its length was checked before it was queued");
}

/// Hands answers to their callers; returns why it ended.
async fn read_answers(read: &mut FrameReader, pending: &Pending) -> String {
    loop {
        let frame = match read.next().await {
            Ok(frame) => frame,
            Err(error @ FrameError::Closed) => return error.to_string(),
            Err(error) => return chain(&error),
        };
        let answer = match frame.kind {
            Kind::Answer => Ok(frame.payload),
            Kind::Failed => {
                let text = String::from_utf8_lossy(&frame.payload).into_owned();
                Err(Failure::Lost(LostReason::Failed(text)))
            }
            other => return format!("the peer sent {other:?} on a forward connection"),
        };
        // None: the caller gave up.
        if let Some(reply) = { pending.lock().remove(&frame.id) } {
            reply_to(reply, answer);
        }
    }
}
