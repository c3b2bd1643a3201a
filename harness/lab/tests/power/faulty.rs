//! BMCs that misbehave, each over real TLS, and commands that do.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::bmc::{
    Asked, Authority, Bmc, Identity, Manner, PASSWORD, RESET, Reply, SYSTEM, State, USER, Wrong,
};
use crate::faults::{self, Fault};
use async_trait::async_trait;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use kgate_lab::power::{self, Action, Firmware, PowerError};
use kgate_lab::secret::{SecretError, Secrets};
use kgate_model::inventory::{self, Limits, PowerCommands, SecretRef, Tls};
use regex::Regex;
use secrecy::SecretString;
use serde_json::json;
use tokio::task::LocalSet;

/// The limit of a call.
const LIMIT: Duration = Duration::from_secs(8);

/// Rows at a time: those that hang take no processor, the others all there is.
const AT_ONCE: usize = 32;

struct Known;

#[async_trait(?Send)]
impl Secrets for Known {
    async fn get(&self, secret: &SecretRef) -> Result<SecretString, SecretError> {
        match secret {
            SecretRef::Env(name) if name == "BMC_PASSWORD" => Ok(PASSWORD.into()),
            SecretRef::Env(name) if name == "WRONG" => Ok("wrong".into()),
            _ => Err(SecretError("the environment variable BMC_PASSWORD is not set".into())),
        }
    }
}

/// What is asked of a BMC.
#[derive(Clone, Copy)]
enum Call {
    State,
    Act(Action),
    NetworkOnce,
}

/// How the inventory says that the BMC proves itself, and how it does.
#[derive(Clone, Copy)]
enum Who {
    /// Its own certificate, pinned.
    Pinned,
    /// Its own certificate, marked as an authority's, pinned.
    PinnedAuthority,
    /// Its own certificate, in the file of authorities.
    OwnInFile,
    /// An authority's.
    Issued,
    /// Any is taken.
    Insecure,
    Expired,
    WrongHost,
    Unknown,
    SystemsAuthorities,
    Changed,
    Stolen,
    NoTls,
    /// Nobody listens.
    Nobody,
    /// Connections are taken, and nothing comes.
    Silent,
}

struct Row {
    fault: &'static str,
    does: &'static str,
    call: Call,
    who: Who,
    wrong: Wrong,
    set: fn(&mut State),
    password: &'static str,
    system: Option<&'static str>,
}

fn row(fault: &'static str, does: &'static str) -> Row {
    Row {
        fault,
        does,
        call: Call::State,
        who: Who::Pinned,
        wrong: |_, _| None,
        set: |_| {},
        password: "BMC_PASSWORD",
        system: None,
    }
}

impl Row {
    fn call(self, call: Call) -> Self {
        Self { call, ..self }
    }
    fn act(self, action: Action) -> Self {
        self.call(Call::Act(action))
    }
    fn who(self, who: Who) -> Self {
        Self { who, ..self }
    }
    fn wrong(self, wrong: Wrong) -> Self {
        Self { wrong, ..self }
    }
    fn set(self, set: fn(&mut State)) -> Self {
        Self { set, ..self }
    }
}

/// For the first `N` requests.
fn first<const N: usize>(state: &State, reply: Reply) -> Option<Reply> {
    (state.asked <= N).then_some(reply)
}

fn always(manner: Manner) -> Option<Reply> {
    Some(Reply::json(200, json!({ "Members": [] })).manner(manner))
}

fn allow(state: &mut State, kinds: &[&str]) {
    state.system["Actions"]["#ComputerSystem.Reset"]["ResetType@Redfish.AllowableValues"] =
        json!(kinds);
}

fn as_a_task(state: &mut State, asked: &Asked) -> Option<Reply> {
    asked.is("POST", RESET).then(|| {
        state.right(asked);
        Reply::status(202).header("Location", "/redfish/v1/TaskService/TaskMonitors/7")
    })
}

