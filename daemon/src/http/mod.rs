//! Consul's words in and out, all status codes.  Knows nothing about: LMDB, openraft types.
//!
//! A request meets the table of routes (`router`), its handler, and either the gate for reads and a view, or a
//! command that is proposed. There is no other way.

mod admin;
mod agent;
mod archive;
mod autopilot;
mod awaited;
mod backup;
mod batch;
mod blocking;
mod body;
mod ca;
mod client;
mod cluster;
mod compare;
mod config;
mod connection;
mod context;
mod direct;
mod error;
mod goduration;
mod gojson;
mod headers;
mod health;
mod join_token;
mod json;
mod kv;
mod membership;
mod metrics;
mod openapi;
mod operator;
mod path;
mod query;
mod question;
mod reception;
mod router;
mod service;
mod snapshot;
mod state_file;
mod status;
mod turn;
mod txn;
mod upgrade;
mod upload;

pub use admin::{AdminSocketError, bind as bind_admin_socket};
pub use config::{DefaultConsistency, Deps, HttpConfig, HttpLimits, Listening, LiveLimits, NonLeaderWrites, Reception};
pub use router::{Acl, Errors, Method, Param, Pattern, ROUTES, Reads, Route, Writes};

use crate::metrics::Refused;
use awaited::Awaited;
use bytes::Bytes;
use client::Client;
use connection::{Admission, Full, HeadClock, Place, SendClock, Timed};
use context::{Context, Desk};
use direct::Next;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use metrics::RouteMetrics;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long the head of a request may take when the node stops.
const DRAIN_HEAD_MAX: Duration = Duration::from_millis(500);
/// Between two attempts to accept when the process has no file descriptor left.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Connections of administrators at a time: apart from those of clients, who must not be able to lock them out.
const ADMIN_CONNECTIONS_MAX: usize = 256;

/// Open sockets on which nobody accepts yet.
#[derive(Debug, Default)]
pub struct Listeners {
    pub tcp: Vec<TcpListener>,
    /// For the administrators of this host.
    pub admin: Vec<UnixListener>,
}

/// What every connection shares.
struct Server {
    reception: Reception,
    /// There as soon as the node is in a cluster.
    context: Awaited<Context>,
    /// Cancelled when the node stops.
    stop: CancellationToken,
    metrics: RouteMetrics,
    http1: http1::Builder,
    /// Cancelled when clients were given time enough to end.
    cut: CancellationToken,
}

/// Serves until `shutdown` is cancelled: what a node without a cluster can answer, and everything as soon as `member` comes.
/// Then drains: no new connections, blocked queries are answered with what there
/// is, requests in flight end, kept-alive connections are closed; what is not done within the grace period is cut.
pub async fn serve(
    listeners: Listeners,
    reception: Reception,
    member: oneshot::Receiver<Deps>,
    shutdown: CancellationToken,
) {
    let (connections, work) = (TaskTracker::new(), TaskTracker::new());
    let grace = reception.config.shutdown_grace;
    let admission = Admission::new(reception.limits.clone());
    let server = Arc::new(Server {
        metrics: RouteMetrics::new(reception.metrics.http.clone()),
        http1: http1_settings(),
        cut: CancellationToken::new(),
        stop: shutdown.clone(),
        context: Awaited::new(reception.metrics.http.held.clone()),
        reception,
    });
    // Their connections outlive them: they are drained below.
    for listener in listeners.tcp {
        let accepting = accept(listener, server.clone(), admission.clone(), connections.clone());
        connections.spawn(shutdown.clone().run_until_cancelled_owned(accepting));
    }
    for listener in listeners.admin {
        let accepting = accept_local(listener, server.clone(), connections.clone());
        connections.spawn(shutdown.clone().run_until_cancelled_owned(accepting));
    }
    tokio::select! {
        () = shutdown.cancelled() => {}
        // A sender that is dropped never became a member: it is stopping.
        Ok(deps) = member => server.begin(deps, work.clone()),
    }
    shutdown.cancelled().await;
    connections.close();
    if tokio::time::timeout(grace, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests did not end within the grace period and are cut");
        server.cut.cancel();
        connections.wait().await;
    }
    work.close();
    if tokio::time::timeout(grace, work.wait()).await.is_err() {
        tracing::warn!(tasks = work.len(), "a snapshot or restore did not end within the grace period");
    }
}

impl Server {
    /// From now on every route is answered.
    fn begin(&self, deps: Deps, work: TaskTracker) {
        if let Err(error) = std::fs::create_dir_all(&deps.work_dir) {
            tracing::warn!(dir = %deps.work_dir.display(), %error, "no snapshot can be saved or restored");
        }
        self.context.came(Context::new(deps, work, self.stop.clone()));
    }

