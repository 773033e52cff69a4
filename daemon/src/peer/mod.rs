//! Bytes between nodes: a message reaches that node, or an error says it did not.
//!
//! Who talks is settled once, in the handshake: same cluster, the node that was meant, and the name its certificate
//! carries. After that a connection serves one purpose, so a snapshot never delays a heartbeat (see `protocol`).
//! Knows nothing about: what a message means; that is the `PeerHandler`'s.

mod client;
mod codec;
mod door;
mod enrol;
mod frame;
mod handshake;
mod link;
mod mux;
mod pool;
mod present;
mod protocol;
mod quiet;
mod server;
mod snapshot;
mod stream;

pub use client::PeerClient;
pub use enrol::{EnrolError, Enrolled, enrol, who};
pub use frame::FrameError;
pub use handshake::{ConnectError, HandshakeError, Known, LocalIdentity, PeerIdentity};
pub use mux::{CallError, LostReason, NotSentReason};
pub use pool::Pool;
pub use protocol::{FRAME_BYTES_MAX, Purpose, RefusedCode};
pub use server::{Limits, serve};
pub use stream::{Encryption, Transport};

use crate::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotMeta, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, Vote, VoteRequest, VoteResponse,
};
use crate::storage::SnapshotFile;
use bytes::Bytes;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// What a leader says of itself with its entries and heartbeats. One that is cut off still tries to reach the others; who
/// hears it shall not take it for a leader that can acknowledge anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaderStanding {
    /// A majority acknowledges it, as far as it knows.
    Acknowledged,
    /// It has missed its majority for longer than a lease.
    CutOff,
}

/// What a node does with its peers' requests. An `Err` reaches the caller as a text.
pub trait PeerHandler: Send + Sync + 'static {
    /// Who this node is right now; asked once for each connection.
    fn local(&self) -> LocalIdentity;

    /// What the state says of a node id; asked for each connection of a member.
    fn known(&self, node_id: u64) -> Known;

    fn append(
        &self,
        request: AppendEntriesRequest,
        leader: LeaderStanding,
    ) -> impl Future<Output = Result<AppendEntriesResponse, String>> + Send;

    fn vote(&self, request: VoteRequest) -> impl Future<Output = Result<VoteResponse, String>> + Send;

    fn pre_vote(&self, request: VoteRequest) -> impl Future<Output = Result<VoteResponse, String>> + Send;

    fn transfer_leader(
        &self,
        request: TransferLeaderRequest,
    ) -> impl Future<Output = Result<TransferLeaderResponse, String>> + Send;

    /// Where a snapshot is written while it arrives, as `*.tmp`. What lies there after a crash may be deleted.
    fn snapshot_dir(&self) -> PathBuf;

    /// A complete, synced, verified snapshot. The file is the handler's from here on; on `Err` it is deleted.
    fn snapshot(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        file: SnapshotFile,
    ) -> impl Future<Output = Result<SnapshotResponse, String>> + Send;

    /// A member's request. Many run at the same time; dropped when the connection breaks.
    fn forward(&self, from: PeerIdentity, request: Bytes) -> impl Future<Output = Bytes> + Send;

    /// A request of a node that wants to become a member.
    fn join(&self, from: PeerIdentity, request: Bytes) -> impl Future<Output = Bytes> + Send;

    /// Whether somebody without a certificate at this address may ask to join; asked before anything costs time.
    fn may_enrol(&self, from: IpAddr) -> bool;

    /// Somebody was not let in, and why; told once a while for each reason and address.
    fn turned_away(&self, from: SocketAddr, why: &str);

    /// The request of somebody without a certificate. Nothing is known of them but what the request proves, and a proof
    /// counts only over this connection's exporter.
    fn enrol(&self, from: SocketAddr, exporter: [u8; 32], request: Bytes) -> impl Future<Output = Bytes> + Send;
}
