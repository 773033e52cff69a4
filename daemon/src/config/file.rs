//! The TOML file: what it sets, and on which line.

use super::keys;
use super::raw::Lines;
use super::settings::{Given, Origin, Problem};
use std::borrow::Cow;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Everything the file sets, and everything that is wrong with it before a single value is looked at.
pub(super) fn read(path: &Path, text: &str) -> (Vec<Given>, Vec<Problem>) {
    let lines = Lines(text);
    let at = |line: usize| Origin::File { path: path.to_owned(), line };
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let problem = |error: &toml::de::Error| {
            let line = error.span().map_or(1, |span| lines.of(span.start));
            Problem::at(&at(line), format!("no valid TOML: {}", error.message().replace('\n', "; ")))
        };
        return (Vec::new(), errors.iter().map(problem).collect());
    }
    let mut reading = Reading { lines, path, given: Vec::new(), problems: Vec::new() };
    for (name, content) in document.get_ref() {
        reading.section(name, content);
    }
    (reading.given, reading.problems)
}

struct Reading<'t> {
    lines: Lines<'t>,
    path: &'t Path,
    given: Vec<Given>,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    fn at(&self, offset: usize) -> Origin {
        Origin::File { path: self.path.to_owned(), line: self.lines.of(offset) }
    }

    fn section(&mut self, name: &Spanned<Cow<'_, str>>, content: &Spanned<DeValue<'_>>) {
        let origin = self.at(name.span().start);
        let name = name.get_ref();
        let known = keys::SECTIONS.iter().any(|(known, _)| known == name);
        match content.get_ref() {
            DeValue::Table(entries) if known || !entries.is_empty() => {
                for (key, value) in entries {
                    self.key(&format!("{name}.{}", key.get_ref()), key.span().start, value);
                }
            }
            _value if known => {
                let text = format!("`{name}` is a section: write [{name}] and its keys below");
                self.problems.push(Problem::at(&origin, text));
            }
            _value => self.problems.push(Problem::at(&origin, keys::unknown(name))),
        }
    }

    fn key(&mut self, path: &str, offset: usize, value: &Spanned<DeValue<'_>>) {
        let origin = self.at(offset);
        match keys::find(path) {
            Some(key) => self.given.push(Given { key, raw: self.lines.node(value).raw, origin }),
            None => self.problems.push(Problem::at(&origin, keys::unknown(path))),
        }
    }
}
