//! One QEMU process: how it is started, its console, its QMP connection, its end.

use std::collections::BTreeSet;
use std::io;
use std::iter;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kgate_machine::process::{Pages, Process};
use kgate_machine::{BootError, Console, End, Pipe};
use kgate_model::outcome::FaultKind;
use qapi::futures::{QapiStream, QmpStreamTokio};
use qapi::qmp;
use rustix::pipe::PipeFlags;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::args::{self, Begin, CONSOLE_CHARDEV, Channel, GuestSpec};
use crate::fork::Parent;
use crate::load::Seat;
use crate::pins::Pins;
use crate::template;

/// After a panic was reported the kernel still prints its end; then it resets.
pub(crate) const PANIC_GRACE: Duration = Duration::from_secs(3);
/// An orderly power-off takes a few milliseconds, longer on a loaded controller.
pub(crate) const POWER_OFF: Duration = Duration::from_secs(5);
/// Between the end of QEMU and the last byte of its console being read.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);
/// Time that QEMU has to start and to greet on QMP.
const QMP_GREETING: Duration = Duration::from_secs(20);
/// Between a QEMU process's end and its last QMP event being read.
const LAST_EVENTS: Duration = Duration::from_millis(500);

/// Keys of the kernel's magic sysrq, in order: backtraces of all CPUs, blocked tasks, memory, all
/// tasks.
const SYSRQ: [u8; 4] = *b"lwmt";
/// A sysrq dump is over when the console was quiet for so long …
const SYSRQ_IDLE: Duration = Duration::from_millis(400);
/// … and is not waited for longer than this.
const SYSRQ_LONGEST: Duration = Duration::from_secs(4);

pub(crate) type Qmp = qapi::futures::QapiService<QmpStreamTokio<WriteHalf<UnixStream>>>;

/// A running QEMU, watched. Dropping it kills it.
pub(crate) struct Emulator {
    pub(crate) console: Console,
    /// How it ended without having been asked to.
    pub(crate) end: watch::Receiver<Option<End>>,
    gone: watch::Receiver<bool>,
    commands: mpsc::UnboundedSender<Command>,
    /// How something is typed on its console.
    typing: qmp::ChardevFile,
}

/// What the guest's supervisor is asked to do.
enum Command {
    /// From now on the end of the guest is wanted.
    Expect,
    /// Kill it.
    Kill,
    /// Make it tell where it is; answered with what the console then says.
    Diagnose(oneshot::Sender<Vec<u8>>),
    /// Stop it.
    Stop(oneshot::Sender<Result<(), String>>),
    /// Stop it and write what it is, without its memory, to a file.
    Save(OwnedFd, oneshot::Sender<Result<(), String>>),
}

/// What QEMU is started with.
pub(crate) struct Launch<'a> {
    pub(crate) qemu: &'a Path,
    /// Without the descriptors of console, QMP and initramfs, which are filled in.
    pub(crate) spec: GuestSpec,
    pub(crate) begin: From,
    /// What else the command line refers to.
    pub(crate) inherit: Vec<OwnedFd>,
    /// Where the console is written.
    pub(crate) console: &'a Path,
    pub(crate) seat: &'a Seat,
    /// Told when the guest stops itself, which is not a panic then.
    pub(crate) parks: Option<oneshot::Sender<()>>,
}

/// The descriptor that a guest begins from.
pub(crate) enum From {
    /// The initramfs of a kernel.
    Initramfs(OwnedFd),
    /// The state of a template that was running.
    State(OwnedFd),
    /// The state of a template that had stopped itself.
    Parked(OwnedFd),
}

