//! `konsulctl kv`: keys and values.

mod entries;
mod export;
mod import;
mod progress_file;
mod watch;

use crate::{
    Context,
    client::{Answer, Ask, Payload},
    exit::{Exit, UsageError},
    file, output,
    path::Path,
};
use anyhow::bail;
use bytes::Bytes;
use hyper::StatusCode;
use konsul_api::kv::KvEntry;

/// How much of a value a table shows.
const SHOWN_CHARS_MAX: usize = 60;

/// `konsulctl kv …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Kv {
    /// Print the value of a key
    Get(Get),
    /// Write a key
    Put(Put),
    /// Delete a key, or everything under a prefix
    Delete(Delete),
    /// List the keys under a prefix
    List(List),
    /// Write a key if it has not changed since the given index
    Cas(Cas),
    /// Print changes as they happen
    Watch(watch::Watch),
    /// Write the keys under a prefix to a file
    Export(export::Export),
    /// Read keys from a file written by `kv export` or `consul kv export`
    Import(import::Import),
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Consistency {
    /// Take the answering node's own state, however old
    #[arg(long, conflicts_with_all = ["consistent", "leader"])]
    stale: bool,
    /// Have a quorum confirm the leader first
    #[arg(long, conflicts_with = "leader")]
    consistent: bool,
    /// Trust the leader's lease [default]
    #[arg(long)]
    leader: bool,
}

impl Consistency {
    pub(crate) fn of(self, path: Path) -> Path {
        path.flag("stale", self.stale).flag("consistent", self.consistent).flag("leader", self.leader)
    }
}

/// `konsulctl kv get`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 if there is no such key.\n\n\
    Examples:\n  konsulctl kv get app/color\n  konsulctl kv get app/ --recurse\n  \
    konsulctl kv get logo.png --raw > logo.png\n  konsulctl kv get app/ --keys --separator /")]
pub(crate) struct Get {
    /// The key; with --recurse or --keys a prefix
    #[arg(required_unless_present_any = ["recurse", "keys"])]
    key: Option<String>,
    /// Print the value's bytes and nothing else, no final newline
    #[arg(long, conflicts_with_all = ["json", "recurse", "keys", "detailed"])]
    raw: bool,
    /// Print index, flags and everything else of the key
    #[arg(long, conflicts_with_all = ["recurse", "keys"])]
    detailed: bool,
    /// Print every entry under the prefix
    #[arg(long, conflicts_with = "keys")]
    recurse: bool,
    /// Print the keys under the prefix
    #[arg(long)]
    keys: bool,
    /// Cut each key after the first separator behind the prefix
    #[arg(long, value_name = "S", requires = "keys")]
    separator: Option<String>,
    #[command(flatten)]
    consistency: Consistency,
}

/// `konsulctl kv put`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  konsulctl kv put app/color blue\n  konsulctl kv put app/config @config.json\n  \
    date | konsulctl kv put app/started -\n  konsulctl kv put app/flag --flags 42")]
pub(crate) struct Put {
    /// The key
    key: String,
    /// The value: as it is, from @FILE, or from stdin as - [default: empty]
    #[arg(allow_hyphen_values = true)]
    value: Option<String>,
    /// A number kept beside the value
    #[arg(long, default_value_t = 0, value_name = "N")]
    flags: u64,
}

/// `konsulctl kv delete`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  konsulctl kv delete app/color\n  konsulctl kv delete app/ --recurse\n  \
    konsulctl kv delete app/color --cas 17")]
pub(crate) struct Delete {
    /// The key; with --recurse a prefix
    key: String,
    /// Delete every key that starts with it
    #[arg(long, conflicts_with = "cas")]
    recurse: bool,
    /// Delete it only if this is its modify index; exit code 1 if not
    #[arg(long, value_name = "INDEX")]
    cas: Option<u64>,
}

