//! One guest: its process, its QMP connection, its end.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{io, iter};

use async_trait::async_trait;
use futures::StreamExt;
use kgate_machine::process::{Pages, Process};
use kgate_machine::{Agent, AgentError, BootError, Console, End, Machine, Pipe};
use kgate_model::outcome::{Fault, FaultKind};
use kgate_model::wire::{Identity, Setup};
use qapi::futures::{QapiStream, QmpStreamTokio};
use qapi::qmp;
use rustix::pipe::PipeFlags;
use std::collections::BTreeMap;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::args::{self, Begin, CONSOLE_CHARDEV, GuestSpec};
use crate::load::Seat;
use crate::template::{self, Record};

/// After a panic was reported the kernel still prints its end; then it resets.
const PANIC_GRACE: Duration = Duration::from_secs(3);
/// An orderly power-off takes a few milliseconds, longer on a loaded controller.
const POWER_OFF: Duration = Duration::from_secs(5);
/// Between the end of QEMU and the last byte of its console being read.
const DRAIN: Duration = Duration::from_secs(2);
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

/// A running guest. Dropping it kills it.
pub(crate) struct Guest {
    agent: Agent,
    console: Console,
    identity: Identity,
    end: watch::Receiver<Option<End>>,
    gone: watch::Receiver<bool>,
    loadable: BTreeMap<String, Vec<String>>,
    commands: mpsc::UnboundedSender<Command>,
    /// Free again when the guest is gone.
    _seat: Rc<Seat>,
}

/// What the guest's supervisor is asked to do.
enum Command {
    /// From now on the end of the guest is wanted.
    Expect,
    /// Kill it.
    Kill,
    /// Make it tell where it is; answered with what the console then says.
    Diagnose(oneshot::Sender<Vec<u8>>),
    /// Stop it and write what it is, without its memory, to a file.
    Save(OwnedFd, oneshot::Sender<Result<(), String>>),
}

/// What a guest is started with.
pub(crate) struct Start<'a> {
    pub(crate) qemu: &'a Path,
    /// Without the descriptors, which are filled in.
    pub(crate) spec: GuestSpec,
    pub(crate) begin: From,
    pub(crate) setup: Setup,
    pub(crate) loadable: BTreeMap<String, Vec<String>>,
    /// Where the console is written.
    pub(crate) console: &'a Path,
    /// Where the records of `/dev/kmsg` are written.
    pub(crate) kernel_log: Option<&'a Path>,
    /// The agent must have answered after this time.
    pub(crate) deadline: Duration,
    pub(crate) seat: Rc<Seat>,
}

/// The descriptor that a guest begins from.
pub(crate) enum From {
    /// The initramfs of a kernel.
    Initramfs(OwnedFd),
    /// The state of a template.
    State(OwnedFd),
}

impl Guest {
    /// Starts QEMU and waits for the agent's first word.
    pub(crate) async fn boot(start: Start<'_>) -> Result<Self, BootError> {
        let Start { qemu, mut spec, begin, setup, loadable, console, kernel_log, deadline, seat } =
            start;
        let broken = |what: &str, error: &dyn std::fmt::Display| {
            BootError::harness(FaultKind::Controller, format!("{what}: {error}"))
        };
        let sockets = |e: io::Error| broken("no pipes or sockets for the guest", &e);
        let (console_read, printed) = printed_pipe().map_err(sockets)?;
        let (typed, console_write) = typed_pipe().map_err(sockets)?;
        let (agent_ours, agent_theirs) = pair().map_err(sockets)?;
        let (qmp_ours, qmp_theirs) = pair().map_err(sockets)?;
        spec.console_fd = printed.as_raw_fd();
        let keyboard = Keyboard {
            chardev: qmp::ChardevFile {
                base: qmp::ChardevCommon { logfile: None, logappend: None },
                append: Some(true),
                in_: Some(format!("/proc/self/fd/{}", typed.as_raw_fd())),
                out: format!("/proc/self/fd/{}", printed.as_raw_fd()),
            },
            keys: console_write,
        };
        spec.agent_fd = agent_theirs.as_raw_fd();
        spec.qmp_fd = qmp_theirs.as_raw_fd();
        // Many clones run beside each other, and none for long.
        let pages = match begin {
            From::Initramfs(_) => Pages::Any,
            From::State(_) => Pages::Small,
        };
        let mut state = None;
        let from = match begin {
            From::Initramfs(file) => {
                if let Begin::Kernel { initrd, .. } = &mut spec.begin {
                    *initrd = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
                }
                file
            }
            From::State(file) => {
                state = Some(format!("fd:{}", file.as_raw_fd()));
                file
            }
        };

        let console = Console::start(console_read, Some(console))
            .map_err(|e| broken(&format!("{}", console.display()), &e))?;
        let qmp_raw = qmp_ours
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| broken("no descriptor for the guest", &e))?;
        let inherit = vec![printed, typed, agent_theirs, qmp_theirs, from];
        let process =
            Process::spawn(qemu, &args::arguments(&spec), inherit, pages).map_err(|e| {
                BootError::harness(
                    FaultKind::Emulator,
                    format!("cannot start {}: {e}", qemu.display()),
                )
            })?;