    fn refused(&self) -> &Refused {
        &self.reception.metrics.http.refused
    }

    fn desk(&self) -> Desk<'_> {
        self.context.now().map_or(Desk::Reception(&self.reception, &self.context), Desk::Member)
    }
}

fn http1_settings() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .keep_alive(true)
        .pipeline_flush(true)
        .max_header_size(HEAD_BYTES_MAX)
        // Consul's spelling on the wire; some clients look for it by letter.
        .title_case_headers(true);
    builder
}

async fn accept(listener: TcpListener, server: Arc<Server>, admission: Arc<Admission>, connections: TaskTracker) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => match admission.enter(client.ip()) {
                Ok(place) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%client, %error, "answers may be delayed");
                    }
                    connections.spawn(serve_remote(server.clone(), stream, Client::Remote(client), place));
                }
                // Closed at once, as Consul does: reading the request only to refuse it would be no protection.
                Err(Full::Total) => {
                    server.refused().connections.inc();
                    tracing::debug!(%client, "too many connections: raise `http.connections_max`");
                }
                Err(Full::Client) => {
                    server.refused().connections_per_client.inc();
                    tracing::debug!(%client, "too many connections of one client: `http.connections_per_client_max`");
                }
            },
            Err(error) => not_accepted(&error).await,
        }
    }
}

/// Whoever the file's owner and mode let connect may administer this node; who that was goes into the audit.
async fn accept_local(listener: UnixListener, server: Arc<Server>, connections: TaskTracker) {
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let who = match stream.peer_cred() {
                    Ok(who) => Client::Local(who.into()),
                    Err(error) => {
                        tracing::warn!(%error, "the kernel does not tell who connected to the admin socket: refused");
                        continue;
                    }
                };
                match Arc::clone(&places).try_acquire_owned() {
                    Ok(place) => {
                        let serving = serve_connection(server.clone(), stream, Bytes::new(), who);
                        connections.spawn(async move {
                            serving.await;
                            drop(place);
                        });
                    }
                    Err(_) => tracing::warn!(who = who.who(), "too many connections to the admin socket"),
                }
            }
            Err(error) => not_accepted(&error).await,
        }
    }
}

async fn not_accepted(error: &io::Error) {
    if is_of_the_connection(error) {
        tracing::debug!(%error, "connection ended before it was accepted");
    } else {
        tracing::warn!(%error, "accept failed; connections wait until it works again");
        tokio::time::sleep(ACCEPT_RETRY).await;
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One connection of the network, until it ends. `_place` is free again then.
async fn serve_remote(server: Arc<Server>, stream: TcpStream, client: Client, _place: Place) {
    match direct::serve(&server, stream, &client).await {
        Next::Over => {}
        // On the heap: a connection that only reads keys shall stay small.
        Next::Library(stream, before) => Box::pin(serve_connection(server, stream, before, client)).await,
    }
}

/// One connection that the HTTP library serves, and what was read of it already.
async fn serve_connection<S>(server: Arc<Server>, stream: S, before: Bytes, client: Client)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (clock, sending) = (HeadClock::new(), SendClock::new());
    let io = TokioIo::new(Timed { before, stream, clock: clock.clone(), sending: sending.clone() });
    let service = service_fn(|request| {
        let (server, clock, client) = (&server, &clock, &client);
        async move {
            let _answering = clock.answering();
            let mut response = service::answer(server.desk(), &server.metrics, client, request).await;
            if server.stop.is_cancelled() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = server.http1.serve_connection(io, service);
    tokio::pin!(connection);
    let (mut head_max, send_max) = {
        let limits = server.reception.limits.now();
        (limits.header_timeout, limits.transfer_timeout)
    };
    let mut looks = every(head_max.min(send_max));
    let mut draining = false;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            _ = looks.tick() => {
                if clock.is_overdue(head_max) {
                    server.refused().slow_head.inc();
                    tracing::debug!(%client, "head of a request did not come in time");
                    return;
                }
                if sending.is_overdue(send_max) {
                    server.refused().slow_reader.inc();
                    tracing::debug!(%client, "an answer was not read in time");
                    return;
                }
                if draining && clock.is_idle() {
                    connection.as_mut().graceful_shutdown();
                }
            }
            () = server.stop.cancelled(), if !draining => {
                draining = true;
                // Not closed at once: a client that has just connected, or is about to ask again, would be cut off. It
                // is answered, and told that this was the last answer. But nobody waits long for a request that has
                // not even been made.
                head_max = head_max.min(DRAIN_HEAD_MAX);
                looks = every(head_max);
            }
            () = server.cut.cancelled() => return,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%client, %error, "connection ended");
    }
}

fn every(period: Duration) -> Interval {
    let period = period.max(Duration::from_millis(1));
    let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
