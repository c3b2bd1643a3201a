//! Whether a machine still lives, and if not, whose fault that is.

use std::future::Future;
use std::time::Duration;

use kgate_machine::{Agent, AgentError, Console, End, Machine};
use kgate_model::finding::{Finding, Severity};
use kgate_model::outcome::{Fault, FaultKind};
use regex::bytes::Regex;
use tokio::sync::watch;
use tokio::time::timeout;

/// A channel breaks a moment before its reason is known: a panic, a reset, an emulator's end.
const REASON: Duration = Duration::from_secs(3);
/// After a kernel said that it panics it prints why, and the machine ends.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// It has said everything when it is quiet for so long.
const QUIET: Duration = Duration::from_millis(500);
/// After a machine's end what it printed is still being read.
const DRAIN: Duration = Duration::from_secs(2);
/// Asking a hung machine where it is takes no longer.
const DIAGNOSE: Duration = Duration::from_secs(30);

/// How a machine was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It ended.
    Ended(End),
    /// Its kernel panicked; the machine may still be there.
    Panicked,
    /// The agent's channel broke.
    Closed(String),
    /// The agent was not heard of for too long.
    Silent,
}

/// Why a machine was lost, and what it was asked about it.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    pub(crate) fault: Fault,
    /// Backtraces of a machine that hung.
    pub(crate) diagnosis: Option<Vec<u8>>,
    /// Findings up to here are the machine's own doing; later ones are the diagnosis's.
    pub(crate) findings: Option<usize>,
}

/// What shows whether a machine lives. Knows the machine without borrowing it.
#[derive(Clone, Debug)]
pub(crate) struct Vitals {
    pub(crate) agent: Agent,
    pub(crate) console: Console,
    end: watch::Receiver<Option<End>>,
    hang: Duration,
}

impl Vitals {
    pub(crate) fn of(machine: &dyn Machine, hang: Duration) -> Self {
        Self {
            agent: machine.agent().clone(),
            console: machine.console().clone(),
            end: machine.end(),
            hang,
        }
    }

    /// Waits until the machine is lost.
    pub(crate) async fn lost(&self) -> Lost {
        tokio::select! {
            biased;
            end = self.ended() => Lost::Ended(end),
            () = self.died() => Lost::Panicked,
            why = self.agent.closed() => Lost::Closed(why),
            () = self.agent.silent(self.hang) => Lost::Silent,
        }
    }

    /// What `work` gives, unless the machine is lost meanwhile.
    pub(crate) async fn unless_lost<T>(&self, work: impl Future<Output = T>) -> Result<T, Lost> {
        tokio::select! {
            biased;
            lost = self.lost() => Err(lost),
            value = work => Ok(value),
        }
    }

    /// What a request gives, unless the machine is lost meanwhile. What the agent refuses is in the
    /// inner result.
    pub(crate) async fn ask<T>(
        &self,
        request: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<Result<T, AgentError>, Lost> {
        match self.unless_lost(request).await? {
            Err(AgentError::Closed(why)) => Err(Lost::Closed(why)),
            other => Ok(other),
        }
    }

    async fn ended(&self) -> End {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(End::PoweredOff),
            Err(_) => End::Vanished("what watched the machine ended".into()),
        }
    }

