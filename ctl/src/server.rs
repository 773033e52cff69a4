//! Where a server is: `http://host:port`, `host:port` or `host`.

use std::{fmt, str::FromStr};

/// The port of Consul's HTTP API.
const PORT: u16 = 8500;

/// The address of one HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    /// A name or an address, without brackets.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
}

impl Server {
    /// The value of the `Host` header.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no server; write it like http://127.0.0.1:8500");
        let rest = match text.split_once("://") {
            None => text,
            Some(("http", rest)) => rest,
            Some(("https", _)) => {
                return Err(format!("'{text}': https is not spoken here; use an http:// address of the server"));
            }
            Some(_) => return Err(wrong()),
        };
        let rest = rest.trim_end_matches('/');
        let (host, port) = split(rest).ok_or_else(wrong)?;
        let port = port.map_or(Ok(PORT), |p| p.parse().map_err(|_| wrong()))?;
        if host.is_empty() || host.contains(['/', '?', '#', '@', ' ']) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Host and port, if any.
fn split(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return match after.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None if after.is_empty() => Some((host, None)),
            None => None,
        };
    }
    match authority.split_once(':') {
        None => Some((authority, None)),
        Some((host, port)) if !port.contains(':') => Some((host, Some(port))),
        // An IPv6 address without brackets: every colon is its own.
        Some(_) => Some((authority, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::Server;

    #[test]
    fn servers_are_read_in_every_usual_spelling() {
        for (text, expected) in [
            ("http://10.0.0.1:8501", "http://10.0.0.1:8501"),
            ("http://10.0.0.1:8501/", "http://10.0.0.1:8501"),
            ("10.0.0.1:8501", "http://10.0.0.1:8501"),
            ("node1", "http://node1:8500"),
            ("http://[::1]:8501", "http://[::1]:8501"),
            ("[::1]", "http://[::1]:8500"),
            ("::1", "http://[::1]:8500"),
        ] {
            let server: Result<Server, String> = text.parse();
            assert_eq!(server.map(|s| s.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for text in
            ["", "http://", "ftp://x", "https://x:8501", "http://x:port", "http://x:70000", "http://x/v1", "[::1"]
        {
            assert!(text.parse::<Server>().is_err(), "{text} was accepted");
        }
    }
}