impl Emulator {
    /// Starts QEMU.
    pub(crate) fn launch(launch: Launch<'_>) -> Result<Self, BootError> {
        let Launch { qemu, mut spec, begin, mut inherit, console, seat, parks } = launch;
        let broken = |what: &str, error: &dyn std::fmt::Display| {
            BootError::harness(FaultKind::Controller, format!("{what}: {error}"))
        };
        let (wires, ends) = wires().map_err(|e| broken("no pipes or sockets for the guest", &e))?;
        spec.console_fd = ends.printed.as_raw_fd();
        spec.qmp_fd = ends.qmp.as_raw_fd();
        if let (Some(forks), Channel::Port { fd }) = (&mut spec.forks, &spec.channel) {
            let stderr = 2;
            let (printed, typed) = (ends.printed.as_raw_fd(), ends.typed.as_raw_fd());
            forks.replace = vec![forks.qmp_fd, spec.qmp_fd, *fd, printed, typed, stderr];
        }
        let typing = qmp::ChardevFile {
            base: qmp::ChardevCommon { logfile: None, logappend: None },
            append: Some(true),
            in_: Some(format!("/proc/self/fd/{}", ends.typed.as_raw_fd())),
            out: format!("/proc/self/fd/{}", ends.printed.as_raw_fd()),
        };
        let of_state = |file: &OwnedFd| format!("fd:{}", file.as_raw_fd());
        // Many clones run beside each other, and none for long.
        let (state, pages) = match &begin {
            From::Initramfs(file) => {
                if let Begin::Kernel { initrd, .. } = &mut spec.begin {
                    *initrd = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
                }
                (None, Pages::Any)
            }
            From::State(file) => (Some(State::At(of_state(file))), Pages::Small),
            From::Parked(file) => (Some(State::ParkedAt(of_state(file))), Pages::Small),
        };
        let (From::Initramfs(from) | From::State(from) | From::Parked(from)) = begin;

        inherit.extend([ends.printed, ends.typed, ends.qmp, from]);
        let process =
            Process::spawn(qemu, &args::arguments(&spec), inherit, pages).map_err(|e| {
                BootError::harness(
                    FaultKind::Emulator,
                    format!("cannot start {}: {e}", qemu.display()),
                )
            })?;
        Self::watch(process, wires, typing, state, console, seat, parks)
    }

    /// Has a guest that is stopped go on in a process of its own, and speak to its agent by `agent`. Its
    /// CPUs can't be given places: QEMU would tell its parent's threads.
    pub(crate) async fn fork(
        parent: &Parent,
        agent: OwnedFd,
        console: &Path,
        seat: &Seat,
    ) -> Result<Self, BootError> {
        let broken = |e: io::Error| {
            let message = format!("no pipes or sockets for the guest: {e}");
            BootError::harness(FaultKind::Controller, message)
        };
        let (wires, ends) = wires().map_err(broken)?;
        let (said, stderr) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| broken(e.into()))?;
        let said = pipe::Receiver::from_owned_fd(said).map_err(broken)?;
        // The parent's own connection, which is hung up.
        let (_, silent) = pair().map_err(broken)?;
        // What QEMU said first on that connection, it said before there was this one.
        rustix::io::write(&ends.qmp, parent.greeting()).map_err(|e| broken(e.into()))?;
        let files = [ends.qmp, silent, agent, ends.printed, ends.typed, stderr];
        let process = parent.fork(files, said).await;
        let process = process.map_err(|why| BootError::harness(FaultKind::Emulator, why))?;
        let typing = parent.typing();
        Self::watch(process, wires, typing, Some(State::Stopped), console, seat, None)
    }

    /// Follows a process to its end.
    fn watch(
        process: Process,
        wires: Wires,
        typing: qmp::ChardevFile,
        state: Option<State>,
        console: &Path,
        seat: &Seat,
        parks: Option<oneshot::Sender<()>>,
    ) -> Result<Self, BootError> {
        let broken = |what: &str, error: &dyn std::fmt::Display| {
            BootError::harness(FaultKind::Controller, format!("{what}: {error}"))
        };
        let console = Console::start(wires.printed, Some(console))
            .map_err(|e| broken(&format!("{}", console.display()), &e))?;
        let qmp_raw = wires
            .qmp
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| broken("no descriptor for the guest", &e))?;
        seat.taken_by(process.id());
        let (end_sender, end) = watch::channel(None);
        let (gone_sender, gone) = watch::channel(false);
        let (commands, inbox) = mpsc::unbounded_channel();
        let supervisor = Supervisor {
            process,
            qmp_socket: wires.qmp,
            qmp_raw,
            state,
            pins: seat.pins(),
            console: console.clone(),
            keyboard: Keyboard { chardev: typing.clone(), keys: wires.keys },
            end: end_sender,
            expected: false,
            parks,
        };
        tokio::spawn(async move {
            supervisor.run(inbox).await;
            gone_sender.send_replace(true);
        });
        Ok(Self { console, end, gone, commands, typing })
    }

    /// How something is typed on its console, and on that of a process that goes on from it.
    pub(crate) fn typing(&self) -> qmp::ChardevFile {
        self.typing.clone()
    }

    /// Waits until it ended without having been asked to.
    pub(crate) async fn ended(&mut self) {
        let _ = self.end.wait_for(Option::is_some).await;
    }

    /// From now on its end is wanted.
    pub(crate) fn expect_end(&self) {
        let _ = self.commands.send(Command::Expect);
    }

    /// Kills it, and waits until its console is read to the end.
    pub(crate) async fn kill(&mut self) {
        let _ = self.commands.send(Command::Kill);
        let _ = self.gone_within(POWER_OFF).await;
        self.console.closed(DRAIN).await;
    }

    /// Whether it is gone within a time.
    pub(crate) async fn gone_within(&mut self, limit: Duration) -> bool {
        timeout(limit, self.gone.wait_for(|&gone| gone)).await.is_ok()
    }

    /// Makes the guest tell where it is.
    pub(crate) async fn diagnose(&self) -> Vec<u8> {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Diagnose(done)).is_err() {
            return Vec::new();
        }
        // No answer means that the guest ended meanwhile.
        wait.await.unwrap_or_default()
    }

    /// Stops the guest where it is.
    pub(crate) async fn stop(&self) -> Result<(), String> {
        let (done, stopped) = oneshot::channel();
        let gone = "the guest ended";
        self.commands.send(Command::Stop(done)).map_err(|_| gone)?;
        stopped.await.map_err(|_| gone)?
    }

    /// Stops the guest, writes its state, without its memory, to `file`, and ends it.
    pub(crate) async fn save(&mut self, file: OwnedFd) -> Result<(), String> {
        let (done, saved) = oneshot::channel();
        let gone = "the guest ended";
        self.expect_end();
        self.commands.send(Command::Save(file, done)).map_err(|_| gone)?;
        saved.await.map_err(|_| gone)??;
        self.kill().await;
        self.console.error().map_or(Ok(()), Err).map_err(|e| format!("its console: {e}"))
    }
}

