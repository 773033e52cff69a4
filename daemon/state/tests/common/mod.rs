//! A store in a directory of its own.

use heed::{EnvFlags, EnvOpenOptions};
use konsul_state::{Changes, Command, Index, Outcome, Store};

pub(crate) struct TestStore {
    pub(crate) store: Store,
    _dir: tempfile::TempDir,
}

impl TestStore {
    pub(crate) fn new() -> TestStore {
        let dir = tempfile::tempdir().unwrap();
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(1 << 30).max_dbs(16);
        #[expect(unsafe_code, reason = "heed cannot know that nobody else maps the file")]
        // SAFETY: the directory is new and ours: no other process or environment maps these files. NO_SYNC only
        // matters if the machine stops, and then nobody reads this directory again.
        let env = unsafe { options.flags(EnvFlags::NO_SYNC).open(dir.path()) }.unwrap();
        TestStore { store: Store::open(env).unwrap(), _dir: dir }
    }

    /// Applies one command in a batch of its own.
    pub(crate) fn apply(&self, index: u64, command: &Command<'_>) -> (Outcome, Changes) {
        let mut batch = self.store.batch().unwrap();
        let outcome = batch.apply(Index::new(index), &encoded(command)).unwrap();
        (outcome, batch.commit().unwrap())
    }
}

pub(crate) fn encoded(command: &Command<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    command.encode(&mut bytes);
    bytes
}
