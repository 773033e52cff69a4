//! Sockets that the service manager listens on for us (`LISTEN_FDS`): a restart then refuses no connection.
//!
//! They come in any order, another one at each start, so they are known by their names (`FileDescriptorName=`), and
//! several may share one. What a socket is, the kernel tells, not its name.

use rustix::net::{AddressFamily, SocketType, sockopt};
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

/// The sockets that were passed and not yet taken.
#[derive(Debug, Default)]
pub struct Passed {
    sockets: Vec<Socket>,
}

#[derive(Debug)]
struct Socket {
    name: String,
    kind: Kind,
    fd: OwnedFd,
}

/// What a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Unix,
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Tcp => "a listening TCP socket",
            Kind::Udp => "a UDP socket",
            Kind::Unix => "a listening unix stream socket",
            Kind::Other => "something else",
        })
    }
}

/// Sockets that cannot be used: the units that pass them are wrong.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    #[error("read LISTEN_FDS and LISTEN_FDNAMES")]
    Environment {
        #[source]
        source: io::Error,
    },
    #[error("socket {name:?} was passed, and the names known here are {known}; set FileDescriptorName= in its unit")]
    Unknown { name: String, known: String },
    #[error("socket {name:?} is {found}, it has to be {wanted}; correct Listen…= in its unit")]
    WrongKind { name: String, found: String, wanted: String },
    #[error("make socket {name:?} non-blocking")]
    NonBlocking {
        name: String,
        #[source]
        source: io::Error,
    },
}

/// The descriptors are ours to close, so they may be taken once.
static TAKEN: AtomicBool = AtomicBool::new(false);

impl Passed {
    /// What was passed to this process; nothing the second time. From here on no child inherits it.
    pub fn take() -> Result<Passed, SocketsError> {
        let environment = |source| SocketsError::Environment { source };
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Ok(Passed::default());
        }
        let mut sockets = Vec::new();
        for (raw, name) in sd_notify::listen_fds_with_names().map_err(environment)? {
            // SAFETY: the service manager opened it for this process (LISTEN_PID is ours, and setting close-on-exec
            // just now proved that it is open), and TAKEN keeps anybody from owning it a second time.
            #[expect(unsafe_code, reason = "a number from the environment becomes a descriptor that is owned")]
            let fd = unsafe { OwnedFd::from_raw_fd(raw) };
            sockets.push(Socket { name, kind: kind(&fd), fd });
        }
        Ok(Passed { sockets })
    }

    /// Refuses sockets with a name that is none of these.
    pub fn know(&self, names: &[&str]) -> Result<(), SocketsError> {
        match self.sockets.iter().find(|socket| !names.contains(&socket.name.as_str())) {
            Some(socket) => Err(SocketsError::Unknown { name: socket.name.clone(), known: names.join(", ") }),
            None => Ok(()),
        }
    }

    /// The TCP listeners of this name.
    pub fn tcp(&mut self, name: &str) -> Result<Vec<TcpListener>, SocketsError> {
        let sockets = self.of(name, Kind::Tcp)?;
        let listeners = sockets.into_iter().map(TcpListener::from);
        listeners.map(|listener| non_blocking(name, listener, TcpListener::set_nonblocking)).collect()
    }

    /// The unix listeners of this name.
    pub fn unix(&mut self, name: &str) -> Result<Vec<UnixListener>, SocketsError> {
        let sockets = self.of(name, Kind::Unix)?;
        let listeners = sockets.into_iter().map(UnixListener::from);
        listeners.map(|listener| non_blocking(name, listener, UnixListener::set_nonblocking)).collect()
    }

    /// What an earlier process of this service had kept under this name.
    pub fn kept(&mut self, name: &str) -> Result<Vec<OwnedFd>, SocketsError> {
        self.of(name, Kind::Other)
    }

    /// Closes those of this name; how many there were. The service manager still listens on them.
    pub fn close(&mut self, name: &str) -> usize {
        let before = self.sockets.len();
        self.sockets.retain(|socket| socket.name != name);
        before - self.sockets.len()
    }

    fn of(&mut self, name: &str, wanted: Kind) -> Result<Vec<OwnedFd>, SocketsError> {
        let (of_name, others) = std::mem::take(&mut self.sockets).into_iter().partition(|socket| socket.name == name);
        self.sockets = others;
        let owned = |socket: Socket| match socket.kind {
            found if found == wanted => Ok(socket.fd),
            found => {
                let (found, wanted) = (found.to_string(), wanted.to_string());
                Err(SocketsError::WrongKind { name: name.to_owned(), found, wanted })
            }
        };
        Vec::into_iter(of_name).map(owned).collect()
    }
}

