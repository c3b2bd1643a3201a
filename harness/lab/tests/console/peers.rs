//! Consoles behind real ones: `ipmi_sim` by `ipmitool`, and `conserver`.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kgate_lab::console::Feed;
use kgate_model::inventory::{ConsoleSource, Ipmi, SecretRef};
use kgate_testkit::lab::{Console, Setup, StandIn};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{LONG, exit, exit_of, open, refused, skip, state, until};

/// A stand-in that says nothing by itself.
pub(crate) fn stand_in(console: Console) -> Option<(StandIn, ConsoleSource)> {
    let host = StandIn::start(Setup { console, ..Setup::default() })?;
    host.qmp("stop", serde_json::json!({}));
    let source = host.lab_host().consoles.remove(0);
    Some((host, source))
}

/// Somebody else with `ipmitool`.
fn ipmitool(at: &Ipmi, words: &[&str]) -> Command {
    let mut tool = Command::new("ipmitool");
    tool.args(["-I", "lanplus", "-C", "3", "-E", "-H", &at.address, "-p", &at.port.to_string()]);
    tool.args(["-U", &at.user]).args(words).env("IPMI_PASSWORD", "labpw");
    tool.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    tool
}

/// Injects until it is heard: the peer may still be on its way to the serial line.
pub(crate) async fn hears(host: &StandIn, feed: &Feed, text: &str) -> String {
    let mut reader = feed.reader();
    host.inject(text.as_bytes());
    until(&mut reader, text.trim_end()).await
}

/// Whose child dies with the test.
pub(crate) struct Other(pub(crate) Child);

