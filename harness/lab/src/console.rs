//! Consoles: what a lab host prints, from wherever it is heard to files and readers.
//!
//! The contract (a `Feed` is what others see of all of this):
//! - `Feed::open(opening, secrets, within)` begins to listen and goes on until it is dropped, connecting
//!   again whenever the source is lost;
//! - `feed.reader()` is an `AsyncRead + Send + Unpin + 'static` of everything that comes from now on;
//!   there may be several, and one that is slow loses nothing that it still has to read as long as it
//!   isn't further behind than 4 MiB;
//! - what is missing is a line `[kgate: …]` of its own in what readers read, and no line in the file;
//! - `feed.write(bytes)` types, where the source takes that;
//! - `feed.state()` is a `watch::Receiver` of whether it is connected and how often it was lost, and why.

mod command;
mod conserver;
pub mod netconsole;
mod sol;
mod stream;
mod tee;
mod telnet;

use std::future::{Future, pending};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kgate_machine::process::Process;
use kgate_model::inventory::ConsoleSource;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::secret::Secrets;
use crate::text::line;
use tee::{Hub, Tee};

pub use tee::Reader;

/// A source answers within this time, or the attempt has failed.
const CONNECT: Duration = Duration::from_secs(20);
/// Between two attempts, at first and in the end.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// After a mistake, which is tried again only because somebody may have mended it.
const MENDED: Duration = Duration::from_secs(30);
/// A connection that lived for so long was a good one: the next pause is a short one again.
const GOOD: Duration = Duration::from_secs(5);
/// A console that is silent for so long is asked for where nobody would tell that it is lost.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two reads: a console comes byte by byte, and each read wakes the controller.
const REST: Duration = Duration::from_millis(5);
/// Read at once, at most.
const CHUNK: usize = 64 << 10;
/// Answers of a protocol that nobody takes are dropped beyond this.
const ANSWERS: usize = 64 << 10;
/// Texts that wait to be typed.
const TYPED: usize = 16;

/// What a feed is made of.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Name of the host.
    pub host: String,
    /// Its name or address on the network: a netconsole's datagrams are its own when they come from there.
    pub address: String,
    /// Where it is heard.
    pub source: ConsoleSource,
    /// Everything that is heard goes to this file, made new, byte for byte and bounded; a file beside it
    /// with `.times` added tells when each piece came and where the connection was lost.
    pub file: Option<PathBuf>,
}

/// Why a console can't be heard or typed to. Never a kernel's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsoleError {
    /// Its file, its password or a program isn't there, or what hears it doesn't know it: waiting doesn't
    /// mend that.
    #[error("the console of {host} can't be opened: {why}")]
    Mistake {
        /// The host.
        host: String,
        /// What is wrong.
        why: String,
    },
    /// It wasn't there in time.
    #[error("the console of {host} was not there within {} s: {why}", within.as_secs())]
    Absent {
        /// The host.
        host: String,
        /// How long it was tried.
        within: Duration,
        /// Why the last attempt failed.
        why: String,
    },
    /// It takes no input.
    #[error("the console of {0} can only be read: netconsole, or somebody else types there")]
    ReadOnly(String),
    /// It is lost at the moment.
    #[error("the console of {host} is not connected: {why}")]
    Lost {
        /// The host.
        host: String,
        /// Why.
        why: String,
    },
}

/// How a feed is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The source is connected.
    pub connected: bool,
    /// It takes what is typed.
    pub writable: bool,
    /// How often it was lost.
    pub losses: u64,
    /// Why it isn't connected, or wasn't the last time.
    pub why: Option<String>,
    /// That is a mistake, which waiting doesn't mend.
    pub mistake: bool,
    /// Bytes that came.
    pub bytes: u64,
    /// Why the file ends before the console did.
    pub file: Option<String>,
}

