//! What README.md tells a new user, typed as it stands there: on hosts with names, addresses and files of their own,
//! between which nothing goes but the network and the token.

use crate::support::host::Host;
use crate::support::janitor::Janitor;
use crate::support::net::{self, Net};
use crate::support::wait::so;
use crate::support::{skip, wait_until};
use konsul_api::cluster::{ClusterStatus, Member, Role};
use std::fs;
use std::path::Path;

const README: &str = include_str!("../../../README.md");

/// Lines of the console blocks of a part of README.md: the host each is typed on, and the line.
fn commands(part: &str) -> Vec<(usize, String)> {
    let start = README.find(&format!("# {part}\n")).unwrap_or_else(|| panic!("README.md has no part {part:?}"));
    let text = &README[start..];
    let end = ["\n## ", "\n### "].iter().filter_map(|next| text.find(next)).min().unwrap_or(text.len());
    let typed = text[..end].lines().filter_map(|line| {
        let (host, line) = line.strip_prefix('n')?.split_once("$ ")?;
        Some((host.parse().ok()?, line.trim().to_owned()))
    });
    typed.collect()
}

fn status(host: &mut Host) -> Result<ClusterStatus, String> {
    let (code, shown) = host.types("konsulctl cluster status --json");
    so(code == 0, &shown)?;
    serde_json::from_str(&shown).map_err(|e| format!("{e} in {shown}"))
}

/// Every host sees this many voters, one of them the leader, encrypted with all others.
fn wait_for_voters(hosts: &mut [Host], wanted: usize) {
    for host in hosts {
        wait_until(&format!("{} sees {wanted} voters", host.name), || {
            let status = status(host)?;
            let voters = status.members.iter().filter(|member| member.voter).count();
            so(voters == wanted && status.members.len() == wanted, format!("{:?}", status.members))?;
            so(status.has_quorum && status.leader.is_some(), "no leader")?;
            let own = |member: &Member| member.name == status.node.name;
            let open: Vec<&str> = status
                .members
                .iter()
                .filter(|member| !own(member) && member.encryption.as_deref() != Some("TLS 1.3"))
                .map(|member| member.name.as_str())
                .collect();
            so(status.node.role != Role::Leader || open.is_empty(), format!("no TLS with {open:?}"))?;
            // Of the voters that were heard of lately.
            let tolerance = u32::try_from((wanted - 1) / 2).unwrap();
            so(status.failure_tolerance == tolerance, format!("{} may fail", status.failure_tolerance))
        });
        let table = host.done("konsulctl cluster status");
        for n in 1..=wanted {
            let row =
                table.lines().find(|line| line.starts_with(&format!("n{n} "))).unwrap_or_else(|| panic!("{table}"));
            assert!(row.contains(&format!("10.77.0.{n}:8300")) && row.contains(" yes "), "{table}");
        }
        assert!(table.contains(&format!("{} of {wanted} voters", wanted / 2 + 1)), "{table}");
    }
}

/// Types it; a daemon that was started is waited for, as people do, and `TOKEN` stands for the one that was shown last.
fn types(hosts: &mut [Host], number: usize, line: &str, token: &mut String) {
    let host = &mut hosts[number - 1];
    let shown = host.done(&line.replace("TOKEN", token));
    println!("{}$ {line}\n{shown}", host.name);
    if let Some(made) = shown.lines().find(|line| line.starts_with("konsul-join-v1.")) {
        made.clone_into(token);
    }
    if line.ends_with('&') {
        wait_until(&format!("{} answers", host.name), || {
            let (code, shown) = host.types("konsulctl health --live");
            so(code == 0, shown)
        });
    }
}

/// As the leader sees it: its id, and how long it has been silent.
fn member(hosts: &mut [Host], name: &str) -> Result<(u64, u64), String> {
    for host in hosts {
        let status = status(host)?;
        let member = status.members.into_iter().find(|member| member.name == name);
        if let Some(Member { id, last_contact_ms: Some(silent_ms), .. }) = member {
            return Ok((id, silent_ms));
        }
    }
    Err(format!("no leader that knows of {name}"))
}

/// Its disk is new; what the README says then.
fn lose_the_data_of_the_third(hosts: &mut [Host], start: &str, token: &mut String) {
    let (before, _) = wait_until("the leader hears n3", || member(&mut hosts[..2], "n3"));
    hosts[2].types("kill -9 $! && wait $!");
    hosts[2].done("rm -rf /var/lib/konsul");
    types(hosts, 3, start, token);
    // Nobody types so fast that its former self still seems to be alive.
    wait_until("the others miss n3", || {
        let (_, silent_ms) = member(&mut hosts[..2], "n3")?;
        so(silent_ms > 2_000, format!("heard {silent_ms} ms ago"))
    });
    let typed = commands("A host that lost its data");
    assert!(typed.iter().any(|(number, line)| *number == 3 && line.contains("cluster join")), "{typed:?}");
    for (number, line) in &typed {
        types(hosts, *number, line, token);
    }
    wait_for_voters(&mut hosts[..3], 3);
    let (after, _) = wait_until("the leader hears n3 again", || member(&mut hosts[..2], "n3"));
    assert!(after > before, "n3 was node {before}, and is node {after}");
    assert_eq!(hosts[2].done("konsulctl kv get app/color"), "blue");
}

#[test]
fn three_commands_of_the_readme_make_a_cluster_of_three_hosts_and_the_same_again_one_of_five() {
    if let Some(why) = net::missing() {
        return skip(&why);
    }
    // Far from the numbers of the other networks of this process.
    const SERIAL: u32 = 1_000;
    let dir = tempfile::Builder::new().prefix("konsul-").tempdir().unwrap().keep();
    let _janitor = Janitor::start(&dir, &net::prefix(SERIAL));
    let net = Net::create(SERIAL, 5);
    let mut hosts: Vec<Host> = (1..=5).map(|number| Host::start(&net, number, &dir)).collect();
    let mut token = String::new();
    let typed = commands("Your first cluster");
    let asked = typed.iter().filter(|(_, line)| line.starts_with("konsulctl cluster")).count();
    assert_eq!(asked, 5, "init, token, join, join, and a look: {typed:?}");
    for (number, line) in &typed {
        types(&mut hosts, *number, line, &mut token);
    }
    wait_for_voters(&mut hosts[..3], 3);
    let start =
        typed.iter().find(|(_, line)| line.starts_with("konsuld ")).expect("README.md starts konsuld").1.clone();
    lose_the_data_of_the_third(&mut hosts, &start, &mut token);

    // Two more, by the same words.
    types(&mut hosts, 1, "konsulctl cluster generate-token --uses 2", &mut token);
    for number in [4, 5] {
        types(&mut hosts, number, &start, &mut token);
        types(&mut hosts, number, "konsulctl cluster join TOKEN", &mut token);
    }
    wait_for_voters(&mut hosts, 5);
    // Each is who the cluster says it is, and no host holds the key of another.
    assert_own_keys(&dir);
    for host in &mut hosts {
        // SIGTERM, as systemd sends it: it ends well.
        host.done("kill $! && wait $!");
    }
}

fn assert_own_keys(dir: &Path) {
    let keys: Vec<Vec<u8>> = (1..=5)
        .map(|number| {
            let file = dir.join(format!("n{number}/konsul/tls/node.key"));
            fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
        })
        .collect();
    for (at, key) in keys.iter().enumerate() {
        assert!(!key.is_empty() && !keys[..at].contains(key), "two hosts have the same key");
    }
}
