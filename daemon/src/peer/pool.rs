//! All connections this node makes, by node and purpose. Cheap to clone; the last clone gone, they end.

use super::LeaderStanding;
use super::frame;
use super::handshake::{ConnectError, Dialer, LocalIdentity, PeerIdentity, Target};
use super::link::{Link, Tasks};
use super::mux::{CallError, LostReason, Mux, NotSentReason};
use super::protocol::{Kind, Purpose};
use super::stream::{Encryption, Transport, Wire};
use crate::metrics::PeerMetrics;
use crate::raft_types::NodeInfo;
use crate::telemetry::chain;
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// This node's way to all others. Implements openraft's `RaftNetworkFactory`.
#[derive(Debug, Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dialer: Dialer,
    tasks: Tasks,
    forward: Mutex<HashMap<u64, Arc<Mux>>>,
    /// Vote connections not in use right now.
    votes: Mutex<HashMap<u64, Link>>,
    /// The highest commit index that any peer was sent.
    told_committed: AtomicU64,
    /// This node leads and misses its majority.
    cut_off: AtomicBool,
    book: ArcSwap<Book>,
    _stop: DropGuard,
}

/// Where each member is.
type Book = HashMap<u64, Place>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// As the membership says.
    stated: String,
    /// As the member says itself, since the membership said the above.
    heard: Option<String>,
}

impl Place {
    fn address(&self) -> &str {
        self.heard.as_deref().unwrap_or(&self.stated)
    }
}

impl Pool {
    /// Connects as `local`. Its tasks run on the runtime this is called on, whichever runtime uses it.
    pub fn new(transport: Transport, local: LocalIdentity, metrics: PeerMetrics) -> Pool {
        let stop = CancellationToken::new();
        let tasks = Tasks { tracker: TaskTracker::new(), stop: stop.clone(), runtime: Handle::current() };
        let (forward, votes, told_committed, cut_off, encryption, book) = Default::default();
        let left_behind = watch::Sender::new(None);
        let local = Arc::new(ArcSwap::from_pointee(local));
        let dialer = Dialer { transport, local, metrics, encryption, left_behind };
        let shared = Shared { dialer, tasks, forward, votes, told_committed, cut_off, book, _stop: stop.drop_guard() };
        Pool { shared: Arc::new(shared) }
    }

    /// Who this node connects as.
    pub fn local(&self) -> Arc<LocalIdentity> {
        self.shared.dialer.local.load_full()
    }

    /// What is counted of the traffic.
    pub(super) fn metrics(&self) -> &PeerMetrics {
        &self.shared.dialer.metrics
    }

    /// From now on this node connects as `local`: it became a member.
    pub fn become_member(&self, local: LocalIdentity) {
        self.shared.dialer.local.store(Arc::new(local));
    }

    /// Waits until a member says that the cluster was recovered and went on without this node: its words.
    pub async fn left_behind(&self) -> String {
        let mut left_behind = self.shared.dialer.left_behind.subscribe();
        let why = left_behind.wait_for(Option::is_some).await.map(|why| why.clone());
        // The sender lives in `shared`, which `self` holds.
        why.ok().flatten().unwrap_or_default()
    }

    /// What protects the newest connection to that node; `None`: there was none.
    pub fn encryption(&self, node_id: u64) -> Option<Encryption> {
        let encryption = self.shared.dialer.encryption.lock().expect("nothing panics while it holds the lock");
        encryption.get(&node_id).copied()
    }

    /// Asks a member over the connection shared by all calls to it.
    pub async fn call(
        &self,
        node_id: u64,
        info: &NodeInfo,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let start = Instant::now();
        let deadline = start + timeout;
        let target = self.target(node_id, info);
        match self.forward(&target).call(request.clone(), start, deadline).await {
            // The connection ended just then, idle or broken. Nothing was sent, so one more try costs nothing.
            Err(CallError::NotSent { reason: NotSentReason::Closed, .. }) => {
                self.forward(&target).call(request, start, deadline).await
            }
            answer => answer,
        }
    }

