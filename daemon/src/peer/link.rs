//! A connection that carries one request at a time, opened when it is needed and again when it broke.

use super::frame::{self, Frame, FrameError};
use super::handshake::{ConnectError, Dialer, PeerIdentity, Target};
use super::protocol::{Kind, Purpose};
use super::stream::Wire;
use bytes::Bytes;
use std::io;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// With this many answers overdue the connection is worth nothing, whatever TCP says.
const OVERDUE_MAX: u64 = 64;

/// Where this part's tasks run, and what ends them.
#[derive(Debug, Clone)]
pub(super) struct Tasks {
    pub(super) tracker: TaskTracker,
    pub(super) stop: CancellationToken,
    /// The runtime of Raft: connections live there, whichever runtime asks for them.
    pub(super) runtime: Handle,
}

type Dialed = Result<(Wire, PeerIdentity), ConnectError>;

/// One node, one purpose, one request at a time.
#[derive(Debug)]
pub(super) struct Link {
    dialer: Dialer,
    tasks: Tasks,
    target: Target,
    purpose: Purpose,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle,
    /// In a task: an attempt takes longer than a heartbeat on a long line, and must outlive the request that began it.
    Connecting(AbortOnDropHandle<Dialed>),
    Open(Box<Open>),
}

#[derive(Debug)]
struct Open {
    wire: Wire,
    out: Vec<u8>,
    last_id: u64,
    answered_id: u64,
    /// A frame is half written; true after a request was dropped in the middle of it.
    writing: bool,
}

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("not connected")]
    Connect(#[source] ConnectError),
    #[error("not connected yet after {waited_ms} ms")]
    Connecting { waited_ms: u128 },
    #[error("the task that connects ended early: {0}")]
    Stopped(String),
    #[error("send the request")]
    Send(#[source] io::Error),
    #[error("receive the answer")]
    Receive(#[source] FrameError),
    #[error("no answer after {waited_ms} ms")]
    TimedOut { waited_ms: u128 },
    #[error("the request does not fit a frame")]
    TooLong(#[source] frame::TooLong),
    #[error("the peer failed: {0}")]
    Failed(String),
    #[error("the peer answered {0} out of turn")]
    OutOfTurn(String),
}

impl Link {
    pub(super) fn new(dialer: Dialer, tasks: Tasks, target: Target, purpose: Purpose) -> Link {
        Link { dialer, tasks, target, purpose, state: State::Idle }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Sends the request and waits for its answer. A connection found dead is replaced and the request sent again, once:
    /// Raft's requests may arrive twice. May be dropped at any time.
    pub(super) async fn call(
        &mut self,
        kind: Kind,
        mut payload: impl FnMut(&mut Vec<u8>),
        limit: Duration,
    ) -> Result<Bytes, LinkError> {
        let start = Instant::now();
        let deadline = start + limit;
        loop {
            let kept = self.is_open();
            let open = self.open(start, deadline).await?;
            match open.exchange(kind, &mut payload, start, deadline).await {
                Ok(answer) => return answer_of(answer),
                // A late answer is skipped when it comes; the connection itself is sound.
                Err(error @ (LinkError::TimedOut { .. } | LinkError::TooLong(_))) => return Err(error),
                Err(error) => {
                    self.state = State::Idle;
                    if !kept {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Open, and fit to be used again.
    fn is_open(&self) -> bool {
        match &self.state {
            State::Open(open) => !open.writing && open.last_id - open.answered_id < OVERDUE_MAX,
            State::Idle | State::Connecting(_) => false,
        }
    }

    async fn open(&mut self, start: Instant, deadline: Instant) -> Result<&mut Open, LinkError> {
        if !self.is_open() {
            self.connect(start, deadline).await?;
        }
        match &mut self.state {
            State::Open(open) => Ok(open),
            State::Idle | State::Connecting(_) => unreachable!("connected just now"),
        }
    }

    async fn connect(&mut self, start: Instant, deadline: Instant) -> Result<(), LinkError> {
        if !matches!(self.state, State::Connecting(_)) {
            self.state = State::Connecting(self.start_connecting());
        }
        let State::Connecting(task) = &mut self.state else { unreachable!("set just now") };
        let dialed = timeout_at(deadline, task).await;
        let dialed = dialed.map_err(|_| LinkError::Connecting { waited_ms: start.elapsed().as_millis() })?;
        self.state = State::Idle;
        let (wire, _) = dialed.map_err(|error| LinkError::Stopped(error.to_string()))?.map_err(LinkError::Connect)?;
        self.state = State::Open(Box::new(Open::new(wire)));
        Ok(())
    }

    fn start_connecting(&self) -> AbortOnDropHandle<Dialed> {
        let (dialer, target, purpose) = (self.dialer.clone(), self.target.clone(), self.purpose);
        let stop = self.tasks.stop.clone();
        let dial = async move {
            tokio::select! {
                () = stop.cancelled() => Err(ConnectError::Stopping),
                dialed = dialer.dial(&target, purpose) => dialed,
            }
        };
        AbortOnDropHandle::new(self.tasks.tracker.spawn_on(dial, &self.tasks.runtime))
    }
}

impl Open {
    fn new(wire: Wire) -> Open {
        Open { wire, out: Vec::new(), last_id: 0, answered_id: 0, writing: false }
    }

    async fn exchange(
        &mut self,
        kind: Kind,
        payload: &mut impl FnMut(&mut Vec<u8>),
        start: Instant,
        deadline: Instant,
    ) -> Result<Frame, LinkError> {
        frame::reset(&mut self.out);
        frame::put(&mut self.out, kind, self.last_id + 1, payload).map_err(LinkError::TooLong)?;
        self.last_id += 1;
        let timed_out = |_| LinkError::TimedOut { waited_ms: start.elapsed().as_millis() };
        self.writing = true;
        let sent = timeout_at(deadline, self.wire.send(&self.out)).await.map_err(timed_out)?;
        sent.map_err(LinkError::Send)?;
        self.writing = false;
        loop {
            let answer = timeout_at(deadline, self.wire.next()).await.map_err(timed_out)?;
            let answer = answer.map_err(LinkError::Receive)?;
            if answer.id <= self.answered_id || answer.id > self.last_id {
                return Err(LinkError::OutOfTurn(format!("{:?} {}", answer.kind, answer.id)));
            }
            self.answered_id = answer.id;
            if answer.id == self.last_id {
                return Ok(answer);
            }
        }
    }
}

fn answer_of(frame: Frame) -> Result<Bytes, LinkError> {
    match frame.kind {
        Kind::Answer => Ok(frame.payload),
        Kind::Failed => Err(LinkError::Failed(String::from_utf8_lossy(&frame.payload).into_owned())),
        other => Err(LinkError::OutOfTurn(format!("{other:?}"))),
    }
}