/// `konsulctl kv list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  konsulctl kv list\n  konsulctl kv list app/ --separator /")]
pub(crate) struct List {
    /// Only keys that start with it
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Cut each key after the first separator behind the prefix
    #[arg(long, value_name = "S")]
    separator: Option<String>,
    #[command(flatten)]
    consistency: Consistency,
}

/// `konsulctl kv cas`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 if the key has changed meanwhile.\n\n\
    Examples:\n  konsulctl kv cas app/color green --index 17\n  konsulctl kv cas app/lock me --index 0   # only if absent")]
pub(crate) struct Cas {
    /// The key
    key: String,
    /// The value: as it is, from @FILE, or from stdin as -
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// The modify index it must have; 0: it must not exist
    #[arg(long, value_name = "N")]
    index: u64,
    /// A number kept beside the value
    #[arg(long, default_value_t = 0, value_name = "N")]
    flags: u64,
}

pub(crate) async fn run(kv: Kv, context: &Context) -> anyhow::Result<Exit> {
    match kv {
        Kv::Get(get) => run_get(get, context).await,
        Kv::Put(put) => run_put(&put, context).await,
        Kv::Delete(delete) => run_delete(&delete, context).await,
        Kv::List(list) => run_list(&list.prefix, list.separator.as_deref(), list.consistency, context).await,
        Kv::Cas(cas) => run_cas(&cas, context).await,
        Kv::Watch(watch) => watch::run(&watch, context).await,
        Kv::Export(export) => export::run(&export, context).await,
        Kv::Import(import) => import::run(&import, context).await,
    }
}

async fn run_get(get: Get, context: &Context) -> anyhow::Result<Exit> {
    let key = get.key.as_deref().unwrap_or_default();
    if get.keys {
        return run_list(key, get.separator.as_deref(), get.consistency, context).await;
    }
    if get.recurse {
        return run_get_tree(key, get.consistency, context).await;
    }
    let path = get.consistency.of(Path::kv(key));
    if get.raw {
        let Some(answer) = found(context, &path.flag("raw", true)).await? else { bail!("no such key: {key}") };
        context.output.raw(&answer.bytes().await?)?;
        return Ok(Exit::Done);
    }
    let Some(entry) = entry(context, &path).await? else { bail!("no such key: {key}") };
    if context.output.is_json() {
        context.output.json(&entry)?;
    } else if get.detailed {
        context.output.line(detailed(&entry))?;
    } else {
        context.output.line(&entry.value)?;
    }
    Ok(Exit::Done)
}

async fn run_get_tree(prefix: &str, consistency: Consistency, context: &Context) -> anyhow::Result<Exit> {
    let path = consistency.of(Path::kv(prefix)).flag("recurse", true);
    let entries: Vec<KvEntry> = match found(context, &path).await? {
        Some(answer) => answer.json().await?,
        None => Vec::new(),
    };
    let row = |e: &KvEntry| vec![e.key.clone(), e.modify_index.to_string(), e.flags.to_string(), shown(&e.value)];
    context.output.result(&entries, || output::table(&["KEY", "INDEX", "FLAGS", "VALUE"], entries.iter().map(row)))?;
    Ok(Exit::Done)
}

async fn run_list(
    prefix: &str,
    separator: Option<&str>,
    consistency: Consistency,
    context: &Context,
) -> anyhow::Result<Exit> {
    let mut path = consistency.of(Path::kv(prefix)).flag("keys", true);
    if let Some(separator) = separator {
        path = path.with("separator", separator);
    }
    let keys: Vec<String> = match found(context, &path).await? {
        Some(answer) => answer.json().await?,
        None => Vec::new(),
    };
    if context.output.is_json() {
        context.output.json(&keys)?;
    } else if !keys.is_empty() {
        context.output.line(keys.join("\n"))?;
    }
    Ok(Exit::Done)
}

