//! `konsulctl doctor` finds what is wrong: each test plants a real fault and looks for it, by name.

use crate::support::ctl::konsulctl;
use crate::support::{Cluster, Options, mount, skip, wait_until};
use serde_json::Value;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Nobody answers there.
const NOBODY: &str = "http://127.0.0.1:1";

struct Report {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Report {
    fn of(output: &Output) -> Report {
        let text = String::from_utf8_lossy(&output.stdout);
        let report: Value = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        Report { code: output.status.code(), findings: report["findings"].as_array().unwrap().clone() }
    }

    /// The finding of this check that is so, and says that; with a remedy unless all is well.
    #[track_caller]
    fn has(&self, check: &str, verdict: &str, found: &str) {
        let is = |finding: &&Value| {
            let text = finding["found"].as_str().unwrap();
            finding["check"] == check && finding["verdict"] == verdict && text.contains(found)
        };
        let finding = self.findings.iter().find(is);
        let finding = finding.unwrap_or_else(|| panic!("no {verdict} of {check} with {found:?}: {:#?}", self.findings));
        assert_eq!(finding["remedy"].is_string(), verdict != "ok", "{finding}");
        if verdict == "problem" {
            assert_eq!(self.code, Some(1));
        }
    }
}

fn doctor(server: &str, config: &Path) -> Command {
    let mut command = Command::new(konsulctl());
    command.env("KONSUL_HTTP_ADDR", server).args(["doctor", "--json", "--config"]).arg(config);
    command
}

/// A host on which nothing runs, with this configuration.
fn examine(dir: &TempDir, config: &str) -> Report {
    let file = dir.path().join("konsul.toml");
    std::fs::write(&file, config).unwrap();
    Report::of(&doctor(NOBODY, &file).output().unwrap())
}

/// Data in `dir`, and ports that are free.
fn sound(dir: &TempDir) -> String {
    format!(
        "[node]\nname = \"n1\"\n[storage]\ndata_dir = \"{}\"\n[http]\nlisten = [\"127.0.0.1:{}\"]\n[peer]\nlisten = \"127.0.0.1:{}\"\n",
        dir.path().join("data").display(),
        free_port(),
        free_port()
    )
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn the_doctor_finds_a_configuration_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let report = examine(&dir, "[http]\nlisten_on = [\"127.0.0.1:8500\"]\n");
    report.has("configuration", "problem", "unknown key `http.listen_on`");
    report.has("configuration", "problem", "konsul.toml:2");
}

#[test]
fn the_doctor_is_content_before_the_installation_if_there_is_nothing_to_find() {
    let dir = tempfile::tempdir().unwrap();
    let report = examine(&dir, &sound(&dir));
    for check in ["configuration", "free space", "port", "names"] {
        report.has(check, "ok", "");
    }
    report.has("cluster", "unknown", "cannot reach");
}

#[test]
fn the_doctor_finds_data_that_would_not_survive_a_power_cut() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    examine(&dir, &sound(&dir)).has("file system", "problem", "tmpfs");
}

#[test]
fn the_doctor_finds_a_disk_with_less_room_than_the_reserve() {
    let dir = tempfile::tempdir().unwrap();
    let config = sound(&dir).replace("[storage]\n", "[storage]\nfree_reserve = \"1TiB\"\n");
    examine(&dir, &config).has("free space", "problem", "takes no writes");
}

#[test]
fn the_doctor_finds_a_port_that_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let config = format!("[http]\nlisten = [\"{address}\"]\n");
    let own = std::fs::read_to_string("/proc/self/comm").unwrap();
    examine(&dir, &config).has("port", "problem", &format!("{address} is taken by {}", own.trim()));
}

#[test]
fn the_doctor_finds_a_name_that_means_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = format!("{}[discovery]\nseeds = [\"nowhere.invalid:8300\"]\n", sound(&dir));
    examine(&dir, &config).has("names", "problem", "nowhere.invalid:8300 (discovery.seeds)");
}

#[test]
fn the_doctor_finds_a_certificate_that_ends_soon() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    for line in ["tls ca", "tls node --name n1 --days 2 --san 127.0.0.1"] {
        let made = Command::new(konsulctl()).args(line.split(' ')).arg("--dir").arg(&pki).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let file = |name: &str| pki.join(name).display().to_string();
    let (cert, key, ca) = (file("n1.pem"), file("n1-key.pem"), file("ca.pem"));
    let config = format!("{}[tls]\ncert_file = \"{cert}\"\nkey_file = \"{key}\"\nca_file = \"{ca}\"\n", sound(&dir));
    let report = examine(&dir, &config);
    report.has("certificate", "warning", "n1.pem holds for ");
    report.has("certificate", "ok", "ca.pem");
}

