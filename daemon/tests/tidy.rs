//! The house rules as a test: the floor plan of `ARCHITECTURE.md`, and what may stand where.
//!
//! Works on the text of the sources with comments and string literals blanked out; good enough, because code that
//! hides a path from it would not pass review either.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules of konsuld, from the ground up. A module uses modules of lower floors, never of its own or a higher one.
const FLOORS: [&[&str]; 11] = [
    &["clock", "durable", "shutdown", "systemd", "telemetry", "raft_types"],
    &["metrics", "tls", "watch"],
    &["storage"],
    &["peer"],
    &["raft"],
    &["agent", "backup", "cluster"],
    &["leader"],
    &["http"],
    &["config"],
    &["node"],
    &["main"],
];
/// Where openraft's names may appear.
const OPENRAFT: [&str; 4] = ["raft_types", "storage", "peer", "raft"];
/// The only files with unsafe code.
const UNSAFE: [&str; 2] = ["daemon/src/storage/env.rs", "daemon/src/systemd/sockets.rs"];
/// A file that is longer is more than one thing.
const LINES_MAX: usize = 600;

/// A source file, its comments and literals blanked, tests removed.
struct Source {
    /// From the root of the repository.
    path: String,
    lines: usize,
    /// Without comments and literals.
    code: String,
    /// And without `#[cfg(test)]` items.
    product: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file of the repository, relative to its root.
fn files() -> Vec<PathBuf> {
    let (mut found, mut pending) = (Vec::new(), vec![root()]);
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && name != "target" && name != ".git" && name != "node_modules" {
                pending.push(entry.path());
            } else if kind.is_file() && name != ".git" {
                found.push(entry.path().strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    assert!(found.contains(&PathBuf::from("daemon/Cargo.toml")), "looked at {} files in the wrong place", found.len());
    found
}

fn sources() -> Vec<Source> {
    let rust = files().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let code = blank_literals(&text);
        let product = blank_tests(&code);
        Source { path: path.to_str().unwrap().to_owned(), lines: text.lines().count(), code, product }
    })
    .collect()
}

/// The end of the literal or comment that starts at `at`, if one does.
fn literal_end(text: &[u8], at: usize) -> Option<usize> {
    let rest = &text[at..];
    let find = |from: usize, end: &[u8]| {
        let found = text[at + from..].windows(end.len()).position(|window| window == end);
        found.map_or(text.len(), |offset| at + from + offset + end.len())
    };
    if rest.starts_with(b"//") {
        return Some(find(2, b"\n") - 1);
    }
    if rest.starts_with(b"/*") {
        return Some(find(2, b"*/"));
    }
    let word_before = at > 0 && (text[at - 1].is_ascii_alphanumeric() || text[at - 1] == b'_');
    if rest[0] == b'r' && (!word_before || text[at - 1] == b'b') {
        let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
            return Some(find(2 + hashes, &end));
        }
    }
    let quote = rest[0];
    // 'a' and '\n' are characters, 'a without a quote behind it is a lifetime.
    let is_char = quote == b'\''
        && (rest.get(1) == Some(&b'\\')
            || std::str::from_utf8(&rest[1..rest.len().min(6)])
                .map_or_else(|e| std::str::from_utf8(&rest[1..1 + e.valid_up_to()]).unwrap().to_owned(), str::to_owned)
                .chars()
                .nth(1)
                == Some('\''));
    if quote != b'"' && !is_char {
        return None;
    }
    let mut end = at + 1;
    while end < text.len() && text[end] != quote {
        end += if text[end] == b'\\' { 2 } else { 1 };
    }
    Some(end + 1)
}

fn blank_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        match literal_end(bytes, at) {
            Some(end) => {
                let end = end.clamp(at + 1, bytes.len());
                out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
                at = end;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap()
}

/// Blanks the item behind each `#[cfg(test)]`.
fn blank_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(start) = code[from..].find("#[cfg(test)]").map(|offset| from + offset) {
        let mut depth = 0;
        let mut end = code.len();
        for (offset, byte) in code.bytes().enumerate().skip(start + "#[cfg(test)]".len()) {
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => {}
            }
            if depth == 0 && (byte == b'}' || byte == b';') {
                end = offset + 1;
                break;
            }
        }
        out[start..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        from = end;
    }
    String::from_utf8(out).unwrap()
}

fn line_of(code: &str, at: usize) -> usize {
    1 + code.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
}

/// Every place where this word stands alone.
fn words<'c>(code: &'c str, word: &'c str) -> impl Iterator<Item = usize> + 'c {
    let part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        !part(at.checked_sub(1).and_then(|before| code.as_bytes().get(before)))
            && !part(code.as_bytes().get(at + word.len()))
    })
}

