//! `kgate lab check`: proves hosts ready, step by step. Their kernel stays as it is; a file is written and
//! removed, a line goes to the kernel log.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use kgate_lab::boot::{SelectError, Selector};
use kgate_lab::console::{ConsoleError, Feed, Opening};
use kgate_lab::host::{self, HostFacts};
use kgate_lab::journal;
use kgate_lab::power::{Power, PowerError, PowerState};
use kgate_lab::reservation::{Holder, Lock, labgrid, marked};
use kgate_lab::ssh::{Ssh, SshError, Upload, quote};
use kgate_machine::process;
use kgate_model::host::HostCommand;
use kgate_model::inventory::{self, ConsoleSource, HostKey, LabHost, Modules, Reservation};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::list::{console_word, method_word, power_word};
use super::{Lab, power, secrets, user};
use crate::args::lab::CheckArgs;
use crate::context::{Context, PROGRAMS, now};
use crate::error::{CommandError, HELD, INFRASTRUCTURE, PROMOTE, USAGE};
use crate::text::line;

/// A login takes no longer, and neither does a question.
const ANSWER: Duration = Duration::from_secs(30);
/// A console is there within this time.
const CONSOLE: Duration = Duration::from_secs(20);
/// What was printed is heard within this time.
const HEARD: Duration = Duration::from_secs(10);
/// A clock that is further off makes logs hard to put together, and certificates invalid.
const SKEW: u64 = 30;
/// Room for two kernels with all modules, and with those that are needed.
const ROOM_ALL: u64 = 1 << 30;
const ROOM_NEEDED: u64 = 64 << 20;

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Ok,
    /// With the exit code that says whose it is.
    Failed(u8),
    Skipped,
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed(_) => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One step.
#[derive(Debug)]
struct Step {
    name: &'static str,
    outcome: Outcome,
    /// What was found.
    told: String,
    /// What to do about it.
    todo: Option<String>,
}

impl Step {
    fn ok(told: impl Into<String>) -> Self {
        Self { name: "", outcome: Outcome::Ok, told: told.into(), todo: None }
    }

    fn skipped(why: impl Into<String>) -> Self {
        Self { name: "", outcome: Outcome::Skipped, told: why.into(), todo: None }
    }

    /// The host, its BMC or this machine isn't as it must be.
    fn failed(told: impl Into<String>, todo: impl Into<String>) -> Self {
        let todo = Some(todo.into()).filter(|todo: &String| !todo.is_empty());
        Self { name: "", outcome: Outcome::Failed(INFRASTRUCTURE), told: told.into(), todo }
    }

    /// The inventory is wrong, or what it refers to.
    fn wrong(told: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed(USAGE), ..Self::failed(told, todo) }
    }

    fn as_json(&self) -> Value {
        let Self { name, outcome, told, todo } = self;
        json!({ "step": name, "outcome": outcome.word(), "told": told, "todo": todo })
    }
}

/// Runs the command.
pub(super) async fn check(context: &Context, args: &CheckArgs) -> Result<ExitCode, CommandError> {
    let lab = Lab::load(&args.file)?;
    let hosts = lab.select(&args.hosts)?;
    let live = hosts.len() == 1 && !args.json;
    let state = context.lab_state()?;
    let checks = hosts.iter().map(async |host| {
        let check = Check::of(host, state, live).await;
        if !args.json {
            check.end();
        }
        check
    });
    let checks = join_all(checks).await;
    if args.json {
        let hosts: Vec<Value> = checks.iter().map(Check::as_json).collect();
        anstream::println!("{:#}", json!({ "hosts": hosts }));
    }
    let code = checks.iter().filter_map(Check::code);
    // What a person has to change comes before what may pass.
    Ok(ExitCode::from(code.min().unwrap_or(PROMOTE)))
}

/// The check of one host.
struct Check<'a> {
    host: &'a LabHost,
    /// Steps are printed as they end.
    live: bool,
    steps: Vec<Step>,
}

