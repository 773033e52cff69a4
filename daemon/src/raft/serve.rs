//! What peers ask of this node: openraft's messages, and members' requests.

use super::Consensus;
use super::forward::{Answer, Request};
use super::members::{Asker, MemberService};
use crate::peer::LeaderStanding;
use crate::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotMeta, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, Vote, VoteRequest, VoteResponse,
};
use crate::storage::SnapshotFile;
use bytes::Bytes;
use openraft::Snapshot;

impl Consensus {
    /// Entries or a heartbeat of a leader. One that is cut off is followed, but not taken for somebody to rely on.
    pub async fn append(
        &self,
        request: AppendEntriesRequest,
        leader: LeaderStanding,
    ) -> Result<AppendEntriesResponse, String> {
        if !request.entries.is_empty() && self.inner.space.is_critical() {
            // Better no answer than a flush that fails and stops the node.
            return Err("disk full: no entries are taken until space returns".to_owned());
        }
        let response = self.inner.raft.append_entries(request).await.map_err(|e| e.to_string())?;
        if leader == LeaderStanding::Acknowledged && !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.inner.leadership.heard_now();
        }
        Ok(response)
    }

    /// A candidate asks for a vote.
    pub async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, String> {
        self.may_vote(&request)?;
        self.inner.raft.vote(request).await.map_err(|e| e.to_string())
    }

    /// Somebody asks whether it could win.
    pub async fn pre_vote(&self, request: VoteRequest) -> Result<VoteResponse, String> {
        self.may_vote(&request)?;
        self.inner.raft.pre_vote(request).await.map_err(|e| e.to_string())
    }

    fn may_vote(&self, request: &VoteRequest) -> Result<(), String> {
        if let Some(why) = self.fenced() {
            return Err(format!("fenced: {why}"));
        }
        // A transfer is asked for by the old leader, which gave its lease up before.
        if request.leadership_transfer || self.inner.clock.now() >= self.inner.votes_from {
            return Ok(());
        }
        Err("restarted less than a lease ago: a leader may still rely on this node's promise".to_owned())
    }

    /// The leader wants this node to take over.
    pub async fn take_over(&self, request: TransferLeaderRequest) -> Result<TransferLeaderResponse, String> {
        if let Some(why) = self.fenced() {
            return Err(format!("fenced: {why}"));
        }
        self.inner.raft.handle_transfer_leader(request).await.map_err(|e| e.to_string())
    }

    /// A snapshot that arrived whole.
    pub async fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        file: SnapshotFile,
    ) -> Result<SnapshotResponse, String> {
        self.inner.leadership.heard_now();
        let snapshot = Snapshot { meta, snapshot: file };
        self.inner.raft.install_full_snapshot(vote, snapshot).await.map_err(|e| e.to_string())
    }

    /// A member's request; what is not for consensus is for `others`, once there are any.
    pub async fn answer(&self, from: Asker, request: Bytes, others: Option<&impl MemberService>) -> Bytes {
        let answer = match Request::decode(&request) {
            Ok(Request::Propose { command }) => self.propose_for_peer(request.slice_ref(command), &[]).await,
            Ok(Request::ProposeTraced { parents, command }) => {
                self.propose_for_peer(request.slice_ref(command), &parents).await
            }
            Ok(Request::ReadIndex { consistency }) => {
                let index = if self.leads() { self.read_index_here(consistency).await } else { None };
                index.map_or(Answer::NotLeader, Answer::ReadIndex)
            }
            Ok(Request::Transfer { to }) => self.begin_transfer(to).await,
            Ok(Request::Change { request }) => self.serve_change(request).await,
            Ok(Request::Greet { info }) => self.greeted(from.node_id, info).await,
            Ok(Request::Report) => self.published_report().map_or(Answer::NotLeader, Answer::Report),
            Ok(Request::Examine) => Answer::Examined(self.examined()),
            Ok(Request::Judge { verdict }) => Answer::Judged(self.judged(&verdict).await),
            Ok(Request::Compare) => self.compare_for_peer().await,
            Ok(Request::Member { request: inner }) => match others {
                Some(others) => Answer::Member(others.answer(from, request.slice_ref(inner)).await),
                None => Answer::Unreadable("this node serves no requests of members yet".to_owned()),
            },
            Err(error) => Answer::Unreadable(error.to_string()),
        };
        Bytes::from(answer.encode())
    }
}