/// What the agent said on the console before it gave up.
fn last_word(tail: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(tail);
    text.lines().rev().find_map(|l| Some(l.split_once("kgate-agent: ")?.1.trim().to_owned()))
}

/// A pipe for what the guest prints: our end, its end.
pub(crate) fn printed_pipe() -> io::Result<(Pipe, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Pipe::new(read)?, write))
}

/// A pipe for what is typed to the guest: its end, our end.
fn typed_pipe() -> io::Result<(OwnedFd, pipe::Sender)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok((read, pipe::Sender::from_owned_fd(write)?))
}

/// Our ends of what lies between a QEMU process and its supervisor.
struct Wires {
    printed: Pipe,
    keys: pipe::Sender,
    qmp: UnixStream,
}

/// QEMU's ends.
struct Ends {
    printed: OwnedFd,
    typed: OwnedFd,
    qmp: OwnedFd,
}

fn wires() -> io::Result<(Wires, Ends)> {
    let (ours, printed) = printed_pipe()?;
    let (typed, keys) = typed_pipe()?;
    let (qmp, theirs) = pair()?;
    Ok((Wires { printed: ours, keys, qmp }, Ends { printed, typed, qmp: theirs }))
}

pub(crate) fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// How to type on a guest's console. QEMU's command line can give a file-like console no input; QMP
/// can, when there is something to type.
struct Keyboard {
    chardev: qmp::ChardevFile,
    keys: pipe::Sender,
}

/// Owns the process and learns how it ends.
struct Supervisor {
    process: Process,
    qmp_socket: UnixStream,
    /// The same, for sending descriptors.
    qmp_raw: OwnedFd,
    /// What it begins with.
    state: Option<State>,
    /// Where its CPUs are to be.
    pins: Option<Arc<Pins>>,
    console: Console,
    keyboard: Keyboard,
    end: watch::Sender<Option<End>>,
    expected: bool,
    parks: Option<oneshot::Sender<()>>,
}

/// What a guest begins with that is no kernel. A state is where QMP is told to take it from.
enum State {
    /// The state of one that ran.
    At(String),
    /// The state of one that had stopped itself.
    ParkedAt(String),
    /// What it is: it was stopped.
    Stopped,
}

/// What QMP has told of the guest's end so far.
#[derive(Default)]
struct Told {
    panicked: bool,
    reason: Option<qmp::ShutdownCause>,
}

impl Told {
    fn take(&mut self, event: qmp::Event) {
        match event {
            qmp::Event::GUEST_PANICKED { .. } => self.panicked = true,
            qmp::Event::SHUTDOWN { data, .. } => self.reason = Some(data.reason),
            _ => {}
        }
    }
}