        seat.taken_by(process.id());
        let (end_sender, end) = watch::channel(None);
        let (gone_sender, gone) = watch::channel(false);
        let (commands, inbox) = mpsc::unbounded_channel();
        let supervisor = Supervisor {
            process,
            qmp_socket: qmp_ours,
            qmp_raw,
            state,
            console: console.clone(),
            keyboard,
            end: end_sender,
            expected: false,
        };
        tokio::spawn(async move {
            supervisor.run(inbox).await;
            gone_sender.send_replace(true);
        });

        let mut guest = Starting { console, end, gone, commands };
        let connect = Agent::connect(agent_ours, setup, kernel_log);
        tokio::pin!(connect);
        let connected = tokio::select! {
            connected = timeout(deadline, &mut connect) => connected,
            () = guest.ended() => Ok(Err(AgentError::Closed("the guest ended".into()))),
        };
        match connected {
            Ok(Ok((agent, identity))) => Ok(Self {
                agent,
                identity,
                console: guest.console,
                end: guest.end,
                gone: guest.gone,
                loadable,
                commands: guest.commands,
                _seat: seat,
            }),
            Ok(Err(error)) => Err(guest.failed(Some(error), deadline).await),
            Err(_) => Err(guest.failed(None, deadline).await),
        }
    }
}

