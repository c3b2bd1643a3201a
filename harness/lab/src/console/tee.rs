//! Where what a console says goes: a file byte for byte, its times beside it, and any number of readers.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

/// Bytes of one console that are written to disk. A host may print for ever; disks end.
const FILE_LIMIT: u64 = 256 << 20;
/// A reader that is further behind than this misses something.
const READER_LIMIT: usize = 4 << 20;
/// What comes within so long is one piece with one time.
const PIECE: Duration = Duration::from_millis(100);
/// A reader that missed something goes on at the beginning of a line, if one ends within so many bytes.
const LINE: usize = 4096;

/// Takes what a console says to its file and its readers.
pub(super) struct Tee {
    log: Option<Log>,
    hub: Arc<Hub>,
    /// When the source was lost, and why.
    lost: Option<(Instant, String)>,
}

impl Tee {
    /// Makes the file new, and the one with the times.
    pub(super) fn new(file: Option<&Path>) -> io::Result<Self> {
        let log = file.map(Log::new).transpose()?;
        Ok(Self { log, hub: Arc::default(), lost: None })
    }

    pub(super) fn hub(&self) -> Arc<Hub> {
        Arc::clone(&self.hub)
    }

    /// Takes what came: `raw` for the file, `text` for readers.
    pub(super) fn heard(&mut self, raw: &[u8], text: &[u8]) {
        if let Some(log) = &mut self.log {
            log.write(raw);
        }
        self.hub.push(text);
    }

    /// Something is missing that the source knows of, though it goes on.
    pub(super) fn gap(&mut self, what: &str) {
        self.note(|| json!({ "lost": what }));
        self.hub.mark(what);
    }

    pub(super) fn connected(&mut self) {
        self.note(|| json!({ "connected": true }));
        self.tell_gap();
    }

    pub(super) fn lost(&mut self, why: &str) {
        self.note(|| json!({ "lost": why }));
        self.lost = Some((Instant::now(), why.to_owned()));
    }

    fn note(&mut self, event: impl FnOnce() -> Value) {
        if let Some(log) = &mut self.log {
            log.end_piece();
            log.note(now(), log.bytes, event());
        }
    }

    fn tell_gap(&mut self) {
        if let Some((since, why)) = self.lost.take() {
            let seconds = since.elapsed().as_secs_f64();
            self.hub.mark(&format!("console lost for {seconds:.1} s: {why}"));
        }
    }

    /// When [`Self::tick`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.log.as_ref()?.due()
    }

    /// Writes down the time of what came.
    pub(super) fn tick(&mut self) {
        if let Some(log) = &mut self.log {
            log.end_piece();
        }
    }

    /// Why the file ends before the console did.
    pub(super) fn error(&self) -> Option<&str> {
        self.log.as_ref()?.error.as_deref()
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.tick();
        self.tell_gap();
        self.hub.close();
    }
}

/// The file and its times.
struct Log {
    raw: Option<File>,
    times: Option<File>,
    bytes: u64,
    limit: u64,
    piece: Option<Piece>,
    error: Option<String>,
}

/// What came within a moment.
struct Piece {
    at: u64,
    offset: u64,
    end: Instant,
}

