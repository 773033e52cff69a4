//! HTTP/1.1 with one request under way on a connection, and as little work for it as possible.
//!
//! A load generator shares its processors with the servers it measures: one write, one read and no allocation a request.
//! Knows nothing about: keys, values, what is measured.

use crate::{server::Server, stream::Stream};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time,
};

/// More headers than any server of this API sends.
const HEADERS_MAX: usize = 48;
const BUFFER_BYTES: usize = 8 * 1024;

/// Why there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(super) enum WireError {
    #[error("connect")]
    Connect,
    #[error("closed")]
    Closed,
    #[error("timeout")]
    Timeout,
    #[error("protocol")]
    Protocol,
}

/// An open connection.
pub(super) struct Wire {
    stream: Stream,
    /// What was read: `filled` bytes of it.
    input: Vec<u8>,
    filled: usize,
    /// A chunked body, put together.
    joined: Vec<u8>,
    timeout: Duration,
    /// Whether a further request may be sent: not between a request and the end of its reply, whose bytes would be taken
    /// for the next one's.
    pub(super) is_reusable: bool,
}

/// A whole reply.
pub(super) struct Reply<'a> {
    pub(super) status: u16,
    /// `X-Consul-Index`.
    pub(super) index: Option<u64>,
    pub(super) body: &'a [u8],
}

/// The head of a reply.
struct Head {
    status: u16,
    index: Option<u64>,
    bytes: usize,
    body: Length,
    is_last: bool,
}

#[derive(Clone, Copy)]
enum Length {
    Bytes(usize),
    Chunked,
}

impl Wire {
    pub(super) async fn connect(server: &Server, timeout: Duration) -> Result<Self, WireError> {
        let connected = time::timeout(timeout, server.connect()).await.map_err(|_| WireError::Timeout)?;
        let stream = connected.map_err(|_| WireError::Connect)?;
        let input = vec![0; BUFFER_BYTES];
        Ok(Self { stream, input, filled: 0, joined: Vec::new(), timeout, is_reusable: true })
    }

    /// Sends a request, whose reply is to be received before the next.
    pub(super) async fn send(&mut self, request: &[u8]) -> Result<(), WireError> {
        self.filled = 0;
        self.is_reusable = false;
        match time::timeout(self.timeout, self.stream.write_all(request)).await {
            Err(_) => Err(WireError::Timeout),
            Ok(Err(_)) => Err(WireError::Closed),
            Ok(Ok(())) => Ok(()),
        }
    }

