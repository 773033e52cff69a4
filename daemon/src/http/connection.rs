//! Connections: how many there may be, and how long a client may take for the head of a request and to read an answer.

use super::config::LiveLimits;
use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Counts open connections.
#[derive(Debug)]
pub(super) struct Admission {
    limits: LiveLimits,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    /// Only filled when there is a limit.
    per_client: HashMap<IpAddr, usize>,
}

/// One open connection; dropped, its place is free.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    /// In whose count it is, if clients are counted.
    counted: Option<IpAddr>,
}

/// Which limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Total,
    Client,
}

impl Admission {
    pub(super) fn new(limits: LiveLimits) -> Arc<Admission> {
        Arc::new(Admission { limits, open: Mutex::default() })
    }

    pub(super) fn enter(self: &Arc<Admission>, client: IpAddr) -> Result<Place, Full> {
        let (max, per_client_max) = {
            let limits = self.limits.now();
            (limits.connections_max, limits.connections_per_client_max)
        };
        let mut open = self.open();
        if open.total >= max {
            return Err(Full::Total);
        }
        if per_client_max > 0 {
            let of_client = open.per_client.get(&client).copied().unwrap_or(0);
            if of_client >= per_client_max {
                return Err(Full::Client);
            }
            open.per_client.insert(client, of_client + 1);
        }
        open.total += 1;
        Ok(Place { admission: self.clone(), counted: (per_client_max > 0).then_some(client) })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.admission.open();
        open.total -= 1;
        if let Some(client) = self.counted
            && let Some(of_client) = open.per_client.get_mut(&client)
        {
            *of_client -= 1;
            if *of_client == 0 {
                open.per_client.remove(&client);
            }
        }
    }
}

/// Since when the head of a request is under way. Cheaper than a timer per request: whoever looks from time to time
/// sees a head that takes too long, and connections that are merely idle stay.
#[derive(Debug)]
pub(super) struct HeadClock {
    base: Instant,
    /// `IDLE`, `BUSY`, or when the first byte came, in milliseconds since `base`.
    state: AtomicU64,
}

const IDLE: u64 = u64::MAX;
const BUSY: u64 = u64::MAX - 1;

/// Since when a client has been reading the answers that wait for it, and how much it has read of them. Costs nothing
/// while it reads as fast as it is answered.
#[derive(Debug)]
pub(super) struct SendClock {
    base: Instant,
    /// `IDLE`: nothing waits; else since when, in milliseconds since `base`.
    since: AtomicU64,
    bytes: AtomicU64,
}

impl SendClock {
    pub(super) fn new() -> Arc<SendClock> {
        Arc::new(SendClock { base: Instant::now(), since: AtomicU64::new(IDLE), bytes: AtomicU64::new(0) })
    }

    fn now(&self) -> u64 {
        millis(self.base.elapsed())
    }

    /// What was written, or that it has to wait.
    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        let waits = self.since.load(Ordering::Relaxed) != IDLE;
        match polled {
            Poll::Pending if !waits => {
                self.bytes.store(0, Ordering::Relaxed);
                self.since.store(self.now(), Ordering::Relaxed);
            }
            Poll::Ready(Ok(bytes)) if waits => {
                self.bytes.fetch_add(u64::try_from(*bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
            Poll::Pending | Poll::Ready(_) => {}
        }
    }

    /// Everything is with the kernel.
    fn is_flushed(&self) {
        if self.since.load(Ordering::Relaxed) != IDLE {
            self.since.store(IDLE, Ordering::Relaxed);
        }
    }

    /// Whether answers have waited this long, and a second more for each KiB that was read of them.
    pub(super) fn is_overdue(&self, timeout: Duration) -> bool {
        let since = self.since.load(Ordering::Relaxed);
        let allowed = millis(timeout).saturating_add((self.bytes.load(Ordering::Relaxed) >> 10).saturating_mul(1_000));
        since != IDLE && self.now().saturating_sub(since) >= allowed
    }
}

/// While it lives, a request is being answered.
#[derive(Debug)]
pub(super) struct Answering<'c> {
    clock: &'c HeadClock,
}

impl HeadClock {
    pub(super) fn new() -> Arc<HeadClock> {
        Arc::new(HeadClock { base: Instant::now(), state: AtomicU64::new(IDLE) })
    }

    fn bytes_came(&self) {
        if self.state.load(Ordering::Relaxed) == IDLE {
            self.state.store(self.now(), Ordering::Relaxed);
        }
    }

    pub(super) fn answering(&self) -> Answering<'_> {
        self.state.store(BUSY, Ordering::Relaxed);
        Answering { clock: self }
    }