impl Log {
    fn new(path: &Path) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".times");
        let (raw, times) = (Some(File::create(path)?), Some(File::create(beside)?));
        Ok(Self { raw, times, bytes: 0, limit: FILE_LIMIT, piece: None, error: None })
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.due().is_some_and(|due| due <= Instant::now()) {
            self.end_piece();
        }
        let Some(raw) = &mut self.raw else { return };
        let room = usize::try_from(self.limit - self.bytes).unwrap_or(usize::MAX);
        let part = &bytes[..bytes.len().min(room)];
        if self.piece.is_none() {
            let end = Instant::now() + PIECE;
            self.piece = Some(Piece { at: now(), offset: self.bytes, end });
        }
        let error = match raw.write_all(part) {
            Ok(()) => {
                self.bytes += part.len() as u64;
                let over = part.len() < bytes.len();
                over.then(|| format!("more than {} MiB came", self.limit >> 20))
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = error {
            self.end_piece();
            self.note(now(), self.bytes, json!({ "cut": error }));
            (self.raw, self.error) = (None, Some(error));
        }
    }

    fn due(&self) -> Option<Instant> {
        self.piece.as_ref().map(|piece| piece.end)
    }

    fn end_piece(&mut self) {
        if let Some(Piece { at, offset, .. }) = self.piece.take()
            && self.bytes > offset
        {
            self.note(at, offset, json!({ "bytes": self.bytes - offset }));
        }
    }

    fn note(&mut self, at_ms: u64, offset: u64, mut event: Value) {
        let Some(times) = &mut self.times else { return };
        event["at_ms"] = at_ms.into();
        event["offset"] = offset.into();
        // Without times the console is still worth having.
        if writeln!(times, "{event}").is_err() {
            self.times = None;
        }
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The last part of what came, which all readers read from.
#[derive(Debug, Default)]
pub(super) struct Hub(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    bytes: VecDeque<u8>,
    /// Bytes that there ever were.
    end: u64,
    /// Something came that no newline has ended.
    mid_line: bool,
    closed: bool,
    waiting: Vec<Waker>,
}

impl Hub {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) {
        let mut ring = self.ring();
        let Some(last) = bytes.last() else { return };
        ring.mid_line = *last != b'\n';
        ring.end += bytes.len() as u64;
        let kept = &bytes[bytes.len().saturating_sub(READER_LIMIT)..];
        let over = (ring.bytes.len() + kept.len()).saturating_sub(READER_LIMIT);
        ring.bytes.drain(..over);
        ring.bytes.extend(kept);
        ring.waiting.drain(..).for_each(Waker::wake);
    }

    fn mark(&self, what: &str) {
        let mid_line = self.ring().mid_line;
        self.push(mark(mid_line, what).as_bytes());
    }

    fn close(&self) {
        let mut ring = self.ring();
        ring.closed = true;
        ring.waiting.drain(..).for_each(Waker::wake);
    }

    /// A reader of everything that comes from now on.
    pub(super) fn reader(self: &Arc<Self>) -> Reader {
        let at = self.ring().end;
        Reader { hub: Arc::clone(self), at, mid_line: false, mark: VecDeque::new() }
    }
}

/// A line of kgate's own.
fn mark(mid_line: bool, what: &str) -> String {
    let before = if mid_line { "\r\n" } else { "" };
    format!("{before}[kgate: {what}]\r\n")
}

/// Reads what a console says. Ends when its feed does.
#[derive(Debug)]
pub struct Reader {
    hub: Arc<Hub>,
    /// What was read so far.
    at: u64,
    mid_line: bool,
    /// Has to be read first.
    mark: VecDeque<u8>,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut ring = this.hub.ring();
        let mut behind = usize::try_from(ring.end - this.at).unwrap_or(usize::MAX);
        if behind > ring.bytes.len() {
            let line = ring.bytes.iter().take(LINE).position(|byte| *byte == b'\n');
            let left = ring.bytes.len() - line.map_or(0, |end| end + 1);
            let what = format!("{} bytes of the console were not read in time", behind - left);
            this.mark.extend(mark(this.mid_line, &what).as_bytes());
            this.at = ring.end - left as u64;
            behind = left;
        }
        if this.mark.is_empty() && behind == 0 {
            if !ring.closed && !ring.waiting.iter().any(|w| w.will_wake(context.waker())) {
                ring.waiting.push(context.waker().clone());
            }
            return if ring.closed { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let marked = give(&this.mark, 0, buffer);
        this.mark.drain(..marked);
        let from = ring.bytes.len() - behind;
        this.at += give(&ring.bytes, from, buffer) as u64;
        if let Some(last) = buffer.filled().last() {
            this.mid_line = *last != b'\n';
        }
        Poll::Ready(Ok(()))
    }
}

/// Copies from there on as much as there is room for.
fn give(bytes: &VecDeque<u8>, from: usize, buffer: &mut ReadBuf<'_>) -> usize {
    let (first, second) = bytes.as_slices();
    let parts = [first.get(from..), second.get(from.saturating_sub(first.len())..)];
    let mut given = 0;
    for part in parts.into_iter().flatten() {
        let length = part.len().min(buffer.remaining());
        buffer.put_slice(&part[..length]);
        given += length;
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[test]
    fn a_file_is_cut_at_its_limit_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("console");
        let mut tee = Tee::new(Some(&file)).unwrap();
        tee.log.as_mut().unwrap().limit = 6;
        tee.heard(b"four", b"four");
        assert_eq!(tee.error(), None);
        tee.heard(b"more", b"more");
        tee.heard(b"and more", b"and more");
        assert_eq!(tee.error(), Some("more than 0 MiB came"));
        drop(tee);
        assert_eq!(std::fs::read(&file).unwrap(), b"fourmo");
        let times = std::fs::read_to_string(dir.path().join("console.times")).unwrap();
        let times: Vec<Value> = times.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!((&times[0]["bytes"], &times[0]["offset"]), (&json!(6), &json!(0)));
        assert_eq!(times[1]["cut"], "more than 0 MiB came");
        assert_eq!(times.len(), 2);
    }

    #[tokio::test]
    async fn one_who_is_late_goes_on_at_a_line() {
        let hub = Arc::new(Hub::default());
        let mut reader = hub.reader();
        hub.push(b"begun");
        let mut begun = [0; 5];
        reader.read_exact(&mut begun).await.unwrap();
        hub.push(&[b"-first\n".as_slice(), &[b'x'; READER_LIMIT - 4], b"\nab\n"].concat());
        hub.close();
        let mut rest = String::new();
        reader.read_to_string(&mut rest).await.unwrap();
        // Nothing that ends within reach: it goes on where there is something.
        assert!(
            rest.starts_with("\r\n[kgate: 7 bytes of the console were not read in time]\r\nxxx")
        );
        assert!(rest.ends_with("x\nab\n"));
    }
}
