//! A node that is in no cluster: what it waits for, and what it keeps when it is let in.

use super::handler::Handler;
use super::{Node, NodeError, build};
use crate::cluster::discovery::Discovery;
use crate::cluster::entry::{self, Entry, Newcomer, Way};
use crate::cluster::identity::IdentityFiles;
use crate::cluster::lobby::{Asked, EnterError, Entered, Lobby, Wish, Wishes};
use crate::cluster::local;
use crate::cluster::neighbour::neighbour;
use crate::cluster::token::Token;
use crate::durable;
use crate::storage::Identity;
use crate::telemetry::chain;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// After a failure of this host, like a full disk.
const RETRY: Duration = Duration::from_secs(5);

impl Node {
    /// Waits until this node is told how, and is in a cluster; whoever asked for it is to be answered when it serves.
    pub(super) async fn enter(
        &mut self,
        handler: &Handler,
        (lobby, wishes): (&Lobby, &mut Wishes),
        token: Option<&Arc<Token>>,
        stop: &CancellationToken,
    ) -> Result<(Identity, Option<Asked>), NodeError> {
        let me = build::newcomer(&self.config);
        let discovery = Discovery::new(&self.config.discovery, self.clock, self.metrics.discovery.clone());
        loop {
            let got = tokio::select! {
                () = stop.cancelled() => return Err(NodeError::Stopped),
                got = self.way_in(&me, &discovery, handler, (lobby, wishes), token) => got,
            };
            let (entered, asked) = got;
            let kept = match entered {
                Ok(entry) => self.keep(entry).await,
                Err(error) => Err(error),
            };
            match (kept, asked) {
                (Ok(identity), asked) => {
                    lobby.now("starting as a member", false);
                    return Ok((identity, asked));
                }
                (Err(error), Some(asked)) => {
                    tracing::warn!(%error, "not in a cluster");
                    asked.answer(Err(error));
                }
                (Err(error), None) => {
                    tracing::error!(%error, "not in a cluster; it is tried again");
                    stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
                }
            }
        }
    }

    /// After a restart: the host may have another address than the one that others were told.
    pub(super) fn look_at_address(&self) -> Result<(), NodeError> {
        let file = build::address_file(&self.config);
        let listen = self.config.peer.listen.filter(|_| self.config.peer.advertise.is_none());
        let (Some(listen), Some(before)) = (listen, build::found_out(&self.config)) else { return Ok(()) };
        let members = match self.storage.state.store().member_addresses() {
            Ok(members) => members,
            Err(error) => {
                tracing::warn!(%error, "cannot read where the other members are");
                return Ok(());
            }
        };
        let now = local::advertised_again(&before, listen, &members);
        if now != before {
            tracing::info!(%before, %now, "this host has another address");
            let written = durable::write(&file, now.as_bytes());
            written.map_err(|error| NodeError::Identity { source: std::io::Error::other(error) })?;
        }
        Ok(())
    }

    async fn way_in(
        &self,
        me: &Newcomer,
        discovery: &Discovery,
        handler: &Handler,
        (lobby, wishes): (&Lobby, &mut Wishes),
        token: Option<&Arc<Token>>,
    ) -> (Result<Entry, EnterError>, Option<Asked>) {
        let now_ms = || self.clock.wall().as_millis();
        let way = |token, via, wished| Way { token, via, discovery, lobby, promise: handler.promise(), wished };
        if let Some(token) = token {
            lobby.now("joining with a token", false);
            return (entry::by_token(me, way(token, &[], false), now_ms).await, None);
        }
        lobby.now("it waits for `konsulctl cluster init` or `konsulctl cluster join`", true);
        // Nothing else is waited for but a person, who needs the start to be over to go on.
        self.supervisor.ready_for_people();
        let asked = wishes.next().await;
        lobby.now("entering a cluster", false);
        let entered = match &asked.wish {
            Wish::Init if !me.may_found => {
                let why = "this node only joins: `cluster.form` is \"never\"".to_owned();
                Err(EnterError::Refused { why })
            }
            Wish::Init => match neighbour(&discovery.round().await).await {
                Some(found) => Err(EnterError::Refused { why: found.to_string() }),
                None => me.found(now_ms()).map_err(|error| EnterError::Failed { why: chain(&error) }),
            },
            Wish::Join { token, via } => {
                handler.hold(Arc::new(Token::clone(token)));
                entry::by_token(me, way(token, via, true), now_ms).await
            }
        };
        (entered, Some(asked))
    }

    /// Everything that a member must not forget, before it acts as one.
    async fn keep(&mut self, entry: Entry) -> Result<Identity, EnterError> {
        let failed = |error: &(dyn std::error::Error + 'static)| EnterError::Failed { why: chain(error) };
        let Entry { identity, material, rpc } = entry;
        durable::write(&build::address_file(&self.config), rpc.as_bytes()).map_err(|error| failed(&error))?;
        let tls = self.transport.tls().expect("a cluster that is entered is encrypted");
        tls.replace(&material).map_err(|error| failed(&error))?;
        self.storage.become_member(identity.clone()).await.map_err(|error| failed(&error))?;
        let files = IdentityFiles::in_data_dir(&self.config.storage.data_dir);
        if let Err(error) = files.remove_joining_key() {
            tracing::debug!(%error, "the key it joined with was not removed");
        }
        Ok(identity)
    }
}

/// Tells whoever asked that the node is in its cluster.
pub(super) fn tell(asked: Option<Asked>, identity: &Identity) {
    if let Some(asked) = asked {
        asked.answer(Ok(Entered { cluster_id: identity.cluster_id, node_id: identity.node_id }));
    }
}