/// A group of processes that may write 5 times a second to this file system; gone with this value.
struct Throttle(PathBuf);

impl Throttle {
    fn on(dir: &Path) -> Throttle {
        let group = Path::new("/sys/fs/cgroup/blkio").join(format!("konsul-doctor-{}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        let throttle = Throttle(group);
        let device = Command::new("findmnt").args(["--noheadings", "--output", "MAJ:MIN"]).arg(dir).output().unwrap();
        let device = String::from_utf8(device.stdout).unwrap();
        std::fs::write(throttle.0.join("blkio.throttle.write_iops_device"), format!("{} 5", device.trim())).unwrap();
        throttle
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // The processes in it have ended; a group that is left is seen in the next run.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Unmounted with this value.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "{}", self.0.display());
    }
}

#[test]
fn the_doctor_finds_a_disk_on_which_a_flush_takes_long() {
    if let Some(why) = mount::missing() {
        return skip(&why);
    }
    if !Path::new("/sys/fs/cgroup/blkio").is_dir() {
        return skip("there is no cgroup v1 controller blkio to slow a disk down with");
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    mount::ext4(&data);
    let _mounted = Mounted(data.clone());
    let throttle = Throttle::on(&data);
    let file = dir.path().join("konsul.toml");
    std::fs::write(&file, sound(&dir)).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ >\"$1/cgroup.procs\"; shift; exec \"$@\"", "sh"]).arg(&throttle.0).arg(konsulctl());
    command.env("KONSUL_HTTP_ADDR", NOBODY).args(["doctor", "--json", "--config"]).arg(&file);
    Report::of(&command.output().unwrap()).has("flush", "problem", "a flush takes");
}

#[test]
fn the_doctor_finds_what_ails_a_cluster_that_runs() {
    // A machine may have less files to give than a production node has connections.
    let http = "connections_max = 500";
    let cluster = Cluster::with(Options { nodes: 3, http, ..Options::default() });
    let node = &cluster.nodes[cluster.leader()];
    let config = cluster.dir.join(format!("{}.toml", node.name));
    let server = format!("http://{}", node.http);
    let ask = || Report::of(&doctor(&server, &config).output().unwrap());
    let well = ask();
    assert_eq!(well.code, Some(0), "{:#?}", well.findings);
    for (check, found) in [("quorum", "3 voters, of which 1 may fail"), ("versions", "n1, n2, n3"), ("clocks", "")] {
        well.has(check, "ok", found);
    }
    // A process that a test starts is confined by nothing.
    well.has("sandbox", "warning", "it may use every system call");

    let pid =
        Command::new("pgrep").arg("--full").arg(format!("konsuld --config {}", config.display())).output().unwrap();
    let pid = String::from_utf8(pid.stdout).unwrap();
    let limited = Command::new("prlimit").args(["--nofile=1000:1000", "--pid", pid.trim()]).status().unwrap();
    assert!(limited.success());
    ask().has("open files", "problem", "may open 1000 files");

    // An upgrade put another program on the disk.
    let dir = tempfile::tempdir().unwrap();
    let upgraded = dir.path().join("konsulctl");
    std::fs::copy(konsulctl(), &upgraded).unwrap();
    let daemon = dir.path().join("konsuld");
    let real = env!("CARGO_BIN_EXE_konsuld");
    let script =
        format!("#!/bin/sh\n[ \"$1\" != --version ] || {{ echo konsuld 99.0.0; exit; }}\nexec {real} \"$@\"\n");
    std::fs::write(&daemon, script).unwrap();
    std::fs::set_permissions(&daemon, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&upgraded);
    command.env("KONSUL_HTTP_ADDR", &server).args(["doctor", "--json", "--config"]).arg(&config);
    Report::of(&command.output().unwrap()).has("versions", "warning", "but 99.0.0 is installed here");

    // An hour ahead of the nodes.
    let mut command = Command::new("faketime");
    command.args(["-f", "+1h"]).arg(konsulctl()).env("KONSUL_HTTP_ADDR", &server);
    command.args(["doctor", "--json", "--config"]).arg(&config);
    Report::of(&command.output().unwrap()).has("clocks", "problem", "differ by 3");

    cluster.nodes[cluster.followers()[0]].kill9();
    wait_until("the doctor finds that no further node may fail", || {
        let report = ask();
        let quorum = report.findings.iter().find(|finding| finding["check"] == "quorum").unwrap().clone();
        if quorum["verdict"] == "problem" { Ok(()) } else { Err(quorum.to_string()) }
    });
    ask().has("quorum", "problem", "the next failure stops the cluster");
}
