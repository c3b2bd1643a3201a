//! A kgate that is killed anywhere on a walk leaves a host that `recover` brings back, by what the journal
//! says; and so does one that was interrupted.

#[expect(dead_code, reason = "tests of single boots use more of it")]
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kgate_lab::journal::{self, Step};
use kgate_lab::pool::{Lab, LabConfig};
use kgate_lab::recover::{Recovered, recover};
use kgate_lab::reservation::Lock;
use kgate_lab::secret::LocalSecrets;
use kgate_lab::walk::{Errand, Resolve, Walk};
use kgate_machine::{BootRequest, Pool};
use kgate_model::inventory::{
    Boot, ConsoleSource, Hook, Hooks, HostKey, LabHost, Limits, Modules, Power, PowerCommands,
    Reservation, Ssh,
};
use kgate_model::outcome::Role;
use kgate_model::plan::MachineShape;
use kgate_testkit::kernels;
use kgate_testkit::lab::{Setup, StandIn};
use support::Programs;
use tempfile::TempDir;

/// Tells the test binary that it is the one that is going to be killed: the stand-in's ports and files.
const WALKER: &str = "KGATE_LAB_WALKER";

/// Walks a host as a run of two boots does, until it is killed.
#[tokio::test]
#[ignore = "started by other tests"]
async fn walker() {
    let Ok(told) = std::env::var(WALKER) else { return };
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let words: Vec<&str> = told.split('\n').collect();
    let [ssh, serial, identity, key, button, state] = words[..] else { panic!("{told}") };
    let host = entry(ssh, serial, identity, key, button);
    let pair = kernels::old_pair().expect("kernels");
    let Programs { agent, ops, busybox } = Programs::build();
    let lab = Lab::new(LabConfig {
        hosts: vec![host.clone()],
        kernels: BTreeMap::from([(Role::Candidate, pair.candidate)]),
        busybox: Arc::new(busybox),
        images: BTreeMap::new(),
        agent: agent.leak(),
        ops: ops.leak(),
        errand: errand(Path::new(state)),
    });
    for number in 1..=2 {
        let machine = lab.boot(&request(&host, number, Path::new(state))).await;
        machine.map_err(|error| error.fault).expect("it boots").stop().await;
    }
    assert_eq!(lab.finish().await, Vec::<String>::new());
}

fn entry(ssh: &str, serial: &str, identity: &str, key: &str, button: &str) -> LabHost {
    let press = |verb: &str| Some(format!("{button} {verb}"));
    let seconds = Duration::from_secs;
    let hook = || Some(Hook { command: "true".into(), timeout: seconds(5) });
    LabHost {
        name: "labhost".into(),
        tags: Vec::new(),
        ssh: Ssh {
            address: "127.0.0.1".into(),
            port: ssh.parse().expect("a port"),
            user: "root".into(),
            identity: Some(identity.into()),
            host_key: HostKey::Pinned(vec![key.into()]),
            jump: None,
        },
        power: Some(Power::Command(PowerCommands {
            state: press("status"),
            on: press("on"),
            off: press("off"),
            soft_off: None,
            reset: press("reset"),
            cycle: press("cycle"),
            nmi: press("nmi"),
            pxe_once: None,
        })),
        consoles: vec![ConsoleSource::Tcp {
            address: "127.0.0.1".into(),
            port: serial.parse().expect("a port"),
            telnet: false,
        }],
        boot: Boot {
            method: support::grub(),
            directory: "/var/lib/kgate".into(),
            command_line: Vec::new(),
            root: None,
            initrd_modules: Vec::new(),
            modules: Modules::Needed,
            guard: seconds(300),
        },
        hooks: Hooks { drain: hook(), undrain: hook(), ..Hooks::default() },
        reservation: Reservation::Own,
        limits: Limits {
            boot: seconds(60),
            shutdown: seconds(15),
            nmi: seconds(10),
            bmc: seconds(10),
        },
    }
}

fn errand(state: &Path) -> Rc<Errand> {
    Rc::new(Errand {
        state: state.join("lab"),
        evidence: state.join("evidence"),
        run: "killed".into(),
        user: "tester".into(),
        secrets: Rc::new(LocalSecrets::new(|_: &str| None)),
        told: Box::new(|_, _| ()),
    })
}