impl Supervisor {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let (read, write) = split(self.qmp_socket);
        let mut told = Told::default();
        let greeting = timeout(QMP_GREETING, async {
            QmpStreamTokio::<ReadHalf<UnixStream>>::open_split(read, write).await?.negotiate().await
        });
        let (qmp, mut events) = tokio::select! {
            stream = greeting => match stream {
                Ok(Ok(stream)) => {
                    let (qmp, events) = QapiStream::into_parts(stream);
                    (Some(qmp), Some(events))
                }
                // QEMU ended before it spoke: its exit tells why.
                Ok(Err(_)) | Err(_) => (None, None),
            },
            () = killed(&mut inbox) => {
                self.process.kill();
                (None, None)
            }
        };
        let mut deadline: Option<Instant> = None;
        let mut killing = false;
        if let (Some(qmp), Some(pins)) = (&qmp, &self.pins) {
            tokio::select! {
                () = pin(qmp, pins) => {}
                () = drain_events(&mut events, &mut told) => {}
            }
        }
        if let (Some(qmp), Some(state)) = (&qmp, &self.state) {
            let begin = async {
                match state {
                    State::At(uri) => template::restore(qmp, uri, false).await,
                    State::ParkedAt(uri) => template::restore(qmp, uri, true).await,
                    State::Stopped => qmp.execute(qmp::cont {}).await.map(drop),
                }
            };
            // A state that it can't take ends QEMU, which says why.
            tokio::select! {
                _ = begin => {}
                () = drain_events(&mut events, &mut told) => {}
            }
        }
        let status = loop {
            tokio::select! {
                status = self.process.wait() => break status,
                event = next_event(&mut events) => match event {
                    // It is stopped by the time this is heard.
                    Some(qmp::Event::GUEST_PANICKED { .. }) if self.parks.is_some() => {
                        if let Some(parks) = self.parks.take() {
                            let _ = parks.send(());
                        }
                    }
                    Some(event) => {
                        told.take(event);
                        if told.panicked {
                            deadline.get_or_insert_with(|| Instant::now() + PANIC_GRACE);
                        }
                    }
                    None => events = None,
                },
                () = self.console.panicked(), if deadline.is_none() => {
                    told.panicked = true;
                    deadline = Some(Instant::now() + PANIC_GRACE);
                }
                () = at(deadline), if !killing => {
                    killing = true;
                    self.process.kill();
                }
                command = inbox.recv() => match command {
                    Some(Command::Expect) => self.expected = true,
                    Some(Command::Diagnose(done)) => {
                        let mut answer = Answer::after(&self.console).await;
                        let asking =
                            interrogate(qmp.as_ref(), &mut self.keyboard, &mut answer);
                        tokio::select! {
                            () = asking => {}
                            () = drain_events(&mut events, &mut told) => {}
                        }
                        answer.take().await;
                        let _ = done.send(answer.text);
                    }
                    Some(Command::Stop(done)) => {
                        let stop = async {
                            let qmp = qmp.as_ref().ok_or("QEMU did not greet on QMP")?;
                            let stopped = qmp.execute(qmp::stop {}).await;
                            stopped.map(drop).map_err(|e| format!("stop the guest: {e}"))
                        };
                        let stopped = tokio::select! {
                            stopped = stop => stopped,
                            () = drain_events(&mut events, &mut told) => Err("QEMU ended".into()),
                        };
                        let _ = done.send(stopped);
                    }
                    Some(Command::Save(file, done)) => {
                        let saved = async {
                            let qmp = qmp.as_ref().ok_or("QEMU did not greet on QMP")?;
                            template::save(qmp, &self.qmp_raw, &file).await
                        };
                        let saved = tokio::select! {
                            saved = saved => saved,
                            () = drain_events(&mut events, &mut told) => Err("QEMU ended".into()),
                        };
                        let _ = done.send(saved);
                    }
                    // The guest was dropped, or is to go.
                    Some(Command::Kill) | None => {
                        self.expected = true;
                        self.process.kill();
                        break self.process.wait().await;
                    }
                },
            }
        };
        if events.is_some() {
            let _ = timeout(LAST_EVENTS, drain_events(&mut events, &mut told)).await;
        }
        if !self.expected {
            // What the agent said at last is on its way, or was the last thing that came.
            self.console.closed(DRAIN).await;
            let end = match end_of(&self.process, status, &told, killing) {
                End::PoweredOff => {
                    last_word(&self.console.tail()).map_or(End::PoweredOff, End::AgentEnded)
                }
                end => end,
            };
            self.end.send_replace(Some(end));
        }
    }
}

