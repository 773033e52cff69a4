//! Where this node listens: on the sockets that the service manager passed, else on its own.

use super::NodeError;
use crate::config::Config;
use crate::http::{self, AdminSocketError, Listeners, Listening};
use crate::systemd::{Passed, SocketsError};
use crate::telemetry::chain;
use rustix::fs::{Access, access};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener};

/// Names of sockets (`FileDescriptorName=`).
const HTTP: &str = "http";
const RPC: &str = "rpc";
const DNS: &str = "dns";
const ADMIN: &str = "admin";
/// No socket: the directory of the state, which the service manager keeps open for the next process.
pub(super) const STATE: &str = "state";
/// Where konsulctl looks for the admin socket.
const ADMIN_SOCKET: &str = "/run/konsul/admin.sock";

/// Open, and nobody accepts yet.
pub(super) struct Ports {
    pub(super) http: Listeners,
    pub(super) rpc: Vec<TcpListener>,
    /// For people: all of them.
    pub(super) list: Vec<Listening>,
    /// A socket file that is ours to remove.
    pub(super) own_admin: Option<OwnFile>,
}

/// Removed with it.
pub(super) struct OwnFile {
    path: PathBuf,
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        // Somebody may have removed it, or put another one there; the next start sees to what is left.
        drop(std::fs::remove_file(&self.path));
    }
}

/// The sockets of this process, if their names are ours.
pub(super) fn passed() -> Result<Passed, SocketsError> {
    let mut passed = Passed::take()?;
    passed.know(&[HTTP, RPC, DNS, ADMIN, STATE])?;
    if passed.close(DNS) > 0 {
        tracing::warn!("a socket for DNS was passed; DNS is not served, so nobody gets an answer there: stop its unit");
    }
    Ok(passed)
}

impl Ports {
    pub(super) async fn open(config: &Config, mut passed: Passed) -> Result<Ports, NodeError> {
        let mut list = Vec::new();
        let own: Vec<SocketAddr> = config.peer.listen.into_iter().collect();
        let mut rpc = passed.tcp(RPC).map_err(|source| NodeError::Passed { source })?;
        if own.is_empty() && !rpc.is_empty() {
            tracing::info!("a socket for other nodes was passed; this node is alone and leaves it unserved");
            rpc.clear();
        }
        let rpc = take(RPC, &own, rpc, &mut list).await?;
        let http = passed.tcp(HTTP).map_err(|source| NodeError::Passed { source })?;
        let tcp = take(HTTP, &config.http.listen, http, &mut list).await?;
        let admin = passed.unix(ADMIN).map_err(|source| NodeError::Passed { source })?;
        let (admin, own_admin) = admin_socket(config, admin, &mut list)?;
        Ok(Ports { http: Listeners { tcp, admin }, rpc, list, own_admin })
    }
}

/// The passed ones in place of all the configured addresses.
async fn take(
    name: &'static str,
    configured: &[SocketAddr],
    passed: Vec<std::net::TcpListener>,
    list: &mut Vec<Listening>,
) -> Result<Vec<TcpListener>, NodeError> {
    let is_passed = !passed.is_empty();
    let mut listeners = Vec::new();
    for listener in passed {
        let adopted = TcpListener::from_std(listener);
        listeners.push(adopted.map_err(|source| NodeError::Adopt { name, source })?);
    }
    if !is_passed {
        for address in configured {
            let bound = TcpListener::bind(address).await;
            listeners.push(bound.map_err(|source| NodeError::Listen { address: *address, source })?);
        }
    }
    let mut addresses = Vec::new();
    for listener in &listeners {
        let address = listener.local_addr().map_err(|source| NodeError::Adopt { name, source })?;
        tracing::info!(socket = name, %address, passed = is_passed, "listening");
        list.push(Listening { name, address: address.to_string(), is_passed });
        addresses.push(address);
    }
    if is_passed && !configured.iter().all(|address| addresses.contains(address)) {
        tracing::warn!(
            socket = name,
            ?addresses,
            ?configured,
            "the socket units listen elsewhere than the configuration says; the units decide"
        );
    }
    Ok(listeners)
}

/// The passed ones, or one of our own if there is a place for it.
fn admin_socket(
    config: &Config,
    passed: Vec<std::os::unix::net::UnixListener>,
    list: &mut Vec<Listening>,
) -> Result<(Vec<UnixListener>, Option<OwnFile>), NodeError> {
    let is_passed = !passed.is_empty();
    let (bound, own) = if is_passed { (passed, None) } else { own_admin_socket(config)? };
    let mut listeners = Vec::new();
    for listener in bound {
        let adopt = |source| NodeError::Adopt { name: ADMIN, source };
        let at = listener.local_addr().map_err(adopt)?;
        let file = own.as_ref().map(|own: &OwnFile| own.path.as_path()).or(at.as_pathname());
        let address = file.map_or_else(|| "without a name".to_owned(), |path| path.display().to_string());
        tracing::info!(socket = ADMIN, %address, passed = is_passed, "listening");
        list.push(Listening { name: ADMIN, address, is_passed });
        listeners.push(UnixListener::from_std(listener).map_err(adopt)?);
    }
    Ok((listeners, own))
}

type Bound = (Vec<std::os::unix::net::UnixListener>, Option<OwnFile>);

fn own_admin_socket(config: &Config) -> Result<Bound, NodeError> {
    let wanted = config.http.admin_socket.as_deref();
    let path = wanted.unwrap_or_else(|| Path::new(ADMIN_SOCKET));
    let place = path.parent().unwrap_or_else(|| Path::new("/"));
    if wanted.is_none() && access(place, Access::WRITE_OK).is_err() {
        return Ok((Vec::new(), None));
    }
    match http::bind_admin_socket(path) {
        Ok(listener) => Ok((vec![listener], Some(OwnFile { path: path.to_owned() }))),
        // Another node on this host, say; nobody asked for this one.
        Err(error @ (AdminSocketError::InUse { .. } | AdminSocketError::NoSocket { .. })) if wanted.is_none() => {
            tracing::info!(error = %chain(&error), "no admin socket");
            Ok((Vec::new(), None))
        }
        Err(source) => Err(NodeError::AdminSocket { source }),
    }
}
