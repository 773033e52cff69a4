//! `konsulctl kv export`: every entry on a line, written as it arrives.

use super::{
    Consistency,
    entries::{Entry, Objects},
    found,
};
use crate::{Context, exit::Exit, file::WholeFile, output::Output, path::Path};
use anyhow::Context as _;
use indicatif::ProgressBar;
use std::path::PathBuf;

/// How many bytes are gathered before they go to stdout.
const FLUSH_BYTES: usize = 64 * 1024;

/// `konsulctl kv export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Writes one line an entry: {\"key\":…,\"value\":base64,\"flags\":…}.\n\n\
    Examples:\n  konsulctl kv export > all.ndjson\n  konsulctl kv export app/ --output app.ndjson")]
pub(crate) struct Export {
    /// Only keys that start with it
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Write to this file instead of stdout; it appears when it is complete
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    consistency: Consistency,
}

pub(super) async fn run(export: &Export, context: &Context) -> anyhow::Result<Exit> {
    let mut sink = Sink::open(export.output.as_ref(), context.output)?;
    let path = export.consistency.of(Path::kv(&export.prefix)).flag("recurse", true);
    let mut objects = Objects::new();
    if let Some(mut answer) = found(context, &path).await? {
        let bar = context.output.progress(answer.length());
        while let Some(chunk) = answer.chunk().await? {
            bar.inc(u64::try_from(chunk.len()).unwrap_or(0));
            objects.push(&chunk);
            copy(&mut objects, &mut sink, &bar)?;
        }
        objects.end().context("the server's answer is incomplete; nothing of it should be used")?;
        bar.finish_and_clear();
    }
    let count = objects.count();
    sink.finish()?;
    context.output.note(&format!("{count} keys exported"));
    Ok(Exit::Done)
}

fn copy(objects: &mut Objects, sink: &mut Sink, bar: &ProgressBar) -> anyhow::Result<()> {
    loop {
        let n = objects.count();
        let Some(object) = objects.next().context("read the server's answer")? else {
            break;
        };
        let entry: Entry<'_> = serde_json::from_slice(object).with_context(|| format!("read entry {}", n + 1))?;
        let mut line = serde_json::to_vec(&entry).context("encode an entry")?;
        line.push(b'\n');
        sink.write(&line)?;
    }
    bar.set_message(format!("{} keys", objects.count()));
    Ok(())
}

/// Where the lines go.
enum Sink {
    File(WholeFile),
    Stdout(Output, Vec<u8>),
}

impl Sink {
    fn open(path: Option<&PathBuf>, output: Output) -> anyhow::Result<Self> {
        Ok(match path {
            Some(path) => Self::File(WholeFile::create(path)?),
            None => Self::Stdout(output, Vec::new()),
        })
    }

    fn write(&mut self, line: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::File(file) => file.write(line),
            Self::Stdout(output, gathered) => {
                gathered.extend_from_slice(line);
                if gathered.len() >= FLUSH_BYTES {
                    output.raw(gathered)?;
                    gathered.clear();
                }
                Ok(())
            }
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::File(file) => file.finish(),
            Self::Stdout(output, gathered) => output.raw(&gathered),
        }
    }
}
