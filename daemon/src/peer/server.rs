//! The listener for other nodes: accept, handshake, then serve the connection's one purpose.
//!
//! Every task belongs to `serve` and ends with it. Nothing queues without a bound: connections, requests in flight and
//! their bytes are limited, and beyond that the client's TCP waits.

use super::PeerHandler;
use super::codec;
use super::door::{AtDoor, Door};
use super::enrol::REQUEST_FRAME_BYTES_MAX;
use super::frame::{self, Frame, FrameError};
use super::handshake::{HandshakeError, Known, PeerIdentity, SILENCE_MAX_SERVER, admit};
use super::present::Present;
use super::protocol::{HANDSHAKE_TIMEOUT, Kind, Purpose};
use super::quiet::Quiet;
use super::snapshot::{self, ReceiveError};
use super::stream::{Incoming, Stream, Transport, Wire, set_options};
use crate::metrics::{Counted, PeerMetrics};
use crate::telemetry::chain;
use bytes::Bytes;
use konsul_state::Writer;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// After a failed accept (out of descriptors, usually) others get a chance to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After the stop, requests being worked on may still be answered for so long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests being worked on for one forward connection.
const IN_FLIGHT_MAX: usize = 4096;
/// Bytes of them, in units of 1 KiB.
const IN_FLIGHT_KIB_MAX: u32 = 64 << 10;
/// Those without a certificate, at a time: strangers must not take the places of members.
const JOINERS_MAX: usize = 16;
const TOO_MANY_STRANGERS: &str = "too many connections from that address whose handshake is not done";
/// How often those who are connected are looked at: is one of them retired?
const LOOK: Duration = Duration::from_millis(500);
/// Time for the answer to one of them: it writes a log entry and changes the membership.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Answers are collected into one write up to this size.
const COALESCE_BYTES: usize = 256 << 10;

/// Bounds of the peer listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; each peer keeps four or five. More are closed at once.
    pub connections_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { connections_max: 1024 }
    }
}

