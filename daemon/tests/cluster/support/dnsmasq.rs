//! A real DNS server with records of our choice.

use super::janitor::Janitor;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Each server has an address of its own, so that the port need not be searched.
pub(crate) const PORT: u16 = 5300;
/// Until it answers.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Dnsmasq {
    address: SocketAddr,
    running: Option<Child>,
    // Behind the process: it ends what is left, then the directory goes.
    _janitor: Janitor,
    dir: TempDir,
}

impl Dnsmasq {
    /// An address where nobody answers yet.
    pub(crate) fn reserve() -> Dnsmasq {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, 100 | (high & 0x1f), low, NEXT.fetch_add(1, Ordering::Relaxed));
        Dnsmasq::at(IpAddr::V4(ip))
    }

    /// The same, at an address of this host.
    pub(crate) fn at(ip: IpAddr) -> Dnsmasq {
        let dir = tempfile::Builder::new().prefix("konsul-dns-").tempdir().unwrap();
        let janitor = Janitor::start(dir.path(), "");
        Dnsmasq { address: SocketAddr::from((ip, PORT)), running: None, _janitor: janitor, dir }
    }

    /// Answers for example.test from now on, with these records only, each good for so many seconds.
    pub(crate) fn start(ttl_s: u32, records: &[&str]) -> Dnsmasq {
        let mut server = Dnsmasq::reserve();
        server.restart(ttl_s, records);
        server
    }

    pub(crate) fn restart(&mut self, ttl_s: u32, records: &[&str]) {
        self.stop();
        let (ip, port) = (self.address.ip(), self.address.port());
        let text = format!(
            "port={port}\nlisten-address={ip}\nbind-interfaces\nno-resolv\nno-hosts\nuser=root\npid-file=\n\
             local=/example.test/\nlocal-ttl={ttl_s}\n{}\n",
            records.join("\n")
        );
        let file = self.dir.path().join("dnsmasq.conf");
        fs::write(&file, text).unwrap();
        let mut command = Command::new("dnsmasq");
        command.arg("--keep-in-foreground").arg(format!("--conf-file={}", file.display()));
        let child = command.stdin(Stdio::null()).spawn().expect("dnsmasq is there: apt-get install dnsmasq-base");
        self.running = Some(child);
        self.wait_for_answers();
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// It binds TCP behind UDP.
    fn wait_for_answers(&mut self) {
        let began = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let ended = self.running.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "dnsmasq ended with {ended:?}");
            assert!(began.elapsed() < LIMIT, "dnsmasq does not listen on {}", self.address);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.stop();
    }
}
