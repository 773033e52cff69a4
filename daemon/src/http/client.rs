//! Who asks: somebody on the network, or a process of this host that may use the admin socket.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use tokio::net::unix::UCred;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    Remote(SocketAddr),
    Local(Process),
}

/// A process, as the kernel vouched for it when it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Of another PID namespace: unknown.
    pub(super) pid: Option<i32>,
}

impl From<UCred> for Process {
    fn from(found: UCred) -> Process {
        Process { uid: found.uid(), gid: found.gid(), pid: found.pid().filter(|pid| *pid > 0) }
    }
}

impl Client {
    /// Its address, if it is on the network: there are limits for it.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self {
            Client::Remote(address) => Some(address.ip()),
            Client::Local(_) => None,
        }
    }

    /// For the audit. There are no access rules yet: of a client on the network nothing is known but its address.
    pub(super) fn who(&self) -> String {
        match self {
            Client::Remote(_) => "http client".to_owned(),
            Client::Local(Process { uid, gid, pid: Some(pid) }) => format!("uid {uid} gid {gid} pid {pid}"),
            Client::Local(Process { uid, gid, pid: None }) => format!("uid {uid} gid {gid}"),
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Client::Remote(address) => address.fmt(f),
            Client::Local(_) => f.write_str("admin socket"),
        }
    }
}
