//! The part of a host's console that belongs to one boot: from the booted kernel's first word until that
//! kernel is gone, so that what production says before and after it is never held against it.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

/// The first thing that a kernel prints.
const BANNER: &[u8] = b"Linux version ";
/// Bytes that are kept of what came before the first word, in case that it is never told apart.
const HELD: usize = 64 << 10;
/// Longest line in which a banner or the mark of the boot is looked for.
const LINE: usize = 8 << 10;
/// What the reader hasn't taken yet.
const BUFFER: usize = 64 << 10;

/// How a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// What comes is held back until the kernel's first word.
    Before,
    /// What comes is passed on.
    Open,
    /// It is over.
    Shut,
}

/// What was heard of a boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Bytes since the host was told to boot.
    pub(crate) bytes: u64,
    /// A line has held the mark of the boot, as the kernel's command line does.
    pub(crate) mark: bool,
    /// Banner of the first kernel that was heard.
    pub(crate) first: Option<String>,
    /// Another kernel has begun to speak after it.
    pub(crate) another: bool,
}

/// A window on a console. Dropping it shuts it.
#[derive(Debug)]
pub(crate) struct Window {
    stage: watch::Sender<Stage>,
    heard: watch::Receiver<Heard>,
}

impl Window {
    /// A window on what comes from `source`, for the boot that `mark` on its command line tells from all
    /// others; and what passes through it.
    pub(crate) fn new(
        source: impl AsyncRead + Send + Unpin + 'static,
        mark: &str,
    ) -> (Self, DuplexStream) {
        let (stage, orders) = watch::channel(Stage::Before);
        let (sender, heard) = watch::channel(Heard::default());
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let pump = Pump {
            sink: ours,
            mark: mark.as_bytes().to_vec(),
            held: Vec::new(),
            line: Vec::new(),
            open: false,
            heard: Heard::default(),
            sender,
        };
        tokio::spawn(pump.run(source, orders));
        (Self { stage, heard }, theirs)
    }

    /// Passes on from now on what comes, and what was held back.
    pub(crate) fn open(&self) {
        self.stage.send_if_modified(|stage| {
            let later = *stage < Stage::Open;
            *stage = (*stage).max(Stage::Open);
            later
        });
    }

    /// Passes nothing on any more: its reader comes to the end.
    pub(crate) fn shut(&self) {
        self.stage.send_replace(Stage::Shut);
    }

