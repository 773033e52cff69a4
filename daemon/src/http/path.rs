//! Paths and escapes as Go's server treats them: decoded once, refused when unprintable, redirected when not clean.

use std::borrow::Cow;

/// The decoded bytes, or `None` if an escape is broken. `plus_is_space` for query strings.
pub(super) fn unescape(raw: &[u8], plus_is_space: bool) -> Option<Cow<'_, [u8]>> {
    let special = |b: &u8| *b == b'%' || (plus_is_space && *b == b'+');
    if !raw.iter().any(special) {
        return Some(Cow::Borrowed(raw));
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(&byte) = rest.next() {
        out.push(match byte {
            b'%' => hex(*rest.next()?)? << 4 | hex(*rest.next()?)?,
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    Some(Cow::Owned(out))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Whether every character is one that Go prints. Broken UTF-8 counts as the replacement character, which is printable.
pub(super) fn printable(path: &[u8]) -> bool {
    if path.iter().all(|b| (0x20..0x7f).contains(b)) {
        return true;
    }
    path.utf8_chunks().flat_map(|chunk| chunk.valid().chars()).all(is_print)
}

fn is_print(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    // The standard library knows what prints only inside its debug escapes; behind another character a combining
    // mark is not escaped, and it prints.
    let text = ['a', c].iter().collect::<String>();
    text.escape_debug().nth(1) == Some(c)
}

/// The path without empty, `.` and `..` segments; a final slash stays. `None`: it is clean already.
pub(super) fn cleaned(path: &[u8]) -> Option<Vec<u8>> {
    let suspicious = path.windows(2).any(|pair| pair == b"//" || pair == b"/.");
    if !suspicious && path.first() == Some(&b'/') {
        return None;
    }
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in path.split(|b| *b == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    let mut clean = Vec::with_capacity(path.len());
    for segment in segments {
        clean.push(b'/');
        clean.extend_from_slice(segment);
    }
    if clean.is_empty() || path.last() == Some(&b'/') {
        clean.push(b'/');
    }
    (clean != path).then_some(clean)
}

/// Escaped as Go's `url.URL` writes a path.
pub(super) fn escape_path(path: &[u8]) -> String {
    escape(path, |b| matches!(b, b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@'))
}

/// Escaped as Go's `url.QueryEscape` does: a space is a plus.
pub(super) fn escape_query(text: &[u8], out: &mut String) {
    for (n, part) in text.split(|b| *b == b' ').enumerate() {
        if n > 0 {
            out.push('+');
        }
        out.push_str(&escape(part, |_| false));
    }
}

fn escape(text: &[u8], also_plain: impl Fn(u8) -> bool) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for &byte in text {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') || also_plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_once() {
        let table: [(&str, bool, Option<&[u8]>); 7] = [
            ("sp%20ace%2Fs%3Fq%25", false, Some(b"sp ace/s?q%")),
            ("plus+plus", false, Some(b"plus+plus")),
            ("plus+plus", true, Some(b"plus plus")),
            ("%2525", false, Some(b"%25")),
            ("%C3%a9", false, Some("é".as_bytes())),
            ("bad%2", false, None),
            ("bad%zz", false, None),
        ];
        for (raw, plus, decoded) in table {
            assert_eq!(unescape(raw.as_bytes(), plus).as_deref(), decoded, "{raw}");
        }
    }

    #[test]
    fn printable_is_what_go_prints() {
        for text in ["/v1/kv/a b", "/é", "/日本", "/e\u{301}", "/\u{1f600}", "/~"] {
            assert!(printable(text.as_bytes()), "{text:?}");
        }
        for text in ["/\u{1}", "/\n", "/\u{7f}", "/\u{a0}", "/\u{200b}", "/\u{2028}", "/\u{feff}", "/\u{e000}"] {
            assert!(!printable(text.as_bytes()), "{text:?}");
        }
        assert!(printable(b"/\xff"), "broken UTF-8 is the replacement character, and that prints");
    }

    #[test]
    fn paths_are_cleaned_as_gos_mux_cleans_them() {
        let table = [
            ("/v1/kv/ckv//dbl", Some("/v1/kv/ckv/dbl")),
            ("/v1/kv/ckv/../ckv/a", Some("/v1/kv/ckv/a")),
            ("/v1/kv/a/./b/", Some("/v1/kv/a/b/")),
            ("/../..", Some("/")),
            ("//", Some("/")),
            ("/v1/kv/a/..", Some("/v1/kv")),
            ("/v1/kv/.hidden", None),
            ("/v1/kv/...", None),
            ("/v1/kv/a./b", None),
            ("/v1/kv/", None),
            ("/", None),
        ];
        for (path, clean) in table {
            assert_eq!(cleaned(path.as_bytes()).as_deref(), clean.map(str::as_bytes), "{path}");
        }
    }

    #[test]
    fn escaping_is_gos() {
        assert_eq!(escape_path(b"/v1/kv/a b?c&d%\xc3"), "/v1/kv/a%20b%3Fc&d%25%C3");
        let mut out = String::new();
        escape_query(b"a b/&", &mut out);
        assert_eq!(out, "a+b%2F%26");
    }
}