    /// Asks whoever answers at `address` over a connection of its own; needs no membership.
    pub async fn join(
        &self,
        address: &str,
        request: Bytes,
        timeout: Duration,
    ) -> Result<(PeerIdentity, Bytes), CallError> {
        let target = Target { node_id: 0, name: None, address: address.to_owned() };
        self.ask_apart(&target, (Purpose::Join, Kind::Join), request, timeout).await
    }

    /// As [`Pool::call`], but over a connection of its own, and exactly where `info` says.
    pub async fn call_apart(
        &self,
        node_id: u64,
        info: &NodeInfo,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let target = Target { node_id, name: Some(info.name.clone()), address: info.rpc.clone() };
        let (_, answer) = self.ask_apart(&target, (Purpose::Forward, Kind::Forward), request, timeout).await?;
        Ok(answer)
    }

    async fn ask_apart(
        &self,
        target: &Target,
        (purpose, kind): (Purpose, Kind),
        request: Bytes,
        timeout: Duration,
    ) -> Result<(PeerIdentity, Bytes), CallError> {
        let start = Instant::now();
        let deadline = start + timeout;
        let not_sent = |reason| CallError::NotSent { peer: target.label(), reason };
        let mut out = Vec::new();
        let put = frame::put(&mut out, kind, 1, |out| out.extend_from_slice(&request));
        put.map_err(|error| not_sent(NotSentReason::TooLong { bytes: error.bytes }))?;
        let waited_ms = || start.elapsed().as_millis();
        let dialed = timeout_at(deadline, self.shared.dialer.dial(target, purpose)).await;
        let dialed = dialed.map_err(|_| not_sent(NotSentReason::TimedOut { waited_ms: waited_ms() }))?;
        let (mut wire, peer) =
            dialed.map_err(|error: ConnectError| not_sent(NotSentReason::Connect(Arc::new(error))))?;
        let asked = timeout_at(deadline, ask(&mut wire, &out)).await;
        let answer = asked.unwrap_or_else(|_| Err(LostReason::TimedOut { waited_ms: waited_ms() }));
        match answer {
            Ok(answer) => Ok((peer, answer)),
            Err(reason) => Err(CallError::Lost { peer: target.label(), reason }),
        }
    }

