//! How a run ends: 0 done, 1 failed, 2 asked wrongly; and, for backups, what stands in the way.

use std::process::ExitCode;

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything asked for was done.
    Done,
    /// It was tried and did not come about; the reason has been printed.
    Failed,
    /// The request made no sense; nothing was tried.
    Usage,
    /// Something is not as it has to be first; nothing was changed.
    Precondition,
    /// The archive is damaged.
    Damaged,
    /// A newer version made the archive.
    Unsupported,
    /// There is no leader.
    Leaderless,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::from(0),
            Exit::Failed => Self::from(1),
            Exit::Usage => Self::from(2),
            Exit::Precondition => Self::from(3),
            Exit::Damaged => Self::from(4),
            Exit::Unsupported => Self::from(5),
            Exit::Leaderless => Self::from(10),
        }
    }
}

/// A failure with an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Stopped {
    pub(crate) exit: Exit,
    pub(crate) text: String,
}

impl Stopped {
    pub(crate) fn because(exit: Exit, text: impl Into<String>) -> anyhow::Error {
        Self { exit, text: text.into() }.into()
    }
}

/// A wrong request that the argument parser cannot see by itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);