/// A connection that ended badly.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("set socket options")]
    Options(#[source] io::Error),
    #[error("no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    HandshakeTimedOut,
    #[error("TLS")]
    Tls(#[source] io::Error),
    #[error("handshake")]
    Handshake(#[source] HandshakeError),
    #[error("receive a request")]
    Receive(#[source] FrameError),
    #[error("send an answer")]
    Send(#[source] io::Error),
    #[error("{found:?} on a connection for {purpose:?}")]
    WrongKind { found: Kind, purpose: Purpose },
    #[error("{found:?} of somebody without a certificate, who may only ask to join")]
    NotEnrol { found: Kind },
    #[error("node {node_id} was removed from the cluster for good")]
    Retired { node_id: u64 },
    #[error("receive a snapshot")]
    Snapshot(#[source] ReceiveError),
    #[error("a request's task failed: {0}")]
    Task(String),
}

impl ConnectionError {
    /// Whether somebody tried what they may not, and did not merely hang up.
    fn is_an_attempt(&self) -> bool {
        match self {
            ConnectionError::Tls(error) => {
                error.get_ref().is_some_and(|inner| inner.downcast_ref::<rustls::Error>().is_some())
            }
            ConnectionError::Handshake(
                HandshakeError::Receive(FrameError::Read(_) | FrameError::Closed) | HandshakeError::Send(_),
            ) => false,
            ConnectionError::Handshake(_) | ConnectionError::NotEnrol { .. } => true,
            ConnectionError::Options(_)
            | ConnectionError::HandshakeTimedOut
            | ConnectionError::Receive(_)
            | ConnectionError::Send(_)
            | ConnectionError::WrongKind { .. }
            | ConnectionError::Retired { .. }
            | ConnectionError::Snapshot(_)
            | ConnectionError::Task(_) => false,
        }
    }
}

/// Serves peers until `stop`; returns when no task of it is left.
pub async fn serve<H: PeerHandler>(
    listener: TcpListener,
    transport: Transport,
    handler: Arc<H>,
    limits: Limits,
    metrics: PeerMetrics,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let joiners = Arc::new(Semaphore::new(JOINERS_MAX));
    let quiet = Arc::new(Quiet::default());
    let door = Door::default();
    let present = Present::default();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            _ = look.tick() => {
                cut_retired(handler.as_ref(), &present);
                continue;
            }
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(failed) = ended {
                    error!(error = %failed, "peer connection task failed");
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, address)) => match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    let Some(at_door) = door.step_up(address.ip()) else {
                        metrics.refused.inc();
                        if quiet.is_news(address.ip(), TOO_MANY_STRANGERS, Instant::now()) {
                            warn!(peer = %address, error = TOO_MANY_STRANGERS, "peer connection refused");
                        }
                        continue;
                    };
                    let connection = Connection {
                        transport: transport.clone(),
                        handler: Arc::clone(&handler),
                        metrics: metrics.clone(),
                        quiet: Arc::clone(&quiet),
                        joiners: Arc::clone(&joiners),
                        present: present.clone(),
                        stop: stop.clone(),
                    };
                    connections.spawn(connection.run(stream, address, slot, at_door));
                }
                Err(_) => warn!(peer = %address, limit = limits.connections_max, "peer connection refused: too many"),
            },
            Err(error) => {
                warn!(%error, "peer accept failed");
                tokio::select! { () = stop.cancelled() => break, () = sleep(ACCEPT_PAUSE) => {} }
            }
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        info!("peer requests still running at the stop are given up");
        connections.shutdown().await;
    }
}

fn cut_retired<H: PeerHandler>(handler: &H, present: &Present) {
    present.nodes().into_iter().filter(|id| handler.known(*id) == Known::Retired).for_each(|id| present.cut(id));
}

/// What a connection needs to be served.
struct Connection<H> {
    transport: Transport,
    handler: Arc<H>,
    metrics: PeerMetrics,
    quiet: Arc<Quiet>,
    joiners: Arc<Semaphore>,
    present: Present,
    stop: CancellationToken,
}

/// Who was let in, and for what.
enum Admitted {
    Peer(Wire, Purpose, PeerIdentity),
    Joiner(Wire, [u8; 32], OwnedSemaphorePermit),
}

impl<H: PeerHandler> Connection<H> {
    async fn run(self, stream: TcpStream, address: SocketAddr, _slot: OwnedSemaphorePermit, at_door: AtDoor) {
        let admitted = tokio::select! {
            () = self.stop.cancelled() => return,
            admitted = timeout(HANDSHAKE_TIMEOUT, self.admit(stream)) => admitted,
        };
        drop(at_door);
        let (wire, purpose, peer) = match admitted.unwrap_or(Err(ConnectionError::HandshakeTimedOut)) {
            Ok(Admitted::Peer(wire, purpose, peer)) => (wire, purpose, peer),
            Ok(Admitted::Joiner(wire, exporter, _place)) => {
                let answered = timeout(JOIN_TIMEOUT, self.enrol(wire, exporter));
                if let Err(failed) = answered.await.unwrap_or(Err(ConnectionError::HandshakeTimedOut)) {
                    self.refused(address, &failed);
                }
                return;
            }
            Err(failed) => return self.refused(address, &failed),
        };
        let _counted = Counted::new(&self.metrics.connections);
        debug!(peer = peer.name, purpose = purpose.as_str(), "peer connected");
        let place = self.present.enter(peer.node_id);
        let served = tokio::select! {
            () = place.cut.cancelled() => Err(ConnectionError::Retired { node_id: peer.node_id }),
            served = self.serve(wire, purpose, &peer) => served,
        };
        match served {
            Ok(()) | Err(ConnectionError::Receive(FrameError::Closed)) => {
                debug!(peer = peer.name, purpose = purpose.as_str(), "peer disconnected");
            }
            Err(failed) => {
                warn!(peer = peer.name, purpose = purpose.as_str(), error = chain(&failed), "peer connection failed");
            }
        }
    }

    /// Counts it, and says it unless it was said just now.
    fn refused(&self, address: SocketAddr, failed: &ConnectionError) {
        self.metrics.refused.inc();
        let why = chain(failed);
        if self.quiet.is_news(address.ip(), &why, Instant::now()) {
            warn!(peer = %address, error = why, "peer connection refused");
            if failed.is_an_attempt() {
                self.handler.turned_away(address, &why);
            }
        }
    }

    async fn admit(&self, stream: TcpStream) -> Result<Admitted, ConnectionError> {
        set_options(&stream, SILENCE_MAX_SERVER).map_err(ConnectionError::Options)?;
        let from = stream.peer_addr().map_err(ConnectionError::Options)?.ip();
        let mut place = None;
        let takes_joiner = || {
            if !self.handler.may_enrol(from) {
                return Err("too many failed attempts to join from that address");
            }
            place = Arc::clone(&self.joiners).try_acquire_owned().ok();
            if place.is_some() { Ok(()) } else { Err("too many ask to join at a time") }
        };
        let incoming = self.transport.accept(stream, takes_joiner).await.map_err(ConnectionError::Tls)?;
        let mut wire = match incoming {
            Incoming::Peer(wire) => wire,
            Incoming::Joiner { wire, exporter } => {
                return Ok(Admitted::Joiner(wire, exporter, place.expect("taken before the handshake went on")));
            }
        };
        let admitted = admit(&mut wire, &self.handler.local(), |node_id| self.handler.known(node_id)).await;
        let (purpose, peer) = admitted.map_err(ConnectionError::Handshake)?;
        Ok(Admitted::Peer(wire, purpose, peer))
    }

    /// One request of somebody without a certificate, one answer, and good-bye.
    async fn enrol(&self, mut wire: Wire, exporter: [u8; 32]) -> Result<(), ConnectionError> {
        wire.allow_frames_of(REQUEST_FRAME_BYTES_MAX);
        let request = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            request = timeout(HANDSHAKE_TIMEOUT, wire.next()) => request,
        };
        let request = request.map_err(|_| ConnectionError::HandshakeTimedOut)?.map_err(ConnectionError::Receive)?;
        if request.kind != Kind::Enrol {
            return Err(ConnectionError::NotEnrol { found: request.kind });
        }
        let answer = self.handler.enrol(wire.address, exporter, request.payload).await;
        let mut out = Vec::new();
        put_answer(&mut out, request.id, Ok(answer));
        wire.send(&out).await.map_err(ConnectionError::Send)?;
        wire.close().await.map_err(ConnectionError::Send)
    }

    async fn serve(&self, mut wire: Wire, purpose: Purpose, peer: &PeerIdentity) -> Result<(), ConnectionError> {
        match purpose {
            Purpose::Append | Purpose::Vote | Purpose::Join => self.in_order(&mut wire, purpose, peer).await,
            Purpose::Snapshot => {
                let receive = snapshot::receive(&mut wire, peer, self.handler.as_ref(), &self.metrics);
                tokio::select! {
                    () = self.stop.cancelled() => Ok(()),
                    received = receive => received.map_err(ConnectionError::Snapshot),
                }
            }
            Purpose::Forward => self.at_once(wire, peer).await,
        }
    }

    /// One request at a time.
    async fn in_order(&self, wire: &mut Wire, purpose: Purpose, peer: &PeerIdentity) -> Result<(), ConnectionError> {
        let mut out = Vec::new();
        loop {
            let request = tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                request = wire.next() => request.map_err(ConnectionError::Receive)?,
            };
            let id = request.id;
            let answer = self.answer(request, purpose, peer).await?;
            frame::reset(&mut out);
            put_answer(&mut out, id, answer);
            wire.send(&out).await.map_err(ConnectionError::Send)?;
        }
    }

    /// `Err` in the inner result is for the peer to read.
    async fn answer(
        &self,
        request: Frame,
        purpose: Purpose,
        peer: &PeerIdentity,
    ) -> Result<Result<Bytes, String>, ConnectionError> {
        let payload = request.payload;
        Ok(match (purpose, request.kind) {
            (Purpose::Append, Kind::Append) => match codec::append(&payload) {
                Ok((request, leader)) => encoded(self.handler.append(request, leader).await, codec::put_append_answer),
                Err(malformed) => Err(malformed.to_string()),
            },
            (Purpose::Vote, Kind::Vote) => match codec::vote(&payload) {
                Ok(request) => encoded(self.handler.vote(request).await, codec::put_vote_answer),
                Err(malformed) => Err(malformed.to_string()),
            },
            (Purpose::Vote, Kind::PreVote) => match codec::vote(&payload) {
                Ok(request) => encoded(self.handler.pre_vote(request).await, codec::put_vote_answer),
                Err(malformed) => Err(malformed.to_string()),
            },
            (Purpose::Vote, Kind::TransferLeader) => match codec::transfer(&payload) {
                Ok(request) => encoded(self.handler.transfer_leader(request).await, codec::put_transfer_answer),
                Err(malformed) => Err(malformed.to_string()),
            },
            (Purpose::Join, Kind::Join) => Ok(self.handler.join(peer.clone(), payload).await),
            (purpose, found) => return Err(ConnectionError::WrongKind { found, purpose }),
        })
    }

    /// Requests side by side; answers as they come.
    async fn at_once(&self, wire: Wire, peer: &PeerIdentity) -> Result<(), ConnectionError> {
        let (mut requests, write) = wire.split();
        let (answers, queue) = mpsc::channel(IN_FLIGHT_MAX);
        let mut writer = JoinSet::new();
        writer.spawn(write_answers(write, queue));
        let room = Room::new();
        let mut running = JoinSet::new();
        loop {
            let request = tokio::select! {
                () = self.stop.cancelled() => break,
                Some(written) = writer.join_next() => return written_of(written),
                Some(ended) = running.join_next(), if !running.is_empty() => {
                    // The client waits for an answer that will not come: close, and it knows.
                    ended.map_err(|failed| ConnectionError::Task(failed.to_string()))?;
                    continue;
                }
                request = requests.next() => request.map_err(ConnectionError::Receive)?,
            };
            if request.kind != Kind::Forward {
                return Err(ConnectionError::WrongKind { found: request.kind, purpose: Purpose::Forward });
            }
            let place = tokio::select! {
                () = self.stop.cancelled() => break,
                place = room.place_for(&request.payload) => place,
            };
            let counted = Counted::new(&self.metrics.requests_in_flight);
            let (handler, peer, answers) = (Arc::clone(&self.handler), peer.clone(), answers.clone());
            running.spawn(async move {
                let answer = handler.forward(peer, request.payload).await;
                // Fails when the connection is gone: then nobody waits.
                let _ = answers.send((request.id, answer)).await;
                drop((place, counted));
            });
        }
        // Stopping: what was begun is answered; `serve` bounds the time.
        drop(answers);
        while running.join_next().await.is_some() {}
        writer.join_next().await.map_or(Ok(()), written_of)
    }
}