    /// The reply to what was sent; `extra` is added to the patience.
    pub(super) async fn receive(&mut self, extra: Duration) -> Result<Reply<'_>, WireError> {
        let patience = self.timeout + extra;
        let (head, body) = match time::timeout(patience, self.whole()).await {
            Err(_) => return Err(WireError::Timeout),
            Ok(whole) => whole?,
        };
        self.is_reusable = !head.is_last;
        let body = match body {
            Length::Bytes(bytes) => &self.input[head.bytes..head.bytes + bytes],
            Length::Chunked => &self.joined,
        };
        Ok(Reply { status: head.status, index: head.index, body })
    }

    async fn whole(&mut self) -> Result<(Head, Length), WireError> {
        let head = loop {
            if let Some(head) = self.head()? {
                break head;
            }
            self.fill().await?;
        };
        match head.body {
            Length::Bytes(bytes) => {
                while self.filled < head.bytes + bytes {
                    self.fill().await?;
                }
            }
            Length::Chunked => self.join_chunks(head.bytes).await?,
        }
        let body = head.body;
        Ok((head, body))
    }

    async fn fill(&mut self) -> Result<(), WireError> {
        if self.filled == self.input.len() {
            self.input.resize(self.input.len() * 2, 0);
        }
        match self.stream.read(&mut self.input[self.filled..]).await {
            Ok(0) => Err(WireError::Closed),
            Ok(n) => {
                self.filled += n;
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(WireError::Closed),
        }
    }

    fn head(&self) -> Result<Option<Head>, WireError> {
        if self.filled == 0 {
            return Ok(None);
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let bytes = match response.parse(&self.input[..self.filled]) {
            Ok(httparse::Status::Complete(bytes)) => bytes,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(WireError::Protocol),
        };
        let status = response.code.ok_or(WireError::Protocol)?;
        let mut head = Head { status, index: None, bytes, body: Length::Bytes(0), is_last: false };
        let mut has_length = status == 204 || status == 304;
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                head.body = Length::Bytes(number(header.value).ok_or(WireError::Protocol)?);
                has_length = true;
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                head.body = Length::Chunked;
                has_length = true;
            } else if header.name.eq_ignore_ascii_case("x-consul-index") {
                head.index = number(header.value);
            } else if header.name.eq_ignore_ascii_case("connection") {
                head.is_last = header.value.eq_ignore_ascii_case(b"close");
            }
        }
        if has_length { Ok(Some(head)) } else { Err(WireError::Protocol) }
    }

    async fn join_chunks(&mut self, from: usize) -> Result<(), WireError> {
        self.joined.clear();
        let mut at = from;
        loop {
            let (line, size) = match httparse::parse_chunk_size(&self.input[at..self.filled]) {
                Ok(httparse::Status::Complete((line, size))) => {
                    (line, usize::try_from(size).map_err(|_| WireError::Protocol)?)
                }
                Ok(httparse::Status::Partial) => {
                    self.fill().await?;
                    continue;
                }
                Err(_) => return Err(WireError::Protocol),
            };
            let (start, end) = (at + line, at + line + size);
            // The chunk and its line end.  This API sends no trailers, so the last line end is the reply's.
            while self.filled < end + 2 {
                self.fill().await?;
            }
            self.joined.extend_from_slice(&self.input[start..end]);
            at = end + 2;
            if size == 0 {
                return Ok(());
            }
        }
    }
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Wire, WireError};
    use crate::server::Server;
    use std::time::Duration;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    /// What is made of these bytes, arriving in pieces of `step`.
    async fn reply_to(bytes: &'static [u8], step: usize) -> Result<(u16, Option<u64>, Vec<u8>), WireError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        #[expect(clippy::disallowed_methods, reason = "joined at the end of the function")]
        let peer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accept");
            stream.set_nodelay(true).expect("nodelay");
            let mut request = [0; 3];
            stream.read_exact(&mut request).await.expect("request");
            for piece in bytes.chunks(step) {
                stream.write_all(piece).await.expect("reply");
                tokio::task::yield_now().await;
            }
        });
        let server = Server::Tcp { host: "127.0.0.1".to_owned(), port };
        let mut wire = Wire::connect(&server, Duration::from_secs(10)).await.expect("connect");
        wire.send(b"ask").await.expect("send");
        let reply = wire.receive(Duration::ZERO).await.map(|r| (r.status, r.index, r.body.to_vec()));
        peer.await.expect("peer");
        reply
    }

    #[tokio::test]
    async fn replies_are_read_however_they_are_framed_and_cut() {
        let plain = b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 4\r\n\r\ntrue";
        let chunked = b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntru\r\n1\r\ne\r\n0\r\n\r\n";
        for step in [1, 7, 1000] {
            assert_eq!(reply_to(plain, step).await, Ok((200, Some(7), b"true".to_vec())));
            assert_eq!(reply_to(chunked, step).await, Ok((200, Some(7), b"true".to_vec())));
        }
    }

    #[tokio::test]
    async fn replies_that_are_cut_off_or_nonsense_are_failures() {
        let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntr";
        assert_eq!(reply_to(cut, 100).await, Err(WireError::Closed));
        assert_eq!(reply_to(b"SSH-2.0-x\r\n\r\n", 100).await, Err(WireError::Protocol));
        assert_eq!(reply_to(b"HTTP/1.1 200 OK\r\n\r\n", 100).await, Err(WireError::Protocol));
    }
}
