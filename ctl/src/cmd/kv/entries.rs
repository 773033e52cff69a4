//! Entries in files: one JSON object after the other, on lines or in one array, read without holding all of them.
//!
//! Knows nothing about: where the bytes come from.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, ops::Range};

/// One entry of a file; `consul kv export` and `GET /v1/kv/?recurse` name its members the same but for capitals.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry<'a> {
    #[serde(alias = "Key", borrow)]
    pub(super) key: Cow<'a, str>,
    /// Base64; absent or null when empty.
    #[serde(alias = "Value", borrow, default)]
    pub(super) value: Option<Cow<'a, str>>,
    #[serde(alias = "Flags", default)]
    pub(super) flags: u64,
}

impl Entry<'_> {
    pub(super) fn bytes(&self) -> Result<Vec<u8>, base64::DecodeError> {
        self.value.as_ref().map_or_else(|| Ok(Vec::new()), |text| STANDARD.decode(text.as_bytes()))
    }
}

/// Why bytes are no sequence of objects.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SequenceError {
    #[error("entry {entry}: expected an object, found '{found}'")]
    Stray { entry: u64, found: char },
    #[error("the data ends in the middle of entry {entry}")]
    Cut { entry: u64 },
    #[error("the array is not closed: the data is incomplete after {entry} entries")]
    Open { entry: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Nothing but blanks so far.
    Unknown,
    Lines,
    Array,
    /// The array's bracket was closed.
    Closed,
}

/// Cuts a stream of bytes into its objects.
#[derive(Debug)]
pub(super) struct Objects {
    buffer: Vec<u8>,
    /// Where looking goes on.
    at: usize,
    /// Where the object under way began.
    start: Option<usize>,
    depth: u32,
    in_string: bool,
    escaped: bool,
    shape: Shape,
    /// Objects found.
    count: u64,
}

impl Objects {
    pub(super) fn new() -> Self {
        Self {
            buffer: Vec::new(),
            at: 0,
            start: None,
            depth: 0,
            in_string: false,
            escaped: false,
            shape: Shape::Unknown,
            count: 0,
        }
    }

    /// Objects found so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Adds bytes; whatever `next_range` gave before is gone.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let done = self.start.unwrap_or(self.at);
        self.buffer.drain(..done);
        self.at -= done;
        self.start = self.start.map(|_| 0);
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole object, or `None` if more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, SequenceError> {
        Ok(self.next_range()?.map(|range| &self.buffer[range]))
    }

    /// Whether the bytes may end here.
    pub(super) fn end(&self) -> Result<(), SequenceError> {
        if self.start.is_some() {
            return Err(SequenceError::Cut { entry: self.count + 1 });
        }
        match self.shape {
            Shape::Array => Err(SequenceError::Open { entry: self.count }),
            Shape::Unknown | Shape::Lines | Shape::Closed => Ok(()),
        }
    }

    fn next_range(&mut self) -> Result<Option<Range<usize>>, SequenceError> {
        while let Some(&byte) = self.buffer.get(self.at) {
            match self.start {
                None => self.between(byte)?,
                Some(start) => {
                    self.within(byte);
                    if self.depth == 0 {
                        self.at += 1;
                        self.start = None;
                        self.count += 1;
                        return Ok(Some(start..self.at));
                    }
                }
            }
            self.at += 1;
        }
        Ok(None)
    }

    fn between(&mut self, byte: u8) -> Result<(), SequenceError> {
        match (byte, self.shape) {
            (b' ' | b'\t' | b'\r' | b'\n', _) | (b',', Shape::Array) => {}
            (b'[', Shape::Unknown) => self.shape = Shape::Array,
            (b']', Shape::Array) => self.shape = Shape::Closed,
            (b'{', Shape::Unknown | Shape::Lines | Shape::Array) => {
                if self.shape == Shape::Unknown {
                    self.shape = Shape::Lines;
                }
                self.start = Some(self.at);
                self.depth = 1;
            }
            (found, _) => {
                return Err(SequenceError::Stray { entry: self.count + 1, found: char::from(found) });
            }
        }
        Ok(())
    }

    fn within(&mut self, byte: u8) {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' => self.depth += 1,
            b'}' => self.depth -= 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Objects, SequenceError};

    fn objects(text: &str, step: usize) -> Result<Vec<String>, SequenceError> {
        let mut objects = Objects::new();
        let mut found = Vec::new();
        for piece in text.as_bytes().chunks(step) {
            objects.push(piece);
            while let Some(object) = objects.next()? {
                found.push(String::from_utf8_lossy(object).into_owned());
            }
        }
        objects.end()?;
        Ok(found)
    }

    #[test]
    fn objects_are_found_however_the_bytes_are_cut() {
        let expected = vec![r#"{"a":"}\"]["}"#.to_owned(), r#"{"b":{"c":[1]}}"#.to_owned()];
        let (one, two) = (&expected[0], &expected[1]);
        for text in [format!("[{one}, {two}]\n"), format!("{one}\n{two}\n"), format!(" \n{one}\r\n\n{two}")] {
            for step in 1..=text.len() {
                assert_eq!(objects(&text, step), Ok(expected.clone()), "{text} in steps of {step}");
            }
        }
        assert_eq!(objects("", 1), Ok(Vec::new()));
        assert_eq!(objects("[]", 1), Ok(Vec::new()));
    }

    #[test]
    fn data_that_is_cut_off_is_never_taken_for_whole() {
        assert_eq!(objects(r#"[{"a":1},"#, 3), Err(SequenceError::Open { entry: 1 }));
        assert_eq!(objects(r#"{"a":1}{"b""#, 3), Err(SequenceError::Cut { entry: 2 }));
        assert_eq!(objects("nonsense", 3), Err(SequenceError::Stray { entry: 1, found: 'n' }));
        assert_eq!(objects(r#"[{"a":1}] {"b":2}"#, 3), Err(SequenceError::Stray { entry: 2, found: '{' }));
    }

    #[test]
    fn entries_of_every_writer_are_read() {
        for text in [
            r#"{"key":"a\nb","value":"eA==","flags":7}"#,
            r#"{"key":"a\nb","flags":7,"value":"eA=="}"#,
            r#"{"LockIndex":0,"Key":"a\nb","Flags":7,"Value":"eA==","CreateIndex":1,"ModifyIndex":2}"#,
        ] {
            let entry: Entry<'_> = serde_json::from_str(text).expect("an entry");
            assert_eq!((entry.key.as_ref(), entry.flags), ("a\nb", 7));
            assert_eq!(entry.bytes().expect("base64"), b"x");
        }
        let empty: Entry<'_> = serde_json::from_str(r#"{"key":"k","value":null}"#).expect("an entry");
        assert_eq!(empty.bytes().expect("base64"), b"");
    }
}
