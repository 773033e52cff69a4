//! Asks the API over HTTP/1.1: the first server that can be reached answers.
//!
//! Only a failed connection moves on to the next server: once a request has left, its outcome may be anything, and the
//! caller alone knows whether asking again is harmless.  Knows nothing about: what the answers mean, how they are shown.

use crate::{path::Path, server::Server};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Method, StatusCode,
    body::{Frame, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use indicatif::ProgressBar;
use konsul_api::{cluster::ErrorAnswer, headers};
use serde::de::DeserializeOwned;
use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{io::AsyncReadExt as _, task::JoinHandle, time};

/// How long one connection attempt may take; a server that is up accepts at once.
const CONNECT: Duration = Duration::from_secs(3);
/// How much of a file is read at a time.
const FILE_CHUNK: usize = 64 * 1024;

type Body = BoxBody<Bytes, io::Error>;

/// Why there is no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No server accepted a connection.
    #[error("cannot reach {}; is konsuld running there? try `konsulctl --server URL …`", Attempts(.0))]
    Unreachable(Vec<(Server, String)>),
    /// The request's body could not be read.
    #[error("read {path}")]
    Payload {
        /// The file.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The request could not be formed.
    #[error("form the request {method} {path}")]
    Form {
        /// The request.
        method: Method,
        path: String,
        #[source]
        source: hyper::http::Error,
    },
    /// Nothing came back in time.
    #[error("{server} did not answer {method} {path} within {after:?}{}", outcome(.method))]
    Timeout { server: Server, method: Method, path: String, after: Duration },
    /// The connection broke.
    #[error("the connection to {server} broke during {method} {path}: {reason}{}", outcome(.method))]
    Broken { server: Server, method: Method, path: String, reason: String },
    /// The server refused or failed.
    #[error("{server} answered {status} to {method} {path}{}", detail(.text))]
    Status { server: Server, method: Method, path: String, status: StatusCode, text: String },
    /// The answer is not what the API promises.
    #[error("{server} answered {method} {path} with something else than promised; is that a Konsul server?")]
    Decode {
        server: Server,
        method: Method,
        path: String,
        #[source]
        source: serde_json::Error,
    },
}

impl ClientError {
    /// Whether asking again a little later may help: nothing was reached, or the cluster has no leader at the moment.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => *status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error(),
            Self::Payload { .. } | Self::Form { .. } | Self::Decode { .. } => false,
        }
    }

    /// The status of the answer, if there was one.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(status.as_u16()),
            Self::Unreachable(_)
            | Self::Timeout { .. }
            | Self::Broken { .. }
            | Self::Payload { .. }
            | Self::Form { .. }
            | Self::Decode { .. } => None,
        }
    }

    /// Whether the cluster had no leader to ask.
    pub(crate) fn is_leaderless(&self) -> bool {
        match self {
            Self::Status { status, text, .. } => status.is_server_error() && text.contains("No cluster leader"),
            Self::Unreachable(_)
            | Self::Timeout { .. }
            | Self::Broken { .. }
            | Self::Payload { .. }
            | Self::Form { .. }
            | Self::Decode { .. } => false,
        }
    }
}

struct Attempts<'a>(&'a [(Server, String)]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (server, reason)) in self.0.iter().enumerate() {
            write!(f, "{}{server}: {reason}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

fn outcome(method: &Method) -> &'static str {
    if method == Method::GET { "" } else { "; whether it was done is unknown, so look before repeating it" }
}

fn detail(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// What a request carries.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    Nothing,
    Bytes(Bytes),
    /// A file of `length` bytes, sent as it is read.
    File {
        path: PathBuf,
        length: u64,
        bar: ProgressBar,
    },
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    method: Method,
    path: Path,
    payload: Payload,
    /// Added to the client's patience: blocking queries and restores take their time.
    extra: Duration,
}

impl Ask {
    pub(crate) fn get(path: Path) -> Self {
        Self { method: Method::GET, path, payload: Payload::Nothing, extra: Duration::ZERO }
    }

    pub(crate) fn put(path: Path, payload: Payload) -> Self {
        Self { method: Method::PUT, path, payload, extra: Duration::ZERO }
    }

    pub(crate) fn post(path: Path, payload: Payload) -> Self {
        Self { method: Method::POST, ..Self::put(path, payload) }
    }

    pub(crate) fn delete(path: Path) -> Self {
        Self { method: Method::DELETE, path, payload: Payload::Nothing, extra: Duration::ZERO }
    }

