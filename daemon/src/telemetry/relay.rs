//! Lines on their way to the journal: a bounded queue and one thread that sends.
//!
//! A journal that hangs blocks whoever writes to it, and must not block a node. So lines wait here; when too many do, new
//! ones are dropped and counted, and that is said as soon as lines are taken again.

use super::line;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What waits at most.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// Between two attempts to reach a journal that is being restarted.
const RETRY: Duration = Duration::from_millis(100);

/// Lines dropped by this process.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many log lines were dropped since the start of the process.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Takes lines and returns at once. Cheap to clone.
#[derive(Clone)]
pub(super) struct Relay {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// By this relay.
    dropped: AtomicU64,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// One was taken out and is not sent yet.
    sending: bool,
}

impl Relay {
    /// Starts the thread that sends to the journal's socket `path`, which has to be there.
    pub(super) fn start(path: &Path, node: &str) -> io::Result<Relay> {
        let socket = connect(path)?;
        let shared = Arc::new(Shared::default());
        let sender =
            Sender { shared: Arc::clone(&shared), path: path.to_owned(), node: node.to_owned(), socket, told: 0 };
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || sender.run())?;
        Ok(Relay { shared })
    }

    /// Queues a line, or drops it.
    pub(super) fn put(&self, line: Vec<u8>) {
        let mut queue = self.shared.queue();
        if queue.bytes + line.len() > QUEUE_BYTES_MAX {
            drop(queue);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line);
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Waits until everything is sent, but not longer than this.
    pub(super) fn flush(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut queue = self.shared.queue();
        while queue.sending || !queue.lines.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread works with.
struct Sender {
    shared: Arc<Shared>,
    path: PathBuf,
    /// In the lines of its own.
    node: String,
    socket: UnixDatagram,
    /// Dropped lines that were told of.
    told: u64,
}

impl Sender {
    fn run(mut self) {
        loop {
            let line = self.next();
            self.send(&line);
            let dropped = self.shared.dropped.load(Ordering::Relaxed);
            if dropped > self.told {
                let told = line::dropped(dropped - self.told, &self.node);
                self.told = dropped;
                self.send(&told);
            }
            self.shared.queue().sending = false;
            self.shared.changed.notify_all();
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut queue = self.shared.queue();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.len();
                queue.sending = true;
                return line;
            }
            queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Until it is sent. While the journal hangs, this waits.
    fn send(&mut self, line: &[u8]) {
        loop {
            match self.socket.send(line) {
                Ok(_) => return,
                // Longer than a datagram: as a file in memory, as the journal's protocol has it.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::MSGSIZE) => {
                    if send_file(&self.socket, line).is_ok() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {}
            }
            // The journal is being restarted, or takes nothing: lines wait, or are dropped and counted.
            std::thread::sleep(RETRY);
            if let Ok(socket) = connect(&self.path) {
                self.socket = socket;
            }
        }
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

fn send_file(socket: &UnixDatagram, line: &[u8]) -> io::Result<()> {
    let mut file = File::from(memfd_create("konsul-log", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(line)?;
    // The journal maps it and has to be sure that it stays as it is.
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
    let files = [file.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)), "there is space for one descriptor");
    sendmsg(socket, &[IoSlice::new(&[])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn numbered(number: u64) -> Vec<u8> {
        let mut text = Vec::new();
        line::put_field(&mut text, "MESSAGE", format!("{number} {}", "x".repeat(400)).as_bytes());
        text
    }

    fn read(socket: &UnixDatagram) -> BTreeMap<String, String> {
        let mut buffer = vec![0; 1 << 16];
        let length = socket.recv(&mut buffer).expect("a line comes within ten seconds");
        line::parse(&buffer[..length])
    }

    #[test]
    fn a_journal_that_hangs_blocks_nobody_and_what_is_lost_is_counted_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let relay = Relay::start(&path, "n1").unwrap();
        // Nobody reads. More than the queue and the kernel hold: whoever logs returns all the same, or this ends never.
        let put = 40_000;
        (0..put).for_each(|number| relay.put(numbered(number)));
        relay.flush(Duration::from_millis(1));
        let dropped = relay.shared.dropped.load(Ordering::Relaxed);
        assert!(dropped > 0 && dropped < put, "{dropped}");
        // It reads again: everything that was not dropped comes, in order, and the number of the others.
        let (mut came, mut told) = (0, 0);
        let mut last = None;
        while came + told < put {
            let fields = read(&journal);
            match fields.get("KONSUL_COUNT") {
                Some(count) => {
                    told += count.parse::<u64>().unwrap();
                    assert_eq!(fields["MESSAGE_ID"], crate::telemetry::events::LINES_DROPPED);
                }
                None => {
                    let number: u64 = fields["MESSAGE"].split(' ').next().unwrap().parse().unwrap();
                    assert!(last.is_none_or(|last| number > last), "{number} after {last:?}");
                    (came, last) = (came + 1, Some(number));
                }
            }
        }
        assert_eq!((came, told), (put - dropped, dropped));
        relay.put(numbered(7));
        assert!(read(&journal)["MESSAGE"].starts_with("7 "));
    }

    #[test]
    fn a_journal_that_is_restarted_gets_what_waited() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let before = UnixDatagram::bind(&path).unwrap();
        let relay = Relay::start(&path, "n1").unwrap();
        drop(before);
        std::fs::remove_file(&path).unwrap();
        (0..100).for_each(|number| relay.put(numbered(number)));
        let after = UnixDatagram::bind(&path).unwrap();
        after.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for number in 0..100 {
            assert!(read(&after)["MESSAGE"].starts_with(&format!("{number} ")));
        }
        relay.flush(Duration::from_secs(10));
        assert!(relay.shared.queue().lines.is_empty());
    }

    #[test]
    fn a_line_longer_than_a_datagram_comes_as_a_sealed_file() {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        use std::io::{IoSliceMut, Read, Seek};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let relay = Relay::start(&path, "n1").unwrap();
        let mut long = Vec::new();
        line::put_field(&mut long, "MESSAGE", "é".repeat(1 << 20).as_bytes());
        relay.put(long.clone());
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut nothing = [0; 16];
        let got = recvmsg(&journal, &mut [IoSliceMut::new(&mut nothing)], &mut control, RecvFlags::empty()).unwrap();
        assert_eq!(got.bytes, 0);
        let files: Vec<_> = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(files) => files.collect::<Vec<_>>(),
                _ => Vec::new(),
            })
            .collect();
        let mut file = File::from(files.into_iter().next().expect("a descriptor"));
        let mut content = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut content).unwrap();
        assert!(content == long);
    }
}
