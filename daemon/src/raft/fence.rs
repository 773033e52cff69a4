//! A node whose state is not that of the others answers nobody, votes for nobody, and does not lead.
//!
//! It still stores the log and acknowledges what it stored: the log has checksums of its own, which are checked whenever
//! it is read, and without its acknowledgements a cluster of three could not lose anybody else. Its vote is another
//! matter: who votes makes promises that it must remember, on the disk that is suspect.

use super::examined::{Examined, Soundness, Verdict};
use super::{Consensus, Role};
use crate::durable::DurableError;
use crate::storage::Fence;
use crate::telemetry::{chain, events};
use konsul_state::{StateError, VERSION_MAX, VERSION_MIN};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between two tries to have another node lead.
const ASIDE: Duration = Duration::from_millis(500);

impl Consensus {
    /// Why this node answers nobody, if it does not.
    pub fn fenced(&self) -> Option<String> {
        self.inner.storage.fence.why()
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.inner.storage.fence.is_up()
    }

    /// What the log of this cluster may hold, as far as this node has applied it.
    pub fn cluster_version(&self) -> Result<u32, StateError> {
        self.inner.state.view()?.cluster_version()
    }

    /// What this node tells of itself.
    pub fn examined(&self) -> Examined {
        let standing = match (self.is_fenced(), self.inner.asks.load(Ordering::SeqCst)) {
            (false, _) => Soundness::Sound,
            (true, false) => Soundness::Fenced,
            (true, true) => Soundness::Asks,
        };
        Examined {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            versions: (VERSION_MIN, VERSION_MAX),
            taken: self.inner.state.newest_digest(),
            standing,
        }
    }

    /// The leader tells what a majority holds. A node that holds something else is fenced; one that is fenced and holds
    /// the same is not any more. Whoever holds nothing for this check point learns nothing. Whether it is fenced then.
    pub(super) async fn judged(&self, verdict: &Verdict) -> bool {
        let Some(mine) = self.inner.state.newest_digest().filter(|mine| mine.index == verdict.at.index) else {
            return self.is_fenced();
        };
        self.inner.asks.store(false, Ordering::SeqCst);
        match (mine.digest == verdict.at.digest, self.is_fenced()) {
            (true, true) => self.take_fence_down().await,
            (false, false) => self.put_fence_up(verdict).await,
            (true, false) | (false, true) => {}
        }
        self.is_fenced()
    }

    async fn put_fence_up(&self, verdict: &Verdict) {
        let Verdict { at, agree, voters } = verdict;
        let why = format!(
            "at log index {} the state of this node is not the one that {agree} of {voters} voters hold; it answers nobody \
             until its state is theirs again: see the runbook corrupted-storage",
            at.index
        );
        let message_id = events::NODE_FENCED;
        tracing::error!(message_id, index = at.index.get(), agree, voters, "fenced: {why}");
        if let Err(error) = self.change_fence(move |fence| fence.put_up(&why)).await {
            tracing::error!(
                error,
                "the fence is not on disk: a restart would lift it; stop this node and leave it stopped"
            );
        }
        self.inner.metrics.raft.fenced.set(1);
        self.campaign_as_due();
        // Who waits for a change looks again, and is told.
        self.watches().wake_all();
        let this = self.clone();
        self.inner.tasks.spawn(async move { this.step_aside().await });
    }

    async fn take_fence_down(&self) {
        match self.change_fence(Fence::take_down).await {
            Ok(()) => {
                let message_id = events::NODE_UNFENCED;
                tracing::info!(message_id, "the fence is down: the state of this node is that of the others again");
                self.inner.metrics.raft.fenced.set(0);
                self.campaign_as_due();
            }
            Err(error) => tracing::error!(error, "the fence cannot be taken down; it stays"),
        }
    }

    /// A flush of the disk, which a heartbeat must not wait for.
    async fn change_fence(
        &self,
        change: impl FnOnce(&Fence) -> Result<(), DurableError> + Send + 'static,
    ) -> Result<(), String> {
        let this = self.clone();
        let changed = tokio::task::spawn_blocking(move || change(&this.inner.storage.fence)).await;
        changed.map_err(|error| error.to_string())?.map_err(|error| chain(&error))
    }

    /// Has another node lead, as long as this one is fenced and leads.
    async fn step_aside(self) {
        while self.is_fenced() && self.role() == Role::Leader && !self.inner.stop.is_cancelled() {
            self.hand_over().await;
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                () = tokio::time::sleep(ASIDE) => {}
            }
        }
    }

    /// Whether this node may stand for election: not while it is fenced, unless nobody else could.
    pub(super) fn campaign_as_due(&self) {
        let may = self.inner.may_campaign.load(Ordering::SeqCst);
        self.inner.raft.runtime_config().elect(may && (!self.is_fenced() || self.votes_alone()));
    }
}