    /// Waits that much longer for the answer.
    pub(crate) fn patient(mut self, extra: Duration) -> Self {
        self.extra = extra;
        self
    }
}

/// An open connection; its driver ends with it.
struct Connection {
    server: usize,
    sender: SendRequest<Body>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Asks one of several servers.
pub(crate) struct Client {
    servers: Vec<Server>,
    timeout: Duration,
    /// At most as many as there were requests at the same time.
    idle: Mutex<Vec<Connection>>,
    /// The server that was reached last.
    reached: AtomicUsize,
}

impl Client {
    /// `servers` must not be empty.
    pub(crate) fn new(servers: Vec<Server>, timeout: Duration) -> Self {
        assert!(!servers.is_empty(), "a client needs a server");
        Self { servers, timeout, idle: Mutex::default(), reached: AtomicUsize::new(0) }
    }

    pub(crate) fn servers(&self) -> &[Server] {
        &self.servers
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The answer, whatever its status.
    pub(crate) async fn send(&self, ask: &Ask) -> Result<Answer<'_>, ClientError> {
        while let Some(idle) = self.take_idle() {
            if idle.sender.is_closed() || !idle.sender.is_ready() {
                continue;
            }
            if let Some(answer) = self.send_over(idle, ask).await? {
                return Ok(answer);
            }
        }
        let connection = self.connect().await?;
        let server = self.servers[connection.server].clone();
        self.send_over(connection, ask).await?.ok_or_else(|| ClientError::Broken {
            server,
            method: ask.method.clone(),
            path: ask.path.as_str().to_owned(),
            reason: "closed before the request".to_owned(),
        })
    }

    /// The answer if its status is 2xx, else an error with the server's words.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Answer<'_>, ClientError> {
        let answer = self.send(ask).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(answer.into_error().await) }
    }

    /// The answer's body, decoded.
    pub(crate) async fn json<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T, ClientError> {
        self.ask(ask).await?.json().await
    }

    fn take_idle(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    async fn connect(&self) -> Result<Connection, ClientError> {
        let first = self.reached.load(Ordering::Relaxed);
        let mut attempts = Vec::new();
        for n in 0..self.servers.len() {
            let server = (first + n) % self.servers.len();
            match open(&self.servers[server], CONNECT.min(self.timeout)).await {
                Ok((sender, driver)) => {
                    self.reached.store(server, Ordering::Relaxed);
                    return Ok(Connection { server, sender, driver });
                }
                Err(reason) => attempts.push((self.servers[server].clone(), reason)),
            }
        }
        Err(ClientError::Unreachable(attempts))
    }

    /// `None`: the connection had been closed and the request surely not sent.
    async fn send_over(&self, mut connection: Connection, ask: &Ask) -> Result<Option<Answer<'_>>, ClientError> {
        let server = self.servers[connection.server].clone();
        let request = request(&server, ask).await?;
        let after = self.timeout + ask.extra;
        let (method, path) = (ask.method.clone(), ask.path.as_str().to_owned());
        match time::timeout(after, connection.sender.try_send_request(request)).await {
            Err(_) => Err(ClientError::Timeout { server, method, path, after }),
            Ok(Ok(response)) => {
                let (head, body) = response.into_parts();
                Ok(Some(Answer { status: head.status, head, body, server, method, path, connection, client: self }))
            }
            Ok(Err(e)) if e.message().is_some() => Ok(None),
            Ok(Err(e)) => Err(ClientError::Broken { server, method, path, reason: innermost(e.error()) }),
        }
    }
}

async fn open(server: &Server, within: Duration) -> Result<(SendRequest<Body>, JoinHandle<()>), String> {
    let stream = match time::timeout(within, server.connect()).await {
        Err(_) => return Err(format!("no connection within {within:?}")),
        Ok(Err(e)) => return Err(io_reason(&e)),
        Ok(Ok(stream)) => stream,
    };
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| innermost(&e))?;
    // The request that waits on the connection is told of its failure; nobody else needs to be.
    #[expect(clippy::disallowed_methods, reason = "its owner is the pooled connection, which aborts it when dropped")]
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok((sender, driver))
}

async fn request(server: &Server, ask: &Ask) -> Result<hyper::Request<Body>, ClientError> {
    let mut builder = hyper::Request::builder()
        .method(ask.method.clone())
        .uri(ask.path.as_str())
        .header(header::HOST, server.authority())
        .header(header::USER_AGENT, concat!("konsulctl/", env!("CARGO_PKG_VERSION")));
    let body = match &ask.payload {
        Payload::Nothing => Empty::new().map_err(|e| match e {}).boxed(),
        Payload::Bytes(bytes) => Full::new(bytes.clone()).map_err(|e| match e {}).boxed(),
        Payload::File { path, length, bar } => {
            builder = builder.header(header::CONTENT_LENGTH, *length);
            file_body(path, bar).await?
        }
    };
    builder.body(body).map_err(|source| ClientError::Form {
        method: ask.method.clone(),
        path: ask.path.as_str().to_owned(),
        source,
    })
}

