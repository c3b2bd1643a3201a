//! `kgate boot`: one kernel, a command, a shell or a scenario.

pub(crate) mod scenario;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use kgate_kernel::{Kernel, Status};
use kgate_machine::{AgentError, BootError, BootRequest, CloneRequest, Machine, Pool};
use kgate_model::outcome::Role;
use kgate_model::plan::MachineShape;
use kgate_model::wire::{self, ExitStatus, Limits, Reply, Stdin, Stream};
use kgate_qemu::Guests;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::args::BootArgs;
use crate::context::Context;
use crate::error::{CommandError, PROMOTE, REJECT};
use crate::guests::{self, Budget};
use crate::library::Source;
use crate::signals::watch_signals;
use crate::text;

/// A command without limits still ends some day.
const NO_LIMIT: u64 = u64::MAX;

/// Runs the command.
pub(crate) fn boot(context: &Context, args: BootArgs) -> Result<ExitCode, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(run(context, args));
    // A thread may still wait for our standard input.
    runtime.shutdown_background();
    code
}

async fn run(context: &Context, args: BootArgs) -> Result<ExitCode, CommandError> {
    let mut signals = watch_signals()?;
    if let Some(id) = &args.scenario {
        return scenario::run(context, &args, id, signals).await;
    }
    let interactive = args.argv.is_empty();
    if interactive && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(CommandError::usage("there is no terminal for a shell")
            .hint("name a command: kgate boot KERNEL -- COMMAND …"));
    }
    let kernels = || Ok(BTreeMap::from([(Role::Candidate, kernel(context, &args)?)]));
    let library = Source::new(&args.library)?;
    let budget = Budget { accel: args.accel.into(), cpus: None, memory: None };
    let image = args.image.as_str();
    let pool = guests::pool(context, &library, kernels, [image], budget, &mut |what| {
        anstream::eprintln!("kgate: building {what} …");
    })?;
    let mut pool = pool.without_ops();
    pool.check(Role::Candidate, image, &args.modules, args.network, false)?;
    let request = BootRequest {
        name: "kgate-boot".into(),
        role: Role::Candidate,
        host: None,
        number: 1,
        image: args.image.clone(),
        shape: MachineShape {
            cpus: args.cpus,
            memory: args.memory << 20,
            cpu_model: args.cpu_model.clone(),
            kernel_args: args
                .append
                .iter()
                .flat_map(|a| a.split_whitespace())
                .map(Into::into)
                .collect(),
            network: args.network,
        },
        alone: false,
        modules: args.modules.clone(),
        console: args.console.clone().unwrap_or_else(|| PathBuf::from("/dev/null")),
        kernel_log: None,
        deadline: Duration::from_secs(args.boot_timeout),
    };
    let booted = tokio::select! {
        booted = start(&pool, &request, args.warm) => booted,
        _ = signals.wait_for(|&asked| asked) => return Err(interrupted()),
    };
    if let Some(reason) = pool.facts().get("accelerator reason") {
        anstream::eprintln!("kgate: TCG is used: {}", text::line(reason));
    }
    let mut machine = booted.map_err(|error| {
        let tail = text::tail(&error.tail, 12);
        let error = CommandError::from(error);
        if tail.is_empty() { error } else { error.hint(format!("the console's end:\n{tail}")) }
    })?;
    if !args.modules.is_empty()
        && let Err(fault) = machine.load_modules(&args.modules).await
    {
        machine.stop().await;
        return Err(CommandError::infrastructure(fault.to_string()));
    }
    let argv = (!interactive).then_some(args.argv.as_slice());
    let result = tokio::select! {
        result = drive(machine.as_ref(), argv, args.timeout) => result,
        _ = signals.wait_for(|&asked| asked) => Err(interrupted()),
    };
    let console = machine.console().clone();
    if result.is_ok() && !args.warm {
        machine.stop().await;
    } else {
        drop(machine);
    }
    console.closed(Duration::from_secs(2)).await;
    for finding in console.findings(0) {
        anstream::eprintln!("kgate: kernel log: {}", text::line(&finding.title));
    }
    if let Some(error) = console.error() {
        return Err(CommandError::infrastructure(format!(
            "{}: {error}",
            request.console.display()
        )));
    }
    result
}

/// A machine that is booted, or a clone of one.
async fn start(
    pool: &Guests,
    request: &BootRequest,
    warm: bool,
) -> Result<Box<dyn Machine>, BootError> {
    let template = if warm { pool.template(request).await } else { None };
    let Some(template) = template else { return pool.boot(request).await };
    let BootRequest { name, console, kernel_log, deadline, .. } = request.clone();
    template?.start(&CloneRequest { name, console, kernel_log, deadline }).await
}

fn kernel(context: &Context, args: &BootArgs) -> Result<Kernel, CommandError> {
    let kernel = context.kernel(&args.kernel)?;
    match args.modules.iter().find(|m| kernel.modules.status(m) == Status::Absent) {
        None => Ok(kernel),
        Some(absent) => Err(CommandError::usage(format!(
            "{} has no module `{absent}`, neither as a file nor built in",
            kernel.release
        ))),
    }
}