impl<'a> Check<'a> {
    async fn of(host: &'a LabHost, state: &Path, live: bool) -> Self {
        let mut check = Self { host, live, steps: Vec::new() };
        if live {
            anstream::println!("{}", host.name);
        }
        check.add("inventory", inventory(host));
        let free = free(host, state).await;
        let taken = free.outcome == Outcome::Failed(HELD);
        check.add("free", free);
        if taken {
            // Whoever has it may be anywhere on its walk.
            return check;
        }
        let ssh = check.ssh().await;
        if let Some(ssh) = &ssh
            && let Ok(Some((_, by))) = marked(host, ssh).await
            && journal::left(state, &host.name).is_ok_and(|left| !left.anything())
        {
            let todo =
                format!("when that is gone for good: kgate lab recover {} --steal", host.name);
            check.add("free", Step { todo: Some(todo), ..held(&by) });
            return check;
        }
        let power = power::open(host);
        let facts = check.facts(ssh.as_ref(), power.as_deref()).await;
        if let (Some(ssh), Some(facts)) = (&ssh, &facts) {
            let directory = directory(host, facts);
            let writable = directory.outcome == Outcome::Ok;
            check.add("directory", directory);
            check.add("space", space(host, facts));
            check.add("clock", clock(facts));
            let guard = match writable {
                true => guard(host, ssh).await,
                false => Step::skipped("there is no directory for it"),
            };
            check.add("guard", guard);
        }
        let state = match &power {
            Some(power) => self::state(&host.name, power.as_ref(), facts.is_some()).await,
            None => Step::skipped("the inventory has none: a host that hangs stays as it is"),
        };
        check.add("power", state);
        for source in &host.consoles {
            let heard = console(host, source, ssh.as_ref().filter(|_| facts.is_some())).await;
            check.add("console", heard);
        }
        if host.consoles.is_empty() {
            check.add("console", Step::skipped("the inventory has none: panics are not seen"));
        }
        let hooks = hooks(host, ssh.as_ref()).await;
        check.add("hooks", hooks);
        check
    }

    fn add(&mut self, name: &'static str, step: Step) {
        let step = Step { name, ..step };
        if self.live {
            show(&step);
        }
        self.steps.push(step);
    }

    /// Logs in.
    async fn ssh(&mut self) -> Option<Ssh> {
        let to = &self.host.ssh;
        let place = format!("{}@{} port {}", to.user, to.address, to.port);
        match Ssh::connect(to, ANSWER).await {
            Ok(ssh) => {
                let by = match &to.host_key {
                    HostKey::Pinned(_) => "by the key in the inventory",
                    HostKey::KnownHosts(Some(_)) => "by the file of known hosts",
                    HostKey::KnownHosts(None) => "by your own known hosts",
                };
                self.add("ssh", Step::ok(format!("{place}, known {by}")));
                Some(ssh)
            }
            Err(error) => {
                self.add("ssh", refused(&place, to, &error));
                None
            }
        }
    }

    /// Looks at the host and at what it boots.
    async fn facts(&mut self, ssh: Option<&Ssh>, power: Option<&dyn Power>) -> Option<HostFacts> {
        let ssh = ssh?;
        match ssh.ask("asking who is logged in", "id -u", ANSWER).await {
            Ok(id) if id == "0" => self.add("root", Step::ok("logged in as root")),
            Ok(id) => {
                let user = &self.host.ssh.user;
                let todo = "log in as root: `ssh.user`, and a key that root accepts";
                self.add(
                    "root",
                    Step::failed(format!("{user} has the user id {}", line(&id)), todo),
                );
                return None;
            }
            Err(error) => {
                self.add("root", Step::failed(line(&error.to_string()), ""));
                return None;
            }
        }
        let facts = match host::look(ssh, &self.host.boot).await {
            Ok(facts) => facts,
            Err(error) => {
                self.add("production", Step::failed(line(&error.to_string()), ""));
                return None;
            }
        };
        let production = Selector::of(self.host).production(ssh, &facts, power).await;
        self.add(
            "production",
            match production {
                Ok(production) => {
                    Step::ok(line(&format!("{}: {}", production.release, production.proof)))
                }
                Err(SelectError::Power(error)) => by_bmc(&error),
                Err(SelectError::Inventory(why)) => Step::wrong(line(&why), ""),
                Err(error) => Step::failed(
                    line(&error.to_string()),
                    "docs/lab.md, \"Setting up a host\", says what a host needs",
                ),
            },
        );
        Some(facts)
    }