fn written_of(written: Result<io::Result<()>, tokio::task::JoinError>) -> Result<(), ConnectionError> {
    match written {
        Ok(written) => written.map_err(ConnectionError::Send),
        Err(failed) => Err(ConnectionError::Task(failed.to_string())),
    }
}

fn encoded<T>(answer: Result<T, String>, encode: impl FnOnce(&mut Writer, &T)) -> Result<Bytes, String> {
    answer.map(|answer| {
        let mut out = Writer::new();
        encode(&mut out, &answer);
        Bytes::from(out.into_vec())
    })
}

fn put_answer(out: &mut Vec<u8>, id: u64, answer: Result<Bytes, String>) {
    let put = match answer {
        Ok(answer) => frame::put(out, Kind::Answer, id, |out| out.extend_from_slice(&answer)),
        Err(text) => frame::put(out, Kind::Failed, id, |out| out.extend_from_slice(text.as_bytes())),
    };
    if let Err(too_long) = put {
        let text = too_long.to_string();
        let put = frame::put(out, Kind::Failed, id, |out| out.extend_from_slice(text.as_bytes()));
        put.expect("one sentence fits a frame");
    }
}

/// Ends when every sender is gone and everything is written.
async fn write_answers(mut write: WriteHalf<Stream>, mut queue: mpsc::Receiver<(u64, Bytes)>) -> io::Result<()> {
    let mut out = Vec::new();
    while let Some((id, answer)) = queue.recv().await {
        frame::reset(&mut out);
        put_answer(&mut out, id, Ok(answer));
        while out.len() < COALESCE_BYTES
            && let Ok((id, answer)) = queue.try_recv()
        {
            put_answer(&mut out, id, Ok(answer));
        }
        write.write_all(&out).await?;
        write.flush().await?;
    }
    write.shutdown().await
}

/// How much one forward connection may have in flight.
struct Room {
    requests: Arc<Semaphore>,
    kib: Arc<Semaphore>,
}

impl Room {
    fn new() -> Room {
        let kib = usize::try_from(IN_FLIGHT_KIB_MAX).expect("usize has 32 bits at least");
        Room { requests: Arc::new(Semaphore::new(IN_FLIGHT_MAX)), kib: Arc::new(Semaphore::new(kib)) }
    }

    async fn place_for(&self, request: &Bytes) -> (OwnedSemaphorePermit, OwnedSemaphorePermit) {
        let kib = u32::try_from(request.len() >> 10).unwrap_or(u32::MAX).clamp(1, IN_FLIGHT_KIB_MAX);
        let place = Arc::clone(&self.requests).acquire_owned().await.expect("never closed");
        (place, Arc::clone(&self.kib).acquire_many_owned(kib).await.expect("never closed"))
    }
}