    /// Whether a head has been under way for this long.
    pub(super) fn is_overdue(&self, timeout: Duration) -> bool {
        let began = self.state.load(Ordering::Relaxed);
        began < BUSY && self.now().saturating_sub(began) >= millis(timeout)
    }

    /// Whether no request is under way, and no byte of the next one came.
    pub(super) fn is_idle(&self) -> bool {
        self.state.load(Ordering::Relaxed) == IDLE
    }

    fn now(&self) -> u64 {
        millis(self.base.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(BUSY - 1)
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.clock.state.store(IDLE, Ordering::Relaxed);
    }
}

/// A stream that tells the clocks when bytes come and go.
pub(super) struct Timed<S> {
    /// Read already, and first in line.
    pub(super) before: Bytes,
    pub(super) stream: S,
    pub(super) clock: Arc<HeadClock>,
    pub(super) sending: Arc<SendClock>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let length = self.before.len().min(buf.remaining());
            buf.put_slice(&self.before.split_to(length));
            self.clock.bytes_came();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_ready() && buf.filled().len() > before {
            self.clock.bytes_came();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.sending.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.sending.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has written all it has.
        self.sending.is_flushed();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::HttpLimits;

    fn limits(connections_max: usize, connections_per_client_max: usize) -> HttpLimits {
        HttpLimits { connections_max, connections_per_client_max, ..HttpLimits::none() }
    }

    fn client(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn connections_are_limited_in_total_and_per_client() {
        let admission = Admission::new(LiveLimits::new(limits(3, 2)));
        let first = admission.enter(client(1)).unwrap();
        let second = admission.enter(client(1)).unwrap();
        assert_eq!(admission.enter(client(1)).unwrap_err(), Full::Client);
        let third = admission.enter(client(2)).unwrap();
        assert_eq!(admission.enter(client(3)).unwrap_err(), Full::Total);
        drop(first);
        drop(admission.enter(client(1)).unwrap());
        drop((second, third));
        let open = admission.open();
        assert_eq!((open.total, open.per_client.len()), (0, 0));
    }

    #[test]
    fn without_a_limit_per_client_nobody_is_counted() {
        let admission = Admission::new(LiveLimits::new(limits(2, 0)));
        let _first = admission.enter(client(1)).unwrap();
        let _second = admission.enter(client(1)).unwrap();
        assert!(admission.open().per_client.is_empty());
        assert_eq!(admission.enter(client(1)).unwrap_err(), Full::Total);
    }

    #[test]
    fn a_limit_per_client_that_comes_later_counts_from_then_on() {
        let live = LiveLimits::new(limits(9, 0));
        let admission = Admission::new(live.clone());
        let early = admission.enter(client(1)).unwrap();
        live.set(limits(9, 1));
        let late = admission.enter(client(1)).unwrap();
        assert_eq!(admission.enter(client(1)).unwrap_err(), Full::Client);
        drop(early);
        assert_eq!(admission.enter(client(1)).unwrap_err(), Full::Client, "the early one was not counted");
        drop(late);
        drop(admission.enter(client(1)).unwrap());
        let open = admission.open();
        assert_eq!((open.total, open.per_client.len()), (0, 0));
    }

    #[test]
    fn only_an_answer_that_waits_to_be_read_is_overdue() {
        let clock = SendClock::new();
        clock.wrote(&Poll::Ready(Ok(9_000)));
        assert!(!clock.is_overdue(Duration::ZERO), "it was read at once");
        clock.wrote(&Poll::Pending);
        assert!(clock.is_overdue(Duration::ZERO) && !clock.is_overdue(Duration::from_secs(60)));
        clock.wrote(&Poll::Ready(Ok(9_000)));
        assert!(!clock.is_overdue(Duration::ZERO), "9 KB read are good for eight seconds");
        clock.wrote(&Poll::Pending);
        clock.is_flushed();
        assert!(!clock.is_overdue(Duration::ZERO));
    }

    #[test]
    fn only_an_unfinished_head_is_overdue() {
        let clock = HeadClock::new();
        assert!(!clock.is_overdue(Duration::ZERO), "idle");
        clock.bytes_came();
        assert!(clock.is_overdue(Duration::ZERO));
        assert!(!clock.is_overdue(Duration::from_secs(60)));
        let answering = clock.answering();
        clock.bytes_came();
        assert!(!clock.is_overdue(Duration::ZERO), "a request is being answered");
        drop(answering);
        assert!(!clock.is_overdue(Duration::ZERO), "idle again");
    }
}
