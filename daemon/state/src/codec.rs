//! Bytes for logs, snapshots and peers: varints, length-prefixed bytes. No reflection, so a format is what is written here.

/// The bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end in the middle of a field.
    #[error("{what}: {needed} more bytes needed")]
    Short {
        /// The field.
        what: &'static str,
        /// How many are missing.
        needed: usize,
    },
    /// A value this version does not know: written by a newer version, or damaged.
    #[error("unknown {what} {found}; this version knows up to {known}: upgrade this node")]
    Unknown {
        /// What kind of value.
        what: &'static str,
        /// What was found.
        found: u64,
        /// The highest known.
        known: u64,
    },
    /// A value that cannot be.
    #[error("{what} is invalid")]
    Invalid {
        /// The field.
        what: &'static str,
    },
}

/// A damaged count must not reserve all memory; a longer list grows as it is read.
const LIST_RESERVE_MAX: usize = 1_024;

/// Writes fields to a growing buffer.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

#[expect(missing_docs, reason = "each writes one field of the named type")]
impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }
    pub fn over(out: Vec<u8>) -> Writer {
        Writer { out }
    }
    pub fn u8(&mut self, v: u8) {
        self.out.push(v);
    }
    /// LEB128.
    pub fn u64(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.out.push(v.to_le_bytes()[0] | 0x80);
            v >>= 7;
        }
        self.out.push(v.to_le_bytes()[0]);
    }
    pub fn usize(&mut self, v: usize) {
        self.u64(u64::try_from(v).expect("usize is at most 64 bits"));
    }
    pub fn bool(&mut self, v: bool) {
        self.u8(u8::from(v));
    }
    /// Length, then the bytes.
    pub fn bytes(&mut self, v: &[u8]) {
        self.usize(v.len());
        self.out.extend_from_slice(v);
    }
    /// The bytes alone: their length is known to the reader.
    pub fn raw(&mut self, v: &[u8]) {
        self.out.extend_from_slice(v);
    }
    pub fn str(&mut self, v: &str) {
        self.bytes(v.as_bytes());
    }
    pub fn len(&self) -> usize {
        self.out.len()
    }
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }
    pub fn into_vec(self) -> Vec<u8> {
        self.out
    }
}

/// Reads fields from a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

#[expect(missing_docs, reason = "each reads one field of the named type")]
impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }
    pub fn raw(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        if n > self.rest.len() {
            return Err(DecodeError::Short { what, needed: n - self.rest.len() });
        }
        let (head, rest) = self.rest.split_at(n);
        self.rest = rest;
        Ok(head)
    }
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.raw(1, what)?[0])
    }
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut v = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8(what)?;
            let part = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && part > 1 {
                return Err(DecodeError::Invalid { what });
            }
            v |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(v);
            }
        }
        Err(DecodeError::Invalid { what })
    }
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        u32::try_from(self.u64(what)?).map_err(|_| DecodeError::Invalid { what })
    }
    pub fn usize(&mut self, what: &'static str) -> Result<usize, DecodeError> {
        usize::try_from(self.u64(what)?).map_err(|_| DecodeError::Invalid { what })
    }
    pub fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid { what }),
        }
    }
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let n = self.usize(what)?;
        self.raw(n, what)
    }
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        Ok(self.raw(N, what)?.try_into().expect("raw gives N bytes"))
    }
    pub fn str(&mut self, what: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(what)?).map_err(|_| DecodeError::Invalid { what })
    }
    /// A count, then that many items. The count is not believed before the items are there.
    pub fn list<T>(
        &mut self,
        what: &'static str,
        mut item: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.usize(what)?;
        let mut items = Vec::with_capacity(count.min(LIST_RESERVE_MAX));
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
    /// The leading version byte of a format of which only `known` exists.
    pub fn version(&mut self, what: &'static str, known: u8) -> Result<(), DecodeError> {
        let found = self.u8(what)?;
        if found == known {
            return Ok(());
        }
        Err(DecodeError::Unknown { what, found: u64::from(found), known: u64::from(known) })
    }
    /// Nothing may be left over.
    pub fn end(&self, what: &'static str) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Invalid { what }) }
    }
}