/// `raft/read.rs` → [raft, read]; `raft/mod.rs` → [raft]; `main.rs` → [main]; `lib.rs` → [].
fn module_path(in_src: &str) -> Vec<String> {
    let mut parts: Vec<String> = in_src.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// The first names behind `crate::` or `super::`, with the module they are looked up in and where they stand.
fn references(code: &str, module: &[String]) -> Vec<(Vec<String>, String, usize)> {
    let mut found = Vec::new();
    for start in words(code, "crate").chain(words(code, "super")) {
        let mut rest = &code[start..];
        let before = code[..start].trim_end();
        // `super` behind `super::` was seen with the first one; `$crate` and `pub(super)` name no module.
        if before.ends_with("super::") || before.ends_with('$') {
            continue;
        }
        let mut base = if rest.starts_with("crate") { Vec::new() } else { module.to_vec() };
        while let Some(behind) = rest.strip_prefix("super").and_then(|rest| rest.strip_prefix("::")) {
            base.pop();
            rest = behind;
        }
        rest = rest.strip_prefix("crate::").unwrap_or(rest);
        if rest.len() == code.len() - start {
            continue;
        }
        for name in first_names(rest) {
            found.push((base.clone(), name, line_of(code, start)));
        }
    }
    found
}

/// `a::b` → [a]; `{a::{b, c}, d}` → [a, d].
fn first_names(path: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = path.strip_prefix('{') else {
        return vec![word(path)];
    };
    let (mut names, mut depth, mut expects_name) = (Vec::new(), 0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expects_name = true,
            c if depth == 0 && expects_name && !c.is_whitespace() => {
                names.push(word(&group[at..]));
                expects_name = false;
            }
            _ => {}
        }
    }
    names
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn daemon_sources() -> Vec<(Vec<String>, Source)> {
    let daemon = sources().into_iter().filter_map(|source| {
        let module = module_path(source.path.strip_prefix("daemon/src/")?);
        Some((module, source)).filter(|(module, _)| module.last().is_none_or(|last| last != "tests"))
    });
    daemon.collect()
}

#[test]
fn imports_run_downward_only() {
    let mut wrong = Vec::new();
    for (module, source) in daemon_sources() {
        let Some(own) = module.first() else { continue };
        let Some(floor) = floor_of(own) else {
            wrong.push(format!(
                "{}: module `{own}` is not on the floor plan; ARCHITECTURE.md and FLOORS here",
                source.path
            ));
            continue;
        };
        for (base, name, line) in references(&source.product, &module) {
            let target = base.first().unwrap_or(&name);
            match floor_of(target) {
                Some(other) if target != own && other >= floor => {
                    let way = if other > floor { "up" } else { "sideways" };
                    wrong.push(format!(
                        "{}:{line}: `{own}` on floor {floor} uses `{target}` on floor {other}: {way}",
                        source.path
                    ));
                }
                Some(_) | None => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_of_one_part_do_not_use_each_other_in_a_circle() {
    let sources = daemon_sources();
    let modules: BTreeSet<&[String]> = sources.iter().map(|(module, _)| module.as_slice()).collect();
    let mut edges: BTreeMap<Vec<String>, BTreeMap<Vec<String>, String>> = BTreeMap::new();
    for (module, source) in &sources {
        for (mut base, name, line) in references(&source.product, module) {
            base.push(name);
            let siblings = base.len() == module.len() && base[..base.len() - 1] == module[..module.len() - 1];
            if siblings && base != *module && modules.contains(base.as_slice()) {
                edges
                    .entry(module.clone())
                    .or_default()
                    .entry(base)
                    .or_insert_with(|| format!("{}:{line}", source.path));
            }
        }
    }
    assert!(edges.len() > 3, "found next to nothing: {edges:?}");
    // Takes away what uses nothing that is left, and what nothing left uses, until only circles remain.
    loop {
        let used: BTreeSet<Vec<String>> = edges.values().flat_map(|uses| uses.keys().cloned()).collect();
        let left: BTreeSet<Vec<String>> = edges.keys().cloned().collect();
        edges.retain(|module, uses| used.contains(module) && uses.keys().any(|used| left.contains(used)));
        if edges.len() == left.len() {
            break;
        }
    }
    let inside = |uses: &BTreeMap<Vec<String>, String>| {
        let circle = uses.iter().filter(|(used, _)| edges.contains_key(*used));
        circle.map(|(used, place)| format!("{place}: uses `{}`", used.join("::"))).collect::<Vec<_>>()
    };
    let places: Vec<String> = edges.values().flat_map(inside).collect();
    assert!(places.is_empty(), "these use each other in a circle:\n{}", places.join("\n"));
}

#[test]
fn names_of_openraft_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for (module, source) in daemon_sources() {
        if module.first().is_some_and(|own| OPENRAFT.contains(&own.as_str())) {
            continue;
        }
        for word in ["openraft", "openraft_rt_tokio", "openraft_macros", "openraft_rt"] {
            wrong.extend(
                words(&source.product, word)
                    .map(|at| format!("{}:{}: {word}", source.path, line_of(&source.product, at))),
            );
        }
    }
    assert!(wrong.is_empty(), "openraft belongs in {OPENRAFT:?} only:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_in_two_files() {
    let mut wrong = Vec::new();
    // Tests open LMDB environments of their own.
    let test = |path: &str| ["/tests/", "/examples/", "/benches/", "/sim/"].iter().any(|dir| path.contains(dir));
    for source in sources().iter().filter(|source| !UNSAFE.contains(&source.path.as_str()) && !test(&source.path)) {
        let found =
            words(&source.product, "unsafe").map(|at| format!("{}:{}", source.path, line_of(&source.product, at)));
        wrong.extend(found);
    }
    assert!(wrong.is_empty(), "unsafe outside {UNSAFE:?}:\n{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_undone() {
    let mut wrong = Vec::new();
    for source in sources() {
        for name in ["todo", "unimplemented", "dbg"] {
            let calls = words(&source.code, name).filter(|at| source.code[at + name.len()..].starts_with('!'));
            wrong.extend(calls.map(|at| format!("{}:{}: {name}!", source.path, line_of(&source.code, at))));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_source_file_is_too_long() {
    let sources = sources();
    let long = sources.iter().filter(|source| source.lines > LINES_MAX);
    let long: Vec<String> = long.map(|source| format!("{}: {} lines", source.path, source.lines)).collect();
    assert!(long.is_empty(), "at most {LINES_MAX} lines, split by what it is about:\n{}", long.join("\n"));
}

#[test]
fn no_file_names_the_place_it_was_written_at() {
    // Put together here, so that this file does not name them either.
    let places = [["/wo", "rk/"].concat(), ["/tmp/", "wt/"].concat(), ["/root/", ".cargo"].concat()];
    let mut wrong = Vec::new();
    for path in files() {
        let Ok(text) = fs::read_to_string(root().join(&path)) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            if places.iter().any(|place| line.contains(place)) {
                wrong.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_script_can_be_run_and_explains_itself() {
    let scripts: Vec<PathBuf> = files()
        .into_iter()
        .filter(|path| path.parent() == Some(Path::new("scripts")) || path.starts_with(".ci"))
        .collect();
    assert!(scripts.contains(&PathBuf::from("scripts/test")), "{scripts:?}");
    for script in scripts {
        let path = root().join(&script);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert!(mode & 0o111 == 0o111, "{} is not executable", script.display());
        let output = Command::new(&path).arg("--help").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{} --help ended with {}", script.display(), output.status);
        assert!(text.to_lowercase().starts_with("usage: "), "{} --help says {text:?}", script.display());
    }
}

#[test]
fn literals_and_tests_are_not_mistaken_for_code() {
    let text = "let a = \"crate::http\"; // crate::http\nlet b = r#\"x\"crate::http\"#; /* crate::http */ let c = '\"'; use crate::raft;\nfn f<'a>(x: &'a str) {}\n#[cfg(test)]\nmod tests { use crate::http; fn g() { } }\nuse crate::{peer::{A, B}, storage};";
    let product = blank_tests(&blank_literals(text));
    let found: Vec<(String, usize)> =
        references(&product, &["watch".into()]).into_iter().map(|(_, name, line)| (name, line)).collect();
    assert_eq!(found, [("raft".into(), 2), ("peer".into(), 6), ("storage".into(), 6)]);
}

#[test]
fn super_is_resolved_from_the_module_it_stands_in() {
    let module = ["raft".to_owned(), "read".to_owned()];
    let found = references(
        "use super::propose::X; use super::super::http; pub(super) fn f() {} use super::{Role, propose};",
        &module,
    );
    let found: Vec<String> = found.iter().map(|(base, name, _)| format!("{}::{name}", base.join("::"))).collect();
    assert_eq!(found, ["raft::propose", "::http", "raft::Role", "raft::propose"]);
}

/// Names of metrics as Prometheus has them, from the catalogue that the unit tests hold the daemon to.
fn metric_names() -> BTreeSet<String> {
    let catalogue = fs::read_to_string(root().join("daemon/src/metrics/tests.rs")).unwrap();
    let entries = catalogue.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","));
    let names = entries.filter_map(|entry| entry.split_once(' ')).flat_map(|(name, kind)| match kind {
        "counter" => vec![format!("{name}_total")],
        "histogram" => ["bucket", "sum", "count"].map(|part| format!("{name}_{part}")).into(),
        _ => vec![name.to_owned()],
    });
    names.collect()
}

/// Every word that begins like a metric of ours.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("konsul_") || word.starts_with("process_")).map(str::to_owned).collect()
}

fn under(dir: &str, extension: &str) -> Vec<(PathBuf, String)> {
    let of = |path: &PathBuf| path.starts_with(dir) && path.extension().is_some_and(|found| found == extension);
    let read = |path: PathBuf| (path.clone(), fs::read_to_string(root().join(path)).unwrap());
    files().into_iter().filter(of).map(read).collect()
}

#[test]
fn dashboards_alerts_and_runbooks_name_metrics_that_exist() {
    let known = metric_names();
    assert!(known.contains("konsul_raft_is_leader") && known.contains("konsul_raft_apply_total"), "{known:?}");
    let mut seen = 0;
    let texts = [under("grafana", "json"), under("grafana", "yml"), under("runbooks", "md")].concat();
    for (path, text) in texts.iter().filter(|(path, _)| !path.ends_with("package-lock.json")) {
        // Runbooks grep for parts of names.
        let partial = |word: &String| path.starts_with("runbooks") && known.iter().any(|name| name.starts_with(word));
        let unknown: Vec<_> =
            metrics_in(text).into_iter().filter(|word| !known.contains(word) && !partial(word)).collect();
        assert!(unknown.is_empty(), "{}: no such metrics: {unknown:?}", path.display());
        seen += metrics_in(text).len();
    }
    assert!(seen > 100, "found {seen} names of metrics");
}

#[test]
fn every_alert_has_a_runbook_and_a_test_that_fires_and_one_that_does_not() {
    let (mut alerts, mut runbooks, mut fires, mut silent) = (vec![], vec![], BTreeSet::new(), BTreeSet::new());
    for line in under("grafana/alerts", "yml").iter().flat_map(|(_, text)| text.lines()) {
        let line = line.trim();
        if let Some(alert) = line.strip_prefix("- alert: ") {
            alerts.push(alert.to_owned());
        }
        if let Some(name) = line.strip_prefix("alertname: ") {
            fires.insert(name.to_owned());
        }
        if let Some((_, rest)) = line.split_once(", alertname: ") {
            silent.insert(rest.strip_suffix(", exp_alerts: [] }").unwrap_or_else(|| panic!("{line}")).to_owned());
        }
        if let Some((_, page)) = line.split_once("runbook_url: ").and_then(|(_, url)| url.rsplit_once('/')) {
            runbooks.push(page.to_owned());
        }
    }
    assert!(alerts.len() > 20 && runbooks.len() >= alerts.len(), "{alerts:?} {runbooks:?}");
    for alert in alerts {
        assert!(
            fires.contains(&alert) && silent.contains(&alert),
            "{alert} is not tried both ways in grafana/alerts/tests"
        );
    }
    for page in runbooks {
        assert!(root().join("runbooks").join(&page).is_file(), "no runbooks/{page}");
    }
}

#[test]
fn every_runbook_is_complete_listed_and_links_to_what_exists() {
    let pages = under("runbooks", "md");
    let list = fs::read_to_string(root().join("runbooks/README.md")).unwrap();
    assert!(pages.len() > 15, "{} runbooks", pages.len());
    for (path, text) in &pages {
        let name = path.file_name().unwrap().to_str().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let exists = link.starts_with("http") || root().join("runbooks").join(link).exists();
            assert!(exists, "{}: nothing at {link}", path.display());
        }
        if name == "README.md" {
            continue;
        }
        assert!(list.contains(&format!("({name})")), "runbooks/README.md does not list {name}");
        let parts = ["Symptoms", "Look", "Decide", "Do", "Verify", "Roll back"];
        let found: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(found, parts, "{}", path.display());
    }
    // What the dashboards link to.
    for (path, text) in under("grafana/dashboards", "json") {
        for page in text.split("/runbooks/").skip(1).filter_map(|rest| rest.split_once('"')).map(|(page, _)| page) {
            assert!(root().join("runbooks").join(page).is_file(), "{}: no runbooks/{page}", path.display());
        }
    }
}
