//! Where a server is: `http://host:port`, `host:port`, `host`, or `unix:///path` of a socket on this host.

use crate::stream::Stream;
use rustix::fs::{Access, access};
use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};
use tokio::net::{TcpStream, UnixStream};

/// The port of Consul's HTTP API.
const PORT: u16 = 8500;
/// Where konsuld listens for the administrators of its host.
pub(crate) const ADMIN_SOCKET: &str = "/run/konsul/admin.sock";

/// The address of one HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Server {
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

impl Server {
    /// Where nobody said anything else: the socket on this host for those who may use it, else its HTTP port.
    pub(crate) fn of_this_host() -> Self {
        if access(ADMIN_SOCKET, Access::WRITE_OK).is_ok() {
            Self::Unix(ADMIN_SOCKET.into())
        } else {
            Self::Tcp { host: "127.0.0.1".to_owned(), port: PORT }
        }
    }

    /// The value of the `Host` header.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    pub(crate) async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { .. } => write!(f, "http://{}", self.authority()),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("'{text}' is no server; write it like http://127.0.0.1:8500, or like unix:///run/konsul/admin.sock")
        };
        let rest = match text.split_once("://") {
            None => text,
            Some(("http", rest)) => rest,
            Some(("unix", path)) if Path::new(path).is_absolute() => return Ok(Self::Unix(path.into())),
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
        Ok(Self::Tcp { host: host.to_owned(), port })
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
            ("unix:///run/konsul/admin.sock", "unix:///run/konsul/admin.sock"),
        ] {
            let server: Result<Server, String> = text.parse();
            assert_eq!(server.map(|s| s.to_string()), Ok(expected.to_owned()), "{text}");
        }
        let wrong =
            ["", "http://", "ftp://x", "https://x:8501", "http://x:port", "http://x:70000", "http://x/v1", "[::1"];
        for text in wrong.into_iter().chain(["unix://", "unix://run/konsul/admin.sock"]) {
            assert!(text.parse::<Server>().is_err(), "{text} was accepted");
        }
    }
}
