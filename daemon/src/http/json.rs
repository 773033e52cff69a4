//! JSON written by hand into one buffer: the answers that are asked for most. Escapes as Go writes them.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Decimal digits.
pub(super) fn number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10).to_le_bytes()[0];
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A quoted string. Broken UTF-8 becomes the replacement character; `<`, `>`, `&` are escaped, as Go does.
pub(super) fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    if text.iter().all(|b| plain(*b)) {
        out.extend_from_slice(text);
    } else {
        for chunk in text.utf8_chunks() {
            chunk.valid().chars().for_each(|c| character(out, c));
            for _ in chunk.invalid() {
                out.extend_from_slice(br"\ufffd");
            }
        }
    }
    out.push(b'"');
}

fn plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&')
}

fn character(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(br#"\""#),
        '\\' => out.extend_from_slice(br"\\"),
        '\n' => out.extend_from_slice(br"\n"),
        '\r' => out.extend_from_slice(br"\r"),
        '\t' => out.extend_from_slice(br"\t"),
        '\u{0}'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(br"\u");
            let [_, _, high, low] = u32::from(c).to_be_bytes();
            for byte in [high, low] {
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Bytes as Consul writes them: base64, or `null` when there are none.
pub(super) fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() {
        out.extend_from_slice(b"null");
        return;
    }
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("four characters for three bytes");
    debug_assert_eq!(start + written, out.len());
    out.push(b'"');
}

/// A key/value entry, however it was read.
#[derive(Debug)]
pub(super) struct KvEntry<'v> {
    pub(super) lock_index: u64,
    pub(super) key: &'v [u8],
    pub(super) flags: u64,
    pub(super) value: &'v [u8],
    pub(super) session: Option<[u8; 16]>,
    pub(super) create_index: u64,
    pub(super) modify_index: u64,
}

/// The members in Consul's order; `Session` only while the key is locked.
pub(super) fn entry(out: &mut Vec<u8>, entry: &KvEntry<'_>) {
    out.extend_from_slice(b"{\"LockIndex\":");
    number(out, entry.lock_index);
    out.extend_from_slice(b",\"Key\":");
    string(out, entry.key);
    out.extend_from_slice(b",\"Flags\":");
    number(out, entry.flags);
    out.extend_from_slice(b",\"Value\":");
    bytes(out, entry.value);
    if let Some(session) = entry.session {
        out.extend_from_slice(b",\"Session\":\"");
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        out.extend_from_slice(uuid::Uuid::from_bytes(session).as_hyphenated().encode_lower(&mut text).as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b",\"CreateIndex\":");
    number(out, entry.create_index);
    out.extend_from_slice(b",\"ModifyIndex\":");
    number(out, entry.modify_index);
    out.push(b'}');
}

/// `?pretty`: compact JSON with 4 spaces of indent a level and a final newline.
pub(super) fn pretty(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 2);
    let mut depth = 0;
    let mut in_string = false;
    let mut escaped = false;
    for (at, &byte) in compact.iter().enumerate() {
        if in_string {
            out.push(byte);
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'{' | b'[' => {
                out.push(byte);
                if !matches!(compact.get(at + 1), Some(b'}' | b']')) {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                if !matches!(out.last(), Some(b'{' | b'[')) {
                    depth -= 1;
                    line(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            other => {
                in_string = other == b'"';
                out.push(other);
            }
        }
    }
    out.push(b'\n');
    out
}

fn line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    out.extend(std::iter::repeat_n(b' ', depth * 4));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &[u8]) -> String {
        let mut out = Vec::new();
        string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_escaped_as_go_escapes_them() {
        assert_eq!(written(b"plain/key"), r#""plain/key""#);
        assert_eq!(written(b"a\"b\\c\n\x01<&>\x7f"), "\"a\\\"b\\\\c\\n\\u0001\\u003c\\u0026\\u003e\x7f\"");
        assert_eq!(written("é\u{2028}".as_bytes()), "\"é\\u2028\"");
        assert_eq!(written(b"x\xff\xfey"), r#""x\ufffd\ufffdy""#);
    }

    #[test]
    fn numbers_and_bytes_are_written_whole() {
        for n in [0, 9, 10, 12345, u64::MAX] {
            let mut out = Vec::new();
            number(&mut out, n);
            assert_eq!(out, n.to_string().as_bytes());
        }
        for (raw, encoded) in [(&b""[..], "null"), (b"h", "\"aA==\""), (b"hello", "\"aGVsbG8=\""), (b"abc", "\"YWJj\"")]
        {
            let mut out = Vec::new();
            bytes(&mut out, raw);
            assert_eq!(out, encoded.as_bytes());
        }
    }

    #[test]
    fn pretty_is_gos_indent_with_a_final_newline() {
        let compact = br#"[{"Key":"a:[,\"{","Tags":[],"Meta":{},"Value":null}]"#;
        let expected = "[\n    {\n        \"Key\": \"a:[,\\\"{\",\n        \"Tags\": [],\n        \"Meta\": {},\n        \"Value\": null\n    }\n]\n";
        assert_eq!(String::from_utf8(pretty(compact)).unwrap(), expected);
        assert_eq!(pretty(b"true"), b"true\n");
        assert_eq!(pretty(b"[]"), b"[]\n");
    }
}