impl Drop for Other {
    fn drop(&mut self) {
        let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let _ = kill_process_group(group.unwrap(), Signal::KILL);
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn sol_is_heard_and_typed_to_and_taken_from_the_dead() {
    let Some((host, source)) = stand_in(Console::Sol) else { return };
    let ConsoleSource::Sol(ipmi) = &source else { panic!("{source:?}") };
    assert_eq!(exit_of("SOL: session left by somebody who died"), "—");
    let mut dead = ipmitool(ipmi, &["sol", "activate"]).spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    dead.kill().unwrap();
    dead.wait().unwrap();
    let feed = open(source.clone(), None).await;
    assert!(hears(&host, &feed, "~. and \u{7f}\0 here\r\n").await.starts_with("~. and"));
    // What somebody types the host's line gets: a shell that waits for a login there would answer, but
    // that it is no escape of ipmitool's shows by the session's going on.
    feed.write(b"~.\r~.\r").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    hears(&host, &feed, "still there\r\n").await;
    assert_eq!(feed.state().borrow().losses, 0);

    let mut wrong = ipmi.clone();
    wrong.password = SecretRef::Env("wrong".to_owned());
    let began = Instant::now();
    let error = refused(ConsoleSource::Sol(wrong), LONG).await;
    assert_eq!(exit(&error), exit_of("SOL: wrong password"));
    assert!(began.elapsed() < LONG / 2);
    insta::assert_snapshot!(error, @"the console of edge-1 can't be opened: the BMC refused the login");
    let nobody = Ipmi { port: 9, ..ipmi.clone() };
    let error = refused(ConsoleSource::Sol(nobody), Duration::from_secs(4)).await;
    assert_eq!(exit(&error), exit_of("SOL: no BMC"));
}

#[tokio::test]
async fn sol_that_another_session_takes_is_taken_back() {
    assert_eq!(exit_of("SOL: taken by another session"), "—");
    let Some((host, source)) = stand_in(Console::Sol) else { return };
    let ConsoleSource::Sol(ipmi) = &source else { panic!("{source:?}") };
    let feed = open(source.clone(), None).await;
    hears(&host, &feed, "mine\r\n").await;
    let mut reader = feed.reader();
    // It has asked whose the console is by now.
    tokio::time::sleep(Duration::from_secs(2)).await;
    ipmitool(ipmi, &["sol", "deactivate"]).status().unwrap();
    let _other = Other(ipmitool(ipmi, &["sol", "activate"]).process_group(0).spawn().unwrap());
    let began = Instant::now();
    state(&feed, |state| state.losses == 1 && state.connected).await;
    println!("taken back after {:?}", began.elapsed());
    host.inject(b"mine again\r\n");
    let text = until(&mut reader, "mine again").await;
    assert!(text.contains("s: the BMC gave the console to another session]"), "{text}");
}

#[tokio::test]
async fn a_conserver_is_spoken_to() {
    let Some((host, source)) = stand_in(Console::Conserver) else { return };
    let feed = open(source.clone(), None).await;
    let heard = hears(&host, &feed, "one\x05c.\u{ff}\0\r\n").await;
    assert_eq!(heard.trim_end(), "one\x05c.\u{ff}\0");
    // Were it an escape, the conserver would end the connection.
    feed.write(b"\x05c.").await.unwrap();
    hears(&host, &feed, "two\r\n").await;
    assert_eq!(feed.state().borrow().losses, 0);
    // The first one has the right to type.
    let second = open(source.clone(), None).await;
    hears(&host, &second, "three\r\n").await;
    let error = second.write(b"x").await.unwrap_err();
    assert_eq!(exit(&error), exit_of("conserver: somebody else types there"));

    let ConsoleSource::Conserver { server, port, .. } = source else { panic!("{source:?}") };
    let unknown = ConsoleSource::Conserver { server, port, console: "edge-9".to_owned() };
    let error = refused(unknown, LONG).await;
    assert_eq!(exit(&error), exit_of("conserver: no such console"));
    insta::assert_snapshot!(error, @"the console of edge-1 can't be opened: 127.0.0.1: console `edge-9' not found");
}

/// A conserver with its own rules.
pub(crate) fn conserver(dir: &Path, port: u16, line: u16, access: &str) -> Option<Other> {
    let text = format!(
        "config * {{ }}\ndefault * {{ logfile \"\"; rw *; master localhost; type host; host 127.0.0.1; \
         protocol raw; }}\nconsole edge-1 {{ port {line}; }}\naccess * {{ {access} 127.0.0.1; }}\n"
    );
    let (file, passwords) = (dir.join("conserver.cf"), dir.join("passwords"));
    std::fs::write(&file, text).unwrap();
    std::fs::write(&passwords, "kgate:*:\n").unwrap();
    let mut server = Command::new("/usr/sbin/conserver");
    server.arg("-C").arg(file).arg("-P").arg(passwords);
    server.args(["-M", "127.0.0.1", "-b", "0", "-p", &port.to_string()]).process_group(0);
    let server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if let Err(error) = &server {
        skip(&format!("/usr/sbin/conserver: {error}"));
    }
    server.ok().map(Other)
}

/// A port that nobody listens on.
pub(crate) fn free() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) async fn until_accepting(port: u16) {
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_conserver_that_can_not_help_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let port = free();
    let source = || ConsoleSource::Conserver {
        server: "127.0.0.1".to_owned(),
        port,
        console: "edge-1".to_owned(),
    };
    let Some(strict) = conserver(dir.path(), port, 1, "allowed") else { return };
    until_accepting(port).await;
    let error = refused(source(), LONG).await;
    drop(strict);
    assert_eq!(exit(&error), exit_of("conserver: wants a password"));
    let text = error.to_string();
    assert!(text.ends_with("`127.0.0.1': let the conserver trust the controller"), "{text}");
    let _lax = conserver(dir.path(), port, 1, "trusted");
    until_accepting(port).await;
    let error = refused(source(), Duration::from_secs(10)).await;
    assert_eq!(exit(&error), exit_of("conserver: its line is down"));
    assert!(error.to_string().contains("`edge-1' -- console is down"), "{error}");
}
