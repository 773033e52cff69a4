//! What the service manager is told (`NOTIFY_SOCKET`), one message after the other.

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sd_notify::NotifyState;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// Longer texts are cut: people read them in one line.
const STATUS_CHARS_MAX: usize = 240;

/// One message.
#[derive(Debug)]
pub(super) enum Message {
    /// The start is over, or a reload.
    Ready,
    Status(String),
    Reloading,
    Stopping,
    /// All is well.
    Alive,
    /// Nothing is well: as if `Alive` had been missing for too long, but at once.
    Stalled,
    /// The start, or the stop, takes this much longer from now on at least.
    Extend(Duration),
    /// Keep this open for the next process, under this name, in place of what is kept under it.
    Keep(&'static str, OwnedFd),
}

/// Sends messages, if there is somebody to send them to.
#[derive(Debug)]
pub(super) struct Notify {
    listened_to: bool,
    failed: bool,
}

impl Notify {
    pub(super) fn from_env() -> Notify {
        Notify { listened_to: std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty()), failed: false }
    }

    /// How often it wants to hear that all is well, if so.
    pub(super) fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|every| !every.is_zero())
    }

    /// May block while the service manager is not reading: not for threads that have other work.
    pub(super) fn send(&mut self, message: &Message) {
        if !self.listened_to {
            return;
        }
        let sent = match message {
            Message::Ready => sd_notify::notify(&[NotifyState::Ready]),
            Message::Status(text) => sd_notify::notify(&[NotifyState::Status(&one_line(text))]),
            // One message: what says since when must not come later than what it says it of.
            Message::Reloading => {
                NotifyState::monotonic_usec_now().and_then(|since| sd_notify::notify(&[NotifyState::Reloading, since]))
            }
            Message::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
            Message::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
            Message::Stalled => sd_notify::notify(&[NotifyState::WatchdogTrigger]),
            Message::Extend(by) => {
                let micros = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
                sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(micros)])
            }
            Message::Keep(name, fd) => keep(name, fd),
        };
        match sent {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(%error, "the service manager cannot be told how this node is");
            }
            Err(_) => {}
        }
    }
}

fn keep(name: &str, fd: &OwnedFd) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Custom(&format!("FDSTOREREMOVE=1\nFDNAME={name}"))])?;
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    let text = format!("FDSTORE=1\nFDNAME={name}\n");
    let fds = [fd.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "there is space for one descriptor");
    sendmsg(&socket, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A line break would end the text and begin another message: `READY=1` in the name of a node, say.
fn one_line(text: &str) -> String {
    text.chars().take(STATUS_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_whatever_is_in_it() {
        assert_eq!(one_line("follows \"a\nREADY=1\r\""), "follows \"a READY=1 \"");
        assert_eq!(one_line(&"ü".repeat(1000)).chars().count(), STATUS_CHARS_MAX);
    }
}
