//! The file of acknowledged keys: what the servers promised to keep, one key a line.
//!
//! A line is one append, made when the acknowledgement is in: a kill of a server or of this program takes nothing back.
//! Knows nothing about: who acknowledges, who reads the keys again.

use super::plain_key;
use anyhow::{Context as _, bail};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

/// The file while it grows.
pub(super) struct Acked {
    file: fs::File,
    path: PathBuf,
    line: Vec<u8>,
}

impl Acked {
    /// Starts the file; what stood in it belonged to another run.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        #[cfg_attr(
            not(test),
            expect(clippy::disallowed_methods, reason = "it must outlive processes, not the machine")
        )]
        let file = fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { file, path: path.to_owned(), line: Vec::new() })
    }

    pub(super) fn add(&mut self, key: &str) -> anyhow::Result<()> {
        self.line.clear();
        self.line.extend_from_slice(key.as_bytes());
        self.line.push(b'\n');
        self.file.write_all(&self.line).with_context(|| format!("write {}", self.path.display()))
    }
}

/// The keys of a file. A last line without its end was cut off when it was written: it is no record.
pub(super) fn keys(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let mut keys = Vec::new();
    for (n, line) in whole.lines().enumerate() {
        if line.is_empty() || plain_key(line).is_err() {
            bail!("{} line {}: {line:?} is no key that `konsulctl bench put --acked` wrote", path.display(), n + 1);
        }
        keys.push(line.to_owned());
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::{Acked, keys};
    use std::{fs, io::Write as _};

    #[test]
    fn what_was_added_is_read_and_a_line_cut_off_is_not() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("acked");
        let mut acked = Acked::create(&path).expect("create");
        for key in ["a/1", "a/2"] {
            acked.add(key).expect("add");
        }
        assert_eq!(keys(&path).expect("keys"), ["a/1", "a/2"]);
        fs::OpenOptions::new().append(true).open(&path).expect("open").write_all(b"a/").expect("write");
        assert_eq!(keys(&path).expect("keys"), ["a/1", "a/2"]);
    }

    #[test]
    fn a_file_of_something_else_is_refused_with_its_line() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("acked");
        for (text, line) in [("a/1\n\n", 2), ("a/1\na b\n", 2), ("{\"x\":1}\n", 1)] {
            fs::write(&path, text).expect("write");
            let error = keys(&path).expect_err(text).to_string();
            assert!(error.contains(&format!("line {line}: ")), "{text:?}: {error}");
        }
    }
}
