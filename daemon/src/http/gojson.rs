//! Reading JSON as Go's `encoding/json` does: field names in any case, unknown fields refused, its error texts.
//!
//! First the whole value is checked, then it is walked: so a syntax error anywhere wins over a wrong type, as in Go.

use super::query::quoted;
use std::borrow::Cow;

/// The first value of `text`; what follows it is not looked at. The error is Go's text.
pub(super) fn parse(text: &[u8]) -> Result<Value<'_>, String> {
    let mut check = Checker { text, at: 0 };
    check.blanks();
    if check.at == text.len() {
        return Err("EOF".to_owned());
    }
    let start = check.at;
    check.value()?;
    Ok(Value { text: &text[start..check.at] })
}

/// A value whose syntax was checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'j> {
    text: &'j [u8],
}

/// What a value is, in Go's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool,
    Null,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Object => "object",
            Kind::Array => "array",
            Kind::String => "string",
            Kind::Number => "number",
            Kind::Bool => "bool",
            Kind::Null => "null",
        }
    }
}

impl<'j> Value<'j> {
    pub(super) fn kind(self) -> Kind {
        match self.text[0] {
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b'"' => Kind::String,
            b't' | b'f' => Kind::Bool,
            b'n' => Kind::Null,
            _ => Kind::Number,
        }
    }

    pub(super) fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    /// The elements; none for `null`. `go_type` names what was wanted in the error.
    pub(super) fn elements(self, go_type: &str) -> Result<Parts<'j>, String> {
        self.parts(Kind::Array, go_type)
    }

    /// The members: each call of [`Parts::member`] gives one; none for `null`.
    pub(super) fn members(self, go_type: &str) -> Result<Parts<'j>, String> {
        self.parts(Kind::Object, go_type)
    }

    fn parts(self, kind: Kind, go_type: &str) -> Result<Parts<'j>, String> {
        match self.kind() {
            Kind::Null => Ok(Parts { rest: b"" }),
            found if found == kind => Ok(Parts { rest: &self.text[1..self.text.len() - 1] }),
            found => Err(format!("json: cannot unmarshal {} into Go value of type {go_type}", found.name())),
        }
    }

    /// The string; empty for `null`. `field` as Go names it, such as `KVTxnOp.KV.Key`.
    pub(super) fn string(self, field: &str) -> Result<Cow<'j, [u8]>, String> {
        match self.kind() {
            Kind::Null => Ok(Cow::Borrowed(b"")),
            Kind::String => Ok(unescaped(&self.text[1..self.text.len() - 1])),
            found => Err(wrong_type(found.name(), field, "string")),
        }
    }

    /// The truth; `false` for `null`.
    pub(super) fn bool(self, field: &str) -> Result<bool, String> {
        match self.kind() {
            Kind::Null => Ok(false),
            Kind::Bool => Ok(self.text == b"true"),
            found => Err(wrong_type(found.name(), field, "bool")),
        }
    }

    /// The number; 0 for `null`.
    pub(super) fn uint(self, field: &str) -> Result<u64, String> {
        match self.kind() {
            Kind::Null => Ok(0),
            Kind::Number => {
                let text = std::str::from_utf8(self.text).expect("a checked number is ASCII");
                text.parse().map_err(|_| wrong_type(&format!("number {text}"), field, "uint64"))
            }
            found => Err(wrong_type(found.name(), field, "uint64")),
        }
    }
}

/// A member that the type in question does not have.
pub(super) fn unknown_field(name: &[u8]) -> String {
    format!("json: unknown field {}", quoted(name))
}

fn wrong_type(found: &str, field: &str, wanted: &str) -> String {
    format!("json: cannot unmarshal {found} into Go struct field {field} of type {wanted}")
}

/// What is left of an array or object.
#[derive(Debug)]
pub(super) struct Parts<'j> {
    rest: &'j [u8],
}

impl<'j> Parts<'j> {
    /// The next element of an array.
    pub(super) fn element(&mut self) -> Option<Value<'j>> {
        let mut check = Checker { text: self.rest, at: 0 };
        check.separators();
        if check.at == self.rest.len() {
            return None;
        }
        let start = check.at;
        check.value().expect("checked before");
        let value = Value { text: &self.rest[start..check.at] };
        self.rest = &self.rest[check.at..];
        Some(value)
    }

    /// The next name and value of an object.
    pub(super) fn member(&mut self) -> Option<(Cow<'j, [u8]>, Value<'j>)> {
        let name = self.element()?.string("").expect("a checked name is a string");
        Some((name, self.element().expect("a checked member has a value")))
    }
}