async fn run_put(put: &Put, context: &Context) -> anyhow::Result<Exit> {
    let body = Payload::Bytes(value(put.value.as_deref().unwrap_or_default())?);
    let path = Path::kv(named(&put.key)?).with("flags", &put.flags.to_string());
    let written: bool = context.client.json(&Ask::put(path, body)).await?;
    if !written {
        bail!("{} was not written", put.key);
    }
    context.output.result(&true, || format!("written: {}", put.key))?;
    Ok(Exit::Done)
}

async fn run_delete(delete: &Delete, context: &Context) -> anyhow::Result<Exit> {
    let mut path = if delete.recurse { Path::kv(&delete.key) } else { Path::kv(named(&delete.key)?) };
    path = path.flag("recurse", delete.recurse);
    if let Some(index) = delete.cas {
        path = path.with("cas", &index.to_string());
    }
    let deleted: bool = context.client.json(&Ask::delete(path)).await?;
    if !deleted {
        bail!("{} was not deleted: {}", delete.key, current(context, &delete.key).await?);
    }
    let what = if delete.recurse { "deleted everything under" } else { "deleted:" };
    context.output.result(&true, || format!("{what} {}", delete.key))?;
    Ok(Exit::Done)
}

async fn run_cas(cas: &Cas, context: &Context) -> anyhow::Result<Exit> {
    let body = Payload::Bytes(value(&cas.value)?);
    let path = Path::kv(named(&cas.key)?).with("flags", &cas.flags.to_string()).with("cas", &cas.index.to_string());
    let written: bool = context.client.json(&Ask::put(path, body)).await?;
    if !written {
        bail!("{} was not written: {}", cas.key, current(context, &cas.key).await?);
    }
    context.output.result(&true, || format!("written: {}", cas.key))?;
    Ok(Exit::Done)
}

/// Where a key stands that was expected elsewhere.
async fn current(context: &Context, key: &str) -> anyhow::Result<String> {
    Ok(match entry(context, &Path::kv(key)).await? {
        Some(entry) => format!("its index is {} now", entry.modify_index),
        None => "it does not exist now".to_owned(),
    })
}

async fn entry(context: &Context, path: &Path) -> anyhow::Result<Option<KvEntry>> {
    let Some(answer) = found(context, path).await? else {
        return Ok(None);
    };
    let mut entries: Vec<KvEntry> = answer.json().await?;
    Ok(entries.pop())
}

/// The answer, or `None` where there is nothing.
async fn found<'a>(context: &'a Context, path: &Path) -> anyhow::Result<Option<Answer<'a>>> {
    let answer = context.client.send(&Ask::get(path.clone())).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if answer.status.is_success() { Ok(Some(answer)) } else { Err(answer.into_error().await.into()) }
}

/// A value as the command line gives it.
fn value(given: &str) -> anyhow::Result<Bytes> {
    Ok(match given.strip_prefix('@') {
        Some(path) => Bytes::from(file::read(path)?),
        None if given == "-" => Bytes::from(file::read("-")?),
        None => Bytes::copy_from_slice(given.as_bytes()),
    })
}

fn named(key: &str) -> Result<&str, UsageError> {
    if key.is_empty() { Err(UsageError("the key is empty".to_owned())) } else { Ok(key) }
}

fn detailed(entry: &KvEntry) -> String {
    let mut pairs = vec![
        ("Key", entry.key.clone()),
        ("Flags", entry.flags.to_string()),
        ("Create index", entry.create_index.to_string()),
        ("Modify index", entry.modify_index.to_string()),
        ("Lock index", entry.lock_index.to_string()),
    ];
    if let Some(holder) = &entry.session {
        pairs.push(("Locked by", holder.clone()));
    }
    pairs.push(("Bytes", entry.value.len().to_string()));
    pairs.push(("Value", String::from_utf8_lossy(&entry.value).into_owned()));
    output::fields(&pairs)
}

/// A value on one line of a table.
pub(crate) fn shown(value: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(value) else {
        return format!("({} bytes, not text)", value.len());
    };
    let mut line: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        line.push('…');
    }
    line
}
