//! The table of keys for whoever writes it down: the manual page is made from this.

use super::keys::{KEYS, Key, Preset, SECTIONS};

/// A section of the file.
#[derive(Debug)]
pub struct Section {
    pub name: &'static str,
    /// A line about it.
    pub about: &'static str,
    pub keys: Vec<Entry>,
}

/// A key of a section.
#[derive(Debug)]
pub struct Entry {
    pub name: &'static str,
    /// The environment variable that sets it too.
    pub variable: String,
    /// What may be written there.
    pub expected: String,
    /// What holds if nobody sets it, as in the file.
    pub default: Option<&'static str>,
    /// How it is written, where there is no default to show that.
    pub example: Option<&'static str>,
    /// Manual text.
    pub text: String,
}

/// Every key, by section.
pub fn reference() -> Vec<Section> {
    let keys = |section: &str| KEYS.iter().filter(|key| key.section() == section).map(entry).collect();
    SECTIONS.into_iter().map(|(name, about)| Section { name, about, keys: keys(name) }).collect()
}

fn entry(key: &Key) -> Entry {
    let (default, example) = match key.default {
        Preset::Is(value) => (Some(value), None),
        Preset::None { example } => (None, Some(example)),
    };
    Entry {
        name: key.name(),
        variable: key.variable(),
        expected: key.kind.expected(),
        default,
        example,
        text: key.doc.join(" "),
    }
}