    /// What was heard so far.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.borrow().clone()
    }

    /// Waits until another kernel speaks, or for ever.
    pub(crate) fn another(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut heard = self.heard.clone();
        async move {
            if heard.wait_for(|heard| heard.another).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// How long a silent source is listened to after the window was opened by hand.
const MOMENT: Duration = Duration::from_millis(20);

struct Pump {
    sink: DuplexStream,
    mark: Vec<u8>,
    held: Vec<u8>,
    /// The line that is being heard, as far as it is looked at.
    line: Vec<u8>,
    open: bool,
    heard: Heard,
    sender: watch::Sender<Heard>,
}

impl Pump {
    async fn run(mut self, mut source: impl AsyncRead + Unpin, mut orders: watch::Receiver<Stage>) {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let stage = *orders.borrow_and_update();
            if stage == Stage::Shut {
                // What is on its way belongs to it.
                while let Ok(Ok(read @ 1..)) =
                    tokio::time::timeout(MOMENT, source.read(&mut buffer)).await
                {
                    if !self.take(&buffer[..read]).await {
                        return;
                    }
                }
                self.begin(0).await;
                return;
            }
            if stage == Stage::Open && !self.open {
                self.begin(0).await;
            }
            tokio::select! {
                changed = orders.changed() => if changed.is_err() { return },
                read = source.read(&mut buffer) => {
                    let Ok(read @ 1..) = read else { return };
                    if !self.take(&buffer[..read]).await {
                        return;
                    }
                }
            }
        }
    }

    /// Begins to pass on, with what is held from `at` on.
    async fn begin(&mut self, at: usize) -> bool {
        self.open = true;
        let held = std::mem::take(&mut self.held);
        self.sink.write_all(&held[at.min(held.len())..]).await.is_ok()
    }

    /// Takes what came; `false` when the window is over.
    async fn take(&mut self, bytes: &[u8]) -> bool {
        self.heard.bytes += bytes.len() as u64;
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            let room = LINE.saturating_sub(self.line.len());
            let known = (self.is_banner(), self.is_marked());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            let (banner, marked) = (self.is_banner() && !known.0, self.is_marked() && !known.1);
            if banner && self.heard.first.is_some() {
                self.heard.another = true;
                self.publish();
                return false;
            }
            self.held.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                if self.is_banner() {
                    self.heard.first.get_or_insert_with(|| {
                        String::from_utf8_lossy(&self.line).trim().to_owned()
                    });
                }
                self.line.clear();
            }
            self.heard.mark |= marked;
            if self.open {
                if !self.begin(0).await {
                    return false;
                }
            } else if banner || marked {
                let line = self.held[..self.held.len() - piece.ends_with(b"\n") as usize]
                    .iter()
                    .rposition(|&b| b == b'\n');
                if !self.begin(line.map_or(0, |at| at + 1)).await {
                    return false;
                }
            } else if self.held.len() > 2 * HELD {
                self.held.drain(..self.held.len() - HELD);
            }
        }
        self.publish();
        true
    }

    fn is_banner(&self) -> bool {
        contains(&self.line, BANNER)
    }

    fn is_marked(&self) -> bool {
        contains(&self.line, &self.mark)
    }

    fn publish(&self) {
        self.sender.send_replace(self.heard.clone());
    }
}

fn contains(line: &[u8], what: &[u8]) -> bool {
    line.windows(what.len()).any(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRODUCTION: &str = "[ 9.1] reboot: Restarting system\r\nGRUB loading.\r\n";
    const TESTED: &str = "[    0.000000] Linux version 6.1.9 (x) #2\r\n\
        [    0.000000] Command line: a kgate.boot=b7 c\r\n[    1.0] up\r\n";
    const BACK: &str =
        "[    0.000000] Linux version 6.1.8 (x) #1\r\n[    1.0] WARNING: of another\r\n";

    async fn through(pieces: &[&str], chunk: usize) -> (String, Heard) {
        let (mut host, ours) = tokio::io::duplex(1 << 16);
        let (window, mut reader) = Window::new(ours, "kgate.boot=b7");
        let text = pieces.concat();
        for piece in text.as_bytes().chunks(chunk) {
            // Nobody reads what comes after the window.
            let _ = host.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        window.shut();
        let mut passed = String::new();
        reader.read_to_string(&mut passed).await.unwrap();
        (passed, window.heard())
    }

    #[tokio::test]
    async fn only_the_booted_kernel_is_heard_however_its_words_are_cut() {
        for chunk in [1, 7, 64, 4096] {
            let (passed, heard) = through(&[PRODUCTION, TESTED, BACK], chunk).await;
            assert!(passed.starts_with(TESTED), "in pieces of {chunk}: {passed}");
            assert!(!passed.contains("6.1.8"), "{passed}");
            assert!(heard.mark && heard.another, "{heard:?}");
            assert!(heard.first.unwrap().ends_with("Linux version 6.1.9 (x) #2"));
        }
    }

    #[tokio::test]
    async fn what_is_never_told_apart_is_kept() {
        let (passed, heard) = through(&[PRODUCTION, "Kernel panic - not syncing\r\n"], 64).await;
        assert!(passed.ends_with("not syncing\r\n"));
        assert_eq!((heard.mark, heard.first), (false, None));
    }

    #[tokio::test]
    async fn another_kernel_alone_has_no_mark() {
        let (passed, heard) = through(&[PRODUCTION, BACK], 64).await;
        assert_eq!(passed, BACK);
        assert!(!heard.mark && !heard.another);
    }
}
