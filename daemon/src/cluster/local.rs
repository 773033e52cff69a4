//! By which addresses others reach this host.

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// There is no address that others could connect to, or no telling which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "which address do other nodes reach this one by? {found}; set peer.advertise to its host:port, or peer.listen to one \
     address"
)]
pub struct NoAddress {
    found: String,
}

/// Addresses of the interfaces that are up.
fn addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let up = interfaces.filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP));
    let ip = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    up.filter_map(ip).collect()
}

/// Whether this is this node's own peer listener.
pub(super) fn is_own(address: SocketAddr, listen: SocketAddr) -> bool {
    let ip = address.ip();
    let bound =
        if listen.ip().is_unspecified() { ip.is_loopback() || addresses().contains(&ip) } else { ip == listen.ip() };
    address.port() == listen.port() && bound
}

/// What others connect to: as configured, where the listener is bound, or the address from which `toward` is reached.
pub fn advertised(
    configured: Option<&str>,
    listen: SocketAddr,
    toward: Option<SocketAddr>,
) -> Result<String, NoAddress> {
    if let Some(configured) = configured {
        return Ok(configured.to_owned());
    }
    if !listen.ip().is_unspecified() {
        return Ok(listen.to_string());
    }
    let port = listen.port();
    let anywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), port);
    if let Some(ip) = source_of(toward.unwrap_or(anywhere)) {
        return Ok(SocketAddr::new(ip, port).to_string());
    }
    // No route to anywhere: then it has to be the only one there is.
    let usable = |ip: &IpAddr| !ip.is_loopback() && ip.is_ipv4();
    match addresses().into_iter().filter(usable).collect::<Vec<_>>().as_slice() {
        [only] => Ok(SocketAddr::new(*only, port).to_string()),
        [] => Err(NoAddress { found: "this host has no address but loopback".to_owned() }),
        several => {
            let several: Vec<String> = several.iter().map(IpAddr::to_string).collect();
            Err(NoAddress { found: format!("this host has {}", several.join(", ")) })
        }
    }
}

/// The same after a restart: what others were told before, while this host has that address; else the one from which it
/// reaches a member now. None of these: it is as before, and whoever cannot reach it says so.
pub fn advertised_again(before: &str, listen: SocketAddr, members: &[String]) -> String {
    let Ok(known) = before.parse::<SocketAddr>() else { return before.to_owned() };
    if !listen.ip().is_unspecified() || addresses().contains(&known.ip()) {
        return before.to_owned();
    }
    let others = members.iter().filter_map(|member| member.parse().ok()).filter(|member| *member != known);
    let now = others.filter_map(source_of).next();
    now.map_or_else(|| before.to_owned(), |ip| SocketAddr::new(ip, listen.port()).to_string())
}

/// The address from which the kernel would send there; nothing is sent.
fn source_of(there: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if there.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(there).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && (!ip.is_loopback() || there.ip().is_loopback())).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_or_bound_is_what_others_are_told() {
        let listen: SocketAddr = "10.1.2.3:8300".parse().unwrap();
        assert_eq!(advertised(Some("n1.example:1"), listen, None).unwrap(), "n1.example:1");
        assert_eq!(advertised(None, listen, None).unwrap(), "10.1.2.3:8300");
        let any: SocketAddr = "0.0.0.0:8300".parse().unwrap();
        let toward: SocketAddr = "127.0.0.1:9".parse().unwrap();
        assert_eq!(advertised(None, any, Some(toward)).unwrap(), "127.0.0.1:8300");
    }

    #[test]
    fn an_address_that_this_host_has_no_more_is_found_out_anew() {
        let any: SocketAddr = "0.0.0.0:8300".parse().unwrap();
        let again = |before: &str, members: &[&str]| {
            advertised_again(before, any, &members.iter().map(|member| (*member).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(again("127.0.0.1:8300", &["127.0.0.9:1"]), "127.0.0.1:8300", "it has it");
        assert_eq!(again("192.0.2.7:8300", &["192.0.2.7:8300", "127.0.0.9:1"]), "127.0.0.1:8300");
        assert_eq!(again("192.0.2.7:8300", &["192.0.2.7:8300"]), "192.0.2.7:8300", "nobody else to reach");
        assert_eq!(again("n1.example:8300", &["127.0.0.9:1"]), "n1.example:8300", "a name is for people to move");
    }

    #[test]
    fn a_node_does_not_ask_itself() {
        let (any, one): (SocketAddr, SocketAddr) = ("0.0.0.0:8300".parse().unwrap(), "127.0.0.1:8300".parse().unwrap());
        assert!(is_own(one, any));
        assert!(is_own(one, one));
        assert!(!is_own("127.0.0.2:8300".parse().unwrap(), one));
        assert!(!is_own("127.0.0.1:8301".parse().unwrap(), any));
    }
}