fn request(host: &LabHost, number: u32, dir: &Path) -> BootRequest {
    BootRequest {
        name: format!("candidate-{number}"),
        role: Role::Candidate,
        host: Some(host.name.clone()),
        number,
        image: "base".into(),
        shape: MachineShape::default(),
        alone: false,
        modules: Vec::new(),
        console: dir.join(format!("{number}.console")),
        kernel_log: None,
        deadline: Duration::from_secs(60),
    }
}

/// A stand-in, and the walkers that are killed on it.
struct Site {
    stand_in: StandIn,
    host: LabHost,
    dir: TempDir,
}

impl Site {
    fn start() -> Option<Self> {
        let stand_in = StandIn::start(Setup::default())?;
        let _ = kernels::old_pair()?;
        // So that walkers find them built.
        drop(Programs::build());
        let dir = tempfile::tempdir().expect("a directory");
        let [ssh, serial, identity, key, button, _] = Self::words(&stand_in, dir.path());
        let host = entry(&ssh, &serial, &identity, &key, &button);
        Some(Self { stand_in, host, dir })
    }

    fn words(stand_in: &StandIn, dir: &Path) -> [String; 6] {
        let path = |path: PathBuf| path.display().to_string();
        [
            stand_in.ssh_port().to_string(),
            stand_in.serial_port().to_string(),
            path(stand_in.identity_file()),
            stand_in.host_key().trim().to_owned(),
            path(stand_in.button()),
            path(dir.to_owned()),
        ]
    }

