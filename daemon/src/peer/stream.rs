//! A connection before anybody has said a word: TCP, encrypted or explicitly not, with dead peers noticed by the kernel.

use super::frame::{Frame, FrameBuffer, FrameError};
use super::protocol::HANDSHAKE_BYTES_MAX;
use crate::tls::{Tls, peer_name};
use rustix::net::sockopt;
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
    /// In the clear: whoever reaches the port is believed. For a trusted network only.
    Plain,
}

impl Transport {
    /// The server's side.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Wire> {
        let address = stream.peer_addr()?;
        let (stream, certified) = match self {
            Transport::Plain => (Stream::Plain(stream), None),
            Transport::Tls(tls) => {
                let stream = tls.accept(stream).await?;
                let name = certified_name(peer_name(stream.get_ref().1))?;
                (Stream::Tls(Box::new(TlsStream::Server(stream))), Some(name))
            }
        };
        Ok(Wire::new(stream, address, certified))
    }

    /// The client's side.
    pub(super) async fn connect(&self, address: SocketAddr, stream: TcpStream) -> io::Result<Wire> {
        let (stream, certified) = match self {
            Transport::Plain => (Stream::Plain(stream), None),
            Transport::Tls(tls) => {
                let stream = tls.connect(address.ip(), stream).await?;
                let name = certified_name(peer_name(stream.get_ref().1))?;
                (Stream::Tls(Box::new(TlsStream::Client(stream))), Some(name))
            }
        };
        Ok(Wire::new(stream, address, certified))
    }
}

fn certified_name(name: Option<String>) -> io::Result<String> {
    name.ok_or_else(|| io::Error::other("the peer's certificate names no node; it needs a URI SAN konsul://node/NAME"))
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
    /// The name in the peer's certificate; `None` without encryption only.
    pub(super) certified: Option<String>,
}

impl Wire {
    fn new(stream: Stream, address: SocketAddr, certified: Option<String>) -> Wire {
        Wire { stream, frames: FrameBuffer::new(HANDSHAKE_BYTES_MAX), address, certified }
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
