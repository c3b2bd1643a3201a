//! The console monitor: takes a machine's console byte for byte to a file, and turns it into
//! findings while it arrives.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kgate_klog::{Parser, Source};
use kgate_model::finding::{Finding, Severity};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// Bytes of the console's end that are kept in memory.
const TAIL: usize = 64 << 10;
/// Bytes of one console that are written to disk. A guest may print for ever; disks end.
const FILE_LIMIT: u64 = 256 << 20;
/// Findings of one console that are kept; a machine that oopses in a loop has said enough by then.
const MAX_FINDINGS: usize = 1000;
/// Between two reads: a console comes byte by byte, and each read wakes the controller.
const BATCH: Duration = Duration::from_millis(10);
/// A console is caught up with when nothing has come for so long.
const SETTLED: Duration = Duration::from_millis(2);

/// A running console monitor. Cheap to clone; it ends when the console's stream ends.
#[derive(Clone, Debug)]
pub struct Console {
    shared: Arc<Shared>,
    requests: mpsc::UnboundedSender<Asked>,
    progress: watch::Receiver<Progress>,
}

/// How far a console has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes so far.
    pub bytes: u64,
    /// Findings so far, one that is still being printed included.
    pub findings: usize,
    /// The kernel has said that it panicked.
    pub panicked: bool,
    /// The stream has ended.
    pub closed: bool,
}

/// What the monitor is asked for.
#[derive(Debug)]
enum Asked {
    /// To catch up, and to say when it has.
    Settle(oneshot::Sender<()>),
    /// To read without rests from now on: somebody waits for the end of the stream.
    Hurry,
}