fn end_of(
    process: &Process,
    status: io::Result<std::process::ExitStatus>,
    told: &Told,
    killed: bool,
) -> End {
    use qmp::ShutdownCause as Cause;
    match told.reason {
        _ if told.panicked => End::Panicked,
        Some(Cause::guest_panic) => End::Panicked,
        Some(Cause::guest_reset | Cause::subsystem_reset) => End::Reset,
        Some(Cause::guest_shutdown) => End::PoweredOff,
        _ => {
            let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            let said = process.complaint().text();
            let parts = iter::once(format!("QEMU ended from outside ({how})"))
                .chain((!said.is_empty()).then_some(said))
                .chain(killed.then(|| "kgate killed it".to_owned()));
            End::Vanished(parts.collect::<Vec<_>>().join(": "))
        }
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Waits until the guest is to go.
async fn killed(inbox: &mut mpsc::UnboundedReceiver<Command>) {
    loop {
        match inbox.recv().await {
            Some(Command::Kill) | None => return,
            // Dropping the sender answers it: nothing can be asked yet.
            Some(Command::Expect | Command::Diagnose(_) | Command::Stop(_) | Command::Save(..)) => {
            }
        }
    }
}

type Events = qapi::futures::QapiEvents<QmpStreamTokio<ReadHalf<UnixStream>>>;

async fn next_event(events: &mut Option<Events>) -> Option<qmp::Event> {
    let Some(events) = events else { return std::future::pending().await };
    loop {
        match events.next().await? {
            Ok(event) => return Some(event),
            // An event of a newer QEMU that this program doesn't know.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(_) => return None,
        }
    }
}

/// Reads events until there are no more.
async fn drain_events(events: &mut Option<Events>, told: &mut Told) {
    while let Some(event) = next_event(events).await {
        told.take(event);
    }
}

/// Gives each of the guest's CPUs one of the controller's.
async fn pin(qmp: &Qmp, pins: &Pins) {
    match qmp.execute(qmp::query_cpus_fast {}).await {
        Ok(cpus) => {
            // One thread may carry them all.
            let threads: BTreeSet<i64> = cpus
                .iter()
                .filter_map(|cpu| match cpu {
                    qmp::CpuInfoFast::x86_64(base) => Some(base.thread_id),
                    _ => None,
                })
                .collect();
            pins.pin(&threads.into_iter().collect::<Vec<_>>());
        }
        Err(error) => pins.fail(format!("QEMU does not tell its threads: {error}")),
    }
}

/// Sysrq over the serial line; a kernel that takes no interrupts gets an NMI, on which it panics
/// with a backtrace.
async fn interrogate(qmp: Option<&Qmp>, keyboard: &mut Keyboard, answer: &mut Answer<'_>) {
    let Some(qmp) = qmp else { return };
    let attach = qmp::chardev_change {
        id: CONSOLE_CHARDEV.into(),
        backend: qmp::ChardevBackend::file(keyboard.chardev.clone().into()),
    };
    if qmp.execute(attach).await.is_err() {
        return;
    }
    for key in SYSRQ {
        let ask = qmp::chardev_send_break { id: CONSOLE_CHARDEV.into() };
        if qmp.execute(ask).await.is_err() {
            return;
        }
        // The break has to reach the kernel before the key does.
        sleep(Duration::from_millis(20)).await;
        let _ = keyboard.keys.write_all(&[key]).await;
        answer.console.quiet(SYSRQ_IDLE, SYSRQ_LONGEST).await;
        answer.take().await;
        if answer.text.is_empty() {
            let _ = qmp.execute(qmp::inject_nmi {}).await;
            answer.console.quiet(SYSRQ_IDLE * 3, SYSRQ_LONGEST).await;
            return;
        }
    }
}

/// What a console prints from one moment on. Of each piece that is taken only the end is kept where
/// it is long, so that a dump of all tasks does not push out what came before it.
struct Answer<'a> {
    console: &'a Console,
    seen: u64,
    text: Vec<u8>,
}

impl<'a> Answer<'a> {
    async fn after(console: &'a Console) -> Self {
        console.settle().await;
        let seen = console.progress().borrow().bytes;
        Self { console, seen, text: Vec::new() }
    }

    /// Takes the piece that was printed since the last one.
    async fn take(&mut self) {
        self.console.settle().await;
        let now = self.console.progress().borrow().bytes;
        let new = usize::try_from(now.saturating_sub(self.seen)).unwrap_or(usize::MAX);
        self.seen = now;
        let tail = self.console.tail();
        self.text.extend_from_slice(&tail[tail.len().saturating_sub(new)..]);
    }
}