async fn file_body(path: &PathBuf, bar: &ProgressBar) -> Result<Body, ClientError> {
    let file =
        tokio::fs::File::open(path).await.map_err(|source| ClientError::Payload { path: path.clone(), source })?;
    let bar = bar.clone();
    let chunks = futures_util::stream::try_unfold(file, move |mut file| {
        let bar = bar.clone();
        async move {
            let mut chunk = vec![0; FILE_CHUNK];
            let n = file.read(&mut chunk).await?;
            chunk.truncate(n);
            bar.inc(u64::try_from(n).unwrap_or(0));
            Ok((n > 0).then(|| (Frame::data(Bytes::from(chunk)), file)))
        }
    });
    Ok(StreamBody::new(SyncStream(Mutex::new(Box::pin(chunks)))).boxed())
}

/// A stream behind a lock it never waits for, because a boxed body must be `Sync`.
struct SyncStream<S>(Mutex<std::pin::Pin<Box<S>>>);

impl<S: futures_util::Stream> futures_util::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll_next(cx)
    }
}

/// A response whose body has yet to be read.
pub(crate) struct Answer<'a> {
    pub(crate) status: StatusCode,
    pub(crate) server: Server,
    head: hyper::http::response::Parts,
    body: Incoming,
    method: Method,
    path: String,
    connection: Connection,
    client: &'a Client,
}

impl Answer<'_> {
    /// The index to block on next.
    pub(crate) fn index(&self) -> Option<u64> {
        self.head.headers.get(headers::INDEX)?.to_str().ok()?.parse().ok()
    }

    /// A header of the answer.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    /// The server's time, to the second.
    pub(crate) fn date(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.head.headers.get(header::DATE)?.to_str().ok()?).ok()
    }

    /// Length of the body, if announced.
    pub(crate) fn length(&self) -> Option<u64> {
        self.head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match time::timeout(self.client.timeout, self.body.frame()).await {
                Err(_) => return Err(self.timeout()),
                Ok(None) => return Ok(None),
                Ok(Some(Err(e))) => return Err(self.broken(innermost(&e))),
                Ok(Some(Ok(frame))) => {
                    // Anything else is a trailer, and the API has none that matter.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body.
    pub(crate) async fn bytes(mut self) -> Result<Vec<u8>, ClientError> {
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        self.client.give_back(self.connection);
        Ok(all)
    }

    /// The whole body, decoded.
    pub(crate) async fn json<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        let (server, method, path) = (self.server.clone(), self.method.clone(), self.path.clone());
        let bytes = self.bytes().await?;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Decode { server, method, path, source })
    }

    /// What the server says went wrong.
    pub(crate) async fn into_error(self) -> ClientError {
        let (server, method, path, status) = (self.server.clone(), self.method.clone(), self.path.clone(), self.status);
        let moved = self.head.headers.get(header::LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
        let bytes = match self.bytes().await {
            Ok(bytes) => bytes,
            Err(e) => return e,
        };
        let text = match serde_json::from_slice(&bytes) {
            Ok(ErrorAnswer { error }) => error,
            Err(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        };
        let text = match moved {
            Some(to) if text.is_empty() => format!("it is at {to}"),
            Some(_) | None => text,
        };
        ClientError::Status { server, method, path, status, text }
    }

    fn timeout(&self) -> ClientError {
        ClientError::Timeout {
            server: self.server.clone(),
            method: self.method.clone(),
            path: self.path.clone(),
            after: self.client.timeout,
        }
    }

    fn broken(&self, reason: String) -> ClientError {
        ClientError::Broken {
            server: self.server.clone(),
            method: self.method.clone(),
            path: self.path.clone(),
            reason,
        }
    }
}

/// The words for a failed connection, without the operating system's number.
fn io_reason(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        // Of a socket in the file system: on the way to a host nobody is refused like this.
        io::ErrorKind::PermissionDenied => "permission denied: that is for root and the group konsul".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        _ => e.to_string(),
    }
}

fn innermost(e: &dyn std::error::Error) -> String {
    let mut e = e;
    while let Some(source) = e.source() {
        e = source;
    }
    e.to_string()
}