#[rustfmt::skip]
fn redfish() -> Vec<Row> {
    vec![
        row("nobody listens at its address", "tries again until the limit")
            .who(Who::Nobody),
        row("takes connections and says nothing", "ends at the limit")
            .who(Who::Silent),
        row("hangs before it answers", "ends at the limit")
            .wrong(|_, _| always(Manner::Hangs)),
        row("hangs after the head of an answer", "ends at the limit")
            .wrong(|_, _| always(Manner::HangsAfterHead)),
        row("sends a byte a second", "ends at the limit")
            .wrong(|_, _| always(Manner::Trickles)),
        row("sends a body without end", "reads 1 MiB of it")
            .wrong(|_, _| always(Manner::Endless)),
        row("sends headers without end", "reads a bounded part of them, tries again until the limit")
            .wrong(|_, _| always(Manner::EndlessHead)),
        row("resets the connection once", "tries again")
            .wrong(|s, _| first::<1>(s, Reply::status(200).manner(Manner::Resets))),
        row("resets every connection", "tries again until the limit")
            .wrong(|_, _| always(Manner::Resets)),
        row("cuts an answer short once", "tries again")
            .wrong(|s, _| first::<1>(s, Reply::json(200, json!({ "Members": [] })).manner(Manner::Cut))),
        row("cuts every answer short", "tries again until the limit")
            .wrong(|_, _| always(Manner::Cut)),
        row("resets the connection at an order to reset", "doesn't repeat what may have been heard")
            .act(Action::Reset)
            .wrong(|_, a| a.is("POST", RESET).then(|| Reply::status(200).manner(Manner::Resets))),
        row("resets the connection at the first order to switch off", "repeats it: that harms nothing")
            .act(Action::Off)
            .wrong(|s, a| (a.is("POST", RESET) && s.orders.len() == 1)
                .then(|| Reply::status(200).manner(Manner::Resets))),
        row("answers 500 once", "tries again")
            .wrong(|s, _| first::<1>(s, Reply::error(500, "An internal error."))),
        row("answers 500 to an order once", "gives it again")
            .act(Action::Reset)
            .wrong(|s, a| (a.is("POST", RESET) && s.orders.len() == 1).then(|| Reply::status(500))),
        row("answers 500 for ever", "tries again until the limit")
            .wrong(|_, _| Some(Reply::error(500, "An internal error."))),
        row("answers 503 with `Retry-After: 1`", "waits, and tries again")
            .wrong(|s, _| first::<1>(s, Reply::status(503).header("Retry-After", "1"))),
        row("answers 503 with `Retry-After: 3600`", "doesn't wait beyond the limit")
            .wrong(|_, _| Some(Reply::status(503).header("Retry-After", "3600"))),
        row("answers what isn't JSON", "says so")
            .wrong(|_, _| Some(Reply { body: b"<html>Welcome</html>".to_vec(), ..Reply::status(200) })),
        row("answers JSON without what was asked for", "says so")
            .wrong(|_, _| Some(Reply::json(200, json!([[[]]])))),
        row("answers with control characters", "shows none of them")
            .wrong(|_, _| Some(Reply::error(400, "\u{1b}[2Jno\n\u{7}\u{202e}way"))),
        row("redirects to a path of its own", "follows")
            .wrong(|_, a| a.is("GET", "Systems")
                .then(|| Reply::status(308).header("Location", "/redfish/v1/Systems/"))),
        row("redirects in a circle", "stops at the third time")
            .wrong(|_, a| Some(Reply::status(308).header("Location", &a.path))),
        row("redirects to another server", "doesn't follow, so nobody else gets the password")
            .wrong(|_, _| Some(Reply::status(307).header("Location", "https://evil.example/redfish"))),
        row("its action leads to another server", "doesn't follow")
            .act(Action::Reset)
            .set(|s| s.system["Actions"]["#ComputerSystem.Reset"]["target"] = json!("//evil.example/x")),
        row("wrong password", "tries it with the request and for a session, no more")
            .wrong(|_, _| None).password("WRONG"),
        row("the password isn't where the inventory says", "asks nothing of the BMC")
            .password("NONE"),
        row("takes passwords for sessions only", "opens a session, and ends it")
            .set(|s| s.sessions_only = true),
        row("loses the session in the middle", "logs in again")
            .act(Action::Off)
            .set(|s| s.sessions_only = true)
            .wrong(|s, a| {
                if a.is("POST", RESET) && s.orders.len() == 2 { s.tokens.clear(); }
                None
            }),
        row("loses every session at once", "logs in again once")
            .set(|s| s.sessions_only = true)
            .wrong(|s, a| { if a.method == "GET" { s.tokens.clear(); } None }),
        row("the user may not do that (403)", "says so")
            .act(Action::Off)
            .wrong(|_, a| a.is("POST", RESET)
                .then(|| Reply::error(403, "There are insufficient privileges."))),
        row("its own certificate, pinned", "believes it").who(Who::Pinned),
        row("its own certificate, marked as an authority's, pinned", "believes it")
            .who(Who::PinnedAuthority),
        row("its own certificate in the file of authorities", "believes it").who(Who::OwnInFile),
        row("a certificate of an authority in the file", "believes it").who(Who::Issued),
        row("any certificate, and the inventory says insecure", "believes it").who(Who::Insecure),
        row("its certificate changed", "sends nothing; says the new SHA-256").who(Who::Changed),
        row("somebody has its certificate, without the key", "sends nothing").who(Who::Stolen),
        row("a certificate of an unknown authority", "sends nothing").who(Who::Unknown),
        row("its own certificate, and the system's authorities", "sends nothing")
            .who(Who::SystemsAuthorities),
        row("a certificate for another name", "sends nothing").who(Who::WrongHost),
        row("a certificate that is over", "sends nothing").who(Who::Expired),
        row("speaks no TLS at its port", "sends nothing").who(Who::NoTls),
        row("several systems, and the inventory names none", "asks which")
            .wrong(|_, a| a.is("GET", "Systems").then(|| Reply::json(200, json!({ "Members": [
                { "@odata.id": "/redfish/v1/Systems/a" }, { "@odata.id": "/redfish/v1/Systems/b" },
            ] })))),
        row("no such system as the inventory names", "tells those that there are")
            .system("blade9"),
        row("an order is obeyed after some time", "waits for the state to show it")
            .act(Action::Off).set(|s| s.delay = Duration::from_millis(600)),
        row("accepts an order, and the state never changes", "ends at the limit")
            .act(Action::Off)
            .wrong(|_, a| a.is("POST", RESET).then(|| Reply::status(204))),
        row("tells on and off by turns", "believes neither")
            .act(Action::Off)
            .wrong(|s, a| {
                s.power = if s.asked % 4 < 2 { "On" } else { "Off" }.into();
                a.is("POST", RESET).then(|| Reply::status(204))
            }),
        row("the operating system ignores a soft off", "says that it isn't the BMC")
            .act(Action::SoftOff)
            .wrong(|_, a| a.is("POST", RESET).then(|| Reply::status(204))),
        row("refuses to switch off what is off (409)", "is content")
            .act(Action::Off)
            .set(|s| s.power = "Off".into())
            .wrong(|_, a| a.is("POST", RESET).then(|| Reply::error(409, "It is off already."))),
        row("refuses an order (409)", "says why")
            .act(Action::Off)
            .wrong(|_, a| a.is("POST", RESET).then(|| Reply::error(409, "The system is being updated."))),
        row("the host is off at an order to reset", "switches it on")
            .act(Action::Reset)
            .set(|s| s.power = "Off".into()),
        row("can't power-cycle", "switches off and on")
            .act(Action::Cycle)
            .set(|s| allow(s, &["On", "ForceOff"])),
        row("can't reset", "switches off and on")
            .act(Action::Reset)
            .set(|s| allow(s, &["On", "ForceOff"])),
        row("can't send an NMI", "says so; a walk goes on with a reset")
            .act(Action::Nmi)
            .set(|s| allow(s, &["On", "ForceOff"])),
        row("doesn't say what it can, and can", "tries it")
            .act(Action::On)
            .set(|s| {
                s.power = "Off".into();
                let reset = &mut s.system["Actions"]["#ComputerSystem.Reset"];
                reset.as_object_mut().unwrap().remove("ResetType@Redfish.AllowableValues");
            })
            .wrong(|_, a| (a.body["ResetType"] == "On").then(|| Reply::error(400, "On is not known."))),
        row("doesn't say what it can, and can't", "tries it, and says what it answered")
            .act(Action::Nmi)
            .set(|s| {
                let reset = &mut s.system["Actions"]["#ComputerSystem.Reset"];
                reset.as_object_mut().unwrap().remove("ResetType@Redfish.AllowableValues");
            })
            .wrong(|_, a| a.is("POST", RESET).then(|| Reply::error(501, "Nmi is not implemented."))),
        row("says elsewhere what it can", "looks there")
            .act(Action::Nmi)
            .set(|s| s.system["Actions"]["#ComputerSystem.Reset"] = json!({
                "target": RESET, "@Redfish.ActionInfo": "/redfish/v1/Systems/1/ResetActionInfo",
            }))
            .wrong(|_, a| a.is("GET", "ResetActionInfo").then(|| Reply::json(200, json!({
                "Parameters": [{ "Name": "ResetType", "AllowableValues": ["On", "ForceOff"] }],
            })))),
        row("has no action to switch the system", "says so")
            .act(Action::Off)
            .set(|s| s.system["Actions"] = json!({})),
        row("makes a task of an order, which succeeds", "waits for it")
            .act(Action::Off)
            .wrong(|s, a| as_a_task(s, a).or_else(|| a.is("GET", "7").then(||
                if s.asked < 6 { Reply::json(202, json!({ "TaskState": "Running" })) }
                else { Reply::json(200, json!({ "TaskState": "Completed" })) }))),
        row("makes a task of an order, which is gone when it is done", "goes by the state")
            .act(Action::Off)
            .wrong(as_a_task),
        row("makes a task of an order, which fails", "says why")
            .act(Action::Off)
            .wrong(|_, a| match (a.method.as_str(), a.path.as_str()) {
                ("POST", RESET) => Some(Reply::json(202, json!({ "@odata.id": "/redfish/v1/Tasks/7" }))),
                ("GET", "/redfish/v1/Tasks/7") => Some(Reply::json(200, json!({
                    "TaskState": "Exception", "Messages": [{ "Message": "The power supply is missing." }],
                }))),
                _ => None,
            }),
        row("makes a task of an order, which never ends", "ends at the limit")
            .act(Action::Off)
            .wrong(|s, a| as_a_task(s, a).or_else(|| a.is("GET", "7").then(||
                Reply::json(202, json!({ "TaskState": "Running" }))))),
        row("wants the version of what is changed (ETag)", "gives it")
            .call(Call::NetworkOnce).set(|s| s.tags = true),
        row("tells a weak version, and wants a strong one", "tries both")
            .call(Call::NetworkOnce).set(|s| (s.tags, s.weak) = (true, true)),
        row("makes a boot from the network once one of every boot", "takes it back")
            .call(Call::NetworkOnce)
            .wrong(|s, a| {
                let boot = &mut s.system["Boot"]["BootSourceOverrideEnabled"];
                if a.method == "GET" && *boot == "Once" { *boot = json!("Continuous"); }
                None
            }),
        row("accepts a boot from the network, and doesn't tell it", "says so")
            .call(Call::NetworkOnce)
            .wrong(|_, a| a.is("PATCH", SYSTEM).then(|| Reply::status(204))),
    ]
}