    /// The worst that was found, `None` when the host is ready. A mistake in the inventory comes first.
    fn code(&self) -> Option<u8> {
        let codes = self.steps.iter().filter_map(|step| match step.outcome {
            Outcome::Failed(code) => Some(code),
            Outcome::Ok | Outcome::Skipped => None,
        });
        codes.min()
    }

    fn end(&self) {
        let name = &self.host.name;
        if !self.live {
            anstream::println!("{name}");
            self.steps.iter().for_each(show);
        }
        let failed =
            self.steps.iter().filter(|step| matches!(step.outcome, Outcome::Failed(_))).count();
        match failed {
            0 => anstream::println!("{name} is ready"),
            1 => anstream::println!("{name} is not ready: 1 step failed"),
            n => anstream::println!("{name} is not ready: {n} steps failed"),
        }
    }

    fn as_json(&self) -> Value {
        let steps: Vec<Value> = self.steps.iter().map(Step::as_json).collect();
        json!({ "name": self.host.name, "ready": self.code().is_none(), "steps": steps })
    }
}

fn show(step: &Step) {
    let Step { name, outcome, told, todo } = step;
    anstream::println!("  {:<7}  {name:<10}  {told}", outcome.word());
    if let Some(todo) = todo {
        anstream::println!("  {:<7}  {:<10}  {todo}", "", "");
    }
}

/// What the inventory says.
fn inventory(host: &LabHost) -> Step {
    let mut parts = vec![format!("boots by {}", method_word(&host.boot.method))];
    parts.extend(host.power.as_ref().map(|power| format!("power by {}", power_word(power))));
    let consoles: Vec<_> = host.consoles.iter().map(console_word).collect();
    if !consoles.is_empty() {
        parts.push(format!("console by {}", consoles.join(" and ")));
    }
    Step::ok(parts.join(", "))
}

fn held(by: &str) -> Step {
    let told = format!("in use by {}", line(by));
    Step { outcome: Outcome::Failed(HELD), ..Step::failed(told, "") }
}

/// Whether nobody else has it, as far as this machine knows, and nothing is to be undone.
async fn free(host: &LabHost, state: &Path) -> Step {
    if let Some(by) = Lock::holder(state, &host.name) {
        return held(&by);
    }
    if let Reservation::Labgrid { coordinator, place } = &host.reservation {
        let us = Holder::this(&user(), "check");
        match labgrid::holder(&host.name, coordinator, place, &us).await {
            Ok(Some(by)) => return held(&by),
            Ok(None) => {}
            Err(error) => {
                let todo = "is the coordinator up, and `labgrid-client` on this machine?";
                return Step::failed(line(&error.to_string()), todo);
            }
        }
    }
    match journal::left(state, &host.name) {
        Ok(left) if left.anything() => Step::failed(
            format!("an earlier kgate left it: {}", line(&left.describe())),
            format!("kgate lab recover {}", host.name),
        ),
        Ok(_) => Step::ok("nobody has it"),
        Err(error) => Step::failed(line(&error.to_string()), ""),
    }
}

