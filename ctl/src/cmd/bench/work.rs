//! What one client does in a loop: builds a request, reads the reply, judges it.
//!
//! The Consul wire only, so that any server of this API can be measured.

use super::{link::Link, wire::WireError};
use std::{
    fmt,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// How fresh reads must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mode {
    /// The answering node's own state
    Stale,
    /// The leader's lease: the default of the API
    Leader,
    /// Confirmed by a quorum
    Strong,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Leader => "leader",
            Self::Strong => "strong",
        }
    }

    pub(super) fn query(self) -> &'static str {
        match self {
            Self::Stale => "?stale",
            Self::Leader => "",
            Self::Strong => "?consistent",
        }
    }
}

/// What is done.
#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    Put,
    /// Write the keys one after the other, each once.
    PutOnce,
    Get(Mode),
    Mixed {
        mode: Mode,
        write_percent: u64,
    },
    /// Read a key, then write it if it has not changed.
    Cas,
}

/// Why an operation does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Failure {
    Wire(WireError),
    Status(u16),
    /// A read of a key that is not there: the keys were not loaded.
    NotFound,
    /// Another client was faster.
    Conflict,
    /// A write was answered `false`.
    Refused,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wire(e) => write!(f, "{e}"),
            Self::Status(status) => write!(f, "status_{status}"),
            Self::NotFound => f.write_str("not_found"),
            Self::Conflict => f.write_str("cas_conflict"),
            Self::Refused => f.write_str("refused"),
        }
    }
}

/// SplitMix64: good enough to spread keys, and next to free.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The keys and values of a run.
#[derive(Debug, Clone)]
pub(super) struct Data {
    /// Percent-encoding is not done: the prefix may hold only what needs none.
    pub(super) prefix: String,
    pub(super) keys: u64,
    pub(super) value_bytes: usize,
}

impl Data {
    pub(super) fn key(&self, n: u64) -> String {
        format!("{}{n:08}", self.prefix)
    }

    /// Bytes that do not compress.
    pub(super) fn value(&self, random: &mut Random) -> Vec<u8> {
        let mut value = Vec::with_capacity(self.value_bytes + 8);
        while value.len() < self.value_bytes {
            value.extend_from_slice(&random.next().to_le_bytes());
        }
        value.truncate(self.value_bytes);
        value
    }
}

/// One client.
pub(super) struct Work {
    op: Op,
    data: Data,
    random: Random,
    value: Vec<u8>,
    out: Vec<u8>,
    /// The next key, of all clients together, where each is written once.
    next: Arc<AtomicU64>,
    /// The key of the last step.
    key: u64,
}

impl Work {
    pub(super) fn new(op: Op, data: Data, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let value = data.value(&mut random);
        Self { op, data, random, value, out: Vec::new(), next: Arc::default(), key: 0 }
    }

    /// Shares the count of keys with other clients.
    pub(super) fn counting(self, next: Arc<AtomicU64>) -> Self {
        Self { next, ..self }
    }

    /// The key of the last step.
    pub(super) fn key(&self) -> String {
        self.data.key(self.key)
    }

    /// Does one operation.
    pub(super) async fn step(&mut self, link: &mut Link) -> Result<(), Failure> {
        let key = match self.op {
            Op::PutOnce => self.next.fetch_add(1, Ordering::Relaxed),
            Op::Put | Op::Get(_) | Op::Mixed { .. } | Op::Cas => self.random.next() % self.data.keys,
        };
        self.key = key;
        match self.op {
            Op::Put | Op::PutOnce => self.put(link, key, None).await,
            Op::Get(mode) => self.get(link, key, mode).await.map(|_| ()),
            Op::Mixed { mode, write_percent } => {
                if self.random.next() % 100 < write_percent {
                    self.put(link, key, None).await
                } else {
                    self.get(link, key, mode).await.map(|_| ())
                }
            }
            Op::Cas => {
                let index = match self.get(link, key, Mode::Leader).await {
                    Ok(index) => index,
                    Err(Failure::NotFound) => 0,
                    Err(e) => return Err(e),
                };
                self.put(link, key, Some(index)).await
            }
        }
    }

    async fn put(&mut self, link: &mut Link, key: u64, cas: Option<u64>) -> Result<(), Failure> {
        // Another value each time: writing what is there already changes nothing and would be measured as such.
        let fresh = self.random.next().to_le_bytes();
        let n = fresh.len().min(self.value.len());
        self.value[..n].copy_from_slice(&fresh[..n]);
        self.out.clear();
        let Data { prefix, .. } = &self.data;
        // Writing to a Vec cannot fail.
        let _ = match cas {
            None => write!(self.out, "PUT /v1/kv/{prefix}{key:08} HTTP/1.1\r\n"),
            Some(index) => write!(self.out, "PUT /v1/kv/{prefix}{key:08}?cas={index} HTTP/1.1\r\n"),
        };
        let _ = write!(self.out, "Host: konsul\r\nContent-Length: {}\r\n\r\n", self.value.len());
        self.out.extend_from_slice(&self.value);
        let reply = link.exchange(&self.out).await.map_err(Failure::Wire)?;
        match (reply.status, reply.body.starts_with(b"true")) {
            (200, true) => Ok(()),
            (200, false) if cas.is_some() => Err(Failure::Conflict),
            (200, false) => Err(Failure::Refused),
            (status, _) => Err(Failure::Status(status)),
        }
    }

    /// The key's modify index.
    async fn get(&mut self, link: &mut Link, key: u64, mode: Mode) -> Result<u64, Failure> {
        self.out.clear();
        let Data { prefix, .. } = &self.data;
        let query = mode.query();
        // Writing to a Vec cannot fail.
        let _ = write!(self.out, "GET /v1/kv/{prefix}{key:08}{query} HTTP/1.1\r\nHost: konsul\r\n\r\n");
        let reply = link.exchange(&self.out).await.map_err(Failure::Wire)?;
        match reply.status {
            // The index of a single key's query is the key's own.
            200 => Ok(reply.index.unwrap_or(0)),
            404 => Err(Failure::NotFound),
            status => Err(Failure::Status(status)),
        }
    }
}