impl Row {
    fn password(self, password: &'static str) -> Self {
        Self { password, ..self }
    }
    fn system(self, system: &'static str) -> Self {
        Self { system: Some(system), ..self }
    }
}

async fn call(power: &dyn power::Power, call: Call) -> Result<String, PowerError> {
    let began = Instant::now();
    let (result, longest) = match call {
        Call::State => (power.state().await.map(|state| format!("{state:?}")), 1),
        Call::Act(action) => (power.act(action).await.map(|()| "done".to_owned()), 4),
        Call::NetworkOnce => {
            let result = power.boot_from_network_once(Firmware::Bios).await;
            (result.map(|()| "armed".to_owned()), 1)
        }
    };
    let (took, limit) = (began.elapsed(), LIMIT * longest + Duration::from_secs(1));
    assert!(took < limit, "a call took {took:?}");
    result
}

/// Without what differs from run to run.
fn steady(text: &str) -> String {
    let filters = [
        (r"127\.0\.0\.1:\d+", "bmc7.example"),
        (r"[0-9a-f]{64}", "9f86d0…"),
        (
            r"verification time \d+ \(UNIX\), but certificate is not valid after (\d+) \(\d+ seconds ago\)",
            "…",
        ),
        (r"127\.0\.0\.1", "bmc7.example"),
    ];
    filters.iter().fold(text.to_owned(), |text, (pattern, with)| {
        Regex::new(pattern).unwrap().replace_all(&text, *with).into_owned()
    })
}