/// Why a login failed, and what to do.
fn refused(place: &str, to: &inventory::Ssh, error: &SshError) -> Step {
    let told = format!("{place}: {}", line(&error.to_string()));
    match error {
        SshError::HostKey(_) => Step::wrong(
            told,
            format!(
                "if the host was set up anew, put its key into `ssh.host-key`: ssh-keyscan -p {} {}; if not, \
                 it is another machine",
                to.port, to.address
            ),
        ),
        SshError::Auth(_) => Step::wrong(
            told,
            "let root in with a key (PermitRootLogin prohibit-password), and name it by `ssh.identity`",
        ),
        SshError::Controller(_) => Step::failed(told, "install an OpenSSH client on this machine"),
        _ => Step::failed(told, "is the host up, and are address and port right?"),
    }
}

/// Where files of kgate's go.
fn directory(host: &LabHost, facts: &HostFacts) -> Step {
    let path = &host.boot.directory;
    let shown = path.display();
    match facts.directories.get(path) {
        Some(directory) if !directory.writable => {
            Step::failed(format!("{shown} can't be written to"), "mount it read-write")
        }
        Some(directory) if !directory.on_root => Step::wrong(
            format!("{shown} is not on the root file system"),
            "name another by `boot.directory`: a boot loader and an initrd look for it on the root",
        ),
        Some(_) => Step::ok(format!("{shown} can be written to")),
        None => Step::failed(format!("the host says nothing of {shown}"), ""),
    }
}

/// Room for kernels.
fn space(host: &LabHost, facts: &HostFacts) -> Step {
    let Some(directory) = facts.directories.get(&host.boot.directory) else {
        return Step::skipped("the host doesn't say");
    };
    let (free, path) = (directory.free >> 20, host.boot.directory.display());
    let room = match host.boot.modules {
        Modules::All => ROOM_ALL,
        Modules::Needed => ROOM_NEEDED,
    };
    let told = format!("{free} MiB are free at {path}");
    match directory.free < room {
        true => Step::failed(
            format!("{told}, where two kernels may take {} MiB", room >> 20),
            "make room, or put fewer modules there: `boot.modules: needed`",
        ),
        false => Step::ok(told),
    }
}

fn clock(facts: &HostFacts) -> Step {
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match facts.clock.abs_diff(ours) {
        off if off > SKEW => Step::failed(
            format!("the host's clock is {off} s away from this machine's"),
            "have both set by NTP",
        ),
        off => Step::ok(format!("within {} s of this machine's", off.max(1))),
    }
}

/// Whether the agent runs there, which is also the guard.
async fn guard(host: &LabHost, ssh: &Ssh) -> Step {
    let path = host.boot.directory.join("check-agent");
    let quoted = quote(&path.to_string_lossy());
    let put = ssh.upload(&path, 0o700, Upload::Bytes(PROGRAMS.agent), ANSWER).await;
    // Without arguments it says how it is used.
    let script = format!("{quoted} 2>&1 | head -n 1; rm -f {quoted}");
    let said = match put {
        Ok(()) => ssh.ask("running the agent", &script, ANSWER).await,
        Err(error) => Err(error),
    };
    match said {
        Ok(said) if said.contains("--guard") || said.contains("kgate-agent") => Step::ok(format!(
            "the agent runs; it reboots the host after {} s without a word from here",
            host.boot.guard.as_secs()
        )),
        Ok(said) => Step::failed(
            format!("the agent does not run: {}", line(&said)),
            "is the directory mounted with noexec, or the host no x86-64?",
        ),
        Err(error) => Step::failed(line(&error.to_string()), ""),
    }
}

/// Whether its BMC answers, and tells the truth.
async fn state(name: &str, power: &dyn Power, answers: bool) -> Step {
    match power.state().await {
        Ok(PowerState::On) => Step::ok("it answers, and says that the host is on"),
        Ok(state) if answers => Step::wrong(
            format!("it says that the host, which answers, is {}", power::word(state)),
            "is it the BMC of another machine?",
        ),
        Ok(state) => Step::failed(
            format!("it says that the host is {}", power::word(state)),
            format!("kgate lab power {name} on"),
        ),
        Err(error) => by_bmc(&error),
    }
}

