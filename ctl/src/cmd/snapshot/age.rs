//! Encrypted archives: `age`'s format, by `age`'s own program, so that any host with it can read them without us.
//!
//! Encrypting needs public recipients only. What is decrypted is never under a name: a file that was unlinked before the
//! first byte came, and that nobody acts on before `age` says that all of it was right.

use crate::{
    exit::{Exit, Stopped},
    file::Scratch,
};
use anyhow::Context as _;
use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const PROGRAM: &str = "age";
/// How everything that `age` encrypted begins.
const HEAD: &[u8] = b"age-encryption.org/";
/// Behind the name of the archive.
pub(super) const SUFFIX: &str = ".age";

/// Who can read what is saved.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Recipients {
    /// Encrypt to this recipient of `age` (age1…); may be repeated
    #[arg(long = "recipient", value_name = "RECIPIENT")]
    recipients: Vec<String>,
    /// Encrypt to the recipients in this file; may be repeated
    #[arg(long = "recipients-file", value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Who can read what was saved.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Identity {
    /// The identity file of `age` that decrypts it
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

fn spawn(command: &mut Command) -> anyhow::Result<Child> {
    command.spawn().map_err(|error| {
        let text = format!(
            "run {PROGRAM}: {error}; encryption needs it, as `apt-get install age` or `dnf install age` brings it"
        );
        Stopped::because(Exit::Precondition, text)
    })
}

/// What `age` said, and how it ended.
fn ended(mut child: Child) -> anyhow::Result<(bool, String)> {
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut said).context("read what age says")?;
    }
    let status = child.wait().context("wait for age")?;
    let first = said.lines().next().unwrap_or_default().trim_start_matches("age: ").to_owned();
    Ok((status.success(), first))
}

impl Recipients {
    pub(super) fn is_nobody(&self) -> bool {
        self.recipients.is_empty() && self.files.is_empty()
    }

    /// Encrypts what is written into this file.
    pub(super) fn encrypt(&self, to: fs::File) -> anyhow::Result<Encrypting> {
        let option = |name: &str, value: &Path| [OsString::from(name), value.as_os_str().to_owned()];
        let mut command = Command::new(PROGRAM);
        command.args(self.recipients.iter().flat_map(|recipient| option("--recipient", Path::new(recipient))));
        command.args(self.files.iter().flat_map(|file| option("--recipients-file", file)));
        command.stdin(Stdio::piped()).stdout(to).stderr(Stdio::piped());
        Ok(Encrypting { child: spawn(&mut command)? })
    }
}

/// `age` at work.
pub(super) struct Encrypting {
    child: Child,
}

impl Encrypting {
    pub(super) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let stdin = self.child.stdin.as_mut().context("age takes no more")?;
        match stdin.write_all(bytes) {
            Ok(()) => Ok(()),
            // It has ended, and `finish` tells why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(error).context("write to age"),
        }
    }

    /// Everything was written and is encrypted.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        match ended(self.child)? {
            (true, _) => Ok(()),
            (false, said) => {
                Err(Stopped::because(Exit::Failed, format!("age could not encrypt: {said}; nothing was saved")))
            }
        }
    }
}

/// An archive that can be read: a file, or what was fetched or decrypted and has no name.
#[derive(Debug)]
pub(super) struct Readable {
    /// What people call it.
    name: String,
    place: Place,
}

#[derive(Debug)]
enum Place {
    File(PathBuf),
    Scratch(Scratch),
}

impl Readable {
    pub(super) fn file(path: &Path) -> Self {
        Self { name: path.display().to_string(), place: Place::File(path.to_owned()) }
    }

    /// What came from `name`.
    #[cfg(feature = "object-store")]
    pub(super) fn scratch(name: String, scratch: Scratch) -> Self {
        Self { name, place: Place::Scratch(scratch) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where this process reads it.
    pub(super) fn path(&self) -> PathBuf {
        match &self.place {
            Place::File(path) => path.clone(),
            Place::Scratch(scratch) => scratch.path(),
        }
    }

    /// For a program that is started: its path there, and its standard input.
    pub(super) fn for_child(&self) -> anyhow::Result<(PathBuf, Stdio)> {
        Ok(match &self.place {
            Place::File(path) => (path.clone(), Stdio::null()),
            Place::Scratch(scratch) => ("/dev/stdin".into(), scratch.handle()?.into()),
        })
    }

    /// The archive as it is, or decrypted.
    pub(super) fn decrypted(self, identity: &Identity) -> anyhow::Result<Self> {
        let read = || format!("read {}", self.name);
        let mut head = Vec::new();
        let file = fs::File::open(self.path()).with_context(read)?;
        file.take(HEAD.len().try_into().unwrap_or(0)).read_to_end(&mut head).with_context(read)?;
        if head != HEAD {
            return Ok(self);
        }
        let Some(identity) = &identity.identity else {
            let text = format!(
                "{} is encrypted: name the file with the identity that decrypts it, --identity FILE",
                self.name
            );
            return Err(Stopped::because(Exit::Precondition, text));
        };
        let plain = Scratch::create()?;
        let mut command = Command::new(PROGRAM);
        command.arg("--decrypt").arg("--identity").arg(identity);
        command.stdin(fs::File::open(self.path()).with_context(read)?).stdout(plain.handle()?).stderr(Stdio::piped());
        match ended(spawn(&mut command)?)? {
            (true, _) => Ok(Self { name: self.name, place: Place::Scratch(plain) }),
            (false, said) => {
                let text = format!("{} cannot be decrypted: {said}; it is damaged, or for another identity", self.name);
                Err(Stopped::because(Exit::Damaged, text))
            }
        }
    }
}
