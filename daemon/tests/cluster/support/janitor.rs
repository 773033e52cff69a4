//! Leaves nothing behind, even if the test process is killed: a shell in a session of its own that waits until our end of
//! a pipe is closed, and then ends and removes whatever still carries the cluster's name.

use std::path::Path;
use std::process::{Child, Command, Stdio};

const SCRIPT: &str = r#"
cat >/dev/null
for cmdline in /proc/[0-9]*/cmdline; do
  if grep -qF "$DIR" "$cmdline" 2>/dev/null; then
    pid=${cmdline#/proc/}
    kill -KILL "${pid%/cmdline}" 2>/dev/null
  fi
done
for mount in $(awk -v dir="$DIR/" 'index($2, dir) == 1 { print $2 }' /proc/mounts); do umount -l "$mount"; done
if [ -n "$NETNS" ]; then
  for name in /run/netns/"$NETNS"*; do [ ! -e "$name" ] || ip netns del "${name##*/}"; done
fi
rm -rf "$DIR"
"#;

pub(crate) struct Janitor {
    shell: Child,
}

impl Janitor {
    /// Everything below `dir`, processes that name it, mounts there, and network namespaces that begin with `netns`.
    pub(crate) fn start(dir: &Path, netns: &str) -> Janitor {
        let shell = Command::new("setsid")
            .args(["sh", "-c", SCRIPT])
            .env("DIR", dir)
            .env("NETNS", netns)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("setsid and sh are there");
        Janitor { shell }
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        if let Err(e) = self.shell.wait() {
            eprintln!("the janitor was lost: {e}");
        }
    }
}