fn by_bmc(error: &PowerError) -> Step {
    let told = line(&error.to_string());
    match error {
        PowerError::Identity(_) => Step::wrong(
            told,
            "if its certificate was renewed, put the new one into `power.certificate-sha256` or `power.ca`",
        ),
        PowerError::Unauthorised(_) => {
            Step::wrong(told, "`power.user` or what `power.password` refers to is wrong")
        }
        error if error.is_misconfiguration() => Step::wrong(told, ""),
        _ => Step::failed(told, "is the address in `power` right, and does this machine reach it?"),
    }
}

/// Whether what the host prints is heard.
async fn console(host: &LabHost, source: &ConsoleSource, ssh: Option<&Ssh>) -> Step {
    let kind = console_word(source);
    let opening = Opening {
        host: host.name.clone(),
        address: host.ssh.address.clone(),
        source: source.clone(),
        file: None,
    };
    let feed = match Feed::open(opening, &*secrets(), CONSOLE).await {
        Ok(feed) => feed,
        Err(error @ ConsoleError::Mistake { .. }) => {
            return Step::wrong(format!("{kind}: {}", line(&error.to_string())), "");
        }
        Err(error) => {
            let todo = "does anybody else have it, and is its address right?";
            return Step::failed(format!("{kind}: {}", line(&error.to_string())), todo);
        }
    };
    let Some(ssh) = ssh else {
        return Step::skipped(format!("{kind}: connected; nothing was printed without SSH"));
    };
    if let ConsoleSource::Netconsole { device, .. } = source {
        return netconsole(ssh, device).await;
    }
    let mut reader = feed.reader();
    let token = format!("{:x}-{}", now().timestamp().as_nanosecond(), std::process::id());
    let by_kernel = format!("kgate: console check {token}");
    let by_line = format!("kgate: line check {token}");
    // Louder than any usual console_loglevel, and less than what is told to all who are logged in.
    let script = format!(
        "echo '<2>{by_kernel}' >/dev/kmsg
         for tty in /dev/console /dev/ttyS0 /dev/ttyS1 /dev/ttyS2 /dev/ttyS3 /dev/hvc0; do
           [ -c $tty ] && (echo; echo '{by_line}') >$tty 2>/dev/null &
         done
         sleep 1"
    );
    if let Err(error) = ssh.run(&script, ANSWER).await {
        return Step::failed(format!("{kind}: {}", line(&error.to_string())), "");
    }
    let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
    let has = |heard: &[u8], text: &str| {
        heard.windows(text.len()).any(|window| window == text.as_bytes())
    };
    let listen = async {
        while let Ok(read @ 1..) = reader.read(&mut buffer).await {
            heard.extend_from_slice(&buffer[..read]);
            if has(&heard, &by_kernel) {
                break;
            }
            // Only what may be the beginning of a line that is looked for is needed.
            let keep = heard.len().saturating_sub(64 << 10);
            heard.drain(..keep);
        }
    };
    // What was heard until then is looked at below.
    let _ = timeout(HEARD, listen).await;
    let told_of = host.boot.command_line.iter().any(|word| word.starts_with("console="));
    match (has(&heard, &by_kernel), has(&heard, &by_line)) {
        (true, _) => Step::ok(format!("{kind}: the host's kernel is heard")),
        (false, true) if told_of => {
            Step::ok(format!("{kind}: the host is heard; its production kernel prints elsewhere"))
        }
        (false, true) => Step::failed(
            format!("{kind}: the host is heard, but not its kernel"),
            "name the console to kernels, by production's command line or `boot.command-line`, such as \
             console=ttyS1,115200",
        ),
        (false, false) => Step::failed(
            format!("{kind}: nothing of what the host printed is heard"),
            "is it the console of another machine, or another line or speed than the host prints to?",
        ),
    }
}

