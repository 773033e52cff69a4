//! A client's connection, replaced when it breaks: the next server in turn.

use super::wire::{Reply, Wire, WireError};
use crate::server::Server;
use anyhow::bail;
use std::{sync::Arc, time::Duration};
use tokio::time;

/// After a failed connection: a client that asks a dead port in a loop would measure only itself.
const PAUSE: Duration = Duration::from_millis(20);
/// An election, or a node that catches up, is over after some seconds.
const TRIES: u32 = 8;
const BACKOFF: Duration = Duration::from_millis(250);

/// Sends requests to one of several servers.
pub(super) struct Link {
    servers: Arc<[Server]>,
    /// Which of them.
    at: usize,
    timeout: Duration,
    wire: Option<Wire>,
}

impl Link {
    /// Starts with the server `first`, modulo their number.
    pub(super) fn new(servers: Arc<[Server]>, first: usize, timeout: Duration) -> Self {
        let at = first % servers.len();
        Self { servers, at, timeout, wire: None }
    }

    /// Connects, if it is not.
    pub(super) async fn open(&mut self) -> Result<(), WireError> {
        if self.wire.is_some() {
            return Ok(());
        }
        match Wire::connect(&self.servers[self.at], self.timeout).await {
            Ok(wire) => {
                self.wire = Some(wire);
                Ok(())
            }
            Err(e) => {
                self.at = (self.at + 1) % self.servers.len();
                time::sleep(PAUSE).await;
                Err(e)
            }
        }
    }

    /// Sends a request and waits for its reply.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> Result<Reply<'_>, WireError> {
        self.send(request).await?;
        self.receive(Duration::ZERO).await
    }

    /// Asks again where that may help, for as long as an election may take: status and, unless that is 200, the text of
    /// the first answer that will not change by itself. For requests that may be done twice.
    pub(super) async fn settled(&mut self, request: &[u8]) -> anyhow::Result<(u16, String)> {
        let mut tries = 0;
        loop {
            tries += 1;
            let failure = match self.exchange(request).await {
                Ok(reply) if reply.status == 200 => return Ok((200, String::new())),
                Ok(Reply { status, body, .. }) => {
                    let text = String::from_utf8_lossy(body).trim().to_owned();
                    if status < 500 && status != 429 {
                        return Ok((status, text));
                    }
                    format!("status {status}: {text}")
                }
                Err(e) => e.to_string(),
            };
            if tries == TRIES {
                bail!("{failure}, after {TRIES} tries");
            }
            time::sleep(BACKOFF * tries).await;
        }
    }

    pub(super) async fn send(&mut self, request: &[u8]) -> Result<(), WireError> {
        if self.wire.as_ref().is_some_and(|w| !w.is_reusable) {
            self.wire = None;
        }
        self.open().await?;
        self.wire.as_mut().ok_or(WireError::Closed)?.send(request).await
    }

    pub(super) async fn receive(&mut self, extra: Duration) -> Result<Reply<'_>, WireError> {
        self.wire.as_mut().ok_or(WireError::Closed)?.receive(extra).await
    }
}
