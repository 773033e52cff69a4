//! Sending spans to the collector: OTLP over HTTP, a request a second at most. Whoever makes spans never waits for it.
//!
//! What cannot be delivered is dropped and counted, and told once, not once a span. A connection each: the collector is
//! near, or the batches are large.

use super::{DROPPED, SENT, TraceConfig, TraceError};
use crate::telemetry::chain;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use prost::Message as _;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{error::Elapsed, sleep, timeout};
use tokio_rustls::TlsConnector;

/// Spans in one request.
const BATCH_MAX: usize = 512;
/// How long the first span of a batch waits for others.
const COLLECT: Duration = Duration::from_secs(1);
/// Of one request with its answer.
const SEND_MAX: Duration = Duration::from_secs(5);
/// More than any answer of a collector.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Who wants to hear that everything was sent.
type Flush = std::sync::mpsc::Sender<()>;

/// Where the collector is.
pub(super) struct Target {
    endpoint: String,
    authority: String,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("connect to it")]
    Connect(#[source] io::Error),
    #[error("its host is no name that a certificate can have")]
    Name(#[source] InvalidDnsNameError),
    #[error("make the request")]
    Make(#[source] hyper::http::Error),
    #[error("send the request")]
    Send(#[source] hyper::Error),
    #[error("read the answer")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("it answered {status}")]
    Status { status: u16 },
    #[error("it refused {spans} spans")]
    Refused { spans: u64 },
    #[error("no answer within {} s", SEND_MAX.as_secs())]
    Late(#[source] Elapsed),
}

impl Target {
    pub(super) fn of(config: &TraceConfig) -> Result<Target, TraceError> {
        let bad = || TraceError::Endpoint { endpoint: config.endpoint.clone() };
        let uri: Uri = config.endpoint.parse().map_err(|_no_uri| bad())?;
        let host = uri.host().ok_or_else(bad)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_encrypted = uri.scheme_str() == Some("https");
        Ok(Target {
            endpoint: config.endpoint.clone(),
            authority: uri.authority().map_or_else(String::new, ToString::to_string),
            host,
            port: uri.port_u16().unwrap_or(if is_encrypted { 443 } else { 80 }),
            tls: if is_encrypted { Some(Arc::new(tls(config.ca_file.as_deref())?)) } else { None },
        })
    }
}

fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, TraceError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let unread = |source| TraceError::Authority { path: path.to_owned(), source };
        let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(unread)?;
        let found: Vec<CertificateDer<'_>> = found;
        roots.add_parsable_certificates(found);
        if roots.is_empty() {
            return Err(TraceError::NoAuthority { path: path.to_owned() });
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(TraceError::Roots);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.map_err(|source| TraceError::Tls { source })?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The task that sends.
pub(super) struct Sender {
    target: Target,
    resource: ResourceAttributesWithSchema,
    /// The last batch was not taken, and somebody was told.
    is_failing: bool,
}

impl Sender {
    pub(super) fn new(target: Target, resource: &Resource) -> Sender {
        Sender { target, resource: resource.into(), is_failing: false }
    }

    /// As long as the process lives.
    pub(super) async fn run(mut self, mut spans: mpsc::Receiver<SpanData>, mut asked: mpsc::UnboundedReceiver<Flush>) {
        loop {
            let (mut batch, flush) = collect(&mut spans, &mut asked).await;
            if flush.is_some() {
                while let Ok(span) = spans.try_recv() {
                    batch.push(span);
                }
            }
            if !batch.is_empty() {
                self.deliver(batch).await;
            }
            if let Some(flush) = flush {
                // Whoever asked may have given up.
                let _ = flush.send(());
            }
        }
    }

    async fn deliver(&mut self, batch: Vec<SpanData>) {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let request =
            ExportTraceServiceRequest { resource_spans: group_spans_by_resource_and_scope(batch, &self.resource) };
        let body = Bytes::from(request.encode_to_vec());
        let sent = match timeout(SEND_MAX, self.target.post(body)).await {
            Ok(sent) => sent,
            Err(late) => Err(SendError::Late(late)),
        };
        let lost = match &sent {
            Ok(()) => 0,
            Err(SendError::Refused { spans }) => (*spans).min(count),
            Err(_) => count,
        };
        DROPPED.fetch_add(lost, Ordering::Relaxed);
        SENT.fetch_add(count - lost, Ordering::Relaxed);
        let endpoint = &self.target.endpoint;
        match sent {
            Ok(()) if self.is_failing => tracing::info!(endpoint, "the collector takes traces again"),
            Err(error) if !self.is_failing => {
                let error = chain(&error);
                tracing::warn!(endpoint, error, "the collector takes no traces; they are dropped until it does");
            }
            Ok(()) | Err(_) => {}
        }
        self.is_failing = lost > 0;
    }
}

/// The spans of a second or a full batch; or what there is, and who does not want to wait.
async fn collect(
    spans: &mut mpsc::Receiver<SpanData>,
    asked: &mut mpsc::UnboundedReceiver<Flush>,
) -> (Vec<SpanData>, Option<Flush>) {
    let mut batch = Vec::new();
    tokio::select! {
        flush = asked.recv() => return (batch, flush),
        _ = spans.recv_many(&mut batch, BATCH_MAX) => {}
    }
    let fill = async {
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            spans.recv_many(&mut batch, room).await;
        }
    };
    let flush = tokio::select! {
        flush = asked.recv() => flush,
        () = fill => None,
        () = sleep(COLLECT) => None,
    };
    (batch, flush)
}

impl Target {
    async fn post(&self, body: Bytes) -> Result<(), SendError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(SendError::Connect)?;
        let Some(tls) = &self.tls else { return self.exchange(stream, body).await };
        let name = ServerName::try_from(self.host.clone()).map_err(SendError::Name)?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.map_err(SendError::Connect)?;
        self.exchange(stream, body).await
    }

    async fn exchange<S>(&self, stream: S, body: Bytes) -> Result<(), SendError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let request = Request::post("/v1/traces")
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("konsuld/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(SendError::Make)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(SendError::Send)?;
        let talk = async {
            let (head, body) = sender.send_request(request).await.map_err(SendError::Send)?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(SendError::Answer)?.to_bytes();
            Ok((head.status, body))
        };
        // The connection is driven here and dropped with this future: no task is left behind.
        let (mut talk, mut connection) = (pin!(talk), pin!(connection));
        let (status, body) = tokio::select! {
            answer = &mut talk => answer?,
            // It ends first when the server closes right after the answer: what was read is still to be had.
            _ended = &mut connection => talk.await?,
        };
        if !status.is_success() {
            return Err(SendError::Status { status: status.as_u16() });
        }
        // Some collectors answer with a text; what they took they took.
        let partly = ExportTraceServiceResponse::decode(body).ok().and_then(|answer| answer.partial_success);
        match partly.and_then(|partly| u64::try_from(partly.rejected_spans).ok()) {
            Some(spans) if spans > 0 => Err(SendError::Refused { spans }),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    /// Answers one request over TLS with this status; the request's bytes.
    async fn serve(
        listener: TcpListener,
        config: Arc<rustls::ServerConfig>,
        status: &'static str,
    ) -> io::Result<Vec<u8>> {
        let (stream, _) = listener.accept().await?;
        let mut stream = TlsAcceptor::from(config).accept(stream).await?;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\nspans") {
            if stream.read_buf(&mut request).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
        stream.flush().await?;
        Ok(request)
    }

    async fn posted(
        target: impl FnOnce(u16) -> TraceConfig,
        config: &Arc<rustls::ServerConfig>,
        status: &'static str,
    ) -> (Result<(), SendError>, io::Result<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::of(&target(listener.local_addr().unwrap().port())).unwrap();
        tokio::join!(target.post(Bytes::from_static(b"spans")), serve(listener, Arc::clone(config), status))
    }

    #[tokio::test]
    async fn a_collector_is_reached_by_tls_if_its_authority_is_the_one_that_was_named() {
        let dir = tempfile::tempdir().unwrap();
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let path = dir.path().join(name);
            std::fs::write(&path, issuer.pem()).unwrap();
            (issuer, path)
        };
        let ((issuer, known), (_, other)) = (authority("ca.pem"), authority("other.pem"));
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let server = server.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap();
        let server = Arc::new(server);
        let config = |ca_file: &Path| {
            let (ca_file, node) = (Some(ca_file.to_owned()), "n1".to_owned());
            move |port| TraceConfig { endpoint: format!("https://localhost:{port}"), sample_ratio: 1.0, ca_file, node }
        };

        let (sent, request) = posted(config(&known), &server, "200 OK").await;
        sent.unwrap();
        let request = String::from_utf8(request.unwrap()).unwrap();
        assert!(request.starts_with("POST /v1/traces HTTP/1.1\r\nhost: localhost:"), "{request}");
        let (sent, _) = posted(config(&known), &server, "503 Service Unavailable").await;
        assert!(matches!(sent, Err(SendError::Status { status: 503 })), "{sent:?}");
        let (sent, heard) = posted(config(&other), &server, "200 OK").await;
        assert!(matches!(sent, Err(SendError::Connect(_))), "{sent:?}");
        assert!(heard.is_err(), "it was sent to a stranger");

        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let refused = |path: &Path| Target::of(&config(path)(1)).err().unwrap().to_string();
        assert!(refused(&empty).contains("holds no certificate"), "{}", refused(&empty));
        assert!(refused(&dir.path().join("none.pem")).contains("none.pem"));
    }
}