    /// The members changed: connections to nodes that left or moved are let go, once what was sent on them is answered.
    pub fn retain<'a>(&self, members: impl IntoIterator<Item = (u64, &'a NodeInfo)>) {
        let members: Vec<(u64, &NodeInfo)> = members.into_iter().collect();
        self.shared.book.rcu(|book| {
            let place = |(id, info): &(u64, &NodeInfo)| {
                let kept = book.get(id).filter(|place| place.stated == info.rpc);
                (*id, kept.cloned().unwrap_or_else(|| Place { stated: info.rpc.clone(), heard: None }))
            };
            members.iter().map(place).collect::<Book>()
        });
        let targets: HashMap<u64, Target> = members.into_iter().map(|(id, info)| (id, self.target(id, info))).collect();
        self.lock_forward().retain(|id, mux| targets.get(id).is_some_and(|target| mux.serves(target)));
        self.lock_votes().retain(|id, link| targets.get(id) == Some(link.target()));
        let mut encryption = self.shared.dialer.encryption.lock().expect("nothing panics while it holds the lock");
        encryption.retain(|id, _| targets.contains_key(id));
    }

    /// The member says itself that it is there: believed until the membership says something else than now.
    pub fn heard_at(&self, node_id: u64, address: &str) {
        self.shared.book.rcu(|book| {
            let mut book = Book::clone(book);
            if let Some(place) = book.get_mut(&node_id) {
                place.heard = (place.stated != address).then(|| address.to_owned());
            }
            book
        });
    }

    /// Ends every connection; returns when no task is left.
    pub async fn close(&self) {
        self.shared.tasks.stop.cancel();
        self.lock_forward().clear();
        self.lock_votes().clear();
        self.shared.tasks.tracker.close();
        self.shared.tasks.tracker.wait().await;
    }

    /// The highest commit index that any peer was sent: what a peer that follows this node may already have applied.
    pub fn told_committed(&self) -> u64 {
        self.shared.told_committed.load(Ordering::SeqCst)
    }

    /// To be called before it is sent.
    pub(super) fn tells_committed(&self, index: u64) {
        self.shared.told_committed.fetch_max(index, Ordering::SeqCst);
    }

    /// What every append says from now on.
    pub fn set_standing(&self, standing: LeaderStanding) {
        self.shared.cut_off.store(standing == LeaderStanding::CutOff, Ordering::Relaxed);
    }

    pub(super) fn standing(&self) -> LeaderStanding {
        let cut_off = self.shared.cut_off.load(Ordering::Relaxed);
        if cut_off { LeaderStanding::CutOff } else { LeaderStanding::Acknowledged }
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.shared.dialer
    }

    pub(super) fn link(&self, node_id: u64, info: &NodeInfo, purpose: Purpose) -> Link {
        let shared = &self.shared;
        Link::new(shared.dialer.clone(), shared.tasks.clone(), self.target(node_id, info), purpose)
    }

    /// Whether a connection to that node leads to where it is now.
    pub(super) fn leads_to(&self, link: &Link, node_id: u64) -> bool {
        self.shared.book.load().get(&node_id).is_none_or(|place| link.target().address == place.address())
    }

    /// That node, where it is now. openraft keeps what the membership said when it began to talk to a node.
    fn target(&self, node_id: u64, info: &NodeInfo) -> Target {
        let book = self.shared.book.load();
        let address = book.get(&node_id).map_or(info.rpc.as_str(), Place::address);
        Target { node_id, name: Some(info.name.clone()), address: address.to_owned() }
    }

    /// The vote connection to that node, ours until dropped; a second one if it is in use.
    pub(super) fn vote_link(&self, node_id: u64, info: &NodeInfo) -> Borrowed<'_> {
        let kept = self.lock_votes().remove(&node_id).filter(|link| *link.target() == self.target(node_id, info));
        let link = kept.unwrap_or_else(|| self.link(node_id, info, Purpose::Vote));
        Borrowed { pool: self, node_id, link: Some(link) }
    }

    fn forward(&self, target: &Target) -> Arc<Mux> {
        let mut forward = self.lock_forward();
        if let Some(mux) = forward.get(&target.node_id).filter(|mux| mux.serves(target)) {
            return Arc::clone(mux);
        }
        let mux = Arc::new(Mux::start(self.shared.dialer.clone(), target.clone(), &self.shared.tasks));
        forward.insert(target.node_id, Arc::clone(&mux));
        mux
    }

    fn lock_forward(&self) -> MutexGuard<'_, HashMap<u64, Arc<Mux>>> {
        self.shared.forward.lock().expect("no code panics while it holds this lock")
    }

    fn lock_votes(&self) -> MutexGuard<'_, HashMap<u64, Link>> {
        self.shared.votes.lock().expect("no code panics while it holds this lock")
    }
}

async fn ask(wire: &mut Wire, request: &[u8]) -> Result<Bytes, LostReason> {
    wire.send(request).await.map_err(|error| LostReason::Broken(chain(&error)))?;
    let frame = wire.next().await.map_err(|error| LostReason::Broken(chain(&error)))?;
    match frame.kind {
        Kind::Answer => Ok(frame.payload),
        Kind::Failed => Err(LostReason::Failed(String::from_utf8_lossy(&frame.payload).into_owned())),
        other => Err(LostReason::Broken(format!("the peer answered {other:?}"))),
    }
}

/// A vote connection in use. Goes back to the pool, also when the vote that used it was given up.
#[derive(Debug)]
pub(super) struct Borrowed<'a> {
    pool: &'a Pool,
    node_id: u64,
    link: Option<Link>,
}

impl Deref for Borrowed<'_> {
    type Target = Link;

    fn deref(&self) -> &Link {
        self.link.as_ref().expect("only drop takes it")
    }
}

impl DerefMut for Borrowed<'_> {
    fn deref_mut(&mut self) -> &mut Link {
        self.link.as_mut().expect("only drop takes it")
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            self.pool.lock_votes().insert(self.node_id, link);
        }
    }
}