    /// Waits for a fatal finding.
    async fn died(&self) {
        let mut progress = self.console.progress();
        while !progress.borrow_and_update().panicked && self.console.cause().is_none() {
            if progress.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Finds out why a machine was lost. Takes a few seconds at most, and [`DIAGNOSE`] for one that
    /// hangs; on a lab host as long as that takes to be back on production.
    pub(crate) async fn explain(&self, lost: Lost, machine: &mut dyn Machine) -> Loss {
        let Loss { fault, diagnosis, findings } = self.look_into(lost, machine).await;
        Loss { fault: machine.blame(fault).await, diagnosis, findings }
    }

    /// What it looks like from here.
    async fn look_into(&self, lost: Lost, machine: &mut dyn Machine) -> Loss {
        let lost = match lost {
            Lost::Closed(why) => {
                let reason = async {
                    tokio::select! {
                        biased;
                        end = self.ended() => Lost::Ended(end),
                        () = self.died() => Lost::Panicked,
                    }
                };
                timeout(REASON, reason).await.unwrap_or(Lost::Closed(why))
            }
            known => known,
        };
        let plain = |fault| Loss { fault, diagnosis: None, findings: None };
        match lost {
            Lost::Ended(end) => {
                self.console.closed(DRAIN).await;
                self.console.settle().await;
                plain(end.fault(self.console.cause().as_ref()))
            }
            Lost::Panicked => {
                tokio::select! {
                    _ = self.ended() => {}
                    () = self.console.quiet(QUIET, LAST_WORDS) => {}
                }
                self.console.settle().await;
                plain(End::Panicked.fault(self.console.cause().as_ref()))
            }
            Lost::Closed(why) => plain(Fault::harness(
                FaultKind::Channel,
                format!("the agent's channel broke while the machine lived: {why}"),
            )),
            Lost::Silent => {
                self.console.settle().await;
                let findings = self.console.findings(0).len();
                let Ok(text) = timeout(DIAGNOSE, machine.diagnose()).await else {
                    // A kernel can hang, but not keep what carries it from answering.
                    let message = format!(
                        "no heartbeat for {} s, and what carries the machine does not answer either",
                        self.hang.as_secs()
                    );
                    let fault = Fault::harness(FaultKind::Emulator, message);
                    return Loss { fault, diagnosis: None, findings: Some(findings) };
                };
                let mut message = format!("no heartbeat for {} s", self.hang.as_secs());
                if let Some(place) = whereabouts(&text) {
                    message = format!("{message}; {place}");
                }
                let fault = Fault::kernel(FaultKind::Hang, message);
                Loss { fault, diagnosis: Some(text), findings: Some(findings) }
            }
        }
    }

    /// The findings from number `from` on, but not those past `end`.
    pub(crate) fn findings(&self, from: usize, end: Option<usize>) -> Vec<Finding> {
        let mut findings = self.console.findings(from);
        findings.truncate(end.map_or(usize::MAX, |end| end.saturating_sub(from)));
        findings
    }
}

/// Whether a finding ends a boot.
pub(crate) fn is_fatal(finding: &Finding) -> bool {
    finding.severity == Severity::Fatal
}

/// Functions in which a CPU that has nothing to do waits.
const IDLE: &str = r"^(default_idle|native_safe_halt|pv_native_safe_halt|acpi_(safe_halt|idle).*|(intel|mwait)_idle.*|cpu_idle.*)$";

/// Where the first CPU that was doing something was, by the backtraces of a diagnosis.
fn whereabouts(diagnosis: &[u8]) -> Option<String> {
    // Both expressions are constant; a test compiles them.
    let place = Regex::new(r"\bCPU: (\d+)\b|\bRIP: [0-9a-f]{4}:([A-Za-z_][\w.]*)\+0x").ok()?;
    let idle = regex::Regex::new(IDLE).ok()?;
    let mut cpu = None;
    let mut places: Vec<(String, String)> = Vec::new();
    for found in place.captures_iter(diagnosis) {
        let text = |group| found.get(group).map(|m| String::from_utf8_lossy(m.as_bytes()).into());
        match (text(1), text(2)) {
            (Some(number), _) => cpu = Some(number),
            // The first one after a CPU's heading is where it was; later ones are frames below.
            (None, Some(function)) => places.extend(cpu.take().map(|cpu| (cpu, function))),
            (None, None) => {}
        }
    }
    let busy = places.iter().find(|(_, function)| !idle.is_match(function));
    let (cpu, function) = busy.or(places.first())?;
    Some(format!("CPU {cpu} was in {function}"))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use async_trait::async_trait;
    use kgate_model::outcome::Blame;
    use kgate_model::wire::{self, Identity, Reply, Setup};
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// A machine whose agent has said hello and nothing since.
    struct Mute {
        agent: Agent,
        console: Console,
        identity: Identity,
        end: watch::Sender<Option<End>>,
        diagnosis: Option<Vec<u8>>,
        /// The other ends of channel and console.
        _ends: (DuplexStream, DuplexStream),
    }

    impl Mute {
        async fn new(diagnosis: Option<&[u8]>) -> Self {
            let (ours, mut theirs) = duplex(1 << 16);
            let hello = Reply::Hello { protocol: wire::PROTOCOL, identity: Identity::default() };
            for reply in [hello, Reply::Done { id: 0, result: Ok(()) }] {
                theirs.write_all(&wire::encode(&reply).unwrap()).await.unwrap();
            }
            let (agent, identity) = Agent::connect(ours, Setup::default(), None).await.unwrap();
            let (console, end) = duplex(1 << 16);
            Self {
                agent,
                identity,
                console: Console::start(console, None).unwrap(),
                end: watch::channel(None).0,
                diagnosis: diagnosis.map(<[u8]>::to_vec),
                _ends: (theirs, end),
            }
        }
    }

    #[async_trait(?Send)]
    impl Machine for Mute {
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
            self.end.subscribe()
        }

        async fn load_modules(&mut self, _: &[String]) -> Result<(), Fault> {
            Ok(())
        }

        async fn diagnose(&mut self) -> Vec<u8> {
            match self.diagnosis.take() {
                Some(text) => text,
                None => pending().await,
            }
        }

        async fn stop(self: Box<Self>) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_hang_is_the_kernels_unless_what_carries_it_hangs_too() {
        for (diagnosis, blame, message) in [
            (
                Some(&b"CPU: 3 PID: 1\nRIP: 0010:delay_tsc+0x2a/0x60"[..]),
                Blame::Kernel,
                "no heartbeat for 20 s; CPU 3 was in delay_tsc",
            ),
            (Some(&b""[..]), Blame::Kernel, "no heartbeat for 20 s"),
            (
                None,
                Blame::Harness,
                "no heartbeat for 20 s, and what carries the machine does not answer either",
            ),
        ] {
            let mut machine = Mute::new(diagnosis).await;
            let vitals = Vitals::of(&machine, Duration::from_secs(20));
            let lost = vitals.lost().await;
            assert_eq!(lost, Lost::Silent);
            let loss = vitals.explain(lost, &mut machine).await;
            assert_eq!((loss.fault.blame, loss.fault.message.as_str()), (blame, message));
        }
    }

    #[test]
    fn a_busy_cpu_is_named_before_an_idle_one() {
        let diagnosis = b"[   12.1] sysrq: Show backtrace of all active CPUs\r\n\
            [   12.1] CPU: 0 PID: 0 Comm: swapper/0 Not tainted 6.1.0\r\n\
            [   12.1] RIP: 0010:native_safe_halt+0xb/0x10\r\n\
            [   12.1] Call Trace:\r\n\
            [   12.2] NMI backtrace for cpu 1\r\n\
            [   12.2] CPU: 1 PID: 77 Comm: sh Not tainted 6.1.0\r\n\
            [   12.2] RIP: 0010:delay_tsc+0x2a/0x60\r\n\
            [   12.2] RIP: 0033:0x7f00\r\n";
        assert_eq!(whereabouts(diagnosis).as_deref(), Some("CPU 1 was in delay_tsc"));
        let idle = &diagnosis[..200];
        assert_eq!(whereabouts(idle).as_deref(), Some("CPU 0 was in native_safe_halt"));
        assert_eq!(whereabouts(b"\xff nothing"), None);
    }
}
