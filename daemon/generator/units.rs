//! Drop-ins for the units: a pure function of the configuration and the host.

use konsuld::config::Config;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Where StateDirectory= of the unit is.
const DATA_DIR: &str = "/var/lib/konsul";

/// What of the host matters.
#[derive(Debug)]
pub(crate) struct Host {
    /// The version of systemd.
    pub(crate) systemd: u32,
    /// Credentials that are there encrypted.
    pub(crate) encrypted: Vec<&'static str>,
}

/// Name below the directory of units, and text.
pub(crate) fn drop_ins(config: Result<&Config, &str>, host: &Host) -> Vec<(String, String)> {
    let of = |unit: &str, text: String| (format!("{unit}.d/50-konsul.conf"), format!("{}{text}", head(config)));
    let mut service = newer(host.systemd);
    for name in &host.encrypted {
        // The same name once: the encrypted one is meant.
        writeln!(service, "LoadCredentialEncrypted={name}").expect("a String takes everything");
    }
    let Ok(config) = config else { return vec![of("konsul.service", format!("[Service]\n{service}"))] };
    let dirs = [&config.storage.data_dir, &config.storage.state_dir];
    let elsewhere: Vec<&Path> =
        dirs.into_iter().map(PathBuf::as_path).filter(|dir| !dir.starts_with(DATA_DIR)).collect();
    for dir in &elsewhere {
        writeln!(service, "ReadWritePaths={}", quoted(dir)).expect("a String takes everything");
    }
    let mounts: String = elsewhere.iter().map(|dir| format!("RequiresMountsFor={}\n", quoted(dir))).collect();
    let mounts = if mounts.is_empty() { mounts } else { format!("[Unit]\n{mounts}") };
    vec![
        of("konsul.service", format!("{mounts}[Service]\n{service}")),
        of("konsul-http.socket", listen(&config.http.listen)),
        of("konsul-rpc.socket", listen(config.peer.listen.as_slice())),
    ]
}

fn head(config: Result<&Config, &str>) -> String {
    match config {
        Ok(_) => "# By konsul-generator, from the configuration of konsuld.\n".to_owned(),
        Err(why) => {
            let lines: String = why.lines().map(|line| format!("#   {line}\n")).collect();
            format!(
                "# By konsul-generator. The configuration is wrong, so the units are as they were shipped:\n{lines}"
            )
        }
    }
}

/// What newer versions can do in addition.
fn newer(systemd: u32) -> String {
    let mut text = String::new();
    if systemd >= 253 {
        // It sends the signal and waits until the daemon has reloaded, so the shipped command must go.
        text.push_str("Type=notify-reload\nExecReload=\n");
    }
    if systemd >= 254 {
        text.push_str("RestartSteps=6\nRestartMaxDelaySec=30s\n");
    }
    if systemd >= 257 {
        // Whoever connects to the admin socket is seen under the own number.
        text.push_str("PrivateUsers=identity\n");
    }
    text
}

/// An empty list: nobody is to connect.
fn listen(addresses: &[std::net::SocketAddr]) -> String {
    if addresses.is_empty() {
        // Never true: a node that is alone has no port for others, and a socket without an address would be an error.
        return "[Unit]\nConditionPathExists=!/\n".to_owned();
    }
    let lines: String = addresses.iter().map(|address| format!("ListenStream={address}\n")).collect();
    format!("[Socket]\nListenStream=\n{lines}")
}

/// `%` would be a specifier, and a space the end of the path.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use konsuld::config::{Args, Loaded};

    fn written(flags: &[&str], host: &Host) -> Vec<(String, String)> {
        let args = ["konsuld", "--node-name", "n1", "--config", "/dev/null"].into_iter().chain(flags.iter().copied());
        let loaded = Loaded::load(&Args::parse_from(args)).unwrap();
        drop_ins(Ok(loaded.config()), host)
    }

    fn plain() -> Host {
        Host { systemd: 252, encrypted: Vec::new() }
    }

    fn of<'w>(written: &'w [(String, String)], unit: &str) -> &'w str {
        &written.iter().find(|(name, _)| name == &format!("{unit}.d/50-konsul.conf")).unwrap().1
    }

    #[test]
    fn sockets_listen_where_the_configuration_says() {
        let flags = ["--http", "10.0.0.1:8500", "--http", "[::1]:8500", "--join-only", "--rpc", "10.0.0.1:8300"];
        let written = written(&flags, &plain());
        let http = "[Socket]\nListenStream=\nListenStream=10.0.0.1:8500\nListenStream=[::1]:8500\n";
        assert!(of(&written, "konsul-http.socket").ends_with(http), "{written:?}");
        let rpc = "[Socket]\nListenStream=\nListenStream=10.0.0.1:8300\n";
        assert!(of(&written, "konsul-rpc.socket").ends_with(rpc), "{written:?}");
    }

    #[test]
    fn a_node_that_is_alone_opens_no_port_for_others() {
        let written = written(&[], &plain());
        assert!(of(&written, "konsul-rpc.socket").contains("ConditionPathExists="), "{written:?}");
    }

    #[test]
    fn data_elsewhere_is_waited_for_and_may_be_written() {
        let flags = ["--data-dir", "/srv/a b%", "--set", "storage.state_dir=/run/konsuld/state"];
        let service = of(&written(&flags, &plain()), "konsul.service").to_owned();
        assert!(service.contains("RequiresMountsFor=\"/srv/a b%%\"\n"), "{service}");
        assert!(service.contains("ReadWritePaths=\"/srv/a b%%\"\n"), "{service}");
        assert!(service.contains("ReadWritePaths=\"/run/konsuld/state\"\n"), "{service}");
        let usual = of(&written(&[], &plain()), "konsul.service").to_owned();
        assert!(!usual.contains("ReadWritePaths") && !usual.contains("RequiresMountsFor"), "{usual}");
    }

    #[test]
    fn each_version_gets_what_it_knows() {
        let table = [(252, 0), (253, 2), (254, 4), (256, 4), (257, 5), (260, 5)];
        for (systemd, lines) in table {
            assert_eq!(newer(systemd).lines().count(), lines, "{systemd}");
        }
    }

    #[test]
    fn encrypted_credentials_are_named() {
        let host = Host { systemd: 252, encrypted: vec!["sealing-key"] };
        let written = written(&[], &host);
        assert!(of(&written, "konsul.service").contains("LoadCredentialEncrypted=sealing-key\n"), "{written:?}");
    }

    #[test]
    fn a_wrong_configuration_leaves_the_sockets_alone_and_is_told() {
        let written = drop_ins(Err("konsul.toml:3: unknown key\nkonsul.toml:4: another"), &plain());
        assert_eq!(written.len(), 1);
        let service = of(&written, "konsul.service");
        assert!(service.contains("#   konsul.toml:3: unknown key\n#   konsul.toml:4: another\n"), "{service}");
        assert!(service.lines().all(|line| line.starts_with(['#', '['])), "{service}");
    }
}
