//! Writes the manual pages of the daemon and of its configuration file: `cargo run --example manual DIRECTORY`.

#![allow(clippy::disallowed_methods, reason = "what it writes is built anew each time")]

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_mangen::{
    Man,
    roff::{Roff, bold, italic, roman},
};
use konsuld::config::{Args, Entry, Section, reference};
use std::path::{Path, PathBuf};

fn main() -> anyhow::Result<()> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from).context("usage: manual DIRECTORY")?;
    write(&dir, "konsuld.8", &daemon()?)?;
    write(&dir, "konsul.toml.5", configuration().to_roff().as_bytes())
}

fn write(dir: &Path, name: &str, page: &[u8]) -> anyhow::Result<()> {
    let path = dir.join(name);
    std::fs::write(&path, page).with_context(|| format!("write {}", path.display()))
}

fn daemon() -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(Args::command()).section("8").manual("Konsul").render(&mut page).context("make konsuld.8")?;
    let mut more = Roff::new();
    more.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in [
        ("0", "asked to stop"),
        ("1", "failed; starting again may help"),
        ("2", "the configuration is wrong"),
        ("3", "the node was removed from its cluster"),
        ("5", "the log or the state holds what only a newer version understands: install it"),
        ("130", "stopped by a second signal"),
    ] {
        more.control("TP", []).text([bold(code)]).text([roman(meaning)]);
    }
    more.control("SH", ["FILES"]);
    for (file, meaning) in
        [("/etc/konsul/konsul.toml", "the configuration, see konsul.toml(5)"), ("/var/lib/konsul", "the data")]
    {
        more.control("TP", []).text([italic(file)]).text([roman(meaning)]);
    }
    more.control("SH", ["SEE ALSO"]).text([roman("konsul.toml(5), konsul.service(8), konsulctl(1)")]);
    more.to_writer(&mut page).context("make konsuld.8")?;
    Ok(page)
}

fn configuration() -> Roff {
    let mut page = Roff::new();
    let version = concat!("konsuld ", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["konsul.toml", "5", "", version, "Konsul"]);
    page.control("SH", ["NAME"]).text([roman("konsul.toml - configuration of konsuld")]);
    page.control("SH", ["SYNOPSIS"]).text([italic("/etc/konsul/konsul.toml")]);
    page.control("SH", ["DESCRIPTION"]).text([roman(
        "A TOML file. Each key is also an environment variable, and a flag of konsuld, --set section.key=value: flags win \
         over the environment, the environment wins over the file, the file over the defaults. A key that does not exist \
         is refused, and so is a value that makes no sense; konsuld --check-config names every mistake with its line.",
    )]);
    reference().iter().for_each(|section| describe(&mut page, section));
    page.control("SH", ["SEE ALSO"]).text([roman("konsuld(8), konsul.service(8), konsulctl(1)")]);
    page
}

fn describe(page: &mut Roff, section: &Section) {
    page.control("SH", [format!("[{}]", section.name).as_str()]).text([roman(section.about)]);
    for key in &section.keys {
        describe_key(page, key);
    }
}

fn describe_key(page: &mut Roff, key: &Entry) {
    page.control("TP", []).text([bold(key.name)]).text([roman(key.text.as_str())]);
    let written = match (key.default, key.example) {
        (Some(default), _) => format!("Default: {default}"),
        (None, Some(example)) => format!("Example: {example}"),
        (None, None) => "No default".to_owned(),
    };
    page.control("IP", []).text([roman(format!("{written}; {}. ${}", key.expected, key.variable))]);
}