/// Whether a host can send its messages over the network. Nothing is loaded for that.
async fn netconsole(ssh: &Ssh, device: &str) -> Step {
    let quoted = quote(device);
    let script = format!(
        "[ -e /sys/class/net/{quoted} ] || {{ echo device; exit; }}
         [ -e /sys/module/netconsole ] || modprobe -n netconsole 2>/dev/null || echo module"
    );
    match ssh.ask("looking for netconsole", &script, ANSWER).await.as_deref() {
        Ok("") => Step::ok("netconsole: the port is open here, and the host can send to it"),
        Ok("device") => Step::wrong(
            format!("netconsole: the host has no interface {device}"),
            "`console: { netconsole: …, device: … }`: `ip -br link` on the host shows its interfaces",
        ),
        Ok(_) => Step::failed("netconsole: the host's kernel has no module netconsole", ""),
        Err(error) => Step::failed(line(&error.to_string()), ""),
    }
}

/// Whether the programs of hooks are there. None is run.
async fn hooks(host: &LabHost, ssh: Option<&Ssh>) -> Step {
    let hooks = &host.hooks;
    let all = [
        ("drain", &hooks.drain, false),
        ("take-out", &hooks.take_out, false),
        ("ready", &hooks.ready, true),
        ("production-ready", &hooks.production_ready, true),
        ("undrain", &hooks.undrain, false),
    ];
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for (name, hook, on_host) in all {
        let Some(hook) = hook else { continue };
        let (place, program) = program(&hook.command);
        let Some(program) = program else {
            there.push(name);
            continue;
        };
        let look = format!("{place}command -v {} >/dev/null", quote(&program));
        let found = match (on_host, ssh) {
            (true, None) => continue,
            (true, Some(ssh)) => {
                ssh.run(&look, ANSWER).await.is_ok_and(|output| output.code == Some(0))
            }
            (false, _) => {
                let command = HostCommand::new("sh", ANSWER).args(["-c", &look]);
                process::output(&command).await.is_ok_and(|output| output.code == Some(0))
            }
        };
        match found {
            true => there.push(name),
            false => missing.push(format!("{name} ({})", line(&program))),
        }
    }
    match (there.as_slice(), missing.as_slice()) {
        ([], []) => Step::skipped("there are none, or none that can be looked for"),
        (there, []) => Step::ok(format!("the programs of {} are there", there.join(", "))),
        (_, missing) => Step::wrong(
            format!("no program for {}", missing.join(", ")),
            "drain, take-out and undrain run beside the inventory, the others on the host; is it executable?",
        ),
    }
}

/// Where a hook's command runs, as the beginning of a command, and its program; `None` when that can't
/// be told from its text.
fn program(command: &str) -> (String, Option<String>) {
    const EXIT: &str = "|| exit; ";
    let (place, text) = match command.strip_prefix("cd '").and_then(|rest| rest.find(EXIT)) {
        Some(at) => command.split_at("cd '".len() + at + EXIT.len()),
        None => ("", command),
    };
    let word = text.split_whitespace().find(|word| !word.contains('='));
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    let word = word.filter(|word| word.chars().all(plain));
    (place.to_owned(), word.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_hooks() {
        let here = |text: &str| program(&format!("cd '/etc/k' || exit; {text}"));
        let place = "cd '/etc/k' || exit; ".to_owned();
        assert_eq!(here("./drain.sh --now"), (place.clone(), Some("./drain.sh".into())));
        assert_eq!(here("A=1 pool --add"), (place.clone(), Some("pool".into())));
        assert_eq!(here("\"$POOL\" --add"), (place.clone(), None));
        assert_eq!(here("(a; b)"), (place, None));
        assert_eq!(program("systemctl is-active x"), (String::new(), Some("systemctl".into())));
    }
}
