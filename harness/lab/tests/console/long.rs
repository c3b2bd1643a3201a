//! What takes long to show, most of it waiting. By its name it is in the profile `long` only.

use std::time::{Duration, Instant};

use kgate_model::inventory::ConsoleSource;
use kgate_testkit::lab::Console;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::peers::{conserver, free, hears, stand_in, until_accepting};
use crate::{exit_of, open, state};

#[tokio::test]
async fn a_flood_of_100_mb_is_kept_and_starves_nobody() {
    crate::tcp::flood(100).await;
}

#[tokio::test]
async fn a_bmc_that_stops_answering_is_noticed() {
    assert_eq!(exit_of("SOL: BMC stops answering"), "—");
    let Some((host, source)) = stand_in(Console::Sol) else { return };
    let feed = open(source, None).await;
    hears(&host, &feed, "here\r\n").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    host.stop_bmc(true);
    let began = Instant::now();
    let why = state(&feed, |state| !state.connected).await.why;
    println!("noticed after {:?}: {why:?}", began.elapsed());
    host.stop_bmc(false);
    state(&feed, |state| state.connected).await;
    hears(&host, &feed, "here again\r\n").await;
}

#[tokio::test]
async fn what_a_conserver_does_not_say_is_noticed() {
    assert_eq!(exit_of("conserver: its line goes down later"), "—");
    assert_eq!(exit_of("conserver: gone without a word"), "—");
    let (dir, port) = (tempfile::tempdir().unwrap(), free());
    let line = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = line.local_addr().unwrap().port();
    let Some(server) = conserver(dir.path(), port, at, "trusted") else { return };
    until_accepting(port).await;
    let (host, _) = line.accept().await.unwrap();
    let source = ConsoleSource::Conserver {
        server: "127.0.0.1".to_owned(),
        port,
        console: "edge-1".to_owned(),
    };
    let feed = open(source.clone(), None).await;
    drop((line, host));
    let down = state(&feed, |state| !state.connected).await;
    assert_eq!(down.why.unwrap(), "the conserver's line is down");
    drop((feed, server));

    let line = tokio::net::TcpListener::bind(("127.0.0.1", at)).await.unwrap();
    let Some(server) = conserver(dir.path(), port, at, "trusted") else { return };
    until_accepting(port).await;
    let _host = line.accept().await.unwrap();
    let feed = open(source, None).await;
    let group = i32::try_from(server.0.id()).ok().and_then(Pid::from_raw).unwrap();
    kill_process_group(group, Signal::STOP).unwrap();
    let gone = state(&feed, |state| !state.connected).await;
    assert_eq!(gone.why.unwrap(), "the conserver does not answer any more");
    kill_process_group(group, Signal::CONT).unwrap();
    state(&feed, |state| state.connected).await;
}
