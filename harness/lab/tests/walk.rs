//! The whole walk of a stand-in, by the pool: for a candidate that is well, and for each way in which one
//! isn't, whose fault it is, and that the host is on production afterwards and nothing is left on it.

#[expect(dead_code, reason = "tests of single boots use more of it")]
mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kgate_lab::journal::{self, Event};
use kgate_lab::pool::{Lab, LabConfig};
use kgate_lab::secret::LocalSecrets;
use kgate_lab::walk::Errand;
use kgate_machine::{BootError, BootRequest, End, Machine, Pool};
use kgate_model::inventory::{Hook, LabHost};
use kgate_model::outcome::{Blame, Fault, FaultKind, Role};
use kgate_model::plan::MachineShape;
use kgate_testkit::kernels;
use kgate_testkit::lab::{Boot, Console, GrubFault, Power, Setup, StandIn};
use support::Programs;
use tempfile::TempDir;

/// A stand-in with its pool.
struct Site {
    stand_in: StandIn,
    host: LabHost,
    lab: Lab,
    events: Rc<RefCell<Vec<Event>>>,
    begun: Instant,
    dir: TempDir,
}

impl Site {
    /// `None` where there can be no stand-in.
    fn start(setup: Setup, adapt: impl FnOnce(&mut LabHost)) -> Option<Self> {
        let stand_in = StandIn::start(setup)?;
        let pair = kernels::old_pair()?;
        let dir = tempfile::tempdir().expect("a directory");
        let mut host = stand_in.lab_host();
        adapt(&mut host);
        let events = Rc::default();
        let Programs { agent, ops, busybox } = Programs::build();
        let lab = Lab::new(LabConfig {
            hosts: vec![host.clone()],
            kernels: BTreeMap::from([
                (Role::Baseline, pair.baseline),
                (Role::Candidate, pair.candidate),
            ]),
            busybox: Arc::new(busybox),
            images: BTreeMap::new(),
            agent: agent.leak(),
            ops: ops.leak(),
            errand: Rc::new(errand(&dir, &events)),
        });
        Some(Self { stand_in, host, lab, events, begun: Instant::now(), dir })
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("lab")
    }

    async fn boot(&self, role: Role, arguments: &[&str]) -> Result<Box<dyn Machine>, BootError> {
        let request = BootRequest {
            name: format!("{role}-1"),
            role,
            host: Some(self.host.name.clone()),
            number: 1,
            image: "base".into(),
            shape: MachineShape {
                kernel_args: arguments.iter().map(|&a| a.to_owned()).collect(),
                ..MachineShape::default()
            },
            alone: false,
            modules: vec!["dummy".into()],
            console: self.dir.path().join(format!("{role}.console")),
            kernel_log: Some(self.dir.path().join(format!("{role}.kmsg"))),
            deadline: Duration::from_secs(60),
        };
        self.lab.boot(&request).await
    }

    /// Gives the host back, and sees for itself that nothing is left.
    async fn finish(&self) {
        assert_eq!(self.lab.finish().await, Vec::<String>::new());
        self.is_production();
        assert!(!journal::left(&self.state(), &self.host.name).unwrap().anything());
        let left = self.stand_in.ssh("ls -A /var/lib/kgate 2>/dev/null; ls /lib/modules");
        assert_eq!(left.lines().count(), 1, "{left}");
    }

    fn is_production(&self) {
        let booted = self.stand_in.booted().expect("it answers");
        assert!(!booted.command_line.contains("kgate.boot"), "{booted:?}");
        assert!(self.stand_in.would_boot().is_production());
    }

    /// A candidate that comes to nothing.
    async fn fails(&self, arguments: &[&str]) -> BootError {
        let Err(error) = self.boot(Role::Candidate, arguments).await else {
            panic!("it must not come up")
        };
        // The host is back before its kernel is blamed.
        self.is_production();
        self.finish().await;
        assert!(self.begun.elapsed() < Duration::from_secs(240), "{:?}", self.begun.elapsed());
        error
    }

    /// The same, by its own fault.
    async fn is_blamed(&self, arguments: &[&str]) -> BootError {
        let error = self.fails(arguments).await;
        assert_eq!((error.fault.blame, error.fault.kind), (Blame::Kernel, FaultKind::BootFailed));
        error
    }
}

