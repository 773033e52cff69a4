//! Paths and query strings, percent-encoded.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What may stand in a path as it is: RFC 3986's unreserved, and the slash.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// What may stand in a query value as it is.
const VALUE: &AsciiSet = &PATH.add(b'/');

/// A path with its query.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    text: String,
    has_query: bool,
}

impl Path {
    /// A path of the API, spelled as it goes over the wire.
    pub(crate) fn new(path: &str) -> Self {
        Self { text: path.to_owned(), has_query: false }
    }

    /// The path of a key or a prefix.
    pub(crate) fn kv(key: &str) -> Self {
        Self::new(&format!("/v1/kv/{}", utf8_percent_encode(key, PATH)))
    }

    /// Adds a parameter that is present or not.
    pub(crate) fn flag(self, name: &str, present: bool) -> Self {
        if present { self.push(name, None) } else { self }
    }

    /// Adds a parameter with a value.
    pub(crate) fn with(self, name: &str, value: &str) -> Self {
        self.push(name, Some(value))
    }

    /// The text for the request line.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    fn push(mut self, name: &str, value: Option<&str>) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.text.push_str(name);
        if let Some(value) = value {
            self.text.push('=');
            self.text.extend(utf8_percent_encode(value, VALUE));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::Path;

    #[test]
    fn keys_and_values_are_encoded_so_that_nothing_is_read_twice() {
        let path = Path::kv("a b/ü?#%2F+&").flag("recurse", true).flag("stale", false).with("separator", "/&");
        assert_eq!(path.as_str(), "/v1/kv/a%20b/%C3%BC%3F%23%252F%2B%26?recurse&separator=%2F%26");
    }
}