/// A console that is listened to until this is dropped.
#[derive(Debug)]
pub struct Feed {
    host: String,
    hub: Arc<Hub>,
    typed: mpsc::Sender<Vec<u8>>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl Feed {
    /// Begins to listen, and returns when the source is connected. With a limit of zero that isn't waited
    /// for: what comes of it is in [`Self::state`].
    ///
    /// # Errors
    /// [`ConsoleError::Absent`] when the limit is over, [`ConsoleError::Mistake`] when there is no use in
    /// waiting for it.
    pub async fn open(
        opening: Opening,
        secrets: &dyn Secrets,
        within: Duration,
    ) -> Result<Self, ConsoleError> {
        let Opening { host, address, source, file } = opening;
        let mistake = |why| ConsoleError::Mistake { host: host.clone(), why };
        let source = match source {
            ConsoleSource::Sol(ipmi) => {
                let password = secrets.get(&ipmi.password).await;
                let password = password.map_err(|error| mistake(error.to_string()))?;
                Source::Sol(sol::Bmc { ipmi, password })
            }
            other => Source::Other { host: host.clone(), address, source: other },
        };
        let tee = Tee::new(file.as_deref())
            .map_err(|error| mistake(format!("{}: {error}", file.unwrap_or_default().display())))?;
        let hub = tee.hub();
        let (typed, typing) = mpsc::channel(TYPED);
        let (sender, state) = watch::channel(State::default());
        let task = tokio::spawn(Listening { source, tee, typing, state: sender }.run());
        let feed = Self { host, hub, typed, state, task };
        if !within.is_zero() {
            feed.connected(within).await?;
        }
        Ok(feed)
    }

    /// Waits until the source is connected.
    ///
    /// # Errors
    /// As of [`Self::open`].
    pub async fn connected(&self, within: Duration) -> Result<(), ConsoleError> {
        let mut state = self.state.clone();
        let host = self.host.clone();
        let reached =
            timeout(within, state.wait_for(|state| state.connected || state.mistake)).await;
        let state = self.state.borrow();
        let why = || state.why.clone().unwrap_or_else(|| "no answer".to_owned());
        match reached {
            Ok(_) if state.connected => Ok(()),
            Ok(_) => Err(ConsoleError::Mistake { host, why: why() }),
            Err(_) => Err(ConsoleError::Absent { host, within, why: why() }),
        }
    }

    /// Reads everything that comes from now on. Ends when the feed does.
    pub fn reader(&self) -> Reader {
        self.hub.reader()
    }

    /// Types. What the source has not taken when it is lost is forgotten.
    ///
    /// # Errors
    /// It can only be read, or isn't connected.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), ConsoleError> {
        let lost = |why: String| ConsoleError::Lost { host: self.host.clone(), why };
        {
            let state = self.state.borrow();
            if !state.connected {
                return Err(lost(state.why.clone().unwrap_or_else(|| "no answer yet".to_owned())));
            }
            if !state.writable {
                return Err(ConsoleError::ReadOnly(self.host.clone()));
            }
        }
        match timeout(CONNECT, self.typed.send(bytes.to_vec())).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(lost("it takes nothing that is typed".to_owned())),
        }
    }

    /// How it is, to be watched.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Ends it, and returns when its files are written.
    pub async fn close(mut self) {
        self.task.abort();
        // That it was aborted is what is wanted.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is connected to, again and again.
enum Source {
    Sol(sol::Bmc),
    Other { host: String, address: String, source: ConsoleSource },
}

impl Source {
    async fn connect(&self, state: watch::Receiver<State>) -> Result<Link, Failed> {
        let (host, address, source) = match self {
            Self::Sol(bmc) => return sol::connect(bmc, state).await,
            Self::Other { host, address, source } => (host, address, source),
        };
        match source {
            ConsoleSource::Tcp { address, port, telnet } => {
                stream::connect(address, *port, *telnet).await
            }
            ConsoleSource::Conserver { server, port, console } => {
                let (server, console) = (server.clone(), console.clone());
                conserver::connect(&conserver::At { server, port: *port, console }, state).await
            }
            ConsoleSource::Command(command) => command::connect(host, command).await,
            ConsoleSource::Netconsole { port, address: ours, .. } => {
                netconsole::connect(*port, ours, address).await
            }
            ConsoleSource::Sol(_) => Err(Failed::mistake("no password".to_owned())),
        }
    }
}

/// Why a source couldn't be connected.
struct Failed {
    why: String,
    mistake: bool,
}

impl Failed {
    /// It may well work the next time.
    fn now(why: String) -> Self {
        Self { why, mistake: false }
    }

    /// A program of the controller's can't be started.
    fn unstarted(program: &str, error: &io::Error) -> Self {
        Self::mistake(match error.kind() {
            io::ErrorKind::NotFound => format!("{program} is not installed on this machine"),
            _ => format!("{program}: {error}"),
        })
    }

    /// It won't, before somebody has changed something.
    fn mistake(why: String) -> Self {
        Self { why, mistake: true }
    }
}

/// What a console says in its own way becomes what it said, and the other way round.
trait Protocol: Send {
    /// Takes what came; a datagram as a whole where the source has those.
    fn heard(&mut self, bytes: &[u8], heard: &mut Heard) {
        heard.text.extend(bytes);
    }

    /// How this is typed.
    fn typed(&mut self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }
}

/// What became of something that came.
#[derive(Default)]
struct Heard {
    /// What is known to be missing before it.
    gap: Option<String>,
    /// What the console said.
    text: Vec<u8>,
    /// What the source is to be answered.
    answer: Vec<u8>,
}

/// Bytes as they are.
struct Raw;

impl Protocol for Raw {}

/// A source that is connected.
struct Link {
    input: Box<dyn AsyncRead + Send + Unpin>,
    output: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    writable: bool,
    protocol: Box<dyn Protocol>,
    datagrams: bool,
    process: Option<Process>,
    /// Ends when the connection is found to be dead in spite of itself.
    watcher: Pin<Box<dyn Future<Output = String> + Send>>,
}

impl Link {
    fn new(input: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self {
            input: Box::new(input),
            output: None,
            writable: false,
            protocol: Box::new(Raw),
            datagrams: false,
            process: None,
            watcher: Box::pin(pending()),
        }
    }

    fn speaking(self, protocol: impl Protocol + 'static) -> Self {
        Self { protocol: Box::new(protocol), ..self }
    }

    /// What is typed goes there.
    fn writing(self, output: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { writable: true, ..self.keeping(output) }
    }

    /// Nothing may be typed, but the connection's other half has to stay.
    fn keeping(self, output: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { output: Some(Box::new(output)), ..self }
    }

    /// Each read gives a datagram, and the file gets these as they came.
    fn by_datagrams(self) -> Self {
        Self { datagrams: true, ..self }
    }

    fn of(self, process: Process) -> Self {
        Self { process: Some(process), ..self }
    }

    fn watched(self, watcher: impl Future<Output = String> + Send + 'static) -> Self {
        Self { watcher: Box::pin(watcher), ..self }
    }
}

/// The task of a feed.
struct Listening {
    source: Source,
    tee: Tee,
    typing: mpsc::Receiver<Vec<u8>>,
    state: watch::Sender<State>,
}

impl Listening {
    async fn run(mut self) {
        let mut pause = PAUSE;
        loop {
            let began = Instant::now();
            let connected = timeout(CONNECT, self.source.connect(self.state.subscribe())).await;
            match connected {
                Ok(Ok(link)) => {
                    self.tee.connected();
                    let writable = link.writable;
                    self.state.send_modify(|state| {
                        (state.connected, state.writable, state.mistake) = (true, writable, false);
                    });
                    let why = line(&self.hear(link).await);
                    self.tee.lost(&why);
                    self.state.send_modify(|state| {
                        (state.connected, state.writable) = (false, false);
                        state.losses += 1;
                        state.why = Some(why);
                    });
                }
                Ok(Err(Failed { why, mistake })) => self.failed(&why, mistake),
                Err(_) => self.failed(&format!("no answer within {} s", CONNECT.as_secs()), false),
            }
            if began.elapsed() >= GOOD {
                pause = PAUSE;
            }
            // What was meant for the connection that is gone.
            while self.typing.try_recv().is_ok() {}
            let mistake = self.state.borrow().mistake;
            sleep(if mistake { MENDED } else { pause }).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    fn failed(&mut self, why: &str, mistake: bool) {
        let why = Some(line(why));
        self.state.send_modify(|state| (state.why, state.mistake) = (why, mistake));
    }

    /// Listens until the source is lost; why it is.
    async fn hear(&mut self, link: Link) -> String {
        let Link { mut input, mut output, mut protocol, mut process, mut watcher, .. } = link;
        let mut buffer = vec![0; CHUNK];
        let mut heard = Heard::default();
        // Bytes that are to be sent.
        let mut sending = Vec::new();
        let mut next = Instant::now();
        loop {
            let read = async {
                sleep_until(next).await;
                input.read(&mut buffer).await
            };
            let due = self.tee.due();
            tokio::select! {
                read = read => match read {
                    Ok(0) => return match &mut process {
                        Some(process) => command::ended(process).await,
                        None => "the other side closed the connection".to_owned(),
                    },
                    Ok(length) => {
                        protocol.heard(&buffer[..length], &mut heard);
                        if let Some(gap) = heard.gap.take() {
                            self.tee.gap(&gap);
                        }
                        let raw = if link.datagrams { &buffer[..length] } else { &heard.text };
                        self.tee.heard(raw, &heard.text);
                        heard.text.clear();
                        if sending.len() < ANSWERS {
                            sending.append(&mut heard.answer);
                        }
                        heard.answer.clear();
                        let file = self.tee.error();
                        self.state.send_modify(|state| {
                            state.bytes += length as u64;
                            if state.file.as_deref() != file {
                                state.file = file.map(str::to_owned);
                            }
                        });
                        // Where there is more than fits, there is no rest for us, but for others.
                        if link.datagrams || length == CHUNK {
                            tokio::task::yield_now().await;
                        } else {
                            next = Instant::now() + REST;
                        }
                    }
                    Err(error) => return error.to_string(),
                },
                wrote = send(&mut output, &sending), if !sending.is_empty() => match wrote {
                    Ok(length) => drop(sending.drain(..length)),
                    Err(error) => return error.to_string(),
                },
                Some(bytes) = self.typing.recv(), if sending.is_empty() => {
                    sending = protocol.typed(&bytes);
                }
                () = at(due) => self.tee.tick(),
                why = &mut watcher => return why,
            }
        }
    }
}

/// Sends as much as the source takes.
async fn send(
    output: &mut Option<Box<dyn AsyncWrite + Send + Unpin>>,
    bytes: &[u8],
) -> std::io::Result<usize> {
    match output {
        Some(output) => match output.write(bytes).await? {
            0 => Err(std::io::ErrorKind::WriteZero.into()),
            length => Ok(length),
        },
        None => Ok(bytes.len()),
    }
}

/// Waits for a moment that may never come.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

/// Returns when nothing has come for so long that it may be asked whether anything can.
async fn silence(state: &watch::Receiver<State>) {
    loop {
        let before = state.borrow().bytes;
        sleep(SILENCE).await;
        if state.borrow().bytes == before {
            return;
        }
    }
}