#[derive(Debug, Default)]
struct Shared {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    tail: VecDeque<u8>,
    findings: Vec<Finding>,
    error: Option<(io::ErrorKind, String)>,
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console {
    /// Starts to monitor `stream`, writing it to `path` (made new) where one is given.
    ///
    /// # Errors
    /// The file can't be made.
    pub fn start(
        stream: impl AsyncRead + Send + Unpin + 'static,
        path: Option<&Path>,
    ) -> io::Result<Self> {
        let file = path.map(File::create).transpose()?;
        let shared = Arc::new(Shared::default());
        let (requests, inbox) = mpsc::unbounded_channel();
        let (sender, progress) = watch::channel(Progress::default());
        let monitor = Monitor {
            stream,
            file,
            shared: Arc::clone(&shared),
            inbox,
            progress: sender,
            parser: Parser::new(Source::Console),
            bytes: 0,
        };
        tokio::spawn(monitor.run());
        Ok(Self { shared, requests, progress })
    }

    /// The last 64 KiB.
    pub fn tail(&self) -> Vec<u8> {
        self.shared.kept().tail.iter().copied().collect()
    }

    /// The findings from number `from` on. Call [`Self::settle`] first for those whose text may
    /// still be on its way.
    pub fn findings(&self, from: usize) -> Vec<Finding> {
        self.shared.kept().findings.get(from..).unwrap_or_default().to_vec()
    }

    /// The finding that explains a dead kernel: the first fatal one.
    pub fn cause(&self) -> Option<Finding> {
        self.shared.kept().findings.iter().find(|f| f.severity == Severity::Fatal).cloned()
    }

    /// How far it has got, to be watched.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Why the console could not be written to its file: the controller's fault.
    pub fn error(&self) -> Option<io::Error> {
        self.shared.kept().error.as_ref().map(|(kind, text)| io::Error::new(*kind, text.clone()))
    }

    /// Waits until everything that the machine has printed so far is read, and a report that
    /// stopped short is taken as it is.
    pub async fn settle(&self) {
        let (done, wait) = oneshot::channel();
        if self.requests.send(Asked::Settle(done)).is_ok() {
            // The monitor is gone when the stream ended: then everything is read.
            let _ = wait.await;
        }
    }

    /// Waits until nothing was printed for `idle`, at most `longest`.
    pub async fn quiet(&self, idle: Duration, longest: Duration) {
        let mut progress = self.progress.clone();
        let end = Instant::now() + longest;
        while Instant::now() < end {
            progress.borrow_and_update();
            let left = end.saturating_duration_since(Instant::now());
            match timeout(idle.min(left), progress.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => break,
            }
        }
    }

    /// Waits until the kernel says that it panicked; for ever if it never does.
    pub async fn panicked(&self) {
        let mut progress = self.progress.clone();
        if progress.wait_for(|p| p.panicked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the stream has ended and all of it is read, at most `longest`.
    pub async fn closed(&self, longest: Duration) {
        // The monitor is gone when the stream ended already.
        let _ = self.requests.send(Asked::Hurry);
        let mut progress = self.progress.clone();
        let _ = timeout(longest, progress.wait_for(|p| p.closed)).await;
    }
}

struct Monitor<R> {
    stream: R,
    file: Option<File>,
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedReceiver<Asked>,
    progress: watch::Sender<Progress>,
    parser: Parser,
    bytes: u64,
}

impl<R: AsyncRead + Unpin> Monitor<R> {
    async fn run(mut self) {
        let mut buffer = vec![0; 16 << 10];
        let mut open = true;
        let mut batch = BATCH;
        let mut next = Instant::now();
        while open {
            let read = async {
                sleep_until(next).await;
                self.stream.read(&mut buffer).await
            };
            tokio::select! {
                read = read => {
                    open = self.take(read, &buffer);
                    next = Instant::now() + batch;
                }
                Some(asked) = self.inbox.recv() => match asked {
                    Asked::Settle(done) => {
                        while open {
                            match timeout(SETTLED, self.stream.read(&mut buffer)).await {
                                Ok(read) => open = self.take(read, &buffer),
                                Err(_) => break,
                            }
                        }
                        self.keep_pending();
                        let _ = done.send(());
                    }
                    Asked::Hurry => (batch, next) = (Duration::ZERO, Instant::now()),
                }
            }
        }
        self.keep_pending();
        self.publish(true);
    }

    /// Handles what one read gave; `false` when there is nothing more to come.
    fn take(&mut self, read: io::Result<usize>, buffer: &[u8]) -> bool {
        let Ok(length @ 1..) = read else { return false };
        let bytes = &buffer[..length];
        self.write(bytes);
        self.bytes += length as u64;
        let found = self.parser.push(bytes);
        {
            let mut kept = self.shared.kept();
            kept.tail.extend(bytes);
            let over = kept.tail.len().saturating_sub(TAIL);
            kept.tail.drain(..over);
        }
        self.keep(found);
        self.publish(false);
        true
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let room = usize::try_from(FILE_LIMIT.saturating_sub(self.bytes)).unwrap_or(usize::MAX);
        if let Err(error) = file.write_all(&bytes[..bytes.len().min(room)]) {
            self.shared.kept().error = Some((error.kind(), error.to_string()));
            self.file = None;
        }
    }

    fn keep_pending(&mut self) {
        let found = self.parser.finish();
        self.keep(found);
        self.publish(false);
    }

    fn keep(&self, found: Vec<Finding>) {
        let mut kept = self.shared.kept();
        let room = MAX_FINDINGS.saturating_sub(kept.findings.len());
        kept.findings.extend(found.into_iter().take(room));
    }

    fn publish(&self, closed: bool) {
        let kept = self.shared.kept();
        let pending = self.parser.pending();
        let panicked =
            pending.is_some_and(|p| p.panicked) || kept.findings.last().is_some_and(|f| f.panicked);
        let findings = kept.findings.len() + usize::from(pending.is_some());
        drop(kept);
        self.progress.send_replace(Progress { bytes: self.bytes, findings, panicked, closed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    const PANIC: &str = "[    1.000000] Kernel panic - not syncing: sysrq triggered crash\r\n";

    #[tokio::test]
    async fn bytes_reach_the_file_unchanged_and_findings_come_while_it_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let (mut guest, ours) = tokio::io::duplex(64);
        let console = Console::start(ours, Some(&path)).unwrap();
        let text = [b"\xff\x00binary\r\n", PANIC.as_bytes()].concat();
        guest.write_all(&text).await.unwrap();
        console.panicked().await;
        console.settle().await;
        assert_eq!(console.findings(0).len(), 1);
        assert_eq!(std::fs::read(&path).unwrap(), text);
        assert_eq!(console.tail(), text);
        drop(guest);
        console.closed(Duration::from_secs(5)).await;
        assert!(console.progress().borrow().closed);
        console.settle().await;
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_does_not_stop_the_monitor() {
        let (mut guest, ours) = tokio::io::duplex(64);
        let console = Console::start(ours, Some(Path::new("/dev/full"))).unwrap();
        guest.write_all(PANIC.as_bytes()).await.unwrap();
        console.panicked().await;
        assert_eq!(console.error().unwrap().kind(), io::ErrorKind::StorageFull);
    }

    #[tokio::test]
    async fn memory_stays_bounded() {
        let (mut guest, ours) = tokio::io::duplex(1 << 16);
        let console = Console::start(ours, None).unwrap();
        for _ in 0..64 {
            guest.write_all(&[b'x'; 1 << 14]).await.unwrap();
        }
        console.settle().await;
        assert_eq!(console.tail().len(), TAIL);
        assert_eq!(console.progress().borrow().bytes, 64 << 14);
    }
}
