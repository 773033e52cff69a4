//! HTTP for the object store, by what everything here speaks already: hyper, and rustls with ring.
//!
//! A connection each: a backup is a few requests that bring many bytes.

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Uri,
    client::conn::http1::handshake,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    },
};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use std::{
    io,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time,
};
use tokio_rustls::TlsConnector;

/// Where nobody listens, as with the metadata of an instance that is none, this is how long it takes to find out.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Of one request with all that it brings.
const REQUEST_MAX: Duration = Duration::from_secs(300);
/// More than any answer that is asked for.
const ANSWER_BYTES_MAX: usize = 64 << 20;

#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service { tls: OnceLock::new() }))
    }
}

#[derive(Debug)]
struct Service {
    /// Made for the first address that is `https`.
    tls: OnceLock<Arc<ClientConfig>>,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = time::timeout(REQUEST_MAX, self.exchange(request)).await;
        answer.unwrap_or_else(|elapsed| Err(HttpError::new(HttpErrorKind::Timeout, elapsed)))
    }
}

impl Service {
    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let uri = request.uri().clone();
        let wrong = || failed(HttpErrorKind::Unknown, format!("{uri} is no http or https address"));
        let host = uri.host().ok_or_else(wrong)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let (port, is_encrypted) = match uri.scheme_str() {
            Some("http") => (80, false),
            Some("https") => (443, true),
            Some(_) | None => return Err(wrong()),
        };
        let address = (host.as_str(), uri.port_u16().unwrap_or(port));
        let connect = |error: io::Error| HttpError::new(HttpErrorKind::Connect, error);
        let stream = match time::timeout(CONNECT_MAX, TcpStream::connect(address)).await {
            Ok(stream) => stream.map_err(connect)?,
            Err(elapsed) => return Err(HttpError::new(HttpErrorKind::Connect, elapsed)),
        };
        if !is_encrypted {
            return talk(stream, &uri, request).await;
        }
        let name = ServerName::try_from(host.clone())
            .map_err(|_| failed(HttpErrorKind::Unknown, format!("{host} is no name that a certificate can have")))?;
        let stream = TlsConnector::from(self.tls()?).connect(name, stream).await.map_err(connect)?;
        talk(stream, &uri, request).await
    }

    /// Trusts whom this system trusts.
    fn tls(&self) -> Result<Arc<ClientConfig>, HttpError> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls.clone());
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            let text = "this system trusts no certificate authority (package ca-certificates)";
            return Err(failed(HttpErrorKind::Unknown, text.to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = versions.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
        Ok(self.tls.get_or_init(|| config).clone())
    }
}

async fn talk<S>(stream: S, uri: &Uri, request: HttpRequest) -> Result<HttpResponse, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| HttpError::new(HttpErrorKind::Interrupted, error);
    let request = addressed(request, uri)?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let answer = async {
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| HttpError::new_boxed(HttpErrorKind::Interrupted, error))?.to_bytes();
        let body = HttpResponseBody::new(Full::new(body).map_err(|never| match never {}));
        Ok(HttpResponse::from_parts(head, body))
    };
    // The connection is driven here and dropped with this future: no task is left behind.
    let (mut answer, mut connection) = (pin!(answer), pin!(connection));
    tokio::select! {
        answer = &mut answer => answer,
        // It ends first when the server closes right after the answer: what was read is still to be had.
        _ended = &mut connection => answer.await,
    }
}

/// As it goes over a connection to the server itself.
fn addressed<B>(request: Request<B>, uri: &Uri) -> Result<Request<B>, HttpError> {
    let wrong = |error: hyper::http::Error| HttpError::new(HttpErrorKind::Unknown, error);
    let (mut head, body) = request.into_parts();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = path.parse().map_err(|error| wrong(hyper::http::Error::from(error)))?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    head.headers.insert(HOST, HeaderValue::from_str(authority).map_err(|error| wrong(error.into()))?);
    Ok(Request::from_parts(head, body))
}

/// Why a request was not even tried.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reason(String);

fn failed(kind: HttpErrorKind, text: String) -> HttpError {
    HttpError::new(kind, Reason(text))
}
