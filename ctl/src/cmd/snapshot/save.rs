//! `konsulctl snapshot save`: the bytes on disk are compared before they get their name.

use super::{Identity, Konsuld, PATIENCE, Recipients, age, consul, fields, report, shelf, verify};
use crate::{
    Context,
    client::{Ask, ClientError},
    exit::{Exit, Stopped, UsageError},
    file::WholeFile,
    path,
};
use anyhow::Context as _;
use konsul_api::archive::{ARCHIVE, ArchiveFacts, BackupKind};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Instant,
};

/// `konsulctl snapshot save`.
#[derive(Debug, clap::Args)]
pub(crate) struct Save {
    /// The file
    #[arg(required_unless_present = "to", conflicts_with = "to")]
    file: Option<PathBuf>,
    /// A directory to keep it in, under a name of its own: by cluster, epoch, index and time
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Take the answering node's own state, however old
    #[arg(long)]
    stale: bool,
    /// Restore it on trial before it gets its name
    #[arg(long)]
    verify: bool,
    /// Tell the cluster that it was saved, and verified; its metrics then tell when that was
    #[arg(long)]
    report: bool,
    /// Whose format
    #[arg(long, value_enum, default_value_t = SaveFormat::Konsul)]
    format: SaveFormat,
    #[command(flatten)]
    recipients: Recipients,
    #[command(flatten)]
    konsuld: Konsuld,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SaveFormat {
    /// An archive of the whole state, which can be restored on trial
    Konsul,
    /// Keys and values in the container that Consul's tools verify
    Consul,
}

/// What was saved.
#[derive(Debug, Serialize)]
struct Saved {
    file: PathBuf,
    /// It was restored on trial.
    verified: bool,
    /// Only `age` can read it.
    encrypted: bool,
    #[serde(flatten)]
    archive: ArchiveFacts,
}

impl Save {
    /// `konsulctl cluster snapshot save`.
    pub(crate) fn to_file(file: PathBuf, konsuld: Konsuld) -> Self {
        Self {
            file: Some(file),
            to: None,
            stale: false,
            verify: false,
            report: false,
            format: SaveFormat::Konsul,
            recipients: Recipients::default(),
            konsuld,
        }
    }
}

pub(crate) async fn run(save: Save, context: &Context) -> anyhow::Result<Exit> {
    match save.format {
        SaveFormat::Konsul => archive(&save, context).await,
        SaveFormat::Consul => match &save.file {
            Some(file) if !save.verify => consul::save(file, save.stale, context).await,
            Some(_) | None => {
                let text = "--format consul goes to a FILE, without --verify: its container names no digest";
                Err(UsageError(text.to_owned()).into())
            }
        },
    }
}

async fn archive(save: &Save, context: &Context) -> anyhow::Result<Exit> {
    let encrypted = !save.recipients.is_nobody();
    if encrypted && save.verify {
        let text = "what is encrypted on its way cannot be restored on trial here: save it, then `snapshot verify --identity FILE`";
        return Err(UsageError(text.to_owned()).into());
    }
    let ask = Ask::get(path::Path::new("/v1/cluster/archive").flag("stale", save.stale)).patient(PATIENCE);
    let mut answer = context.client.ask(&ask).await.map_err(leaderless)?;
    let told =
        answer.header(ARCHIVE).context("the answer names no archive; is that a Konsul server of this version?")?;
    let facts: ArchiveFacts = serde_json::from_str(told).context("the answer names an archive of an unknown form")?;
    let file = match (&save.to, &save.file) {
        (Some(dir), _) => shelf::place(dir, &facts, encrypted)?,
        (None, Some(file)) => file.clone(),
        (None, None) => return Err(UsageError("name a FILE, or a directory with --to".to_owned()).into()),
    };
    let bar = context.output.progress(Some(facts.bytes));
    let mut whole = WholeFile::create(&file)?;
    let (began, mut verified_ms) = (Instant::now(), None);
    let mut came = Came::default();
    let mut encrypting = if encrypted { Some(save.recipients.encrypt(whole.handle()?)?) } else { None };
    while let Some(chunk) = answer.chunk().await? {
        bar.inc(u64::try_from(chunk.len()).unwrap_or(0));
        came.take(&chunk);
        match &mut encrypting {
            Some(encrypting) => encrypting.write(&chunk)?,
            None => whole.write(&chunk)?,
        }
    }
    bar.finish_and_clear();
    match encrypting {
        Some(encrypting) => encrypting.finish()?,
        None => came = Came::on_disk(whole.flushed()?)?,
    }
    came.compare(&facts)?;
    if save.verify {
        let partial = age::readable(whole.flushed()?, &Identity::default())?;
        let proven = verify(&partial, None, &save.konsuld).context("the archive is no backup; nothing was saved")?;
        verified_ms = Some(proven.took_ms);
    }
    whole.finish()?;
    if save.report {
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        report::tell(BackupKind::Saved, &facts, took_ms, context).await?;
        if let Some(took_ms) = verified_ms {
            report::tell(BackupKind::Verified, &facts, took_ms, context).await?;
        }
    }
    let saved = Saved { file, verified: save.verify, encrypted, archive: facts };
    context.output.result(&saved, || {
        let proof = match (saved.verified, saved.encrypted) {
            (true, _) => "compared, and restored on trial",
            (false, true) => "compared, and encrypted",
            (false, false) => "compared",
        };
        format!("{}\nSaved as {}, {proof}", fields(&saved.archive), saved.file.display())
    })?;
    Ok(Exit::Done)
}

/// Without a leader there is a code of its own: a timer may then try `--stale`.
pub(super) fn leaderless(error: ClientError) -> anyhow::Error {
    if error.is_leaderless() {
        let text = format!("{error}; --stale saves what the answering node has");
        return Stopped::because(Exit::Leaderless, text);
    }
    error.into()
}

/// What came of an archive.
#[derive(Default)]
struct Came {
    hash: Sha256,
    bytes: u64,
}

impl Came {
    fn take(&mut self, chunk: &[u8]) {
        self.hash.update(chunk);
        self.bytes += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
    }

    /// Read back: what is compared is what is kept.
    fn on_disk(path: &Path) -> anyhow::Result<Self> {
        let read = || format!("read {}", path.display());
        let mut file = fs::File::open(path).with_context(read)?;
        let (mut came, mut chunk) = (Self::default(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut chunk) {
                Ok(0) => return Ok(came),
                Ok(n) => came.take(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(read),
            }
        }
    }

    /// It is what the server made.
    fn compare(self, facts: &ArchiveFacts) -> anyhow::Result<()> {
        let found: String = self.hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if self.bytes != facts.bytes || found != facts.sha256 {
            let text = format!(
                "{} bytes came with SHA-256 {found}, the server announced {} with {}; nothing was saved, try again",
                self.bytes, facts.bytes, facts.sha256
            );
            return Err(Stopped::because(Exit::Damaged, text));
        }
        Ok(())
    }
}
