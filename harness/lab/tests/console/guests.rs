//! Consoles of a host that boots and panics, as a machine's console monitor takes them.

use std::time::Duration;

use kgate_lab::console::netconsole::{TEARDOWN, setup};
use kgate_lab::console::{Feed, Opening};
use kgate_machine::Console;
use kgate_model::inventory::ConsoleSource;
use kgate_testkit::lab::{Setup, StandIn};
use tokio::time::timeout;

use crate::{Files, LONG, open, state};

const PANIC: &str = "kernel panic: sysrq triggered crash";

/// Waits for a panic on a console.
async fn panics(console: &Console) {
    let seen = timeout(LONG, console.panicked()).await;
    let tail = String::from_utf8_lossy(&console.tail()).into_owned();
    assert!(seen.is_ok(), "no panic, but:\n{tail}");
    console.settle().await;
    assert_eq!(console.cause().unwrap().title, PANIC);
}

/// Each boot has a reader and a monitor of its own.
#[tokio::test]
async fn a_panic_is_a_finding_of_its_boot_only() {
    let Some(host) = StandIn::start(Setup::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("console");
    let feed = open(host.lab_host().consoles.remove(0), Some(&file)).await;
    let first = Console::start(feed.reader(), Some(&dir.path().join("first"))).unwrap();
    host.try_ssh("echo c >/proc/sysrq-trigger", Duration::from_secs(2));
    panics(&first).await;
    let second = Console::start(feed.reader(), Some(&dir.path().join("second"))).unwrap();
    let boots = async {
        while !String::from_utf8_lossy(&second.tail()).contains("Linux version") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, boots).await.expect("another boot");
    second.settle().await;
    assert_eq!(second.findings(0), []);
    drop(feed);
    second.closed(LONG).await;
    let all = std::fs::read(&file).unwrap();
    assert!(all.ends_with(&std::fs::read(dir.path().join("second")).unwrap()));
}

/// What the host's kernel sends by itself, set up as kgate does it.
#[tokio::test]
async fn a_host_is_made_to_send_its_console() {
    let Some(host) = StandIn::start(Setup::default()) else { return };
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let source = ConsoleSource::Netconsole {
        port: free,
        address: "10.0.2.2".to_owned(),
        device: "eth0".to_owned(),
    };
    let opening =
        Opening { host: "edge-1".to_owned(), address: "127.0.0.1".to_owned(), source, file: None };
    let feed = Feed::open(opening, &Files, LONG).await.unwrap();
    let console = Console::start(feed.reader(), None).unwrap();
    for _ in 0..2 {
        let parameter = host.ssh(&setup("10.0.2.2", free, "eth0"));
        let expected = format!("netconsole=+6665@10.0.2.15/eth0,{free}@10.0.2.2/52:55:0a:00:02:02");
        assert_eq!(parameter.trim(), expected);
    }
    host.ssh(&format!("{TEARDOWN}{TEARDOWN}"));
    host.ssh(&setup("10.0.2.2", free, "eth0"));
    host.ssh("echo '<1>kgate: heard \\ and é' >/dev/kmsg");
    state(&feed, |state| state.bytes > 0).await;
    console.quiet(Duration::from_millis(300), LONG).await;
    let heard = String::from_utf8_lossy(&console.tail()).into_owned();
    assert!(heard.contains("] kgate: heard \\ and é\r\n"), "{heard}");
    host.try_ssh("echo c >/proc/sysrq-trigger", Duration::from_secs(2));
    panics(&console).await;
}
