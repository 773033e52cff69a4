//! `state.bin`, the heart of a snapshot archive: every entry in key order, and a trailer that proves it whole.
//!
//! Magic, version (u32), then records (tag 1; key and value with u32 lengths; flags, lock, create and modify index as
//! u64), then the trailer (tag 0; number of records as u64; SHA-256 of everything before). Little-endian.

use crate::backup::KeyEntry;
use konsul_state::{Entry, KEY_BYTES_MAX};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write};

const MAGIC: [u8; 8] = *b"KONSULKV";
const VERSION: u32 = 1;
const RECORD: u8 = 1;
const TRAILER: u8 = 0;

/// What is wrong with a state file.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateFileError {
    #[error("read state.bin")]
    Read {
        #[source]
        source: io::Error,
    },
    #[error(
        "state.bin was not written by Konsul: an archive of Consul itself cannot be restored; \
         use `consul kv export` there and `konsulctl kv import` here"
    )]
    Foreign,
    #[error("state.bin has format {found}, this version reads format {VERSION}: upgrade this node")]
    Version { found: u32 },
    #[error("state.bin is damaged at record {record}: {what}")]
    Damaged { record: u64, what: &'static str },
    #[error(
        "the value of record {record} has {bytes} bytes, `http.value_bytes_max` is {max}: raise it to restore this"
    )]
    ValueTooLong { record: u64, bytes: u64, max: u64 },
}

/// Writes a state file and hashes what it writes.
pub(super) struct StateWriter<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
    records: u64,
}

/// Length and hash of a finished state file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) sha256: [u8; 32],
}

impl<W: Write> StateWriter<W> {
    pub(super) fn start(out: W) -> io::Result<StateWriter<W>> {
        let mut writer = StateWriter { out, hash: Sha256::new(), bytes: 0, records: 0 };
        writer.put(&MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        Ok(writer)
    }

    pub(super) fn record(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.put(&[RECORD])?;
        self.field(entry.key)?;
        self.field(entry.value)?;
        for number in [entry.flags, entry.lock_index, entry.create_index.get(), entry.modify_index.get()] {
            self.put(&number.to_le_bytes())?;
        }
        self.records += 1;
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<Written> {
        self.put(&[TRAILER])?;
        self.put(&self.records.to_le_bytes())?;
        let content: [u8; 32] = self.hash.clone().finalize().into();
        self.put(&content)?;
        self.out.flush()?;
        Ok(Written { bytes: self.bytes, sha256: self.hash.finalize().into() })
    }

    fn field(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::other("a field of 4 GiB or more"))?;
        self.put(&length.to_le_bytes())?;
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += u64::try_from(bytes.len()).expect("usize is at most 64 bits");
        self.out.write_all(bytes)
    }
}

/// Reads a state file and checks it on the way; the end is reached only if the trailer is right.
pub(super) struct StateReader<R> {
    from: R,
    hash: Sha256,
    records: u64,
    last_key: Vec<u8>,
    value_bytes_max: u64,
    ended: bool,
}

impl<R: Read> StateReader<R> {
    pub(super) fn start(from: R, value_bytes_max: u64) -> Result<StateReader<R>, StateFileError> {
        let mut reader =
            StateReader { from, hash: Sha256::new(), records: 0, last_key: Vec::new(), value_bytes_max, ended: false };
        let mut magic = [0; MAGIC.len()];
        match reader.fill(&mut magic, "magic") {
            Ok(()) if magic == MAGIC => {}
            Ok(()) | Err(StateFileError::Damaged { .. }) => return Err(StateFileError::Foreign),
            Err(error) => return Err(error),
        }
        let mut version = [0; 4];
        reader.fill(&mut version, "version")?;
        match u32::from_le_bytes(version) {
            VERSION => Ok(reader),
            found => Err(StateFileError::Version { found }),
        }
    }

    /// How many records were read.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// The next record; `None` after the last one, when the trailer proved everything.
    pub(super) fn next(&mut self) -> Result<Option<KeyEntry>, StateFileError> {
        if self.ended {
            return Ok(None);
        }
        let mut tag = [0];
        self.fill(&mut tag, "tag")?;
        match tag[0] {
            RECORD => self.record().map(Some),
            TRAILER => self.trailer().map(|()| None),
            _ => Err(self.damaged("unknown tag")),
        }
    }

    fn record(&mut self) -> Result<KeyEntry, StateFileError> {
        let key_bytes_max = u64::try_from(KEY_BYTES_MAX).expect("a small number");
        let key_bytes = self.length()?;
        if key_bytes == 0 || key_bytes > key_bytes_max {
            return Err(self.damaged("length of the key"));
        }
        let key = self.field(key_bytes, "key")?;
        // In key order and without repeats, as it was written: what is staged from it is what is counted.
        if key <= self.last_key {
            return Err(self.damaged("order of the keys"));
        }
        self.last_key.clone_from(&key);
        let (bytes, max) = (self.length()?, self.value_bytes_max);
        if bytes > max {
            return Err(StateFileError::ValueTooLong { record: self.records, bytes, max });
        }
        let value = self.field(bytes, "value")?;
        let flags = self.number()?;
        let lock_index = self.number()?;
        let create_index = self.number()?;
        let _modify_index = self.number()?;
        self.records += 1;
        Ok(KeyEntry { key, value, flags, lock_index, create_index })
    }

