//! What is written in TOML, and on which line; before anybody asks what it means.

use toml::Spanned;
use toml::de::DeValue;

/// What is written, with the line it is written on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) raw: Raw,
}

/// What is written, before anybody asks what it means.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    Text(String),
    Number(u64),
    /// As it is written.
    Fraction(String),
    Flag(bool),
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
    /// No key takes this: a date, a negative number.
    Other {
        what: String,
    },
}

impl Raw {
    pub(super) fn describe(&self) -> String {
        match self {
            Raw::Text(text) => format!("\"{text}\""),
            Raw::Number(number) => number.to_string(),
            Raw::Fraction(text) => text.clone(),
            Raw::Flag(flag) => flag.to_string(),
            Raw::List(_) => "a list".into(),
            Raw::Table(_) => "a table".into(),
            Raw::Other { what } => what.clone(),
        }
    }
}

/// One value in TOML, as in a variable or a flag.
pub(super) fn value(text: &str) -> Result<Raw, String> {
    let parsed =
        DeValue::parse(text).map_err(|error| format!("is no valid TOML: {}", error.message().replace('\n', "; ")))?;
    Ok(Lines(text).node(&parsed).raw)
}

/// Turns byte offsets into lines.
pub(super) struct Lines<'t>(pub(super) &'t str);

impl Lines<'_> {
    pub(super) fn of(&self, offset: usize) -> usize {
        1 + self.0.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    pub(super) fn node(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let raw = match value.get_ref() {
            DeValue::String(text) => Raw::Text(text.clone().into_owned()),
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_not_u64| Raw::Other { what: number.to_string() }, Raw::Number),
            DeValue::Array(items) => Raw::List(items.iter().map(|item| self.node(item)).collect()),
            DeValue::Table(entries) => Raw::Table(
                entries.iter().map(|(key, value)| (key.get_ref().clone().into_owned(), self.node(value))).collect(),
            ),
            DeValue::Boolean(flag) => Raw::Flag(*flag),
            DeValue::Float(number) => Raw::Fraction(number.to_string()),
            DeValue::Datetime(date) => Raw::Other { what: date.to_string() },
        };
        Node { line: self.of(value.span().start), raw }
    }
}