fn non_blocking<L>(name: &str, listener: L, set: fn(&L, bool) -> io::Result<()>) -> Result<L, SocketsError> {
    set(&listener, true).map_err(|source| SocketsError::NonBlocking { name: name.to_owned(), source })?;
    Ok(listener)
}

/// What is no socket at all is `Other`, too.
fn kind(fd: impl AsFd) -> Kind {
    let listens = sockopt::socket_acceptconn(&fd).unwrap_or(false);
    let family = sockopt::socket_domain(&fd);
    let is_inet = matches!(family, Ok(AddressFamily::INET | AddressFamily::INET6));
    match sockopt::socket_type(&fd) {
        Ok(SocketType::STREAM) if is_inet && listens => Kind::Tcp,
        Ok(SocketType::STREAM) if family == Ok(AddressFamily::UNIX) && listens => Kind::Unix,
        Ok(SocketType::DGRAM) if is_inet => Kind::Udp,
        Ok(_) | Err(_) => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpStream, UdpSocket};
    use std::os::unix::net::UnixDatagram;

    fn passed(sockets: Vec<(&str, OwnedFd)>) -> Passed {
        let of = |(name, fd): (&str, OwnedFd)| Socket { name: name.to_owned(), kind: kind(&fd), fd };
        Passed { sockets: sockets.into_iter().map(of).collect() }
    }

    #[test]
    fn the_kernel_tells_what_a_socket_is() {
        let dir = tempfile::tempdir().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind("[::1]:0");
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let unix = UnixListener::bind(dir.path().join("s")).unwrap();
        assert_eq!(kind(&tcp), Kind::Tcp);
        assert_eq!(six.map_or(Kind::Tcp, |six| kind(&six)), Kind::Tcp);
        assert_eq!(kind(&udp), Kind::Udp);
        assert_eq!(kind(&unix), Kind::Unix);
        assert_eq!(kind(UnixDatagram::unbound().unwrap()), Kind::Other);
        assert_eq!(kind(TcpStream::connect(tcp.local_addr().unwrap()).unwrap()), Kind::Other, "it does not listen");
        assert_eq!(kind(std::fs::File::open("/dev/null").unwrap()), Kind::Other);
    }

    #[test]
    fn sockets_are_taken_by_name_whatever_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (a, b) = (tcp(), tcp());
        let of_b = b.local_addr().unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let unix = UnixListener::bind(dir.path().join("s")).unwrap();
        let mut passed = passed(vec![
            ("dns", tcp().into()),
            ("http", a.into()),
            ("admin", unix.into()),
            ("dns", udp.into()),
            ("http", b.into()),
        ]);
        passed.know(&["http", "rpc", "dns", "admin"]).unwrap();
        let http = passed.tcp("http").unwrap();
        assert_eq!((http.len(), http[1].local_addr().unwrap()), (2, of_b));
        assert_eq!(http[0].accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(passed.tcp("rpc").unwrap().is_empty());
        assert_eq!(passed.unix("admin").unwrap().len(), 1);
        assert_eq!((passed.close("dns"), passed.sockets.len()), (2, 0));
    }

    #[test]
    fn a_socket_with_a_strange_name_or_of_the_wrong_kind_is_refused_in_words() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut passed = passed(vec![("http", udp.into())]);
        let error = passed.know(&["rpc", "admin"]).unwrap_err().to_string();
        assert!(error.contains("\"http\"") && error.contains("rpc, admin") && error.contains("FileDescriptorName="));
        let error = passed.tcp("http").unwrap_err().to_string();
        assert!(error.contains("is a UDP socket, it has to be a listening TCP socket"), "{error}");
    }
}
