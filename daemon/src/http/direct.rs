//! Reads of keys without the HTTP library: for connections that watch.
//!
//! Thousands may wait for one key, and one write wakes them all. What the library keeps for each of them, a read buffer of
//! 8 KiB and a state machine, is memory that has to be fetched again for every answer. So a connection that does nothing
//! but read keys is served here: while it waits it is a socket and a small future, without a buffer. Its first request that
//! is anything else goes to the library, with what was read of it, and the connection stays there.
//!
//! Only what cannot be misread is taken: a whole head in what came first, HTTP/1.1, `GET /v1/kv/`, no body, nothing about
//! the connection. The answers are `service`'s, as everybody's.  Knows nothing about: keys, consistency, limits of rate.

use super::Server;
use super::body::Body;
use super::client::Client;
use super::service;
use bytes::{Buf as _, Bytes, BytesMut};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, Uri};
use std::io::{self, ErrorKind, Write as _};
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What one read takes in; heads of readers are far smaller. A longer one goes to the library.
const READ_BYTES: usize = 2048;
/// Headers of one request; more go to the library.
const HEADERS_MAX: usize = 32;
/// Requests sent ahead are read up to this much while one is being answered; the rest stays with the kernel.
const AHEAD_BYTES_MAX: usize = 8 * 1024;
/// A body up to this size is copied behind its head, to be sent in one piece.
const COPY_BYTES_MAX: usize = 16 * 1024;
/// What a head takes, usually.
const HEAD_BYTES: usize = 320;

/// The paths that are served here.
const PREFIX: &str = "/v1/kv/";
/// A request with one of these is more than a plain read.
const NOT_PLAIN: [&str; 7] =
    ["content-length", "transfer-encoding", "expect", "upgrade", "te", "trailer", "proxy-connection"];

/// How a connection goes on.
pub(super) enum Next {
    /// It has ended.
    Over,
    /// By the library, which reads these bytes first.
    Library(TcpStream, Bytes),
}

/// A connection from its first byte, as long as it only reads keys.
pub(super) async fn serve(server: &Server, stream: TcpStream, client: &Client) -> Next {
    let mut unread = BytesMut::new();
    loop {
        if unread.is_empty() {
            tokio::select! {
                ready = stream.readable() => if ready.is_err() { return Next::Over },
                // How to end is the library's business.
                () = server.stop.cancelled() => return Next::Library(stream, Bytes::new()),
            }
            match take_in(&stream, &mut unread) {
                Ok(0) => return Next::Over,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(_) => return Next::Over,
            }
        }
        let Some((parts, length)) = plain_read(&unread) else { return Next::Library(stream, unread.freeze()) };
        unread.advance(length);
        if unread.is_empty() {
            // Who waits holds no buffer.
            unread = BytesMut::new();
        }
        let Some(response) = answered(server, &stream, client, &parts, &mut unread).await else { return Next::Over };
        drop(parts);
        let last = server.stop.is_cancelled();
        if let Err(error) = send(server, &stream, response, last).await {
            tracing::debug!(%client, %error, "connection ended");
            return Next::Over;
        }
        if last {
            return Next::Over;
        }
    }
}

/// The answer; `None` if the client has gone, or is cut off.
async fn answered(
    server: &Server,
    stream: &TcpStream,
    client: &Client,
    parts: &Parts,
    unread: &mut BytesMut,
) -> Option<Response<Body>> {
    let answer = service::answer_read(server.desk(), &server.metrics, client, parts);
    tokio::pin!(answer);
    loop {
        tokio::select! {
            // First: most answers are there at once.
            biased;
            response = &mut answer => return Some(response),
            // Whoever hangs up waits for nothing.
            ready = stream.readable(), if unread.len() < AHEAD_BYTES_MAX => {
                let came = ready.and_then(|()| take_in(stream, unread));
                match came {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return None,
                }
            }
            () = server.cut.cancelled() => return None,
        }
    }
}

fn take_in(stream: &TcpStream, unread: &mut BytesMut) -> io::Result<usize> {
    unread.reserve(READ_BYTES);
    let came = stream.try_read_buf(unread);
    if unread.is_empty() {
        *unread = BytesMut::new();
    }
    came
}

