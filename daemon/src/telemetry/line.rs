//! A line in the journal's own protocol: fields with names, each with its length.

use super::events;
#[cfg(test)]
use std::collections::BTreeMap;
use tracing::Level;

/// Longer values are cut: a line shall not fill the queue.
const VALUE_BYTES_MAX: usize = 256 << 10;

/// In every line.
pub(super) fn common(node: &str) -> Vec<u8> {
    let mut common = Vec::new();
    put_field(&mut common, "SYSLOG_IDENTIFIER", b"konsuld");
    put_field(&mut common, "KONSUL_NODE", node.as_bytes());
    common
}

/// As syslog counts.
pub(super) fn priority(level: Level) -> &'static [u8] {
    match level {
        Level::ERROR => b"3",
        Level::WARN => b"4",
        Level::INFO => b"6",
        Level::DEBUG | Level::TRACE => b"7",
    }
}

/// What the journal gets when it takes lines again.
pub(super) fn dropped(count: u64, node: &str) -> Vec<u8> {
    let mut line = common(node);
    put_field(&mut line, "MESSAGE_ID", events::LINES_DROPPED.as_bytes());
    put_field(
        &mut line,
        "MESSAGE",
        format!("the journal took nothing for a while: {count} log lines dropped").as_bytes(),
    );
    put_field(&mut line, "PRIORITY", priority(Level::WARN));
    put_field(&mut line, "KONSUL_COUNT", count.to_string().as_bytes());
    line
}

/// `NAME`, the length of the value, the value: it may hold anything, line breaks included.
pub(super) fn put_field(line: &mut Vec<u8>, name: &str, value: &[u8]) {
    let in_character = |at: usize| value.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let mut end = value.len().min(VALUE_BYTES_MAX);
    while in_character(end) {
        end -= 1;
    }
    let value = &value[..end];
    line.extend_from_slice(name.as_bytes());
    line.push(b'\n');
    line.extend_from_slice(&u64::try_from(value.len()).expect("a length fits 64 bits").to_le_bytes());
    line.extend_from_slice(value);
    line.push(b'\n');
}

/// The fields of a line.
#[cfg(test)]
pub(super) fn parse(mut line: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
        let name = String::from_utf8(line[..end].to_vec()).unwrap();
        let length = u64::from_le_bytes(line[end + 1..end + 9].try_into().unwrap());
        let value = &line[end + 9..end + 9 + usize::try_from(length).unwrap()];
        assert!(fields.insert(name.clone(), String::from_utf8(value.to_vec()).unwrap()).is_none(), "{name} twice");
        line = &line[end + 9 + value.len() + 1..];
    }
    fields
}
