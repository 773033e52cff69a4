//! A network of their own for the nodes: one namespace each, a bridge in another one, in which the test's thread lives.
//! Nothing leaves these namespaces.

use rustix::process::geteuid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

pub(crate) struct Net {
    prefix: String,
    nodes: usize,
    /// Where the test's thread came from.
    before: File,
}

/// Why there can be no such network here, if so.
pub(crate) fn missing() -> Option<String> {
    if !geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    let runs = |program: &str, arg: &str| Command::new(program).arg(arg).output().is_ok_and(|o| o.status.success());
    let tools = [("ip", "-V", "iproute2"), ("tc", "-V", "iproute2"), ("nft", "--version", "nftables")];
    let absent: Vec<&str> =
        tools.iter().filter(|(tool, arg, _)| !runs(tool, arg)).map(|(_, _, package)| *package).collect();
    (!absent.is_empty()).then(|| format!("not installed: {}", absent.join(", ")))
}

/// Begins like the names of all namespaces of this process's network of this number.
pub(crate) fn prefix(serial: u32) -> String {
    format!("kt{}-{serial}-", std::process::id())
}

pub(crate) fn address(node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, u8::try_from(node).unwrap()))
}

/// Whether something is cut or not.
const FORGET: &str = "add table bridge part\ndelete table bridge part\n";

fn run(program: &str, args: &str) {
    let output = Command::new(program).args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Net {
    /// Must be dropped on the thread that made it; threads that are started from now on live in the network too.
    pub(crate) fn create(serial: u32, nodes: usize) -> Net {
        let prefix = prefix(serial);
        let switch = format!("{prefix}sw");
        let before = File::open("/proc/thread-self/ns/net").unwrap();
        let net = Net { prefix, nodes, before };
        run("ip", &format!("netns add {switch}"));
        run("ip", &format!("-n {switch} link set lo up"));
        run("ip", &format!("-n {switch} link add br0 type bridge"));
        run("ip", &format!("-n {switch} addr add 10.77.0.254/24 dev br0"));
        run("ip", &format!("-n {switch} link set br0 up"));
        for node in 1..=nodes {
            let host = net.netns(node);
            run("ip", &format!("netns add {host}"));
            run("ip", &format!("-n {host} link set lo up"));
            run("ip", &format!("-n {switch} link add p{node} type veth peer name eth0 netns {host}"));
            run("ip", &format!("-n {switch} link set p{node} master br0 up"));
            run("ip", &format!("-n {host} addr add {}/24 dev eth0", address(node)));
            run("ip", &format!("-n {host} link set eth0 up"));
        }
        let inside = File::open(format!("/run/netns/{switch}")).unwrap();
        move_into_link_name_space(inside.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        net
    }

    /// The namespace of a node; nodes are counted from 1.
    pub(crate) fn netns(&self, node: usize) -> String {
        format!("{}{node}", self.prefix)
    }

    /// The test's own address in this network.
    pub(crate) fn here() -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, 254))
    }

    /// Nothing passes between these nodes and the others; the test reaches all of them.
    pub(crate) fn isolate(&self, nodes: &[usize]) {
        let apart = |one: usize, other: usize| nodes.contains(&one) != nodes.contains(&other);
        let all = 1..=self.nodes;
        let ways = all.clone().flat_map(|from| all.clone().map(move |to| (from, to)));
        self.cut(&ways.filter(|(from, to)| apart(*from, *to)).collect::<Vec<_>>());
    }

    /// Nothing passes from the first to the second of each pair, whatever was cut before; the other way is open.
    pub(crate) fn cut(&self, ways: &[(usize, usize)]) {
        let rules: String =
            ways.iter().map(|(from, to)| format!("iifname \"p{from}\" oifname \"p{to}\" drop\n")).collect();
        self.nft(&format!(
            "{FORGET}table bridge part {{\nchain cut {{\ntype filter hook forward priority 0; policy accept;\n{rules}}}\n}}\n"
        ));
    }

    pub(crate) fn heal(&self) {
        self.nft(FORGET);
    }

    /// What reaches this node comes at this rate, in kbit a second; `None`: as fast as it can.
    pub(crate) fn slow_down(&self, node: usize, rate: Option<u32>) {
        let device = format!("-n {}sw qdisc", self.prefix);
        match rate {
            Some(kbit) => {
                run("tc", &format!("{device} add dev p{node} root tbf rate {kbit}kbit burst 16kb latency 400ms"));
            }
            None => run("tc", &format!("{device} del dev p{node} root")),
        }
    }

    /// The node's host has this address from now on, and the one it had no more.
    pub(crate) fn move_host(&self, node: usize, to: IpAddr) {
        let host = self.netns(node);
        run("ip", &format!("-n {host} addr flush dev eth0"));
        run("ip", &format!("-n {host} addr add {to}/24 dev eth0"));
    }

    fn nft(&self, rules: &str) {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &format!("{}sw", self.prefix), "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "nft refused:\n{rules}");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Err(e) = move_into_link_name_space(self.before.as_fd(), Some(LinkNameSpaceType::Network)) {
            eprintln!("cannot leave the test's network: {e}");
        }
        // The namespaces themselves are removed by the janitor, which does so in any case.
    }
}