fn limits() -> Limits {
    Limits { bmc: LIMIT, shutdown: LIMIT, ..Limits::default() }
}

/// Who the BMC is, and how the inventory says that it proves it.
fn identity(who: Who, authority: &Authority, dir: &Path) -> (Option<Identity>, Tls) {
    let file = |name: &str, pem: String| {
        let path = dir.join(name);
        std::fs::write(&path, pem).unwrap();
        Tls::Ca(path)
    };
    let own = || Identity::own(|_| {});
    let by_authority = || file("authority.pem", authority.pem());
    let identity = match who {
        Who::Pinned => own(),
        Who::PinnedAuthority | Who::OwnInFile => Identity::own(|params| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }),
        Who::Issued => authority.issue("127.0.0.1", |_| {}),
        Who::WrongHost => authority.issue("bmc8.example", |_| {}),
        Who::Expired => authority.issue("127.0.0.1", |params| {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }),
        Who::Stolen => own().stolen(),
        Who::Insecure | Who::Unknown | Who::SystemsAuthorities | Who::Changed => own(),
        Who::NoTls | Who::Nobody | Who::Silent => return (None, Tls::Pinned([0; 32])),
    };
    let tls = match who {
        Who::Insecure => Tls::Insecure,
        Who::Changed => Tls::Pinned([0; 32]),
        Who::SystemsAuthorities => Tls::System,
        Who::OwnInFile => file("own.pem", identity.pem()),
        Who::Issued | Who::WrongHost | Who::Expired | Who::Unknown => by_authority(),
        _ => Tls::Pinned(identity.sha256()),
    };
    (Some(identity), tls)
}

