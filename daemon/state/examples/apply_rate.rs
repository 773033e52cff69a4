//! How fast writes are applied: 256-byte values to random keys, 64 per batch, in a store of a million keys.
//!
//! `cargo run --release -p konsul-state --example apply_rate [writes] [directory]`

use heed::{EnvFlags, EnvOpenOptions};
use konsul_state::{Command, Index, KvWrite, Loader, Record, StateError, Store};
use std::error::Error;
use std::path::PathBuf;

const KEYS: u64 = 1_000_000;
const PER_BATCH: u64 = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let writes: u64 = args.next().map_or(Ok(200_000), |n| n.parse())?;
    let parent = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(parent)?;
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(16 << 30).max_dbs(16);
    #[expect(unsafe_code, reason = "heed cannot know that nobody else maps the file")]
    // SAFETY: the directory is new and ours: no other process or environment maps these files, and nobody reads them
    // after the machine has stopped.
    let env = unsafe { options.flags(EnvFlags::NO_SYNC).open(dir.path()) }?;
    let store = Store::open(env)?;
    fill(&store)?;
    report("overwrite", writes, || apply(&store, 2, writes, |n| key(random(n) % KEYS)))?;
    report("insert", writes, || apply(&store, 2 + writes, writes, |n| key(KEYS + random(n))))?;
    Ok(())
}

fn key(n: u64) -> Vec<u8> {
    format!("service/{n:020}").into_bytes()
}

/// SplitMix64.
fn random(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) >> 1
}

fn fill(store: &Store) -> Result<(), StateError> {
    let mut record = vec![1];
    for number in [0u64, 1, 1, 0] {
        record.extend(number.to_le_bytes());
    }
    record.push(0);
    record.extend([0; 256]);
    let mut loader = Loader::new(store)?;
    loader.put(Record { table: 1, key: b"format", value: &[1] })?;
    for n in 0..KEYS {
        loader.put(Record { table: 2, key: &key(n), value: &record })?;
    }
    loader.finish().map(|_records| ())
}

fn apply(store: &Store, first: u64, writes: u64, key: impl Fn(u64) -> Vec<u8>) -> Result<(), StateError> {
    let mut value = [0u8; 256];
    let mut command = Vec::new();
    let mut index = first;
    while index < first + writes {
        let mut batch = store.batch()?;
        for _ in 0..PER_BATCH.min(first + writes - index) {
            value[..8].copy_from_slice(&index.to_le_bytes());
            command.clear();
            Command::Kv(KvWrite::Set { key: &key(index), value: &value, flags: 0 }).encode(&mut command);
            batch.apply(Index::new(index), &command)?;
            index += 1;
        }
        batch.set_position(Index::new(index - 1), &index.to_le_bytes(), None)?;
        batch.commit()?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a measurement, no part of the state machine")]
fn report(what: &str, writes: u64, run: impl FnOnce() -> Result<(), StateError>) -> Result<(), StateError> {
    let start = std::time::Instant::now();
    run()?;
    let micros = start.elapsed().as_micros().max(1);
    println!(
        "{what}: {} writes/s, {} ns each",
        u128::from(writes) * 1_000_000 / micros,
        micros * 1_000 / u128::from(writes)
    );
    Ok(())
}
