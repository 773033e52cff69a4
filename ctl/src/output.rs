//! The only printer: a person gets lines and tables, `--json` gets JSON, and nothing else writes to the terminal.
//!
//! Results go to stdout, notes and errors to stderr, progress to stderr and only if that is a terminal.

use anyhow::Context as _;
use comfy_table::{Cell, ContentArrangement, Table, modifiers::UTF8_ROUND_CORNERS, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{self, IsTerminal as _, Write as _};

/// The reader of our stdout has gone: no failure, as with `konsulctl kv list | head`.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the output has gone")]
pub(crate) struct ReaderGone;

/// Where everything is printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether the caller wants JSON.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Bytes as they are.
    #[expect(clippy::unused_self, reason = "whoever prints holds the printer")]
    pub(crate) fn raw(self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        done(out.write_all(bytes).and_then(|()| out.flush()))
    }

    /// One line of text.
    pub(crate) fn line(self, text: impl AsRef<[u8]>) -> anyhow::Result<()> {
        let mut bytes = text.as_ref().to_vec();
        bytes.push(b'\n');
        self.raw(&bytes)
    }

    /// A result: as JSON if asked for, else as `text` tells it.
    pub(crate) fn result<T: Serialize>(self, value: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        if self.json { self.json(value) } else { self.line(text()) }
    }

    /// Indented JSON.
    pub(crate) fn json<T: Serialize>(self, value: &T) -> anyhow::Result<()> {
        self.line(serde_json::to_vec_pretty(value).context("encode the result as JSON")?)
    }

    /// JSON on one line.
    pub(crate) fn json_line<T: Serialize>(self, value: &T) -> anyhow::Result<()> {
        self.line(serde_json::to_vec(value).context("encode the result as JSON")?)
    }

    /// A note beside the result.
    pub(crate) fn note(self, text: &str) {
        if !self.json {
            // Nobody is left to tell if stderr is closed.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// A question on stderr; the reply is the caller's to read.
    #[expect(clippy::unused_self, reason = "whoever prints holds the printer")]
    pub(crate) fn ask(self, question: &str) -> anyhow::Result<()> {
        let mut err = io::stderr();
        write!(err, "{question}").and_then(|()| err.flush()).context("ask on stderr")
    }

    /// Why a run failed.
    pub(crate) fn error(self, text: &str) {
        let line = if self.json {
            serde_json::to_string(&konsul_api::cluster::ErrorAnswer { error: text.to_owned() })
                .unwrap_or_else(|_| text.to_owned())
        } else {
            format!("Error: {text}")
        };
        // Nobody is left to tell if stderr is closed.
        let _ = writeln!(io::stderr(), "{line}");
    }

    /// A bar over `total` bytes or, if that is unknown, a spinner; invisible unless stderr is a terminal.
    pub(crate) fn progress(self, total: Option<u64>) -> ProgressBar {
        if self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let (bar, template) = match total {
            Some(bytes) => (ProgressBar::new(bytes), "{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {msg} {eta} left"),
            None => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec} {msg}"),
        };
        bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

fn done(written: io::Result<()>) -> anyhow::Result<()> {
    match written {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        Err(e) => Err(e).context("write to stdout"),
    }
}

/// Rows under a header: with a frame on a terminal, in plain columns for a pipe.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    let is_framed = io::stdout().is_terminal();
    if is_framed {
        table.load_preset(presets::UTF8_FULL_CONDENSED).apply_modifier(UTF8_ROUND_CORNERS);
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(header.iter().map(Cell::new));
    table.add_rows(rows);
    if !is_framed {
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 2));
        });
    }
    table.trim_fmt()
}

/// `name: value` lines with the values aligned.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name:<width$}  {value}").trim_end().to_owned()).collect();
    lines.join("\n")
}
