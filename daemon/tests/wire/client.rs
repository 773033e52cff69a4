//! A client that sends exactly what it is told: raw paths, chunked bodies, any method.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Where the server listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address(pub(crate) SocketAddr);

/// A request to be.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Option<Vec<u8>>,
    /// Says that this is the last request on its connection.
    pub(crate) close: bool,
}

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// No recorded query waits for so long.
const SILENCE_MAX: Duration = Duration::from_secs(60);

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// One GET.
pub(crate) fn get(address: Address, path: &str) -> io::Result<Answer> {
    send(address, &Request { method: "GET".to_owned(), path: path.to_owned(), ..Request::default() })
}

/// One request on a connection of its own.
pub(crate) fn send(address: Address, request: &Request) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address.0)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\n", request.method, request.path, address.0);
    for (name, value) in &request.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let chunked = request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Transfer-Encoding"));
    let carries = matches!(request.method.as_str(), "PUT" | "POST" | "DELETE");
    if !chunked && (request.body.is_some() || carries) {
        head += &format!("Content-Length: {}\r\n", request.body.as_ref().map_or(0, Vec::len));
    }
    // Plain reads are served apart as long as nobody says this.
    if request.close {
        head += "Connection: close\r\n";
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if let Some(body) = &request.body {
        // A server that refuses by the announced length may close before it has read all.
        let sent = if chunked { send_chunked(&mut stream, body) } else { stream.write_all(body) };
        if let Err(error) = sent {
            let refused = matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
            if !refused {
                return Err(error);
            }
        }
    }
    receive(&mut BufReader::new(stream), request.method == "HEAD")
}

fn send_chunked(stream: &mut TcpStream, body: &[u8]) -> io::Result<()> {
    stream.write_all(format!("{:x}\r\n", body.len()).as_bytes())?;
    stream.write_all(body)?;
    stream.write_all(b"\r\n0\r\n\r\n")
}

/// The next answer on a connection.
pub(crate) fn receive(from: &mut BufReader<TcpStream>, without_body: bool) -> io::Result<Answer> {
    let mut answer = Answer::default();
    let first = line(from)?;
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    answer.status = status.ok_or_else(|| io::Error::other(format!("no status in {first:?}")))?;
    loop {
        let line = line(from)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        answer.headers.push((name.to_owned(), value.trim().to_owned()));
    }
    if without_body {
        return Ok(answer);
    }
    let length = answer.header("Content-Length").and_then(|length| length.parse().ok());
    if answer.header("Transfer-Encoding").is_some() {
        answer.body = chunks(from)?;
    } else if let Some(length) = length {
        answer.body = vec![0; length];
        from.read_exact(&mut answer.body)?;
    } else {
        from.read_to_end(&mut answer.body)?;
    }
    Ok(answer)
}

fn chunks(from: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(&line(from)?, 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; size];
        from.read_exact(&mut chunk)?;
        body.extend(chunk);
        line(from)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn line(from: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}