impl Guest {
    /// Ends the guest as it is now and writes its state, without its memory, to `file`. It was ready
    /// after `ready`.
    pub(crate) async fn keep(mut self, file: OwnedFd, ready: Duration) -> Result<Record, String> {
        let ask = |e: AgentError| e.to_string();
        let state = self.agent.state().await.map_err(ask)?;
        // Nothing may be on its way when it is stopped: its clones would get the other half.
        self.agent.settle().await.map_err(ask)?;
        let booted = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (done, saved) = oneshot::channel();
        let gone = "the guest ended";
        self.commands.send(Command::Expect).map_err(|_| gone)?;
        self.commands.send(Command::Save(file, done)).map_err(|_| gone)?;
        saved.await.map_err(|_| gone)??;
        let _ = self.commands.send(Command::Kill);
        let _ = timeout(POWER_OFF, self.gone.wait_for(|&gone| gone)).await;
        self.console.closed(DRAIN).await;
        self.console.error().map_or(Ok(()), Err).map_err(|e| format!("its console: {e}"))?;
        Ok(Record {
            identity: self.identity,
            state,
            findings: self.console.findings(0),
            ready_ms: u64::try_from(ready.as_millis()).unwrap_or(u64::MAX),
            booted_ms: u64::try_from(booted.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// A guest whose agent has not answered yet.
struct Starting {
    console: Console,
    end: watch::Receiver<Option<End>>,
    gone: watch::Receiver<bool>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Starting {
    async fn ended(&mut self) {
        let _ = self.end.wait_for(Option::is_some).await;
    }

    /// Finds out why the agent did not answer, and ends what is left. No `error` means that the
    /// deadline came.
    async fn failed(mut self, error: Option<AgentError>, deadline: Duration) -> BootError {
        let mut diagnosis = None;
        match &error {
            None => diagnosis = Some(diagnose(&self.commands).await),
            // The channel breaks a moment before its reason is known.
            Some(AgentError::Closed(_)) => {
                let _ = timeout(PANIC_GRACE, self.ended()).await;
            }
            Some(_) => {}
        }
        let end = self.end.borrow().clone();
        let _ = self.commands.send(Command::Kill);
        let _ = timeout(POWER_OFF, self.gone.wait_for(|&gone| gone)).await;
        self.console.closed(DRAIN).await;
        let cause = self.console.cause();
        let tail = self.console.tail();
        let fault = match (&end, &error, &cause) {
            (Some(End::Vanished(how)), _, _) => Fault::harness(FaultKind::Emulator, how.clone()),
            (_, Some(AgentError::Refused(trouble)), _) => {
                Fault::kernel(FaultKind::BootFailed, trouble.message.clone())
            }
            (_, Some(error @ (AgentError::Protocol { .. } | AgentError::Silent(_))), _) => {
                Fault::harness(FaultKind::Channel, error.to_string())
            }
            (_, _, Some(finding)) => Fault::kernel(FaultKind::BootFailed, finding.title.clone()),
            (Some(end @ End::AgentEnded(_)), _, None) => end.fault(None),
            (Some(end), _, None) => Fault { kind: FaultKind::BootFailed, ..end.fault(None) },
            (None, None, None) => Fault::kernel(
                FaultKind::BootFailed,
                format!(
                    "no word from the agent after {} s; the console ends with: {}",
                    deadline.as_secs_f32(),
                    last_line(&tail),
                ),
            ),
            (None, Some(error), None) => Fault::harness(FaultKind::Channel, error.to_string()),
        };
        BootError { fault, findings: self.console.findings(0), tail, diagnosis }
    }
}

/// What the agent said on the console before it gave up.
fn last_word(tail: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(tail);
    text.lines().rev().find_map(|l| Some(l.split_once("kgate-agent: ")?.1.trim().to_owned()))
}

fn last_line(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.map_or_else(|| "nothing".into(), |line| format!("“{line}”"))
}

async fn diagnose(commands: &mpsc::UnboundedSender<Command>) -> Vec<u8> {
    let (done, wait) = oneshot::channel();
    if commands.send(Command::Diagnose(done)).is_err() {
        return Vec::new();
    }
    // No answer means that the guest ended meanwhile.
    wait.await.unwrap_or_default()
}

#[async_trait(?Send)]
impl Machine for Guest {
    fn agent(&self) -> &Agent {
        &self.agent
    }

    fn console(&self) -> &Console {
        &self.console
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn end(&self) -> watch::Receiver<Option<End>> {
        self.end.clone()
    }

    async fn load_modules(&mut self, names: &[String]) -> Result<(), Fault> {
        let mut paths: Vec<String> = Vec::new();
        for path in names.iter().filter_map(|name| self.loadable.get(name)).flatten() {
            if !paths.contains(path) {
                paths.push(path.clone());
            }
        }
        if paths.is_empty() {
            return Ok(());
        }
        self.agent.load_modules(paths).await.map_err(|error| match error {
            AgentError::Refused(trouble) => Fault::kernel(FaultKind::Requirement, trouble.message),
            other => Fault::harness(FaultKind::Channel, other.to_string()),
        })
    }

    async fn diagnose(&mut self) -> Vec<u8> {
        diagnose(&self.commands).await
    }

    async fn stop(mut self: Box<Self>) {
        let _ = self.commands.send(Command::Expect);
        let asked = self.agent.power_off().is_ok();
        let wait = if asked { POWER_OFF } else { Duration::ZERO };
        if timeout(wait, self.gone.wait_for(|&gone| gone)).await.is_err() {
            let _ = self.commands.send(Command::Kill);
            let _ = timeout(POWER_OFF, self.gone.wait_for(|&gone| gone)).await;
        }
        self.console.closed(DRAIN).await;
    }
}

/// A pipe for what the guest prints: our end, its end.
fn printed_pipe() -> io::Result<(Pipe, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Pipe::new(read)?, write))
}

/// A pipe for what is typed to the guest: its end, our end.
fn typed_pipe() -> io::Result<(OwnedFd, pipe::Sender)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok((read, pipe::Sender::from_owned_fd(write)?))
}

fn pair() -> io::Result<(UnixStream, OwnedFd)> {
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
    /// Where the state comes from that it begins with, as QMP names it.
    state: Option<String>,
    console: Console,
    keyboard: Keyboard,
    end: watch::Sender<Option<End>>,
    expected: bool,
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
        if let (Some(qmp), Some(state)) = (&qmp, &self.state) {
            // A state that it can't take ends QEMU, which says why.
            tokio::select! {
                _ = template::restore(qmp, state) => {}
                () = drain_events(&mut events, &mut told) => {}
            }
        }
        let status = loop {
            tokio::select! {
                status = self.process.wait() => break status,
                event = next_event(&mut events) => match event {
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
            let said = process.complaint();
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
            Some(Command::Expect | Command::Diagnose(_) | Command::Save(..)) => {}
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