fn errand(dir: &TempDir, events: &Rc<RefCell<Vec<Event>>>) -> Errand {
    let told = Rc::clone(events);
    Errand {
        state: dir.path().join("lab"),
        evidence: dir.path().join("evidence"),
        run: "test".into(),
        user: "tester".into(),
        secrets: Rc::new(LocalSecrets::new(|_: &str| None)),
        told: Box::new(move |_, event| told.borrow_mut().push(event.clone())),
    }
}

/// Checks that `docs/lab-faults.md` tells of a fault what came of it.
fn documented(what: &str, fault: &Fault) {
    let (whose, code) = match fault.blame {
        Blame::Kernel => ("the kernel's fault", 1),
        _ => ("infrastructure", 4),
    };
    let text = fault.to_string();
    let said = text.split("; the console").next().unwrap_or_default();
    let row =
        format!("| {what} | {whose}, and the host is back on production: `{said}` | {code} |");
    let page = include_str!("../../../docs/lab-faults.md");
    assert!(page.contains(&row), "docs/lab-faults.md lacks:\n{row}");
}

fn of(power: Power, console: Console, boot: Boot) -> Setup {
    Setup { power, console, boot, ..Setup::default() }
}

fn hook(command: String) -> Option<Hook> {
    Some(Hook { command, timeout: Duration::from_secs(20) })
}

#[tokio::test]
async fn a_loader_that_boots_another_kernel_is_the_labs_fault() {
    let Some(site) = Site::start(Setup::default(), |_| ()) else { return };
    site.stand_in.grub_fault(GrubFault::IgnoresOnce);
    let error = site.fails(&[]).await;
    assert_eq!((error.fault.blame, error.fault.kind), (Blame::Harness, FaultKind::Identity));
    documented("the boot loader boots another kernel", &error.fault);
}

#[tokio::test]
async fn a_good_candidate_walks_there_and_back() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let says = |word: &str| hook(format!("echo {word} $KGATE_HOST >>{}", log.path().display()));
    let adapt = |host: &mut LabHost| {
        host.hooks.drain = says("drain");
        host.hooks.take_out = says("take-out");
        host.hooks.undrain = says("undrain");
        host.hooks.ready = hook("test -e /run/ready".into());
        host.hooks.production_ready = hook("test -e /run/ready".into());
    };
    let Some(site) = Site::start(Setup::default(), adapt) else { return };
    for role in Role::ALL {
        let mut machine = site.boot(role, &[]).await.map_err(|e| e.fault).unwrap();
        machine.load_modules(&["dummy".into()]).await.unwrap();
        let (text, _) = machine.agent().read_file("/proc/modules", 1 << 16).await.unwrap();
        assert!(String::from_utf8_lossy(&text).contains("dummy"));
        // The root of the steps is a guest's, not the host's.
        let (hosts, _) = machine.agent().read_file("/etc/hosts", 1 << 10).await.unwrap();
        assert!(String::from_utf8_lossy(&hosts).contains("kgate"));
        assert!(machine.agent().read_file(machine.ops(), 16).await.is_ok());
        assert!(machine.conditions().is_some_and(|c| !c.is_empty()), "{:?}", machine.conditions());
        assert!(machine.identity().command_line.contains("kgate.boot="));
        machine.stop().await;
    }
    site.finish().await;
    let console = std::fs::read(site.dir.path().join("candidate.console")).unwrap();
    let console = String::from_utf8_lossy(&console);
    assert!(console.contains("Linux version"), "{console}");
    assert_eq!(console.matches("] Linux version").count(), 1, "{console}");
    let said = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(said, "drain labhost\ntake-out labhost\nundrain labhost\n");
    assert!(site.begun.elapsed() < Duration::from_secs(240), "{:?}", site.begun.elapsed());
}

/// Those that take minutes.
mod long {
    use super::*;

    #[tokio::test]
    async fn a_candidate_that_panics_is_to_blame() {
        let Some(site) = Site::start(of(Power::Redfish, Console::Conserver, Boot::Grub), |_| ())
        else {
            return;
        };
        let error = site.is_blamed(&["lab.fault=panic"]).await;
        assert!(error.fault.message.contains("sysrq triggered crash"), "{}", error.fault);
        documented("the kernel panics while it boots", &error.fault);
    }

    #[tokio::test]
    async fn a_candidate_without_an_init_is_to_blame() {
        let Some(site) = Site::start(of(Power::Command, Console::Tcp, Boot::Kexec), |_| ()) else {
            return;
        };
        let error = site.is_blamed(&["init=/nonexistent"]).await;
        documented("it finds no init", &error.fault);
    }

