//! Records of the state as a stream of bytes: what snapshots and archives hold.
//!
//! A record is its table (one byte), then key and value, each with a varint length in front. The stream has no end of its
//! own: whoever frames it knows how many records there are.

use konsul_state::{Reader, Record, Writer};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write};

/// No record is longer; a longer one is damage, and shall not fill the memory.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// Writes records, one after the other.
#[derive(Debug, Default)]
pub struct RecordWriter {
    scratch: Vec<u8>,
}

impl RecordWriter {
    /// Appends one record to `out`; how many bytes it took.
    pub fn put(&mut self, record: &Record<'_>, out: &mut impl Write) -> io::Result<usize> {
        self.scratch.clear();
        let mut line = Writer::over(std::mem::take(&mut self.scratch));
        line.u8(record.table);
        line.bytes(record.key);
        line.usize(record.value.len());
        self.scratch = line.into_vec();
        out.write_all(&self.scratch)?;
        out.write_all(record.value)?;
        Ok(self.scratch.len() + record.value.len())
    }
}

/// Reads records back.
#[derive(Debug)]
pub struct RecordReader<R> {
    from: R,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl<R: Read> RecordReader<R> {
    pub fn new(from: R) -> RecordReader<R> {
        RecordReader { from, key: Vec::new(), value: Vec::new() }
    }

    /// The next record, which must be there. Damage is [`io::ErrorKind::InvalidData`] or an end too soon.
    pub fn read(&mut self) -> io::Result<Record<'_>> {
        let mut table = [0];
        self.from.read_exact(&mut table)?;
        for part in [&mut self.key, &mut self.value] {
            let len = read_len(&mut self.from)?;
            if len > RECORD_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a record of {len} bytes")));
            }
            part.resize(len, 0);
            self.from.read_exact(part)?;
        }
        Ok(Record { table: table[0], key: &self.key, value: &self.value })
    }

    /// Whether nothing follows; reads to the end of the stream, so that its own checksum is compared.
    pub fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(io::copy(&mut self.from, &mut io::sink())? == 0)
    }
}

/// Writes through and hashes what passes.
#[derive(Debug)]
pub struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    pub fn new(inner: W) -> Hashing<W> {
        Hashing { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// SHA-256 of what passed so far.
    pub fn sum(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    /// The writer, SHA-256 and length of what passed.
    pub fn into_parts(self) -> (W, [u8; 32], u64) {
        (self.inner, self.hash.finalize().into(), self.bytes)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hash.update(&buf[..n]);
        self.bytes += u64::try_from(n).expect("a length fits 64 bits");
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The varint of [`Writer::usize`], from a stream.
fn read_len(from: &mut impl Read) -> io::Result<usize> {
    let mut bytes = [0; 10];
    for i in 0..bytes.len() {
        from.read_exact(&mut bytes[i..=i])?;
        if bytes[i] & 0x80 == 0 {
            return Reader::new(&bytes[..=i])
                .usize("length")
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a length of more than 10 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mangled::survive;

    #[test]
    fn records_come_back_as_they_were_written_and_the_end_is_known() {
        let (mut out, mut writer) = (Vec::new(), RecordWriter::default());
        let records = [(1, b"k".to_vec(), vec![7; 300]), (2, vec![0; 200], Vec::new())];
        let mut bytes = 0;
        for (table, key, value) in &records {
            bytes += writer.put(&Record { table: *table, key, value }, &mut out).unwrap();
        }
        assert_eq!(bytes, out.len());
        let mut reader = RecordReader::new(&out[..]);
        for (table, key, value) in &records {
            assert_eq!(reader.read().unwrap(), Record { table: *table, key, value });
        }
        assert!(reader.is_at_end().unwrap());
        assert!(!RecordReader::new(&out[..]).is_at_end().unwrap());
    }

    #[test]
    fn an_impossible_length_is_damage_and_takes_no_memory() {
        let huge = [&[1][..], &[0xff; 9], &[0x01]].concat();
        assert_eq!(RecordReader::new(&huge[..]).read().unwrap_err().kind(), io::ErrorKind::InvalidData);
        let long = [&[1][..], &[0xff; 11]].concat();
        assert_eq!(RecordReader::new(&long[..]).read().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn mangled_records_end_with_an_error_without_a_panic() {
        let (mut out, mut writer) = (Vec::new(), RecordWriter::default());
        writer.put(&Record { table: 1, key: b"key", value: &[7; 40] }, &mut out).unwrap();
        writer.put(&Record { table: 2, key: b"", value: b"" }, &mut out).unwrap();
        survive(&[out], |bytes| {
            let mut reader = RecordReader::new(bytes);
            while reader.read().is_ok() {}
        });
    }
}
