//! A host of its own for a test: name, network, processes, `/run` and `/var/lib` are not those of the machine, and what is typed
//! there runs in a shell that stays logged in.

use super::ctl::konsulctl as program;
use super::net::Net;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

/// No command that is typed takes longer.
const PATIENCE: Duration = Duration::from_secs(90);
/// Tells the end of a command from what it prints.
const END: &str = "== ended with";

pub(crate) struct Host {
    pub(crate) name: String,
    shell: Child,
    keyboard: ChildStdin,
    screen: Receiver<String>,
}

impl Host {
    /// The host of the network's `number`th node; its files are below `dir`. It ends, with every process on it, when it is
    /// dropped or the test ends.
    pub(crate) fn start(net: &Net, number: usize, dir: &Path) -> Host {
        let name = format!("n{number}");
        let lib = dir.join(&name);
        fs::create_dir_all(&lib).unwrap();
        let login = format!(
            "hostname {name} && mount --bind {} /var/lib && mount -t tmpfs tmpfs /run && cd /var/lib && exec sh 2>&1",
            lib.display()
        );
        let programs = program().parent().unwrap().display().to_string();
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
        // The shell is the first process of its namespace: with it everything that was started there ends.
        let mut shell = Command::new("ip")
            .args(["netns", "exec", &net.netns(number)])
            .args(["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", &login])
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (keyboard, output) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        let (lines, screen) = mpsc::channel();
        // Ends with the shell.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        let mut host = Host { name, shell, keyboard, screen };
        assert_eq!(host.done("hostname"), host.name);
        host
    }

    /// Types a line: how it ended, and what was shown, errors included.
    pub(crate) fn types(&mut self, line: &str) -> (i32, String) {
        writeln!(self.keyboard, "{line}\necho '{END}' $?").unwrap();
        let mut shown = Vec::new();
        loop {
            let Ok(line) = self.screen.recv_timeout(PATIENCE) else {
                panic!("{}: no end of `{line}`; until now: {shown:#?}", self.name)
            };
            match line.strip_prefix(END) {
                Some(code) => return (code.trim().parse().unwrap(), shown.join("\n")),
                None => shown.push(line),
            }
        }
    }

    /// The same of a line that has to end well.
    #[track_caller]
    pub(crate) fn done(&mut self, line: &str) -> String {
        let (code, shown) = self.types(line);
        assert_eq!(code, 0, "{}$ {line}\n{shown}", self.name);
        shown
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing left to end.
        drop(self.shell.kill());
        drop(self.shell.wait());
    }
}
