//! `konsulctl snapshot save`: the bytes on disk are compared before they get their name.

use super::{Konsuld, PATIENCE, Place, Recipients, age::Readable, consul, fields, report, shelf, turn, verify};
use crate::{
    Context,
    client::{Answer, Ask, ClientError},
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
    /// Where to keep it under a name of its own, by cluster, epoch, index and time: a directory
    #[cfg_attr(feature = "object-store", doc = "or `s3://bucket/prefix`")]
    #[arg(long, value_name = "WHERE")]
    to: Option<Place>,
    /// For a timer on every node: only if the node that is asked leads
    #[arg(long)]
    scheduled: bool,
    /// Take the answering node's own state, however old
    #[arg(long)]
    stale: bool,
    /// Restore it on trial before it gets its name
    #[arg(long)]
    verify: bool,
    /// Tell the cluster that it was saved, and verified, or the node that it failed; metrics then tell when that was, and
    /// how often
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
    file: String,
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
            scheduled: false,
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
        SaveFormat::Konsul => {
            let done = archive(&save, context).await;
            if done.is_err() && save.report {
                report::tell_failure(BackupKind::Saved, context).await;
            }
            done
        }
        SaveFormat::Consul => match &save.file {
            Some(file) if !save.verify && !save.scheduled => consul::save(file, save.stale, context).await,
            Some(_) | None => {
                let text =
                    "--format consul goes to a FILE, without --verify and --scheduled: its container names no digest";
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
    if save.scheduled
        && let Some(why) = turn::leaders(context).await?
    {
        return turn::skipped(&why, context);
    }
    let began = Instant::now();
    let ask = Ask::get(path::Path::new("/v1/cluster/archive").flag("stale", save.stale)).patient(PATIENCE);
    let answer = context.client.ask(&ask).await.map_err(leaderless)?;
    let told =
        answer.header(ARCHIVE).context("the answer names no archive; is that a Konsul server of this version?")?;
    let facts: ArchiveFacts = serde_json::from_str(told).context("the answer names an archive of an unknown form")?;
    let mut sink = Sink::open(save, &facts, encrypted)?;
    receive(answer, &mut sink, &save.recipients, &facts, context).await?;
    let mut verified_ms = None;
    if save.verify {
        let proven = verify::on_trial(&sink.readable()?, None, &save.konsuld);
        verified_ms = Some(proven.context("the archive is no backup; nothing was saved")?.took_ms);
    }
    let file = sink.finish(context).await?;
    if save.report {
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        report::tell(BackupKind::Saved, &facts, took_ms, context).await?;
        if let Some(took_ms) = verified_ms {
            report::tell(BackupKind::Verified, &facts, took_ms, context).await?;
        }
    }
    show(&Saved { file, verified: save.verify, encrypted, archive: facts }, context)
}

fn show(saved: &Saved, context: &Context) -> anyhow::Result<Exit> {
    context.output.result(saved, || {
        let proof = match (saved.verified, saved.encrypted) {
            (true, _) => "compared, and restored on trial",
            (false, true) => "compared, and encrypted",
            (false, false) => "compared",
        };
        format!("{}\nSaved as {}, {proof}", fields(&saved.archive), saved.file)
    })?;
    Ok(Exit::Done)
}

/// Where an archive is until all of it is known to be right.
enum Sink {
    /// Beside its place.
    File { file: WholeFile, path: PathBuf },
    /// On this host, for a bucket.
    #[cfg(feature = "object-store")]
    Scratch { scratch: crate::file::Scratch, bucket: super::bucket::Bucket, place: Place, name: String },
}

impl Sink {
    fn open(save: &Save, facts: &ArchiveFacts, encrypted: bool) -> anyhow::Result<Self> {
        let path = match (&save.to, &save.file) {
            (Some(Place::Path(dir)), _) => shelf::file(dir, &shelf::name(facts, encrypted)?)?,
            #[cfg(feature = "object-store")]
            (Some(place @ Place::Bucket(address)), _) => {
                let (scratch, bucket) = (crate::file::Scratch::create()?, super::bucket::Bucket::open(address)?);
                let name = shelf::name(facts, encrypted)?;
                return Ok(Self::Scratch { scratch, bucket, place: place.clone(), name });
            }
            (None, Some(file)) => file.clone(),
            (None, None) => return Err(UsageError("name a FILE, or where to keep it with --to".to_owned()).into()),
        };
        Ok(Self::File { file: WholeFile::create(&path)?, path })
    }

    /// Where somebody else writes the bytes.
    fn handle(&self) -> anyhow::Result<fs::File> {
        match self {
            Self::File { file, .. } => file.handle(),
            #[cfg(feature = "object-store")]
            Self::Scratch { scratch, .. } => scratch.handle(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::File { file, .. } => file.write(bytes),
            #[cfg(feature = "object-store")]
            Self::Scratch { scratch, .. } => scratch.write(bytes),
        }
    }

    /// What has come so far.
    fn readable(&mut self) -> anyhow::Result<Readable> {
        match self {
            Self::File { file, .. } => Ok(Readable::file(file.flushed()?)),
            #[cfg(feature = "object-store")]
            Self::Scratch { scratch, name, .. } => Ok(Readable::scratch(name.clone(), scratch.again()?)),
        }
    }

    /// Gives it its name, which is told.
    #[cfg_attr(not(feature = "object-store"), expect(unused_variables, reason = "only what goes elsewhere takes time"))]
    async fn finish(self, context: &Context) -> anyhow::Result<String> {
        match self {
            Self::File { file, path } => {
                file.finish()?;
                Ok(path.display().to_string())
            }
            #[cfg(feature = "object-store")]
            Self::Scratch { scratch, bucket, place, name } => {
                bucket.put(&name, &scratch.path(), context).await?;
                Ok(place.below(&name))
            }
        }
    }
}

/// Takes all of it, and compares it with what was announced: as it is on disk or, if it is encrypted on its way, as it came.
async fn receive(
    mut answer: Answer<'_>,
    sink: &mut Sink,
    recipients: &Recipients,
    facts: &ArchiveFacts,
    context: &Context,
) -> anyhow::Result<()> {
    let bar = context.output.progress(Some(facts.bytes));
    let mut came = Came::default();
    let mut encrypting = if recipients.is_nobody() { None } else { Some(recipients.encrypt(sink.handle()?)?) };
    while let Some(chunk) = answer.chunk().await? {
        bar.inc(u64::try_from(chunk.len()).unwrap_or(0));
        came.take(&chunk);
        match &mut encrypting {
            Some(encrypting) => encrypting.write(&chunk)?,
            None => sink.write(&chunk)?,
        }
    }
    bar.finish_and_clear();
    match encrypting {
        Some(encrypting) => encrypting.finish()?,
        None => came = Came::on_disk(&sink.readable()?.path())?,
    }
    came.compare(facts)
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