    fn walker(&self) -> Child {
        Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "walker", "--ignored", "--test-threads=1"])
            .env(WALKER, Self::words(&self.stand_in, self.dir.path()).join("\n"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a walker")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("lab")
    }

    /// Waits until the journal has so many lines since the last walk, or one that holds `word`.
    fn until(&self, walker: &mut Child, reached: impl Fn(&str) -> bool) {
        let from = self.journal().rfind("\"released\"").unwrap_or_default();
        let end = Instant::now() + Duration::from_secs(300);
        while walker.try_wait().expect("a child").is_none() {
            if reached(&self.journal()[from..]) {
                return;
            }
            assert!(Instant::now() < end, "it doesn't get there: {}", self.journal());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn journal(&self) -> String {
        let path = journal::path(&self.state(), &self.host.name);
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Recovers the host, and sees for itself that it is back and that nothing is left.
    async fn recovers(&self) -> Recovered {
        let recovered = recover(&self.host, &errand(self.dir.path()), false).await;
        let recovered = recovered.unwrap_or_else(|error| {
            let log = self.stand_in.console_log();
            let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(3000)..]).into_owned();
            panic!("{error}\n{}\n{tail}", self.journal())
        });
        let booted = self.stand_in.booted().expect("it answers");
        assert!(!booted.command_line.contains("kgate.boot"), "{booted:?}");
        assert!(self.stand_in.would_boot().is_production());
        assert!(!journal::left(&self.state(), &self.host.name).unwrap().anything());
        let left = self
            .stand_in
            .ssh("ls -A /var/lib/kgate 2>/dev/null; ls -d /boot/grub/kgate 2>/dev/null || :");
        assert_eq!(left, "");
        recovered
    }
}

fn kill(mut walker: Child) {
    walker.kill().expect("killed");
    walker.wait().expect("gone");
}

#[tokio::test]
async fn a_host_is_recovered_wherever_its_kgate_was_killed() {
    let Some(site) = Site::start() else { return };
    // While the host is on its way, and on the kernel under test.
    for (word, delay) in [("arming", 5000), ("\"on\"", 500)] {
        let mut walker = site.walker();
        site.until(&mut walker, |journal| journal.contains(word));
        std::thread::sleep(Duration::from_millis(delay));
        assert!(Lock::holder(&site.state(), &site.host.name).is_some());
        kill(walker);
        assert_eq!(Lock::holder(&site.state(), &site.host.name), None);
        let Recovered::Back(steps) = site.recovers().await else { panic!("it was left") };
        assert_eq!(steps, [Step::Return, Step::Unstage, Step::Undrain, Step::Release]);
    }
    assert_eq!(site.recovers().await, Recovered::Nothing);
}

mod long {
    use super::*;

    #[tokio::test]
    async fn a_hook_that_fails_leaves_the_host_drained_on_production() {
        let Some(mut site) = Site::start() else { return };
        let flag = site.dir.path().join("mended");
        let command = format!("test -e {} || {{ echo no switch >&2; exit 1; }}", flag.display());
        site.host.hooks.undrain = Some(Hook { command, timeout: Duration::from_secs(5) });
        let mut walk = Walk::open(&site.host, &errand(site.dir.path())).await.unwrap();
        walk.begin().await.unwrap();
        let error = walk.settle(Resolve::UnlessHookFailed).await.unwrap_err();
        let text = error.to_string();
        let (how, log) = text.split_once(" (all of it: ").unwrap();
        assert_eq!(how, "the hook `undrain` failed: exit code 1; it said: no switch");
        let said = std::fs::read_to_string(log.trim_end_matches(')')).unwrap();
        assert_eq!(said, "no switch\n");
        assert_eq!(walk.left().describe(), "drained, reserved");
        assert_eq!(walk.left().failed_hook.as_deref(), Some("undrain"));
        // It stays so until a person has looked.
        walk.settle(Resolve::UnlessHookFailed).await.unwrap();
        assert_eq!(walk.left().describe(), "drained, reserved");
        drop(walk);
        std::fs::write(flag, "").unwrap();
        site.recovers().await;
    }

    #[tokio::test]
    async fn a_host_that_never_answers_is_reset() {
        let Some(site) = Site::start() else { return };
        let mut walker = site.walker();
        site.until(&mut walker, |journal| journal.contains("\"on\""));
        kill(walker);
        // Its network is gone until somebody resets it.
        site.stand_in.ssh("(sleep 1; ip link set eth0 down) </dev/null >/dev/null 2>&1 &");
        std::thread::sleep(Duration::from_secs(2));
        site.recovers().await;
        let commands = site.stand_in.power_commands();
        assert!(commands.iter().any(|command| command == "reset"), "{commands:?}");
    }

    #[tokio::test]
    async fn two_controllers_do_not_meet_on_a_host() {
        let Some(site) = Site::start() else { return };
        let other = tempfile::tempdir().unwrap();
        let mut mine = Walk::open(&site.host, &errand(site.dir.path())).await.unwrap();
        mine.begin().await.unwrap();
        let mut theirs = Walk::open(&site.host, &errand(other.path())).await.unwrap();
        let error = theirs.begin().await.unwrap_err();
        assert!(error.is_held() && error.to_string().contains("tester on"), "{error}");
        assert!(!theirs.left().anything());
        drop(theirs);
        // Nor are two processes of one.
        let error = Walk::open(&site.host, &errand(site.dir.path())).await.map(drop).unwrap_err();
        assert!(error.is_held(), "{error}");
        let error = recover(&site.host, &errand(other.path()), false).await.unwrap_err();
        assert!(error.is_held(), "{error}");
        // Who takes it away brings it back, and who had it is told.
        let Recovered::Back(steps) =
            recover(&site.host, &errand(other.path()), true).await.unwrap()
        else {
            panic!("it was another's");
        };
        assert_eq!(steps, [Step::Return, Step::Unstage, Step::Release]);
        drop(mine);
        // Who had it leaves it to who has it now.
        let mut theirs = Walk::open(&site.host, &errand(other.path())).await.unwrap();
        theirs.begin().await.unwrap();
        let mut mine = Walk::open(&site.host, &errand(site.dir.path())).await.unwrap();
        assert!(mine.left().anything());
        let error = mine.begin().await.unwrap_err();
        assert!(error.is_held() && !mine.left().anything(), "{error}");
        drop(mine);
        theirs.settle(Resolve::All).await.unwrap();
        assert_eq!(site.stand_in.ssh("ls -A /var/lib/kgate 2>/dev/null || :"), "");
        site.recovers().await;
    }

    #[tokio::test]
    async fn a_host_is_recovered_25_times_of_25() {
        let Some(site) = Site::start() else { return };
        let mut random = {
            let mut seed = std::process::id() | 1;
            move |below: u32| {
                seed ^= seed << 13;
                seed ^= seed >> 17;
                seed ^= seed << 5;
                seed % below
            }
        };
        for nth in 1..=25 {
            let (lines, delay) = (1 + random(14) as usize, u64::from(random(8000)));
            println!("{nth}: killed {delay} ms after event {lines}");
            let mut walker = site.walker();
            site.until(&mut walker, |journal| journal.lines().count() > lines);
            std::thread::sleep(Duration::from_millis(delay));
            kill(walker);
            let begun = Instant::now();
            let recovered = site.recovers().await;
            println!("recovered after {:?}: {recovered:?}", begun.elapsed());
        }
    }
}
