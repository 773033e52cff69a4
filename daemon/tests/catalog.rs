//! Every event that has a number is explained to operators, and is logged somewhere.

#![allow(clippy::unwrap_used, reason = "a test")]

use konsuld::telemetry::events;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The entries of the catalog, by number: their headers and their text.
fn catalog() -> BTreeMap<String, (BTreeMap<String, String>, String)> {
    let text = fs::read_to_string(root().join("systemd/konsul.catalog")).unwrap();
    let mut entries = BTreeMap::new();
    for entry in text.split("\n-- ").skip(1) {
        let (id, rest) = entry.split_once('\n').unwrap();
        let (headers, body) = rest.split_once("\n\n").unwrap();
        let headers = headers.lines().map(|line| line.split_once(": ").unwrap());
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let before = entries.insert(id.to_owned(), (headers, body.trim().to_owned()));
        assert!(before.is_none(), "{id} is explained twice");
    }
    entries
}

#[test]
fn every_event_is_explained_and_nothing_else_is() {
    let mut catalog = catalog();
    for (name, id) in events::ALL {
        let (headers, body) = catalog.remove(*id).unwrap_or_else(|| panic!("{name} ({id}) is not in the catalog"));
        assert!(headers["Subject"].len() > 10 && headers["Defined-By"] == "Konsul", "{name}: {headers:?}");
        assert!(body.len() > 60, "{name} is not explained: {body:?}");
    }
    assert!(catalog.is_empty(), "no event has these numbers: {:?}", catalog.keys());
}

#[test]
fn numbers_are_unique_and_of_the_form_that_the_journal_wants() {
    let ids: BTreeMap<&str, &str> = events::ALL.iter().map(|(name, id)| (*id, *name)).collect();
    assert_eq!(ids.len(), events::ALL.len());
    for (id, name) in ids {
        assert!(id.len() == 32 && id.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)), "{name}: {id}");
    }
}

#[test]
fn every_event_is_logged_somewhere_and_its_texts_name_fields_that_exist() {
    let (mut sources, mut pending) = (String::new(), vec![root().join("daemon/src")]);
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if !path.ends_with("telemetry/events.rs") {
                sources.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    for (name, _) in events::ALL {
        assert!(sources.contains(&format!("events::{name}")), "{name} is never logged");
    }
    let text = fs::read_to_string(root().join("systemd/konsul.catalog")).unwrap();
    for field in text.split('@').filter(|word| word.starts_with("KONSUL_")) {
        assert!(sources.contains(&format!("\"{field}\"")), "@{field}@ is no field of ours");
    }
}
