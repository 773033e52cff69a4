//! The storage against openraft's own conformance suite, and against damage.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use konsuld::metrics::Metrics;
use konsuld::raft_types::TypeConfig;
use konsuld::storage::{LogStore, StateMachine, Storage, StorageConfig};
use konsuld::watch::Watches;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use std::path::Path;
use tempfile::TempDir;

fn config(dir: &Path) -> StorageConfig {
    StorageConfig {
        data_dir: dir.to_owned(),
        state_dir: dir.join("state"),
        map_bytes_max: 1 << 30,
        prezero_bytes: 1 << 20,
        prezero_step_bytes: 1 << 20,
        tail_bytes_max: 1 << 20,
        payload_bytes_max: 1 << 20,
        witnesses: Vec::new(),
    }
}

fn open(dir: &Path) -> Storage {
    Storage::open(&config(dir), Watches::new(), &Metrics::new("n", "c").storage).unwrap()
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let storage = open(dir.path());
        Ok((dir, storage.log, storage.state))
    }
}

#[test]
fn openrafts_storage_suite_passes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}
