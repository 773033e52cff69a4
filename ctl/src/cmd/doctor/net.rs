//! Ports that are somebody else's, and names that mean nothing.

use super::finding::{Finding, ok, problem, unknown};
use super::settings::Settings;
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Patience with a resolver.
const RESOLVE: Duration = Duration::from_secs(3);
/// Of a listening socket in /proc/net/tcp.
const LISTEN: &str = "0A";
/// Who may hold our ports: systemd does it for the daemon.
const OURS: [&str; 2] = ["konsuld", "systemd"];

pub(super) fn ports(settings: &Settings) -> Vec<Finding> {
    let listening = listening();
    settings.listens().into_iter().map(|(key, address)| port(key, address, &listening)).collect()
}

fn port(key: &'static str, wanted: SocketAddr, listening: &[(SocketAddr, String)]) -> Finding {
    const CHECK: &str = "port";
    let clash = |found: &SocketAddr| {
        let same_ip = found.ip() == wanted.ip() || found.ip().is_unspecified() || wanted.ip().is_unspecified();
        found.port() == wanted.port() && same_ip
    };
    let Some((_, inode)) = listening.iter().find(|(address, _)| clash(address)) else {
        return ok(CHECK, format!("{key} {wanted} is free"));
    };
    match holder(inode) {
        Some((_, name)) if OURS.contains(&name.as_str()) => ok(CHECK, format!("{key} {wanted} is held by {name}")),
        Some((pid, name)) => problem(
            CHECK,
            format!("{key} {wanted} is taken by {name} (process {pid})"),
            format!("stop that program, or give {key} another port"),
        ),
        None => unknown(CHECK, format!("{key} {wanted} is taken, by whom only root sees"), "run it as root"),
    }
}

/// Addresses that somebody listens on, with the socket's inode.
fn listening() -> Vec<(SocketAddr, String)> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    [read("/proc/net/tcp"), read("/proc/net/tcp6")].iter().flat_map(|text| text.lines().filter_map(listener)).collect()
}

/// `sl local_address rem_address st … inode` (proc(5)).
fn listener(line: &str) -> Option<(SocketAddr, String)> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, state) = (fields.next()?, fields.nth(1)?);
    let inode = fields.nth(5)?;
    let (ip, port) = local.split_once(':')?;
    let words = (0..ip.len() / 8).map(|at| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok());
    let bytes: Vec<u8> = words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    let address = SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?);
    (state == LISTEN).then(|| (address, inode.to_owned()))
}

/// Who listens there.
pub(super) fn holder_of(address: SocketAddr) -> Option<(u32, String)> {
    let listening = listening();
    let (_, inode) = listening.iter().find(|(found, _)| *found == address)?;
    holder(inode)
}

/// Every process and its name.
fn processes() -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let named = |pid| Some((pid, fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned()));
    pids.filter_map(named).collect()
}

/// Who has this socket open: konsuld or systemd rather than another, if several do.
fn holder(inode: &str) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    let has = |pid: u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|link| link.as_os_str() == wanted.as_str())
    };
    let mut holders: Vec<_> = processes().into_iter().filter(|(pid, _)| has(*pid)).collect();
    holders.sort_by_key(|(_, name)| !OURS.contains(&name.as_str()));
    holders.into_iter().next()
}

/// Of the configuration, and of the members of the cluster.
pub(super) async fn names(settings: &Settings, members: Vec<String>) -> Finding {
    const CHECK: &str = "names";
    let of_members = members.into_iter().map(|address| ("a member", address));
    let names: BTreeSet<(&str, String)> = settings.names().into_iter().chain(of_members).collect();
    let mut bad = Vec::new();
    for (key, name) in &names {
        let answer = tokio::time::timeout(RESOLVE, tokio::net::lookup_host(name.as_str())).await;
        match answer {
            Ok(Ok(addresses)) => {
                if addresses.count() == 0 {
                    bad.push(format!("{name} ({key}): no address"));
                }
            }
            Ok(Err(error)) => bad.push(format!("{name} ({key}): {error}")),
            Err(_) => bad.push(format!("{name} ({key}): the resolver does not answer")),
        }
    }
    match (bad.is_empty(), names.len()) {
        (true, 0) => ok(CHECK, "none is needed"),
        (true, all) => ok(CHECK, format!("{all} of {all} resolve")),
        (false, _) => problem(
            CHECK,
            bad.join("; "),
            "correct the name, /etc/hosts or /etc/resolv.conf; it has to mean a host everywhere",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_read_as_the_kernel_writes_them() {
        let line =
            "   0: 0100007F:2134 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        assert_eq!(listener(line), Some(("127.0.0.1:8500".parse().expect("address"), "4711".to_owned())));
        let six = "   1: 00000000000000000000000001000000:2134 00000000000000000000000000000000:0000 0A 00000000:00000000 \
                   00:00000000 00000000     0        0 4712 1 0";
        assert_eq!(listener(six), Some(("[::1]:8500".parse().expect("address"), "4712".to_owned())));
        let connected = line.replace(" 0A ", " 01 ");
        assert_eq!(listener(&connected), None);
        assert_eq!(listener("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt"), None);
    }
}
