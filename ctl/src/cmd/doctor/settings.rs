//! What the daemon's configuration says: asked of the daemon itself, which alone knows its keys.

use super::finding::{Finding, ok, problem};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use toml::{Table, Value};

const CHECK: &str = "configuration";

/// What of the configuration the doctor looks at.
#[derive(Debug)]
pub(super) struct Settings {
    table: Table,
}

/// The daemon beside this program, else the one in `$PATH`.
pub(super) fn daemon() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("konsuld"));
    beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("konsuld"))
}

/// What `konsuld --version` says of itself.
pub(super) fn installed_version() -> Option<String> {
    let said = Command::new(daemon()).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&said.stdout).split_whitespace().nth(1)?.to_owned())
}

impl Settings {
    /// Without a valid configuration, what a configuration that says nothing would give.
    pub(super) fn ask(config: Option<&Path>) -> (Settings, Finding) {
        let nothing = Settings { table: Table::new() };
        let mut command = Command::new(daemon());
        command.arg("--print-config");
        if let Some(path) = config {
            command.arg("--config").arg(path);
        }
        let said = match command.output() {
            Ok(said) => said,
            Err(error) => {
                let found = format!("cannot run {}: {error}; its defaults are taken below", daemon().display());
                return (nothing, problem(CHECK, found, "install konsuld beside konsulctl, or put it into $PATH"));
            }
        };
        if !said.status.success() {
            let text = String::from_utf8_lossy(&said.stderr).trim().to_owned();
            let remedy = "correct that; `konsuld --check-config` tells when it is right, konsul.toml(5) has every key";
            return (nothing, problem(CHECK, text, remedy));
        }
        match String::from_utf8_lossy(&said.stdout).parse::<Table>() {
            Ok(table) => (Settings { table }, ok(CHECK, "valid")),
            Err(error) => {
                let found = format!("{} answers --print-config with something else: {error}", daemon().display());
                (nothing, problem(CHECK, found, "install konsuld and konsulctl of the same version"))
            }
        }
    }

    fn get(&self, section: &str, key: &str) -> Option<&Value> {
        self.table.get(section)?.get(key)
    }

    fn text(&self, section: &str, key: &str) -> Option<&str> {
        self.get(section, key)?.as_str()
    }

    fn texts(&self, section: &str, key: &str) -> Vec<&str> {
        let list = self.get(section, key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn number(&self, section: &str, key: &str) -> Option<u64> {
        self.get(section, key)?.as_integer()?.try_into().ok()
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        PathBuf::from(self.text("storage", "data_dir").unwrap_or("/var/lib/konsul"))
    }

    pub(super) fn free_reserve_bytes(&self) -> u64 {
        self.number("storage", "free_reserve").unwrap_or(256 << 20)
    }

    pub(super) fn connections_max(&self) -> u64 {
        self.number("http", "connections_max").unwrap_or(20_000)
    }

    /// Where it listens: for clients, and for other nodes.
    pub(super) fn listens(&self) -> Vec<(&'static str, SocketAddr)> {
        let http = self.texts("http", "listen");
        let http = if http.is_empty() { vec!["127.0.0.1:8500"] } else { http };
        let rpc = self.text("peer", "listen").unwrap_or("0.0.0.0:8300");
        let all = http.into_iter().map(|address| ("http.listen", address)).chain([("peer.listen", rpc)]);
        all.filter_map(|(key, address)| Some((key, address.parse().ok()?))).collect()
    }

    /// Names and addresses that it connects to, or tells others: key and `host:port`.
    pub(super) fn names(&self) -> Vec<(&'static str, String)> {
        let advertised = self.text("peer", "advertise").map(|name| ("peer.advertise", name.to_owned()));
        let seeds = self.texts("discovery", "seeds").into_iter().map(|seed| ("discovery.seeds", seed.to_owned()));
        // ID=NAME@HOST:PORT
        let peers = self.texts("cluster", "peers").into_iter();
        let peers = peers.filter_map(|peer| Some(("cluster.peers", peer.split_once('@')?.1.to_owned())));
        advertised.into_iter().chain(seeds).chain(peers).collect()
    }

    /// Of certificates of the cluster's own authority; written as `259200000ms`.
    pub(super) fn certificate_life(&self) -> Duration {
        let ms = self.text("cluster", "certificate_life").and_then(|text| text.strip_suffix("ms")?.parse().ok());
        ms.map_or(Duration::ZERO, Duration::from_millis)
    }

    /// Certificates that people bring: key and file.
    pub(super) fn certificates(&self) -> Vec<(&'static str, PathBuf)> {
        let files = [("tls.cert_file", "cert_file"), ("tls.ca_file", "ca_file")];
        files.into_iter().filter_map(|(key, name)| Some((key, self.text("tls", name)?.into()))).collect()
    }
}
