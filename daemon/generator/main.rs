//! konsul-generator: what the units of systemd take from Konsul's configuration.
//!
//! systemd runs it at boot and at each `daemon-reload`, with the directory for units that are made anew each time. It
//! never fails: with a configuration that is wrong the units stay as they were shipped, and `systemctl cat konsul` tells
//! why. Knows nothing about: what a key means.

mod units;

use clap::Parser as _;
use konsuld::config::{Args, Loaded};
use konsuld::telemetry::chain;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use units::Host;

/// Of the version of systemd that the shipped units are written for.
const OLDEST: u32 = 252;

fn main() -> ExitCode {
    // systemd passes three directories, of which the first is for ordinary units.
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: konsul-generator DIRECTORY [DIRECTORY DIRECTORY]\nsystemd runs this; see konsul.service(8)");
        return ExitCode::from(2);
    };
    let host = Host {
        systemd: systemd_version().unwrap_or(OLDEST),
        encrypted: encrypted_credentials(Path::new("/etc/credstore.encrypted")),
    };
    let loaded = Loaded::load(&Args::parse_from(["konsuld"])).map_err(|error| chain(&error));
    let config = loaded.as_ref().map(Loaded::config).map_err(String::as_str);
    for (name, text) in units::drop_ins(config, &host) {
        if let Err(error) = write(&dir.join(&name), &text) {
            // A boot goes on without it.
            eprintln!("konsul-generator: write {name}: {error}");
        }
    }
    ExitCode::SUCCESS
}

#[expect(clippy::disallowed_methods, reason = "on tmpfs, made anew at each boot, and read when this has ended")]
fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, text)
}

/// `systemd 252 (252.39-1~deb12u1)`
fn systemd_version() -> Option<u32> {
    let said = Command::new("systemctl").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    text.split_whitespace().nth(1)?.parse().ok()
}

fn encrypted_credentials(store: &Path) -> Vec<&'static str> {
    ["join-token", "sealing-key"].into_iter().filter(|name| store.join(name).exists()).collect()
}