/// The characters a checked string stands for. Broken UTF-8 becomes the replacement character.
fn unescaped(inner: &[u8]) -> Cow<'_, [u8]> {
    if !inner.contains(&b'\\') {
        return match String::from_utf8_lossy(inner) {
            Cow::Borrowed(_) => Cow::Borrowed(inner),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.iter().position(|b| *b == b'\\') {
        out.extend_from_slice(&rest[..at]);
        let escape = rest[at + 1];
        rest = &rest[at + 2..];
        match escape {
            b'u' => {
                let (c, used) = unicode(rest);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[used..];
            }
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            plain => out.push(plain),
        }
    }
    out.extend_from_slice(rest);
    Cow::Owned(match String::from_utf8_lossy(&out) {
        Cow::Borrowed(_) => out,
        Cow::Owned(text) => text.into_bytes(),
    })
}

/// The character behind `\u`, and how many bytes it took: a pair of surrogates takes two escapes.
fn unicode(rest: &[u8]) -> (char, usize) {
    let unit = |at: usize| -> Option<u16> {
        let digits = std::str::from_utf8(rest.get(at..at + 4)?).ok()?;
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(0).expect("checked: four hexadecimal digits");
    let second = (rest.get(4..6) == Some(b"\\u")).then(|| unit(6)).flatten();
    if let Some(Ok(pair)) = second.and_then(|second| {
        let is_pair = (0xd800..0xdc00).contains(&first) && (0xdc00..0xe000).contains(&second);
        is_pair.then(|| char::decode_utf16([first, second]).next()).flatten()
    }) {
        return (pair, 10);
    }
    (char::from_u32(u32::from(first)).unwrap_or(char::REPLACEMENT_CHARACTER), 4)
}

/// Walks over one value, or tells in Go's words why it is none.
struct Checker<'j> {
    text: &'j [u8],
    at: usize,
}

impl Checker<'_> {
    fn blanks(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Between parts that were checked: blanks, commas and colons.
    fn separators(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n' | b',' | b':')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Result<u8, String> {
        self.text.get(self.at).copied().ok_or_else(|| "unexpected EOF".to_owned())
    }

    fn invalid(&self, context: &str) -> String {
        format!("invalid character {} {context}", quoted_char(self.text[self.at]))
    }

    /// One value, nested ones without recursion: depth costs a byte, not a stack frame.
    fn value(&mut self) -> Result<(), String> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.blanks();
            let opened = match self.peek()? {
                bracket @ (b'{' | b'[') => {
                    self.at += 1;
                    self.blanks();
                    open.push(bracket);
                    !self.closes(&mut open)?
                }
                _ => {
                    self.scalar()?;
                    false
                }
            };
            if opened {
                self.name_if_object(&open)?;
                continue;
            }
            // A value ended: close what ends with it.
            loop {
                let Some(bracket) = open.last().copied() else {
                    return Ok(());
                };
                self.blanks();
                if self.peek()? == b',' {
                    self.at += 1;
                    self.blanks();
                    self.name_if_object(&open)?;
                    break;
                }
                if !self.closes(&mut open)? {
                    let what = if bracket == b'{' { "after object key:value pair" } else { "after array element" };
                    return Err(self.invalid(what));
                }
            }
        }
    }

    /// Whether the next character closes the innermost bracket; then it is closed.
    fn closes(&mut self, open: &mut Vec<u8>) -> Result<bool, String> {
        let wanted = if open.last() == Some(&b'{') { b'}' } else { b']' };
        let closes = self.peek()? == wanted;
        if closes {
            self.at += 1;
            open.pop();
        }
        Ok(closes)
    }

    fn name_if_object(&mut self, open: &[u8]) -> Result<(), String> {
        if open.last() != Some(&b'{') {
            return Ok(());
        }
        self.blanks();
        if self.peek()? != b'"' {
            return Err(self.invalid("looking for beginning of object key string"));
        }
        self.quoted()?;
        self.blanks();
        if self.peek()? != b':' {
            return Err(self.invalid("after object key"));
        }
        self.at += 1;
        Ok(())
    }

    fn scalar(&mut self) -> Result<(), String> {
        match self.peek()? {
            b'"' => self.quoted(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => Err(self.invalid("looking for beginning of value")),
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for expected in word.bytes() {
            if self.peek()? != expected {
                let expected = char::from(expected);
                return Err(self.invalid(&format!("in literal {word} (expecting '{expected}')")));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn quoted(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    self.at += 1;
                    match self.peek()? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => {
                            for _ in 0..4 {
                                self.at += 1;
                                if !self.peek()?.is_ascii_hexdigit() {
                                    return Err(self.invalid("in \\u hexadecimal character escape"));
                                }
                            }
                        }
                        _ => return Err(self.invalid("in string escape code")),
                    }
                }
                0..=0x1f => return Err(self.invalid("in string literal")),
                _ => {}
            }
            self.at += 1;
        }
        self.at += 1;
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return Err(self.invalid("in numeric literal")),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digit("after decimal point in numeric literal")?;
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek()?, b'+' | b'-') {
                self.at += 1;
            }
            self.digit("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn digit(&mut self, context: &str) -> Result<(), String> {
        if !self.peek()?.is_ascii_digit() {
            return Err(self.invalid(context));
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }
}

/// As Go quotes the offending character.
fn quoted_char(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'\n' => "'\\n'".to_owned(),
        b'\r' => "'\\r'".to_owned(),
        b'\t' => "'\\t'".to_owned(),
        b'\\' => "'\\\\'".to_owned(),
        0..=0x1f | 0x7f => format!("'\\x{byte:02x}'"),
        other => format!("'{}'", char::from(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_errors_have_gos_texts() {
        let table = [
            ("", "EOF"),
            ("  ", "EOF"),
            ("[", "unexpected EOF"),
            ("[{\"a\":", "unexpected EOF"),
            ("\"abc", "unexpected EOF"),
            ("not json", "invalid character 'o' in literal null (expecting 'u')"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
        ];
        for (text, error) in table {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), error, "{text:?}");
        }
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        let text = "[".repeat(1_000_000);
        assert_eq!(parse(text.as_bytes()).unwrap_err(), "unexpected EOF");
        let text = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(parse(text.as_bytes()).unwrap().kind(), Kind::Array);
    }

    #[test]
    fn values_are_walked() {
        let text = br#" [ {"Key" : "a\n\u00e9\ud83d\ude00\ud800/\/", "N":18446744073709551615, "E":{}, "L":[], "Z":null}, 7 ] tail"#;
        let mut elements = parse(text).unwrap().elements("T").unwrap();
        let mut members = elements.element().unwrap().members("T").unwrap();
        let (name, value) = members.member().unwrap();
        assert_eq!(&*name, b"Key");
        assert_eq!(&*value.string("f").unwrap(), "a\né😀\u{fffd}//".as_bytes());
        assert_eq!(members.member().unwrap().1.uint("f").unwrap(), u64::MAX);
        assert!(members.member().unwrap().1.members("T").unwrap().member().is_none());
        assert!(members.member().unwrap().1.elements("T").unwrap().element().is_none());
        let null = members.member().unwrap().1;
        assert!(null.is_null() && null.string("f").unwrap().is_empty() && null.uint("f").unwrap() == 0);
        assert!(members.member().is_none());
        assert_eq!(elements.element().unwrap().uint("f").unwrap(), 7);
        assert!(elements.element().is_none());
    }

    #[test]
    fn wrong_types_have_gos_texts() {
        let value = |text: &'static str| parse(text.as_bytes()).unwrap();
        assert_eq!(
            value("{}").elements("api.TxnOps").unwrap_err(),
            "json: cannot unmarshal object into Go value of type api.TxnOps"
        );
        assert_eq!(
            value("1").string("KVTxnOp.KV.Key").unwrap_err(),
            "json: cannot unmarshal number into Go struct field KVTxnOp.KV.Key of type string"
        );
        assert_eq!(
            value("-1").uint("KVTxnOp.KV.Flags").unwrap_err(),
            "json: cannot unmarshal number -1 into Go struct field KVTxnOp.KV.Flags of type uint64"
        );
    }
}
