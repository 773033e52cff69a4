//! A connection before anybody has said a word: TCP, encrypted or explicitly not, with dead peers noticed by the kernel.

use super::frame::{Frame, FrameBuffer, FrameError};
use super::protocol::HANDSHAKE_BYTES_MAX;
use crate::tls::{self, Accepted, Certified, Tls};
use rustix::net::sockopt;
use rustls::{CommonState, ProtocolVersion};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 3;

/// How nodes talk.
#[derive(Debug, Clone)]
pub enum Transport {
    /// Encrypted, both sides known by their certificates.
    Tls(Tls),
    /// Encrypted with whoever can, in the clear with whoever cannot: while a cluster moves from the one to the other.
    Permissive(Tls),
    /// In the clear: whoever reaches the port is believed. For a trusted network only.
    Plain,
}

/// What protects a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    Tls13,
    Tls12,
    /// Nothing.
    Plain,
}

impl Encryption {
    /// The word in logs and in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Encryption::Tls13 => "TLS 1.3",
            Encryption::Tls12 => "TLS 1.2",
            Encryption::Plain => "none",
        }
    }

    fn of(connection: &CommonState) -> Encryption {
        match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => Encryption::Tls12,
            // rustls speaks these two and no other.
            Some(_) | None => Encryption::Tls13,
        }
    }
}

/// A client at the door.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A member, or in the clear somebody who says so.
    Peer(Wire),
    /// Somebody without a certificate.
    Joiner { wire: Wire, exporter: [u8; 32] },
}

impl Transport {
    /// The certificates, if there are any.
    pub fn tls(&self) -> Option<&Tls> {
        match self {
            Transport::Tls(tls) | Transport::Permissive(tls) => Some(tls),
            Transport::Plain => None,
        }
    }

    /// The server's side.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        takes_joiner: impl FnOnce() -> Result<(), &'static str>,
    ) -> io::Result<Incoming> {
        let address = stream.peer_addr()?;
        let tls = match self {
            Transport::Tls(tls) => tls,
            Transport::Permissive(tls) if begins_with_tls(&stream).await? => tls,
            Transport::Permissive(_) | Transport::Plain => return Ok(Incoming::Peer(Wire::plain(stream, address))),
        };
        Ok(match tls.accept(stream, takes_joiner).await? {
            Accepted::Peer { stream, certified } => {
                let encryption = Encryption::of(stream.get_ref().1);
                let stream = Stream::Tls(Box::new(TlsStream::Server(stream)));
                Incoming::Peer(Wire::new(stream, address, encryption, Some(certified)))
            }
            Accepted::Joiner { stream, exporter } => {
                let encryption = Encryption::of(stream.get_ref().1);
                let stream = Stream::Tls(Box::new(TlsStream::Server(stream)));
                Incoming::Joiner { wire: Wire::new(stream, address, encryption, None), exporter }
            }
        })
    }

    /// The client's side.
    pub(super) async fn connect(&self, address: SocketAddr, stream: TcpStream) -> Result<Wire, HandsError> {
        let tls = match self {
            Transport::Plain => return Ok(Wire::plain(stream, address)),
            Transport::Tls(tls) | Transport::Permissive(tls) => tls,
        };
        match tls.connect(address.ip(), stream).await {
            Ok((stream, certified)) => {
                let encryption = Encryption::of(stream.get_ref().1);
                let stream = Stream::Tls(Box::new(TlsStream::Client(stream)));
                Ok(Wire::new(stream, address, encryption, Some(certified)))
            }
            Err(source) if matches!(self, Transport::Permissive(_)) && speaks_no_tls(&source) => {
                Err(HandsError::SpeaksNoTls(source))
            }
            Err(source) => Err(HandsError::Failed(source)),
        }
    }
}

/// A connection that was not secured.
#[derive(Debug)]
pub(super) enum HandsError {
    Failed(io::Error),
    /// The other side answered as one that speaks in the clear does, and this node may do so too.
    SpeaksNoTls(io::Error),
}

/// A node that speaks in the clear reads our first bytes as a frame that is too long, and hangs up. A node that speaks
/// TLS and does not like us says so in TLS: then there is nothing to try in the clear.
fn speaks_no_tls(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => true,
        _ => matches!(
            error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()),
            Some(rustls::Error::InvalidMessage(_))
        ),
    }
}

/// Three bytes tell: a TLS record starts with 22, 3 and 1 to 4; the first frame in the clear is shorter than 64 KiB, so
/// its third byte is 0.
async fn begins_with_tls(stream: &TcpStream) -> io::Result<bool> {
    const LOOK: Duration = Duration::from_millis(2);
    let mut first = [0; 3];
    loop {
        match stream.peek(&mut first).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            3 => return Ok(first[0] == 22 && first[1] == 3 && first[2] != 0),
            // Peeking does not wait for more; whoever sends byte by byte is bounded by the time for the handshake.
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

/// The client's side of a connection to a node one wants to join: encrypted, and whose it is as `trust` has it.
pub(super) async fn connect_to_join(
    address: SocketAddr,
    stream: TcpStream,
    trust: &tls::JoinTrust,
) -> io::Result<(Wire, [u8; 32])> {
    let joined = tls::connect_to_join(address.ip(), stream, trust).await?;
    let encryption = Encryption::of(joined.stream.get_ref().1);
    let stream = Stream::Tls(Box::new(TlsStream::Client(joined.stream)));
    Ok((Wire::new(stream, address, encryption, joined.certified), joined.exporter))
}

/// Sends without delay; gives up a peer that acknowledges nothing for `silence_max`, and one that is gone while idle.
pub(super) fn set_options(stream: &TcpStream, silence_max: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    let silence_ms = u32::try_from(silence_max.as_millis()).map_err(io::Error::other)?;
    sockopt::set_tcp_user_timeout(stream, silence_ms)?;
    Ok(())
}

/// A stream of frames.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    frames: FrameBuffer,
    pub(super) address: SocketAddr,
    pub(super) encryption: Encryption,
    /// Whose certificate the peer showed; `None` in the clear, and of those who want to join.
    pub(super) certified: Option<Certified>,
}

impl Wire {
    fn new(stream: Stream, address: SocketAddr, encryption: Encryption, certified: Option<Certified>) -> Wire {
        Wire { stream, frames: FrameBuffer::new(HANDSHAKE_BYTES_MAX), address, encryption, certified }
    }

    pub(super) fn plain(stream: TcpStream, address: SocketAddr) -> Wire {
        Wire::new(Stream::Plain(stream), address, Encryption::Plain, None)
    }

    pub(super) fn allow_frames_of(&mut self, bytes_max: usize) {
        self.frames.allow(bytes_max);
    }

    /// The next frame. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Frame, FrameError> {
        self.frames.next(&mut self.stream).await
    }

    /// Writes whole frames. Not cancel safe: a half-written frame makes the connection useless.
    pub(super) async fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.stream.write_all(frames).await?;
        self.stream.flush().await
    }

    /// Says good-bye properly, so that what was sent last is read and not lost to a reset.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// For reading and writing at the same time.
    pub(super) fn split(self) -> (FrameReader, WriteHalf<Stream>) {
        let (read, write) = tokio::io::split(self.stream);
        (FrameReader { read, frames: self.frames }, write)
    }
}

/// The half that reads.
#[derive(Debug)]
pub(super) struct FrameReader {
    read: ReadHalf<Stream>,
    frames: FrameBuffer,
}

impl FrameReader {
    /// The next frame. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Frame, FrameError> {
        self.frames.next(&mut self.read).await
    }
}

/// TCP, encrypted or not.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