pub(crate) fn interrupted() -> CommandError {
    CommandError::interrupted("interrupted")
}

/// Runs the command on the machine, a shell on this terminal without one, and passes bytes through until
/// it ends. `timeout` is in seconds.
pub(crate) async fn drive(
    machine: &dyn Machine,
    argv: Option<&[String]>,
    timeout: Option<u64>,
) -> Result<ExitCode, CommandError> {
    let interactive = argv.is_none();
    let terminal = interactive.then(RawTerminal::new).transpose()?;
    let argv = argv.map_or_else(|| vec!["/bin/sh".into(), "-l".into()], <[String]>::to_vec);
    let environment = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("TERM", "xterm"),
    ];
    let command = wire::Command {
        argv,
        env: environment.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        dir: "/".into(),
        stdin: match terminal {
            Some(_) => {
                let (columns, rows) = window_size();
                Stdin::Terminal { columns, rows }
            }
            None => Stdin::Pipe,
        },
        timeout_ms: timeout.map(|seconds| seconds * 1000),
        output_limit: NO_LIMIT,
        limits: Limits::default(),
        background: false,
    };
    let mut running = machine.agent().spawn(command).map_err(|e| broken(&e))?;
    let mut input = read_stdin();
    let mut resized = signal(SignalKind::window_change())?;
    let mut end = machine.end();
    let clean = !interactive && io::stdout().is_terminal();
    loop {
        tokio::select! {
            reply = running.next() => match reply {
                Ok(Reply::Output { stream, data, .. }) => {
                    let data = if clean { text::clean(&data) } else { data };
                    let written = match stream {
                        Stream::Stdout => pass(&mut io::stdout(), &data),
                        Stream::Stderr => pass(&mut io::stderr(), &data),
                    };
                    written.map_err(|e| CommandError::infrastructure(format!("output: {e}")))?;
                }
                Ok(Reply::Sample { sample, .. }) => {
                    let name = text::line(&sample.metric);
                    let unit = text::line(&sample.unit);
                    pass(&mut io::stdout(), format!("{name}: {} {unit}\n", sample.value).as_bytes())?;
                }
                Ok(Reply::Exited { status, .. }) => return ended(status),
                Ok(_) => {}
                Err(error) => {
                    // The machine's end is known a moment after the channel's.
                    let wait = Duration::from_secs(4);
                    let died = tokio::time::timeout(wait, end.wait_for(Option::is_some)).await;
                    return Err(match died {
                        Ok(Ok(end)) => {
                            machine.console().closed(Duration::from_secs(2)).await;
                            let fault = end.as_ref().map(|e| e.fault(machine.console().cause().as_ref()));
                            match fault {
                                Some(fault) => BootError {
                                    fault,
                                    findings: Vec::new(),
                                    tail: Vec::new(),
                                    diagnosis: None,
                                }.into(),
                                None => broken(&error),
                            }
                        }
                        _ => broken(&error),
                    });
                }
            },
            Some(bytes) = input.recv() => running.input(&bytes).map_err(|e| broken(&e))?,
            _ = resized.recv(), if interactive => {
                running.resize(window_size()).map_err(|e| broken(&e))?;
            }
        }
    }
}

fn ended(status: ExitStatus) -> Result<ExitCode, CommandError> {
    let how = match status {
        ExitStatus::Code(0) => return Ok(ExitCode::from(PROMOTE)),
        ExitStatus::Code(code) => format!("the command exited with {code}"),
        ExitStatus::Signal(signal) => format!("signal {signal} ended the command"),
        ExitStatus::TimedOut => "the command ran longer than --timeout allows".into(),
        ExitStatus::Killed => "the command was killed".into(),
        ExitStatus::NotStarted(trouble) => {
            return Err(CommandError::usage(text::line(&trouble.message))
                .hint("the guest has busybox; --image names a richer userland"));
        }
    };
    anstream::eprintln!("kgate: {how}");
    Ok(ExitCode::from(REJECT))
}

fn broken(error: &AgentError) -> CommandError {
    CommandError::infrastructure(error.to_string())
}

/// Writes all of it; a reader that has gone away ends the output, not the command.
pub(crate) fn pass(out: &mut dyn Write, data: &[u8]) -> io::Result<()> {
    match out.write_all(data).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Standard input, piece by piece; an empty piece is its end. Read by a thread of its own, for not
/// every standard input can be polled.
pub(crate) fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = vec![0; wire::CHUNK];
        loop {
            let read = io::stdin().lock().read(&mut buffer).unwrap_or(0);
            if sender.blocking_send(buffer[..read].to_vec()).is_err() || read == 0 {
                return;
            }
        }
    });
    receiver
}

fn window_size() -> (u16, u16) {
    tcgetwinsize(io::stdout()).map_or((80, 24), |size| (size.ws_col, size.ws_row))
}

/// The user's terminal passes every key while this lives.
pub(crate) struct RawTerminal(Termios);

impl RawTerminal {
    pub(crate) fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
