//! Where a node waits that is in no cluster: for somebody to say `init` or `join`, or for its configuration to get it in.
//!
//! One wish at a time. A wish that cannot be fulfilled leaves the node as it was, waiting for the next one.  Knows nothing
//! about: how a cluster is formed or joined, HTTP.

use super::token::Token;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot};

/// What somebody wants a node without a cluster to do.
#[derive(Debug)]
pub enum Wish {
    /// Form a new cluster.
    Init,
    /// Join the cluster of this token.
    Join {
        token: Box<Token>,
        /// Members to ask (`host:port`), before those that the token and discovery name.
        via: Vec<String>,
    },
}

/// A wish, and whoever waits for what comes of it.
#[derive(Debug)]
pub struct Asked {
    pub wish: Wish,
    answer: oneshot::Sender<Result<Entered, EnterError>>,
}

impl Asked {
    /// Tells what came of it. Who hung up meanwhile asks for the status.
    pub fn answer(self, result: Result<Entered, EnterError>) {
        drop(self.answer.send(result));
    }
}

/// The node is in a cluster and serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    pub cluster_id: [u8; 16],
    pub node_id: u64,
}

/// A wish that was not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnterError {
    #[error("this node is busy: {doing}; look at `konsulctl cluster status`")]
    Busy { doing: String },
    /// Somebody who may said no.
    #[error("{why}")]
    Refused { why: String },
    /// Nobody who could answer was reached.
    #[error("{why}")]
    Unreachable { why: String },
    #[error("{why}")]
    Failed { why: String },
    #[error("this node is stopping")]
    Stopping,
}

/// The side of those who wish and look. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lobby {
    wishes: mpsc::Sender<Asked>,
    doing: Arc<Mutex<Doing>>,
}

/// What the node does at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doing {
    /// In words, as the health check and the status give it.
    pub what: String,
    /// Whether it would take a wish now.
    pub idle: bool,
    /// Addresses that might be members.
    pub contacts: Vec<String>,
}

/// The side of the node.
#[derive(Debug)]
pub struct Wishes {
    queue: mpsc::Receiver<Asked>,
}

/// A lobby, and what is wished there.
pub fn lobby() -> (Lobby, Wishes) {
    // One: whoever comes second hears that the node is busy.
    let (wishes, queue) = mpsc::channel(1);
    let doing = Doing { what: "starting".to_owned(), idle: false, contacts: Vec::new() };
    (Lobby { wishes, doing: Arc::new(Mutex::new(doing)) }, Wishes { queue })
}

impl Lobby {
    /// Asks, and waits until the node is in a cluster and serves, or the reason why not.
    pub async fn ask(&self, wish: Wish) -> Result<Entered, EnterError> {
        let doing = self.doing();
        let busy = || EnterError::Busy { doing: doing.what.clone() };
        if !doing.idle {
            return Err(busy());
        }
        let (answer, answered) = oneshot::channel();
        self.wishes.try_send(Asked { wish, answer }).map_err(|_| busy())?;
        answered.await.unwrap_or(Err(EnterError::Stopping))
    }

    /// What the node does at the moment.
    pub fn doing(&self) -> Doing {
        self.doing.lock().expect("nothing panics while it holds the lock").clone()
    }

    /// Says what the node does; `idle`: it takes a wish.
    pub fn now(&self, what: impl Into<String>, idle: bool) {
        let mut doing = self.doing.lock().expect("nothing panics while it holds the lock");
        doing.what = what.into();
        doing.idle = idle;
    }

    /// Says who might be a member.
    pub fn contacts(&self, contacts: Vec<String>) {
        self.doing.lock().expect("nothing panics while it holds the lock").contacts = contacts;
    }
}

impl Wishes {
    /// The next wish. Cancel safe.
    pub async fn next(&mut self) -> Asked {
        match self.queue.recv().await {
            Some(asked) => asked,
            // Nobody is left who could wish.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_wish_at_a_time_and_only_while_the_node_waits() {
        let (lobby, mut wishes) = lobby();
        assert_eq!(lobby.ask(Wish::Init).await, Err(EnterError::Busy { doing: "starting".to_owned() }));
        lobby.now("waiting", true);
        let first = tokio::spawn({
            let lobby = lobby.clone();
            async move { lobby.ask(Wish::Init).await }
        });
        let asked = wishes.next().await;
        lobby.now("forming", false);
        assert_eq!(lobby.ask(Wish::Init).await, Err(EnterError::Busy { doing: "forming".to_owned() }));
        let entered = Entered { cluster_id: [7; 16], node_id: 1 };
        asked.answer(Ok(entered.clone()));
        assert_eq!(first.await.unwrap(), Ok(entered));
        lobby.now("waiting", true);
        drop(wishes);
        assert!(matches!(lobby.ask(Wish::Init).await, Err(EnterError::Busy { .. })));
    }
}
