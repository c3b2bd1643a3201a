//! Consoles against real peers, and what is done when they fail: the rows of the section Console of
//! `docs/lab-faults.md`, each of which a test here shows.

mod guests;
mod long;
mod netconsole;
mod peers;
mod tcp;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use kgate_lab::console::{ConsoleError, Feed, Opening, Reader, State};
use kgate_lab::secret::{SecretError, Secrets};
use kgate_model::inventory::{ConsoleSource, SecretRef};
use secrecy::SecretString;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

/// Nothing here takes longer on a machine that has other things to do.
const LONG: Duration = Duration::from_secs(60);

/// What happens | what kgate does | exit code where it ends a command.
#[rustfmt::skip]
const FAULTS: &[[&str; 3]] = &[
    ["connection dropped", "connects again after 0.1 s, later up to 5 s; a line `[kgate: console lost for …: why]` where readers read, `lost` and `connected` in the `.times` file; the file has what came before and after", "—"],
    ["refused or not resolved when it is opened", "tries until the caller's limit, then says the last reason", "4"],
    ["peer gone without a word (half-open)", "the kernel asks after 5 s of silence; given up after 10 s; then as dropped", "—"],
    ["flood of 100 MB", "all of it in the file (256 MiB at most); memory bounded; other work goes on", "—"],
    ["binary, NUL and 0xff", "kept byte for byte", "—"],
    ["line without end", "passed on as it comes; kgate's own lines begin a line", "—"],
    ["two readers, one stuck", "the other misses nothing; the stuck one is told how many bytes it missed beyond 4 MiB", "—"],
    ["disk full", "the reason in the feed's state and, as `cut`, in `.times`; readers go on", "—"],
    ["file can't be made", "says so at once", "2"],
    ["telnet: storm of negotiation", "answers each option once; nothing of it is in the console", "—"],
    ["telnet: subnegotiation without end", "given up after 4 KiB", "—"],
    ["SOL: session left by somebody who died", "deactivated, then activated", "—"],
    ["SOL: taken by another session", "noticed after 10 s of silence; taken back; then as dropped", "—"],
    ["SOL: BMC stops answering", "noticed within 45 s; then as dropped", "—"],
    ["SOL: wrong password", "says so at once, and asks the BMC only every 30 s", "2"],
    ["SOL: no BMC", "tries until the caller's limit, then says what `ipmitool` said", "4"],
    ["conserver: no such console", "says so at once", "2"],
    ["conserver: wants a password", "says so at once, and what to do", "2"],
    ["conserver: its line is down", "tries until the caller's limit, then says so", "4"],
    ["conserver: its line goes down later", "noticed after 10 s of silence; then as dropped", "—"],
    ["conserver: gone without a word", "noticed within 45 s; then as dropped", "—"],
    ["conserver: somebody else types there", "listens; typing is refused", "4"],
    ["command fails", "tries until the caller's limit, then says its last words", "4"],
    ["command ends", "starts it again; then as dropped", "—"],
    ["netconsole: datagrams lost", "a line `[kgate: N messages … did not come]`, by the kernel's own numbers", "—"],
    ["netconsole: datagrams of another host", "not taken for this one's; a port serves several hosts", "—"],
    ["netconsole: port is taken", "tries until the caller's limit, then says so", "4"],
];

/// The exit code that the table has for a fault.
fn exit_of(fault: &str) -> &'static str {
    let row = FAULTS.iter().find(|row| row[0] == fault);
    row.unwrap_or_else(|| panic!("`{fault}` is not in the table"))[2]
}

/// The exit code of an error, as `cli` has it.
fn exit(error: &ConsoleError) -> &'static str {
    match error {
        ConsoleError::Mistake { .. } => "2",
        _ => "4",
    }
}

#[test]
fn the_page_is_what_is_tested() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lab-faults.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split("\n## ").find_map(|part| part.strip_prefix("Console\n")).unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    let table: Vec<String> =
        FAULTS.iter().map(|[fault, does, exit]| format!("| {fault} | {does} | {exit} |")).collect();
    assert_eq!(rows, table, "the table is this:\n{}\n", table.join("\n"));
    let tests = [
        include_str!("guests.rs"),
        include_str!("long.rs"),
        include_str!("netconsole.rs"),
        include_str!("peers.rs"),
        include_str!("tcp.rs"),
    ];
    for [fault, ..] in FAULTS {
        let named = tests.iter().any(|test| test.contains(&format!("exit_of(\"{fault}\")")));
        assert!(named, "no test shows `{fault}`");
    }
}

#[expect(clippy::print_stdout, reason = "a test that tests nothing says so")]
fn skip(why: &str) {
    println!("SKIP {why}");
}

/// Secrets in files, and a wrong one by the name of a variable.
struct Files;

#[async_trait(?Send)]
impl Secrets for Files {
    async fn get(&self, secret: &SecretRef) -> Result<SecretString, SecretError> {
        match secret {
            SecretRef::File(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| SecretError(error.to_string()))?;
                Ok(text.trim_end().to_owned().into())
            }
            SecretRef::Env(wrong) => Ok(wrong.clone().into()),
            SecretRef::Command(_) => Err(SecretError("no commands here".to_owned())),
        }
    }
}

fn opening(source: ConsoleSource, file: Option<&Path>) -> Opening {
    let (host, address) = ("edge-1".to_owned(), "127.0.0.1".to_owned());
    Opening { host, address, source, file: file.map(Path::to_owned) }
}

async fn open(source: ConsoleSource, file: Option<&Path>) -> Feed {
    Feed::open(opening(source, file), &Files, LONG).await.expect("a console")
}

async fn refused(source: ConsoleSource, within: Duration) -> ConsoleError {
    Feed::open(opening(source, None), &Files, within).await.map(drop).expect_err("no console")
}

/// Reads until `what` has come.
async fn until(reader: &mut Reader, what: &str) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    let read = async {
        while !String::from_utf8_lossy(&all).contains(what) {
            match reader.read(&mut buffer).await {
                Ok(length @ 1..) => all.extend(&buffer[..length]),
                end => panic!("ended with {end:?}"),
            }
        }
    };
    let in_time = timeout(LONG, read).await.is_ok();
    let text = String::from_utf8_lossy(&all).into_owned();
    assert!(in_time, "`{what}` did not come, but:\n{text}");
    text
}

/// Waits for a state.
async fn state(feed: &Feed, what: impl FnMut(&State) -> bool) -> State {
    let mut watched = feed.state();
    timeout(LONG, watched.wait_for(what)).await.expect("the state").expect("a feed").clone()
}

/// What a `.times` file says beside its pieces, which are checked to be the whole file.
fn times(file: &Path) -> Vec<String> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".times");
    let (mut offset, mut at, mut events) = (0, 0, Vec::new());
    for line in std::fs::read_to_string(beside).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["offset"], offset, "{line}");
        assert!(event["at_ms"].as_u64().unwrap() >= at, "{line}");
        at = event["at_ms"].as_u64().unwrap();
        offset += event["bytes"].as_u64().unwrap_or(0);
        let told = ["lost", "connected", "cut"].into_iter().find(|key| event.get(key).is_some());
        events.extend(told.map(|key| match &event[key] {
            Value::String(why) => format!("{key}: {why}"),
            _ => key.to_owned(),
        }));
    }
    assert_eq!(offset, std::fs::metadata(file).unwrap().len());
    events
}
