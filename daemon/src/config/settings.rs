//! Layers of settings: defaults, file, environment, flags; the later wins, and each value knows where it came from.

use super::keys::{self, KEYS, Key, Preset};
use super::raw::Raw;
use super::value::{BadValue, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Variable { name: String },
    Flag { name: String },
}

/// One thing that is wrong: where, what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    place: String,
    line: usize,
    text: String,
}

/// A key that a layer sets.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) key: &'static Key,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// The values of all keys that have one.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    values: BTreeMap<&'static str, (Value, Origin)>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Variable { name } => write!(f, "environment variable {name}"),
            Origin::Flag { name } => write!(f, "flag {name}"),
        }
    }
}

impl Problem {
    pub(super) fn at(origin: &Origin, text: impl Into<String>) -> Problem {
        let line = match origin {
            Origin::File { line, .. } => *line,
            Origin::Default | Origin::Variable { .. } | Origin::Flag { .. } => 0,
        };
        Problem { place: origin.to_string(), line, text: text.into() }
    }

    /// A problem with what this key is set to, which may be its default.
    pub(super) fn of(path: &str, origin: &Origin, text: impl Into<String>) -> Problem {
        match origin {
            Origin::Default => Problem { place: format!("default of {path}"), line: 0, text: text.into() },
            Origin::File { .. } | Origin::Variable { .. } | Origin::Flag { .. } => Problem::at(origin, text),
        }
    }

    /// A problem that comes of what is in force and of what was read together.
    pub(super) fn on_reload(self, pending: &[&'static str]) -> Problem {
        let text = format!("{} (as long as {} is as before, until a restart)", self.text, pending.join(" and "));
        Problem { text, ..self }
    }

    /// Within a file: by line.
    pub(super) fn line(&self) -> usize {
        self.line
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

impl Settings {
    pub(super) fn defaults() -> Settings {
        let value = |key: &'static Key| match key.default {
            Preset::Is(text) => {
                let raw = super::raw::value(text).expect("each default in the table is TOML");
                Some((
                    key.path,
                    (key.kind.read(&raw).expect("each default in the table fits its kind"), Origin::Default),
                ))
            }
            Preset::None { .. } => None,
        };
        Settings { values: KEYS.iter().filter_map(value).collect() }
    }

    /// Defaults that the service manager provides.
    pub(super) fn put_credentials(&mut self, files: &[(&'static str, PathBuf)]) {
        for (path, file) in files {
            let key = keys::find(path).expect("a key of the table");
            self.values.insert(key.path, (Value::Path(file.clone()), Origin::Default));
        }
    }

    /// Puts a layer over what is there. A value that does not fit is a problem and leaves the one below in place, so
    /// that the checks between keys can go on.
    pub(super) fn put(&mut self, layer: Vec<Given>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut set_here: BTreeMap<&'static str, Given> = BTreeMap::new();
        for given in layer {
            if let Some(before) = set_here.get(given.key.path).filter(|before| before.raw != given.raw) {
                let text =
                    format!("sets `{}`, which {} sets to something else; drop one", given.key.path, before.origin);
                problems.push(Problem::at(&given.origin, text));
                continue;
            }
            match given.key.kind.read(&given.raw) {
                Ok(value) => {
                    self.values.insert(given.key.path, (value, given.origin.clone()));
                }
                Err(bad) => problems.push(bad_value(&given, bad)),
            }
            set_here.insert(given.key.path, given);
        }
        problems
    }

    /// Keys that are set to something else there.
    pub(super) fn differing(&self, there: &Settings) -> Vec<&'static Key> {
        KEYS.iter().filter(|key| self.get(key.path) != there.get(key.path)).collect()
    }

    /// Sets this key as it is set there.
    pub(super) fn adopt(&mut self, key: &'static Key, there: &Settings) {
        match there.values.get(key.path) {
            Some(found) => self.values.insert(key.path, found.clone()),
            None => self.values.remove(key.path),
        };
    }

    pub(super) fn origin(&self, path: &str) -> Origin {
        self.values.get(path).map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    pub(super) fn get(&self, path: &str) -> Option<&Value> {
        debug_assert!(keys::find(path).is_some(), "no key {path}");
        self.values.get(path).map(|(value, _)| value)
    }
}

fn bad_value(given: &Given, bad: BadValue) -> Problem {
    let origin = match (&given.origin, bad.line) {
        (Origin::File { path, .. }, Some(line)) => Origin::File { path: path.clone(), line },
        (origin, _) => origin.clone(),
    };
    Problem::at(&origin, format!("`{}` {}", given.key.path, bad.text))
}
