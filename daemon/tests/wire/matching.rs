//! Compares an answer with a recorded one that holds placeholders.
//!
//! `<any> <uint> <uuid> <string> <object> <duration> <timestamp> <hex>` stand for values, also within a text. An array
//! that begins with `<set>` has its elements in any order; one that ends with `<more>` may be longer. An object with
//! the member `...` may have further members.

use serde_json::Value;

/// Every difference, with its place.
pub(crate) fn differences(expected: &Value, found: &Value, place: &str) -> Vec<String> {
    let differs = || vec![format!("{place}: expected {expected}, found {found}")];
    let unless = |right: bool| if right { Vec::new() } else { differs() };
    match expected {
        Value::String(text) => match text.as_str() {
            "<any>" => Vec::new(),
            "<uint>" => unless(found.is_u64()),
            "<string>" => unless(found.is_string()),
            "<object>" => unless(found.is_object()),
            pattern => unless(found.as_str().is_some_and(|found| text_matches(pattern, found))),
        },
        Value::Object(expected) => {
            let Value::Object(found) = found else { return differs() };
            let mut all = Vec::new();
            for (name, value) in expected.iter().filter(|(name, _)| *name != "...") {
                match found.get(name) {
                    Some(found) => all.extend(differences(value, found, &format!("{place}.{name}"))),
                    None => all.push(format!("{place}.{name}: missing")),
                }
            }
            if !expected.contains_key("...") {
                let further = found.keys().filter(|name| !expected.contains_key(*name));
                all.extend(further.map(|name| format!("{place}.{name}: unexpected")));
            }
            all
        }
        Value::Array(expected) => {
            let Value::Array(found) = found else { return differs() };
            elements(expected, found, place).unwrap_or_else(differs)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => unless(expected == found),
    }
}

/// `None` if the arrays differ as a whole.
fn elements(expected: &[Value], found: &[Value], place: &str) -> Option<Vec<String>> {
    if expected.first().is_some_and(|first| first == "<set>") {
        let sorted = |values: &[Value]| {
            let mut texts: Vec<String> = values.iter().map(Value::to_string).collect();
            texts.sort();
            texts
        };
        return (sorted(&expected[1..]) == sorted(found)).then(Vec::new);
    }
    let (expected, more) = match expected.split_last() {
        Some((last, rest)) if last == "<more>" => (rest, true),
        _ => (expected, false),
    };
    if found.len() < expected.len() || (!more && found.len() > expected.len()) {
        return None;
    }
    let pairs = expected.iter().zip(found).enumerate();
    Some(pairs.flat_map(|(n, (expected, found))| differences(expected, found, &format!("{place}[{n}]"))).collect())
}

const PLACEHOLDERS: [&str; 6] = ["<uuid>", "<uint>", "<string>", "<duration>", "<timestamp>", "<hex>"];

/// Whether the text is the pattern with every placeholder filled in.
pub(crate) fn text_matches(pattern: &str, text: &str) -> bool {
    let first = PLACEHOLDERS.iter().filter_map(|name| Some((pattern.find(name)?, *name))).min();
    let Some((at, placeholder)) = first else {
        return pattern == text;
    };
    let Some(rest) = text.strip_prefix(&pattern[..at]) else {
        return false;
    };
    let pattern = &pattern[at + placeholder.len()..];
    // The longest filling first, then shorter ones.
    let ends = (0..=rest.len()).rev().filter(|end| rest.is_char_boundary(*end));
    ends.into_iter().any(|end| fills(placeholder, &rest[..end]) && text_matches(pattern, &rest[end..]))
}

fn fills(placeholder: &str, text: &str) -> bool {
    let all = |allowed: fn(char) -> bool| !text.is_empty() && text.chars().all(allowed);
    match placeholder {
        "<uuid>" => {
            let lengths: Vec<usize> = text.split('-').map(str::len).collect();
            lengths == [8, 4, 4, 4, 12] && all(|c| c == '-' || c.is_ascii_digit() || ('a'..='f').contains(&c))
        }
        "<uint>" => all(|c| c.is_ascii_digit()),
        "<string>" => true,
        "<duration>" => {
            text.starts_with(|c: char| c.is_ascii_digit() || c == '.')
                && text.ends_with(|c: char| c.is_alphabetic())
                && all(|c| c.is_ascii_digit() || matches!(c, '.' | 'n' | 'u' | 'µ' | 'm' | 's' | 'h'))
        }
        "<timestamp>" => {
            text.len() >= 20
                && text.as_bytes()[10] == b'T'
                && all(|c| c.is_ascii_digit() || matches!(c, '-' | ':' | '.' | 'T' | 'Z' | '+'))
        }
        "<hex>" => all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)),
        other => panic!("unknown placeholder {other}"),
    }
}

#[test]
fn placeholders_stand_for_their_values_only() {
    let table = [
        ("plain", "plain", true),
        ("plain", "plain!", false),
        ("index <uint> != 1", "index 27 != 1", true),
        ("index <uint> != 1", "index x != 1", false),
        ("invalid session \"<uuid>\"", "invalid session \"00000000-0000-4000-8000-000000000000\"", true),
        ("invalid session \"<uuid>\"", "invalid session \"7\"", false),
        ("<duration>", "1.5ms", true),
        ("<timestamp>", "2020-01-02T03:04:05Z", true),
        ("a<string>c", "abbc", true),
    ];
    for (pattern, text, expected) in table {
        assert_eq!(text_matches(pattern, text), expected, "{pattern} {text}");
    }
}

#[test]
fn arrays_and_objects_are_compared_as_the_marks_say() {
    let same = |expected: &str, found: &str| {
        let value = |text: &str| -> Value { serde_json::from_str(text).expect("JSON") };
        differences(&value(expected), &value(found), "$").is_empty()
    };
    assert!(same(r#"["<set>","a","b"]"#, r#"["b","a"]"#) && !same(r#"["<set>","a"]"#, r#"["b"]"#));
    assert!(same(r#"["a","<more>"]"#, r#"["a","b"]"#) && !same(r#"["a"]"#, r#"["a","b"]"#));
    assert!(same(r#"{"a":1,"...":"<ignore>"}"#, r#"{"a":1,"b":2}"#) && !same(r#"{"a":1}"#, r#"{"a":1,"b":2}"#));
    assert!(!same(r#"{"a":1}"#, "{}") && !same("null", "0") && same(r#""<uint>""#, "7") && !same(r#""<uint>""#, "-7"));
}