    #[tokio::test]
    async fn a_candidate_that_hangs_is_to_blame() {
        let quick = |host: &mut LabHost| host.limits.boot = Duration::from_secs(45);
        let Some(site) = Site::start(of(Power::Redfish, Console::Tcp, Boot::Grub), quick) else {
            return;
        };
        let error = site.is_blamed(&["lab.fault=hang", "unknown_nmi_panic"]).await;
        assert!(error.fault.message.contains("no word over SSH"), "{}", error.fault);
        // What the NMI made it say tells where it was, and is not held against it.
        assert!(String::from_utf8_lossy(&error.diagnosis.unwrap()).contains("NMI"));
        assert!(error.findings.is_empty(), "{:?}", error.findings);
        documented("it hangs without a word", &error.fault);
    }

    #[tokio::test]
    async fn a_candidate_without_a_network_is_to_blame() {
        let quick = |host: &mut LabHost| host.limits.boot = Duration::from_secs(45);
        let Some(site) = Site::start(of(Power::Ipmi, Console::Sol, Boot::Grub), quick) else {
            return;
        };
        let error = site.is_blamed(&["lab.fault=nonet"]).await;
        assert!(error.fault.message.contains("no word over SSH"), "{}", error.fault);
        documented("it comes up without a network", &error.fault);
    }

    #[tokio::test]
    async fn a_guard_that_is_quicker_is_named() {
        let quick = |host: &mut LabHost| host.boot.guard = Duration::from_secs(15);
        let Some(site) = Site::start(Setup::default(), quick) else { return };
        let error = site.is_blamed(&["lab.fault=nonet"]).await;
        documented("it comes up without a network, and the guard is quicker", &error.fault);
    }

    #[tokio::test]
    async fn a_kernel_that_panics_later_is_to_blame_when_the_host_is_back() {
        let Some(site) = Site::start(Setup::default(), |_| ()) else { return };
        let mut machine = site.boot(Role::Candidate, &[]).await.map_err(|e| e.fault).unwrap();
        site.stand_in.ssh("(sleep 1; echo c >/proc/sysrq-trigger) </dev/null >/dev/null 2>&1 &");
        let mut end = machine.end();
        let ended =
            tokio::time::timeout(Duration::from_secs(60), end.wait_for(Option::is_some)).await;
        assert_eq!(*ended.expect("in time").unwrap(), Some(End::Panicked));
        machine.console().settle().await;
        let fault = End::Panicked.fault(machine.console().cause().as_ref());
        let fault = machine.blame(fault).await;
        assert_eq!((fault.blame, fault.kind), (Blame::Kernel, FaultKind::Panic), "{fault}");
        documented("it panics while a scenario runs", &fault);
        site.is_production();
        drop(machine);
        site.finish().await;
    }

    #[tokio::test]
    async fn a_network_that_was_cut_is_the_labs_fault() {
        let Some(site) = Site::start(Setup::default(), |_| ()) else { return };
        let mut machine = site.boot(Role::Candidate, &[]).await.map_err(|e| e.fault).unwrap();
        site.stand_in.set_link(false);
        let closed = tokio::time::timeout(Duration::from_secs(60), machine.agent().closed()).await;
        site.stand_in.set_link(true);
        let seeming = Fault::harness(FaultKind::Channel, closed.expect("it is noticed"));
        let fault = machine.blame(seeming.clone()).await;
        assert_eq!(fault, seeming);
        let fault = Fault { message: "the SSH connection broke".into(), ..fault };
        documented("the network is cut while a scenario runs, and comes back", &fault);
        site.is_production();
        drop(machine);
        site.finish().await;
    }

    /// What Ctrl-C does: the boot is given up wherever it is, and the host goes back.
    #[tokio::test]
    async fn a_walk_that_is_interrupted_goes_back() {
        let Some(site) = Site::start(Setup::default(), |_| ()) else { return };
        let armed = async {
            while !site.events.borrow().iter().any(|event| matches!(event, Event::Arming { .. })) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
        };
        tokio::select! {
            booted = site.boot(Role::Candidate, &[]) => panic!("{:?}", booted.err().map(|e| e.fault)),
            () = armed => {}
        }
        site.finish().await;
    }
}
