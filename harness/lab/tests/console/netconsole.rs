//! Consoles over UDP.

use std::time::Duration;

use kgate_lab::console::{Feed, Opening};
use kgate_model::inventory::ConsoleSource;
use tokio::net::UdpSocket;

use crate::{Files, LONG, exit, exit_of, refused, until};

fn source(port: u16) -> ConsoleSource {
    let (address, device) = ("127.0.0.1".to_owned(), "eth0".to_owned());
    ConsoleSource::Netconsole { port, address, device }
}

/// A port that nobody listens on.
async fn free() -> u16 {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

async fn open(host: &str, port: u16) -> Feed {
    let opening = Opening {
        host: host.to_owned(),
        address: host.to_owned(),
        source: source(port),
        file: None,
    };
    Feed::open(opening, &Files, LONG).await.unwrap()
}

#[tokio::test]
async fn hosts_on_one_port_are_told_apart_and_gaps_are_told() {
    assert_eq!(exit_of("netconsole: datagrams of another host"), "—");
    assert_eq!(exit_of("netconsole: datagrams lost"), "—");
    let port = free().await;
    let (one, two) = (open("127.0.0.1", port).await, open("127.0.0.2", port).await);
    let (mut of_one, mut of_two) = (one.reader(), two.reader());
    for (from, text) in [
        ("127.0.0.1", "6,10,1000000,-;one\n"),
        ("127.0.0.3", "6,1,1,-;nobody's\n"),
        ("127.0.0.2", "[    1.0] two\n"),
        ("127.0.0.1", "6,13,2000000,-;one again\n"),
    ] {
        let socket = UdpSocket::bind((from, 0)).await.unwrap();
        socket.send_to(text.as_bytes(), ("127.0.0.1", port)).await.unwrap();
    }
    insta::assert_snapshot!(until(&mut of_one, "again").await.replace('\r', ""), @r"
    [    1.000000] one
    [kgate: 2 messages of the kernel's log did not come: lost on the way, or below the console's level]
    [    2.000000] one again
    ");
    assert_eq!(until(&mut of_two, "\n").await, "[    1.0] two\n");
    assert_eq!(
        one.write(b"x").await.unwrap_err().to_string(),
        "the console of 127.0.0.1 can only be read: netconsole, or somebody else types there"
    );
    // The port goes with its last feed.
    drop(one);
    two.close().await;
    tokio::task::yield_now().await;
    UdpSocket::bind(("0.0.0.0", port)).await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_told() {
    let taken = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = refused(source(port), Duration::from_millis(300)).await;
    assert_eq!(exit(&error), exit_of("netconsole: port is taken"));
    assert!(error.to_string().ends_with("Address already in use (os error 98)"), "{error}");
}