    fn trailer(&mut self) -> Result<(), StateFileError> {
        if self.number()? != self.records {
            return Err(self.damaged("number of records"));
        }
        let expected: [u8; 32] = self.hash.clone().finalize().into();
        let mut found = [0; 32];
        self.fill(&mut found, "hash")?;
        if found != expected {
            return Err(self.damaged("hash"));
        }
        match self.from.read(&mut [0]).map_err(|source| StateFileError::Read { source })? {
            0 => {
                self.ended = true;
                Ok(())
            }
            _ => Err(self.damaged("bytes behind the end")),
        }
    }

    fn length(&mut self) -> Result<u64, StateFileError> {
        let mut length = [0; 4];
        self.fill(&mut length, "length")?;
        Ok(u32::from_le_bytes(length).into())
    }

    fn number(&mut self) -> Result<u64, StateFileError> {
        let mut number = [0; 8];
        self.fill(&mut number, "number")?;
        Ok(u64::from_le_bytes(number))
    }

    /// `bytes` was compared with a limit.
    fn field(&mut self, bytes: u64, what: &'static str) -> Result<Vec<u8>, StateFileError> {
        let mut field = vec![0; usize::try_from(bytes).expect("compared with a limit")];
        self.fill(&mut field, what)?;
        Ok(field)
    }

    fn fill(&mut self, bytes: &mut [u8], what: &'static str) -> Result<(), StateFileError> {
        match self.from.read_exact(bytes) {
            Ok(()) => {
                self.hash.update(&*bytes);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.damaged(what)),
            Err(source) => Err(StateFileError::Read { source }),
        }
    }

    fn damaged(&self, what: &'static str) -> StateFileError {
        StateFileError::Damaged { record: self.records, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mangled::survive;
    use konsul_state::Index;

    pub(crate) fn written(keys: &[&str]) -> (Vec<u8>, Written) {
        let mut bytes = Vec::new();
        let mut writer = StateWriter::start(&mut bytes).unwrap();
        for key in keys {
            let entry = Entry {
                key: key.as_bytes(),
                value: b"value",
                flags: 4,
                lock_index: 3,
                session: None,
                create_index: Index::new(2),
                modify_index: Index::new(9),
            };
            writer.record(&entry).unwrap();
        }
        let written = writer.finish().unwrap();
        (bytes, written)
    }

    fn read(bytes: &[u8]) -> Result<Vec<KeyEntry>, StateFileError> {
        let mut reader = StateReader::start(bytes, 100)?;
        let mut records = Vec::new();
        while let Some(record) = reader.next()? {
            records.push(record);
        }
        assert!(reader.next()?.is_none(), "the end stays the end");
        assert_eq!(reader.records(), u64::try_from(records.len()).unwrap());
        Ok(records)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (bytes, written) = written(&["a", "b/c"]);
        assert_eq!(written.bytes, u64::try_from(bytes.len()).unwrap());
        assert_eq!(written.sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
        let records = read(&bytes).unwrap();
        let first = KeyEntry { key: b"a".to_vec(), value: b"value".to_vec(), flags: 4, lock_index: 3, create_index: 2 };
        assert_eq!((records.len(), &records[0]), (2, &first));
    }

    #[test]
    fn no_byte_can_be_changed_or_cut_off_unnoticed() {
        let (bytes, _) = written(&["a", "b"]);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            read(&changed).unwrap_err();
            read(&bytes[..at]).unwrap_err();
        }
        read(&[&bytes[..], b"x"].concat()).unwrap_err();
    }

    #[test]
    fn a_file_of_somebody_else_or_of_a_newer_version_is_told_apart() {
        assert!(matches!(read(b"\x82\xa9Timestamp").unwrap_err(), StateFileError::Foreign));
        assert!(matches!(read(b"x").unwrap_err(), StateFileError::Foreign));
        let newer = [&MAGIC[..], &2u32.to_le_bytes()].concat();
        assert!(matches!(read(&newer).unwrap_err(), StateFileError::Version { found: 2 }));
    }

    #[test]
    fn keys_out_of_order_and_long_values_are_refused() {
        assert!(read(&written(&["b", "a"]).0).unwrap_err().to_string().contains("order of the keys"));
        assert!(read(&written(&["a", "a"]).0).unwrap_err().to_string().contains("order of the keys"));
        let (bytes, _) = written(&["a"]);
        let error = StateReader::start(&bytes[..], 4).unwrap().next().unwrap_err();
        assert!(matches!(error, StateFileError::ValueTooLong { bytes: 5, max: 4, .. }));
    }

    #[test]
    fn a_mangled_file_is_refused_without_a_panic() {
        survive(&[written(&["a", "b/c"]).0, written(&[]).0], |bytes| drop(read(bytes)));
    }
}
