//! The stand-in's chassis: power, reset, NMI and what it boots from, as one place that all its
//! management peers ask, and that lies or fails when it is told to.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::qmp::Qmp;

/// What a chassis does that it should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChassisFault {
    /// Always says that the power is on.
    SaysOn,
    /// Always says that the power is off.
    SaysOff,
    /// Accepts every command, and does nothing.
    Ignores,
    /// Refuses every command, queries of the state too.
    Fails,
    /// Answers no command.
    Hangs,
    /// Carries out what it is asked for some seconds after it has said that it did.
    Late,
}

/// How late [`ChassisFault::Late`] is.
const LATE: Duration = Duration::from_secs(4);
/// A reset that no other one follows for so long has started the machine.
const SETTLED: Duration = Duration::from_secs(2);

/// QEMU as a chassis.
#[derive(Clone)]
pub(super) struct Chassis(Arc<Inner>);

struct Inner {
    qmp: Mutex<Qmp>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    fault: Option<ChassisFault>,
    /// Device and whether only the next start is from it.
    from: Option<(Source, bool)>,
    /// Every verb that was carried out, queries left out.
    done: Vec<String>,
    /// How often it was reset.
    starts: u64,
}

/// What a machine starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Disk,
    Pxe,
}

impl Chassis {
    /// A chassis around the QEMU behind `commands`; `events` is another socket of it.
    pub(super) fn new(commands: &Path, events: &Path) -> io::Result<Self> {
        let qmp = Mutex::new(Qmp::connect(commands)?);
        let chassis = Self(Arc::new(Inner { qmp, state: Mutex::default() }));
        let (mut events, watched) = (Qmp::connect(events)?, chassis.clone());
        std::thread::spawn(move || {
            while let Ok(event) = events.event() {
                if event == "RESET" {
                    watched.started();
                }
            }
        });
        Ok(chassis)
    }

    /// Serves verbs on a port of loopback, one a line; returns the port.
    pub(super) fn serve(&self) -> io::Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let chassis = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let chassis = chassis.clone();
                std::thread::spawn(move || chassis.talk(stream));
            }
        });
        Ok(port)
    }

    /// Answers `ok`, with what was asked for, or `error`, with why.
    fn talk(&self, stream: TcpStream) -> io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let mut out = stream;
        while let Some(line) = lines.next().transpose()? {
            let answer = match self.asked(line.trim()) {
                Ok(answer) => format!("ok {answer}\n"),
                Err(error) => format!("error {error}\n"),
            };
            out.write_all(answer.as_bytes())?;
        }
        Ok(())
    }

    /// Carries out a verb as a peer asks for it: faults apply.
    fn asked(&self, verb: &str) -> io::Result<String> {
        let fault = self.state().fault;
        match (fault, verb) {
            (Some(ChassisFault::Hangs), _) => loop {
                std::thread::park();
            },
            (Some(ChassisFault::Fails), _) => Err(io::Error::other("the chassis is out of order")),
            (Some(ChassisFault::SaysOn), "status") => Ok("on".into()),
            (Some(ChassisFault::SaysOff), "status") => Ok("off".into()),
            (Some(ChassisFault::Ignores), verb) if !is_query(verb) => Ok(String::new()),
            (Some(ChassisFault::Late), verb) if !is_query(verb) => {
                let (chassis, verb) = (self.clone(), verb.to_owned());
                std::thread::spawn(move || {
                    std::thread::sleep(LATE);
                    chassis.act(&verb)
                });
                Ok(String::new())
            }
            _ => self.act(verb),
        }
    }

    /// Carries out a verb: `status`, `on`, `off`, `soft`, `reset`, `cycle`, `nmi`, `boot`, `boot
    /// pxe|disk [once]`.
    pub(super) fn act(&self, verb: &str) -> io::Result<String> {
        if !is_query(verb) {
            self.state().done.push(verb.to_owned());
        }
        let mut words = verb.split(' ');
        match (words.next().unwrap_or_default(), words.next(), words.next()) {
            ("status", None, _) => return Ok(if self.is_on()? { "on" } else { "off" }.into()),
            ("on", None, _) if !self.is_on()? => self.all(&["system_reset", "cont"])?,
            ("on", None, _) => {}
            ("off", None, _) => self.all(&["stop"])?,
            ("soft", None, _) => self.all(&["system_powerdown"])?,
            ("reset", None, _) if self.is_on()? => self.all(&["system_reset"])?,
            ("reset", None, _) => return Err(io::Error::other("the power is off")),
            ("cycle", None, _) => self.all(&["stop", "system_reset", "cont"])?,
            ("nmi", None, _) => self.all(&["inject-nmi"])?,
            ("boot", None, _) => {
                return Ok(match self.state().from {
                    Some((Source::Pxe, true)) => "pxe once",
                    Some((Source::Pxe, false)) => "pxe",
                    Some((Source::Disk, true)) => "disk once",
                    Some((Source::Disk, false)) => "disk",
                    None => "none",
                }
                .into());
            }
            ("boot", Some("none"), _) => self.from(None)?,
            ("boot", Some("pxe"), once) => self.from(Some((Source::Pxe, once.is_some())))?,
            ("boot", Some("disk"), once) => self.from(Some((Source::Disk, once.is_some())))?,
            _ => return Err(io::Error::other(format!("there is no '{verb}'"))),
        }
        Ok(String::new())
    }

    /// Sets what goes wrong from now on.
    pub(super) fn fault(&self, fault: Option<ChassisFault>) {
        self.state().fault = fault;
    }

    /// Every verb that was carried out, in order.
    pub(super) fn done(&self) -> Vec<String> {
        self.state().done.clone()
    }

    /// One command of QEMU's.
    pub(super) fn execute(&self, command: &str, arguments: Value) -> io::Result<Value> {
        self.0.qmp.lock().unwrap_or_else(PoisonError::into_inner).execute(command, arguments)
    }

    /// Where the power is off, no CPU runs.
    fn is_on(&self) -> io::Result<bool> {
        let status = self.execute("query-status", json!({}))?;
        Ok(status.get("running").and_then(Value::as_bool).unwrap_or_default())
    }

    fn all(&self, commands: &[&str]) -> io::Result<()> {
        commands.iter().try_for_each(|command| self.execute(command, json!({})).map(|_| ()))
    }

    fn from(&self, from: Option<(Source, bool)>) -> io::Result<()> {
        self.state().from = from;
        self.order(from.map_or(Source::Disk, |(source, _)| source))
    }

    /// QEMU hands the order to the firmware at each reset.
    fn order(&self, first: Source) -> io::Result<()> {
        let (disk, nic) = if first == Source::Disk { (1, 2) } else { (2, 1) };
        for (device, index) in [("disk0", -1), ("nic0", -1), ("disk0", disk), ("nic0", nic)] {
            let path = format!("/machine/peripheral/{device}");
            let set = json!({ "path": path, "property": "bootindex", "value": index });
            self.execute("qom-set", set)?;
        }
        Ok(())
    }

    /// The machine has started: what was for once is over.
    fn started(&self) {
        let start = {
            let mut state = self.state();
            state.starts += 1;
            state.starts
        };
        if !matches!(self.state().from, Some((_, true))) {
            return;
        }
        // SeaBIOS makes two resets of one that a kernel asks for: what is for once has to last for both.
        let chassis = self.clone();
        std::thread::spawn(move || {
            std::thread::sleep(SETTLED);
            if chassis.state().starts == start {
                let _ = chassis.from(None);
            }
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_query(verb: &str) -> bool {
    ["status", "boot"].contains(&verb)
}