/// Carries out a row, and tells what was ordered of the BMC.
async fn redfish_row(
    row: &Row,
    authority: &Authority,
    dir: &Path,
) -> (Result<String, PowerError>, String) {
    let (identity, tls) = identity(row.who, authority, dir);
    let mut state = State::new();
    (row.set)(&mut state);
    let bmc = Bmc::start(state, row.wrong, identity.as_ref()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = listener.local_addr().unwrap().port();
    let port = match row.who {
        Who::Nobody | Who::Silent => other,
        _ => bmc.port,
    };
    // Nobody accepts what waits in a listener's queue.
    let listener = matches!(row.who, Who::Silent).then_some(listener);
    let power = inventory::Power::Redfish {
        url: format!("https://127.0.0.1:{port}"),
        system: row.system.map(str::to_owned),
        user: USER.to_owned(),
        password: SecretRef::Env(row.password.to_owned()),
        tls,
    };
    let power = power::open(&power, "lab1", &limits(), Rc::new(Known));
    let outcome = call(&*power, row.call).await;
    drop(listener);
    let orders = bmc.state.borrow().orders.join(", ");
    (outcome, orders)
}

async fn redfish_rows() -> (Vec<Fault>, String) {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let rows = redfish();
    let done = LocalSet::new()
        .run_until(async {
            let row = |row| redfish_row(row, &authority, dir.path());
            stream::iter(&rows).map(row).buffered(AT_ONCE).collect::<Vec<_>>().await
        })
        .await;
    let mut orders = String::new();
    let faults = rows.iter().zip(done).map(|(row, (outcome, ordered))| {
        let told = outcome.as_ref().map_or_else(ToString::to_string, Clone::clone);
        orders += &format!("{}: {}\n  ordered: {ordered}\n", row.fault, steady(&told));
        crate::row(row.fault, row.does, &outcome, steady)
    });
    (faults.collect(), orders)
}

#[tokio::test]
async fn redfish_faults() {
    let (faults, orders) = redfish_rows().await;
    insta::assert_snapshot!("redfish", orders);
    faults::check("Power by Redfish", &faults);
}

#[tokio::test]
async fn command_faults() {
    let set = |commands: &mut PowerCommands, state: &str| commands.state = Some(state.to_owned());
    let off = |off: &str| PowerCommands {
        state: Some("echo on".into()),
        off: Some(off.to_owned()),
        ..PowerCommands::default()
    };
    let state = |text: &str| {
        let mut commands = PowerCommands::default();
        set(&mut commands, text);
        (commands, Call::State)
    };
    let switch = |text: &str| (off(text), Call::Act(Action::Off));
    let rows = [
        ("hangs, with a child", "kills both at the limit", state("sleep 1000 & sleep 1000")),
        ("ends with 1", "says what it said", state("echo no such outlet >&2; exit 1")),
        ("is killed", "says so", state("kill -9 $$")),
        ("prints rubbish", "says so", state("printf '\\033[31mperhaps\\n'")),
        ("prints without end", "reads 16 MiB of it, kills it at the limit", state("yes")),
        ("says off, and the state stays on", "ends at the limit", switch("true")),
        ("isn't there for what is asked", "says so", (off("true"), Call::Act(Action::Nmi))),
    ];
    let faults = rows.map(async |(what, does, (commands, asked))| {
        let power = inventory::Power::Command(commands);
        let power = power::open(&power, "lab1", &limits(), Rc::new(Known));
        crate::row(what, does, &call(&*power, asked).await, steady)
    });
    faults::check("Power by command", &join_all(faults).await);
}

#[tokio::test]
async fn a_command_knows_its_host_and_the_state_shows_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let set = |to: &str| Some(format!("echo {to} $KGATE_HOST >> {at}/log; echo {to} > {at}/state"));
    let commands = PowerCommands {
        state: Some(format!("cat {at}/state 2>/dev/null || echo off")),
        on: set("on"),
        off: set("off"),
        ..PowerCommands::default()
    };
    let power =
        power::open(&inventory::Power::Command(commands), "lab7", &limits(), Rc::new(Known));
    assert_eq!(power.state().await, Ok(power::PowerState::Off));
    power.act(Action::On).await.unwrap();
    assert_eq!(power.state().await, Ok(power::PowerState::On));
    // There are no commands for these two: both are done by off and on.
    power.act(Action::Cycle).await.unwrap();
    power.act(Action::Reset).await.unwrap();
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert_eq!(log, "on lab7\noff lab7\non lab7\noff lab7\non lab7\n");
}
