//! One HTTP request, over TLS with the certificates of the system if the address says so. A connection each: it is
//! about one a minute.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Uri;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What goes out.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

/// What comes back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub(in crate::cluster::discovery) enum HttpError {
    #[error("{url} is no http or https address")]
    Url { url: String },
    #[error("connect to {host}")]
    Connect {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("{host} is no name that a certificate can have")]
    Name {
        host: String,
        #[source]
        source: InvalidDnsNameError,
    },
    #[error("this system trusts no certificate authority (package ca-certificates)")]
    Roots,
    #[error("choose TLS versions")]
    Tls(#[source] rustls::Error),
    #[error("send a request to {url}")]
    Send {
        url: String,
        #[source]
        source: hyper::Error,
    },
    #[error("make a request to {url}")]
    Make {
        url: String,
        #[source]
        source: hyper::http::Error,
    },
    #[error("read the answer of {url}")]
    Read {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A thousand instances are about 5 MB.
const BODY_BYTES_MAX: usize = 32 << 20;

/// Sends it, and reads the whole answer.
pub(super) async fn send(request: Request) -> Result<Reply, HttpError> {
    let bad = || HttpError::Url { url: request.url.clone() };
    let uri: Uri = request.url.parse().map_err(|_no_uri| bad())?;
    let host = uri.host().ok_or_else(bad)?.to_owned();
    let (default_port, encrypted) = match uri.scheme_str() {
        Some("http") => (80, false),
        Some("https") => (443, true),
        Some(_) | None => return Err(bad()),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let failed = |source| HttpError::Connect { host: host.clone(), source };
    let stream = TcpStream::connect((bare.as_str(), uri.port_u16().unwrap_or(default_port))).await.map_err(failed)?;
    if encrypted {
        let name = ServerName::try_from(bare).map_err(|source| HttpError::Name { host: host.clone(), source })?;
        let stream = TlsConnector::from(Arc::new(tls()?)).connect(name, stream).await.map_err(failed)?;
        exchange(stream, &uri, request).await
    } else {
        exchange(stream, &uri, request).await
    }
}

async fn exchange<S>(stream: S, uri: &Uri, request: Request) -> Result<Reply, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let url = request.url;
    let failed = |source| HttpError::Send { url: url.clone(), source };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let mut message = hyper::Request::builder().method(request.method).uri(path).header("host", authority);
    for (name, value) in &request.headers {
        message = message.header(name, value);
    }
    let message = message.body(Full::new(Bytes::from(request.body)));
    let message = message.map_err(|source| HttpError::Make { url: url.clone(), source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let talk = async {
        let reply = sender.send_request(message).await.map_err(failed)?;
        let status = reply.status().as_u16();
        let body = Limited::new(reply.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|source| HttpError::Read { url: url.clone(), source })?.to_bytes();
        Ok(Reply { status, body })
    };
    // The connection is driven here and dropped with this future: no task is left behind.
    let mut talk = std::pin::pin!(talk);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        reply = &mut talk => reply,
        // It ends first when the server closes right after the answer: what was read is still to be had.
        _ended = &mut connection => talk.await,
    }
}

fn tls() -> Result<rustls::ClientConfig, HttpError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(HttpError::Roots);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(HttpError::Tls)?.with_root_certificates(roots).with_no_client_auth())
}
