//! Fills the keys of a benchmark, many in a request.

use super::{
    link::Link,
    work::{Data, Random},
};
use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use konsul_api::{
    batch::{BatchOp, BatchRequest},
    txn::{KvOp, TxnOp},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::task::JoinSet;

/// Consul's limit.
const TXN_OPS_MAX: u64 = 64;
const BATCH_OPS_MAX: u64 = 512;
/// Of a request's body: Consul's limit is 512 KiB.
const BODY_BYTES_MAX: u64 = 480 * 1024;
/// What an operation weighs in JSON beside its value.
const OP_BYTES: u64 = 128;

/// How keys are written in bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Via {
    /// PUT /v1/txn, up to 64 keys each
    Txn,
    /// PUT /v1/batch, up to 512 keys each; Konsul only
    Batch,
    /// PUT /v1/kv, one key each
    Put,
}

impl Via {
    /// Keys in a request.
    fn keys(self, data: &Data) -> u64 {
        let value = u64::try_from(data.value_bytes).unwrap_or(u64::MAX);
        let fit = BODY_BYTES_MAX / (value.saturating_mul(4) / 3 + OP_BYTES);
        match self {
            Self::Txn => fit.clamp(1, TXN_OPS_MAX),
            Self::Batch => fit.clamp(1, BATCH_OPS_MAX),
            Self::Put => 1,
        }
    }
}

/// Writes every key.
pub(super) async fn run(links: Vec<Link>, data: &Data, via: Via, bar: &ProgressBar) -> anyhow::Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for link in links {
        clients.spawn(client(link, data.clone(), via, next.clone(), bar.clone()));
    }
    while let Some(ended) = clients.join_next().await {
        ended.context("a client of the load failed")??;
    }
    Ok(())
}

async fn client(mut link: Link, data: Data, via: Via, next: Arc<AtomicU64>, bar: ProgressBar) -> anyhow::Result<()> {
    let step = via.keys(&data);
    loop {
        let first = next.fetch_add(step, Ordering::Relaxed);
        if first >= data.keys {
            return Ok(());
        }
        let count = step.min(data.keys - first);
        write(&mut link, &request(&data, via, first, count)?).await?;
        bar.inc(count * u64::try_from(data.value_bytes).unwrap_or(0));
    }
}

fn request(data: &Data, via: Via, first: u64, count: u64) -> anyhow::Result<Vec<u8>> {
    // The same values for the same keys: two clusters loaded alike hold the same.
    let mut random = Random::new(first);
    let mut pairs = (first..first + count).map(|n| (data.key(n), data.value(&mut random)));
    let (path, body) = match via {
        Via::Txn => {
            let op = |(key, value)| TxnOp {
                kv: KvOp { verb: "set".to_owned(), key, value, flags: 0, index: 0, session: String::new() },
            };
            let ops: Vec<TxnOp> = pairs.map(op).collect();
            ("/v1/txn".to_owned(), serde_json::to_vec(&ops).context("encode a transaction")?)
        }
        Via::Batch => {
            let ops = pairs.map(|(key, value)| BatchOp::Set { key, value, flags: 0 }).collect();
            let batch = BatchRequest { atomic: false, ops };
            ("/v1/batch".to_owned(), serde_json::to_vec(&batch).context("encode a batch")?)
        }
        Via::Put => {
            let (key, value) = pairs.next().context("a request has a key")?;
            (format!("/v1/kv/{key}"), value)
        }
    };
    let mut request =
        format!("PUT {path} HTTP/1.1\r\nHost: konsul\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(&body);
    Ok(request)
}

async fn write(link: &mut Link, request: &[u8]) -> anyhow::Result<()> {
    match link.settled(request).await.context("load keys")? {
        (200, _) => Ok(()),
        (status, text) => bail!("load keys: status {status}: {text}"),
    }
}