/// The request at the beginning, and its length, if it is one for here.
fn plain_read(bytes: &[u8]) -> Option<(Parts, usize)> {
    let mut found = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut found);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        // Whatever is wrong, or not there yet, the library says what it always says.
        Ok(httparse::Status::Partial) | Err(_) => return None,
    };
    let path = request.path.filter(|path| path.starts_with(PREFIX))?;
    if request.method != Some("GET") || request.version != Some(1) {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(request.headers.len());
    for header in request.headers.iter() {
        let asks_to_stay = || header.value.eq_ignore_ascii_case(b"keep-alive");
        let is_plain = !NOT_PLAIN.iter().any(|name| header.name.eq_ignore_ascii_case(name));
        if !is_plain || (header.name.eq_ignore_ascii_case("connection") && !asks_to_stay()) {
            return None;
        }
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    let mut parts = Request::new(()).into_parts().0;
    parts.uri = path.parse::<Uri>().ok()?;
    parts.headers = headers;
    Some((parts, length))
}

/// Writes the answer, however slowly it is read, within the limit.
async fn send(server: &Server, stream: &TcpStream, response: Response<Body>, last: bool) -> io::Result<()> {
    let (head, body) = response.into_parts();
    let Body::Whole(body) = body else {
        return Err(io::Error::other("an answer that is made while it is sent does not belong here"));
    };
    let room = HEAD_BYTES + if body.len() <= COPY_BYTES_MAX { body.len() } else { 0 };
    let mut out = Vec::with_capacity(room);
    write!(out, "HTTP/1.1 {} {}\r\n", head.status.as_str(), head.status.canonical_reason().unwrap_or(""))?;
    for (name, value) in &head.headers {
        title_case(&mut out, name.as_str());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if last {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    let now = httpdate::HttpDate::from(SystemTime::now());
    write!(out, "Content-Length: {}\r\nDate: {now}\r\n\r\n", body.len())?;
    let mut patience = Patience { allowed: server.reception.limits.now().transfer_timeout, waits: None };
    let sent = if body.len() <= COPY_BYTES_MAX {
        out.extend_from_slice(&body);
        write_all(stream, &out, &mut patience).await
    } else {
        write_all(stream, &out, &mut patience).await?;
        drop(out);
        write_all(stream, &body, &mut patience).await
    };
    if let Err(error) = &sent
        && error.kind() == ErrorKind::TimedOut
    {
        server.refused().slow_reader.inc();
    }
    sent
}

/// Since when an answer waits to be read, and how much was read of it since then: what the kernel takes at once is no
/// reading.
struct Patience {
    allowed: Duration,
    waits: Option<(Instant, u64)>,
}

impl Patience {
    /// A second more for each KiB that was read.
    fn left(&mut self) -> Duration {
        let (since, read) = *self.waits.get_or_insert_with(|| (Instant::now(), 0));
        self.allowed.saturating_add(Duration::from_secs(read >> 10)).saturating_sub(since.elapsed())
    }

    fn was_read(&mut self, bytes: usize) {
        if let Some((_, read)) = &mut self.waits {
            *read = read.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }
}

async fn write_all(stream: &TcpStream, bytes: &[u8], patience: &mut Patience) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match stream.try_write(rest) {
            Ok(written) => {
                patience.was_read(written);
                rest = &rest[written..];
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let slow = |_| io::Error::new(ErrorKind::TimedOut, "the answer was not read in time");
                tokio::time::timeout(patience.left(), stream.writable()).await.map_err(slow)??;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Consul's spelling on the wire; some clients look for it by letter.
fn title_case(out: &mut Vec<u8>, name: &str) {
    let mut first = true;
    for byte in name.bytes() {
        out.push(if first { byte.to_ascii_uppercase() } else { byte });
        first = byte == b'-';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(request: &str) -> Option<(String, usize)> {
        plain_read(request.as_bytes()).map(|(parts, length)| (parts.uri.to_string(), length))
    }

    #[test]
    fn only_a_plain_read_of_keys_is_taken() {
        let read = "GET /v1/kv/a?index=7 HTTP/1.1\r\nHost: x\r\nConnection: Keep-Alive\r\n\r\n";
        assert_eq!(taken(read), Some(("/v1/kv/a?index=7".to_owned(), read.len())));
        let ahead = format!("{read}GET /v1/kv/b HTTP/1.1\r\n\r\n");
        assert_eq!(taken(&ahead), Some(("/v1/kv/a?index=7".to_owned(), read.len())), "one at a time");
        let others = [
            "PUT /v1/kv/a HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "GET /v1/kv/a HTTP/1.0\r\n\r\n",
            "GET /v1/kv/a HTTP/1.1\r\nHost: x\r\n",
            "GET /v1/kv HTTP/1.1\r\n\r\n",
            "GET /v1/status/leader HTTP/1.1\r\n\r\n",
            "GET http://x/v1/kv/a HTTP/1.1\r\n\r\n",
            "GET /v1/kv/a HTTP/1.1\r\nConnection: close\r\n\r\n",
            "GET /v1/kv/a HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
            "GET /v1/kv/a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            "GET /v1/kv/a HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\n\r\n0\r\n\r\n",
            "GET /v1/kv/a HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            "GET /v1/kv/a HTTP/1.1\r\n folded: x\r\n\r\n",
            "GET /v1/kv/a b HTTP/1.1\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ];
        for other in others {
            assert_eq!(taken(other), None, "{other:?}");
        }
        let many: String = (0..=HEADERS_MAX).map(|n| format!("x-{n}: y\r\n")).collect();
        assert_eq!(taken(&format!("GET /v1/kv/a HTTP/1.1\r\n{many}\r\n")), None);
    }

    #[test]
    fn headers_are_spelled_as_consul_does() {
        let mut out = Vec::new();
        title_case(&mut out, "x-consul-index");
        assert_eq!(out, b"X-Consul-Index");
    }
}
