//! Extends the log's file with written zeros ahead of use.
//!
//! A flush of a file that grows has to commit the file system's journal as well; overwriting written blocks does not.
//! At 64 entries a batch the median flush takes a third less. `fallocate` does not help: unwritten blocks need the
//! journal too. Only the writer thread may do this, between transactions: LMDB appends pages to the same file.

use heed::{Env, WithoutTls};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

/// How far ahead of LMDB's last page the file shall be zeroed before it is extended again.
const AHEAD_BYTES_MIN: u64 = 4 << 20;
const CHUNK: usize = 1 << 20;
const PAGE_BYTES: u64 = 4096;

#[derive(Debug)]
pub(super) struct Prezero {
    file: File,
    zeroed: u64,
    step_bytes: u64,
}

impl Prezero {
    /// Zeroes the first `initial_bytes` of a file that is shorter.
    pub(super) fn open(env_dir: &Path, initial_bytes: u64, step_bytes: u64) -> io::Result<Prezero> {
        let file = OpenOptions::new().write(true).open(env_dir.join("data.mdb"))?;
        let zeroed = file.metadata()?.len();
        let mut this = Prezero { file, zeroed, step_bytes };
        if zeroed < initial_bytes {
            this.extend(initial_bytes - zeroed)?;
        }
        Ok(this)
    }

    /// Extends the file if LMDB is about to reach its end.
    pub(super) fn ahead(&mut self, env: &Env<WithoutTls>) -> io::Result<()> {
        let used = u64::try_from(env.info().last_page_number + 1).expect("a page number fits 64 bits") * PAGE_BYTES;
        // LMDB may have grown the file itself, by one large transaction.
        self.zeroed = self.zeroed.max(used);
        if self.zeroed - used >= AHEAD_BYTES_MIN || self.step_bytes == 0 {
            return Ok(());
        }
        self.extend(self.step_bytes)
    }

    fn extend(&mut self, bytes: u64) -> io::Result<()> {
        let zeros = vec![0; CHUNK];
        self.file.seek(SeekFrom::Start(self.zeroed))?;
        let mut left = bytes;
        while left > 0 {
            let part = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            self.file.write_all(&zeros[..part])?;
            left -= u64::try_from(part).expect("a chunk fits 64 bits");
        }
        self.zeroed += bytes;
        self.file.sync_data()
    }
}
