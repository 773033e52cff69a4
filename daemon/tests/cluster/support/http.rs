//! A small blocking HTTP/1.1 client that tells apart what was surely not sent, what was not answered, and what broke off.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps one connection to one node.
pub(crate) struct Http {
    address: SocketAddr,
    timeout: Duration,
    stream: Option<BufReader<TcpStream>>,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// No answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// No connection: surely nothing was done.
    NotSent(io::Error),
    /// Closed before one byte of the answer.
    Unanswered(io::Error),
    /// Closed in the middle of the answer, or no answer in time.
    Broken(io::Error),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::NotSent(e) => write!(f, "not sent: {e}"),
            Failed::Unanswered(e) => write!(f, "closed before an answer: {e}"),
            Failed::Broken(e) => write!(f, "broken off: {e}"),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.status, self.text())
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// 200 and the body `true`: a write that is committed.
    pub(crate) fn is_true(&self) -> bool {
        self.status == 200 && self.body == b"true"
    }

    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {self}"))
    }
}

impl Http {
    pub(crate) fn new(address: SocketAddr) -> Http {
        Http { address, timeout: TIMEOUT, stream: None }
    }

    pub(crate) fn with_timeout(address: SocketAddr, timeout: Duration) -> Http {
        Http { address, timeout, stream: None }
    }

    pub(crate) fn get(&mut self, path: &str) -> Result<Reply, Failed> {
        self.request("GET", path, b"")
    }

    /// Writes a key; `query` may carry `cas=N`.
    pub(crate) fn put(&mut self, key: &str, query: &str, value: &[u8]) -> Result<Reply, Failed> {
        self.request("PUT", &format!("/v1/kv/{key}?{query}"), value)
    }

    pub(crate) fn request(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Reply, Failed> {
        self.request_with(method, path, "", body)
    }

    /// `more`: further lines of the head, each with its end.
    pub(crate) fn request_with(&mut self, method: &str, path: &str, more: &str, body: &[u8]) -> Result<Reply, Failed> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect().map_err(Failed::NotSent)?,
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{more}Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        let mut message = head.into_bytes();
        message.extend_from_slice(body);
        stream.get_mut().write_all(&message).map_err(Failed::Unanswered)?;
        match stream.fill_buf() {
            Ok([]) => return Err(Failed::Unanswered(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(Failed::Broken(io::ErrorKind::TimedOut.into()));
            }
            Err(e) => return Err(Failed::Unanswered(e)),
        }
        let reply = read_reply(&mut stream).map_err(Failed::Broken)?;
        if !reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.stream = Some(stream);
        }
        Ok(reply)
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        Ok(BufReader::new(stream))
    }
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    if from.read_line(&mut text)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(text.trim_end().to_owned())
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn read_reply(from: &mut impl BufRead) -> io::Result<Reply> {
    let first = line(from)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| malformed(&first))?;
    let mut reply = Reply { status, headers: Vec::new(), body: Vec::new() };
    loop {
        let text = line(from)?;
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':').ok_or_else(|| malformed(&text))?;
        reply.headers.push((name.to_owned(), value.trim().to_owned()));
    }
    if reply.header("transfer-encoding").is_some() {
        reply.body = read_chunks(from)?;
    } else if let Some(length) = reply.header("content-length") {
        let length = length.parse().map_err(|_| malformed(length))?;
        reply.body.resize(length, 0);
        from.read_exact(&mut reply.body)?;
    }
    Ok(reply)
}

fn read_chunks(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(from)?;
        let size = u64::from_str_radix(&size, 16).map_err(|_| malformed(&size))?;
        from.take(size).read_to_end(&mut body)?;
        line(from)?;
        if size == 0 {
            return Ok(body);
        }
    }
}
