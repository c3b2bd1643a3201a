//! Consoles behind a TCP port, raw and by telnet, and commands.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kgate_lab::console::{Feed, Reader};
use kgate_model::inventory::ConsoleSource;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{LONG, exit, exit_of, open, refused, skip, state, times, until};

/// A serial server.
struct Server(TcpListener);

impl Server {
    async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn source(&self, telnet: bool) -> ConsoleSource {
        let port = self.0.local_addr().unwrap().port();
        ConsoleSource::Tcp { address: "127.0.0.1".to_owned(), port, telnet }
    }

    async fn accept(&self) -> TcpStream {
        tokio::time::timeout(LONG, self.0.accept()).await.expect("a connection").unwrap().0
    }

    /// A feed and the server's end of it.
    async fn feed(&self, telnet: bool, file: Option<&Path>) -> (Feed, TcpStream) {
        let feed = open(self.source(telnet), file).await;
        (feed, self.accept().await)
    }
}

#[tokio::test]
async fn a_dropped_connection_is_made_again_and_its_gap_is_told() {
    let fault = exit_of("connection dropped");
    assert_eq!(fault, "—");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("console");
    let server = Server::new().await;
    let (feed, mut host) = server.feed(false, Some(&file)).await;
    let mut reader = feed.reader();
    host.write_all(b"one\r\ntw").await.unwrap();
    until(&mut reader, "tw").await;
    drop(host);
    let mut host = server.accept().await;
    host.write_all(b"o\r\nthree\r\n").await.unwrap();
    let text = until(&mut reader, "three\r\n").await;
    let lost = text.lines().nth(1).unwrap().split_once(" for ").unwrap();
    assert_eq!(lost.0, "[kgate: console lost");
    assert!(lost.1.ends_with(" s: the other side closed the connection]"), "{text}");
    assert!(text.ends_with("\r\no\r\nthree\r\n"), "{text}");
    let state = state(&feed, |state| state.connected).await;
    assert_eq!((state.losses, state.bytes), (1, 17));
    feed.close().await;
    assert_eq!(std::fs::read(&file).unwrap(), b"one\r\ntwo\r\nthree\r\n");
    let expected = ["connected", "lost: the other side closed the connection", "connected"];
    assert_eq!(times(&file), expected);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "");
}

#[tokio::test]
async fn a_console_that_is_lost_when_its_feed_ends_says_so_to_readers() {
    let server = Server::new().await;
    let (feed, host) = server.feed(false, None).await;
    let mut reader = feed.reader();
    drop(server);
    drop(host);
    state(&feed, |state| !state.connected).await;
    feed.close().await;
    let mut rest = String::new();
    reader.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("[kgate: console lost for 0."), "{rest}");
}

#[tokio::test]
async fn one_that_is_not_there_is_an_error_after_the_limit_and_waited_for_without() {
    let server = Server::new().await;
    let source = server.source(false);
    let port = server.0.local_addr().unwrap().port();
    drop(server);
    let began = Instant::now();
    let error = refused(source.clone(), Duration::from_millis(700)).await;
    assert!(began.elapsed() < LONG / 2);
    assert_eq!(exit(&error), exit_of("refused or not resolved when it is opened"));
    let expected = format!(
        "the console of edge-1 was not there within 0 s: 127.0.0.1:{port}: Connection refused (os \
         error 111)"
    );
    assert_eq!(error.to_string(), expected);
    let nowhere =
        ConsoleSource::Tcp { address: "no-such-host.invalid".to_owned(), port: 1, telnet: false };
    let error = refused(nowhere, Duration::from_secs(1)).await;
    assert_eq!(exit(&error), "4");

    let feed =
        Feed::open(crate::opening(source, None), &crate::Files, Duration::ZERO).await.unwrap();
    assert!(feed.write(b"x").await.unwrap_err().to_string().contains("is not connected"));
    let server = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    feed.connected(LONG).await.unwrap();
    let mut reader = feed.reader();
    server.accept().await.unwrap().0.write_all(b"there").await.unwrap();
    until(&mut reader, "there").await;
}

/// In a network of its own, which is taken down and up again.
#[tokio::test]
async fn a_half_open_connection_is_noticed() {
    assert_eq!(exit_of("peer gone without a word (half-open)"), "—");
    const NAME: &str = "tcp::a_half_open_connection_is_noticed";
    let link = |up: &str| {
        let status = Command::new("ip").args(["link", "set", "lo", up]).status().unwrap();
        assert!(status.success());
    };
    if std::env::var_os("KGATE_TEST_NETWORK").is_none() {
        let may = Command::new("unshare").args(["-rn", "ip", "link"]).output();
        if !may.is_ok_and(|output| output.status.success()) {
            skip("no network namespace can be made here (unshare -rn ip link)");
            return;
        }
        let mut again = Command::new("unshare");
        again.arg("-rn").arg(std::env::current_exe().unwrap()).args(["--exact", NAME]);
        let output = again.env("KGATE_TEST_NETWORK", "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    link("up");
    let server = Server::new().await;
    let (feed, _host) = server.feed(false, None).await;
    let mut reader = feed.reader();
    let began = Instant::now();
    link("down");
    let lost = state(&feed, |state| !state.connected).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(lost.losses, 1);
    link("up");
    server.accept().await.write_all(b"back").await.unwrap();
    until(&mut reader, "back").await;
}

/// Reads all, and gives the lines of kgate's own and how many bytes the host's own were.
async fn drain(reader: &mut Reader) -> (String, usize) {
    let (mut marks, mut rest, mut bytes) = (String::new(), Vec::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    while !rest.ends_with(b"END\n") {
        let length = reader.read(&mut buffer).await.unwrap();
        assert_ne!(length, 0);
        rest.extend(&buffer[..length]);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in rest[..whole].split_inclusive(|byte| *byte == b'\n') {
            if line.starts_with(b"[kgate: ") {
                marks.push_str(&String::from_utf8_lossy(line));
            } else if line != b"\r\n" {
                bytes += line.len();
            }
        }
        if !rest.ends_with(b"END\n") {
            rest.drain(..whole);
        }
    }
    (marks, bytes)
}

/// Most memory that this process ever had, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[expect(clippy::print_stdout, reason = "shown on request")]
pub(crate) async fn flood(megabytes: usize) {
    assert_eq!(exit_of("flood of 100 MB"), exit_of("two readers, one stuck"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("console");
    let server = Server::new().await;
    let (feed, host) = server.feed(false, Some(&file)).await;
    let (mut quick, mut stuck) = (feed.reader(), feed.reader());
    let before = memory();
    let line = |number: usize| format!("{number:>98}\n");
    let lines = megabytes * 10_000;
    let host = host.into_std().unwrap();
    host.set_nonblocking(false).unwrap();
    let flooding = std::thread::spawn(move || {
        let mut host = std::io::BufWriter::with_capacity(1 << 16, host);
        (0..lines).for_each(|number| host.write_all(line(number).as_bytes()).unwrap());
        host.write_all(b"END\n").unwrap();
        host.into_inner().unwrap()
    });
    // Another task on the same thread.
    let ticking = tokio::spawn(async {
        let (mut longest, mut last) = (Duration::ZERO, Instant::now());
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            longest = longest.max(last.elapsed());
            last = Instant::now();
            tokio::task::yield_now().await;
            LONGEST.with(|kept| kept.set(longest));
        }
    });
    let began = Instant::now();
    let (marks, bytes) = drain(&mut quick).await;
    let took = began.elapsed();
    ticking.abort();
    let (grown, longest) = (memory() - before, LONGEST.with(std::cell::Cell::get));
    println!("{megabytes} MB in {took:?}, {grown} KiB more memory, longest wait {longest:?}");
    assert_eq!((marks.as_str(), bytes), ("", lines * 99 + 4));
    assert!(longest < Duration::from_secs(1), "another task waited for {longest:?}");
    assert!(grown < 48 << 10, "{grown} KiB");
    let (marks, bytes) = drain(&mut stuck).await;
    let missed = lines * 99 + 4 - bytes;
    assert_eq!(marks, format!("[kgate: {missed} bytes of the console were not read in time]\r\n"));
    assert!(bytes <= 4 << 20 && bytes > (4 << 20) - 200, "{bytes}");
    drop(flooding.join().unwrap());
    assert_eq!(state(&feed, |state| !state.connected).await.bytes, (lines * 99 + 4) as u64);
    feed.close().await;
    times(&file);
    let kept = std::fs::read(&file).unwrap();
    let mut expected: Vec<u8> = (0..lines).flat_map(|number| line(number).into_bytes()).collect();
    expected.extend(b"END\n");
    assert!(kept == expected, "the file is not what was sent");
}

thread_local! {
    static LONGEST: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

#[tokio::test]
async fn a_flood_is_kept_and_starves_nobody() {
    flood(5).await;
}

#[tokio::test]
async fn bytes_are_bytes_and_a_line_may_have_no_end() {
    assert_eq!(exit_of("binary, NUL and 0xff"), exit_of("line without end"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("console");
    let server = Server::new().await;
    let (feed, mut host) = server.feed(false, Some(&file)).await;
    let mut reader = feed.reader();
    let bytes: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
    host.write_all(&bytes).await.unwrap();
    let mut heard = vec![0; bytes.len()];
    reader.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, bytes);
    drop(host);
    let mut host = server.accept().await;
    host.write_all(b"x").await.unwrap();
    let text = until(&mut reader, "]\r\nx").await;
    assert!(text.starts_with("\r\n[kgate: console lost for "), "{text}");
    feed.close().await;
    assert_eq!(std::fs::read(&file).unwrap(), [&bytes[..], b"x"].concat());
}

#[tokio::test]
async fn a_full_disk_is_told_and_readers_go_on() {
    assert_eq!(exit_of("disk full"), "—");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("console");
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let server = Server::new().await;
    let (feed, mut host) = server.feed(false, Some(&file)).await;
    let mut reader = feed.reader();
    host.write_all(b"one\n").await.unwrap();
    let full = state(&feed, |state| state.file.is_some()).await;
    assert_eq!(full.file.unwrap(), "No space left on device (os error 28)");
    host.write_all(b"two\n").await.unwrap();
    assert_eq!(until(&mut reader, "two\n").await, "one\ntwo\n");
    feed.close().await;
    assert_eq!(times(&file), ["connected", "cut: No space left on device (os error 28)"]);

    let missing = dir.path().join("no/console");
    let opening = crate::opening(server.source(false), Some(&missing));
    let error = Feed::open(opening, &crate::Files, LONG).await.unwrap_err();
    assert_eq!(exit(&error), exit_of("file can't be made"));
}

#[tokio::test]
async fn what_is_typed_arrives() {
    let server = Server::new().await;
    let (feed, mut host) = server.feed(false, None).await;
    feed.write(b"ls\xff\0\r").await.unwrap();
    let mut typed = [0; 5];
    host.read_exact(&mut typed).await.unwrap();
    assert_eq!(&typed, b"ls\xff\0\r");
}

#[tokio::test]
async fn telnet_is_negotiated_and_left_out() {
    assert_eq!(exit_of("telnet: storm of negotiation"), "—");
    assert_eq!(exit_of("telnet: subnegotiation without end"), "—");
    let server = Server::new().await;
    let (feed, mut host) = server.feed(true, None).await;
    let mut reader = feed.reader();
    host.write_all(b"\xff\xfb\x01\xff\xfb\x03\xff\xfd\x18login: \xff\xff\r\0").await.unwrap();
    let mut heard = [0; 9];
    reader.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"login: \xff\r");
    let mut answer = [0; 9];
    host.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"\xff\xfd\x01\xff\xfd\x03\xff\xfc\x18");
    feed.write(b"root\r\xff").await.unwrap();
    let mut typed = [0; 8];
    host.read_exact(&mut typed).await.unwrap();
    assert_eq!(&typed, b"root\r\0\xff\xff");
    // Nobody reads the answers to this, and it is over anyway.
    let storm: Vec<u8> = (0..=255_u8)
        .cycle()
        .take(300_000)
        .flat_map(|option| [255, if option % 2 == 0 { 253 } else { 254 }, option])
        .collect();
    host.write_all(&storm).await.unwrap();
    host.write_all(b"calm\n\xff\xfa").await.unwrap();
    assert_eq!(until(&mut reader, "\n").await, "calm\n");
    host.write_all(&[b'x'; 5000]).await.unwrap();
    host.write_all(b"\nback\n").await.unwrap();
    assert!(until(&mut reader, "\nback\n").await.len() < 1000);
}

#[tokio::test]
async fn commands_are_started_again_and_typed_to() {
    let command = |text: &str| ConsoleSource::Command(text.to_owned());
    assert_eq!(exit_of("command ends"), "—");
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {}; echo \"$KGATE_HOST\" >>starts; read word; echo \"heard $word\"; [ $(wc -l <starts) -gt 1 \
         ] && exec sleep 1000; echo why >&2; exit 3",
        dir.path().display()
    );
    let feed = open(command(&script), None).await;
    let mut reader = feed.reader();
    feed.write(b"this\n").await.unwrap();
    until(&mut reader, "heard this\n").await;
    state(&feed, |state| state.connected && state.losses == 1).await;
    feed.write(b"that\n").await.unwrap();
    let text = until(&mut reader, "heard that\n").await;
    assert!(text.contains("s: the command ended (exit status: 3): why]\r\n"), "{text}");
    assert_eq!(std::fs::read_to_string(dir.path().join("starts")).unwrap(), "edge-1\nedge-1\n");

    let fails = command("echo no such line >&2; exit 1");
    let error = refused(fails, Duration::from_secs(1)).await;
    assert_eq!(exit(&error), exit_of("command fails"));
    insta::assert_snapshot!(error, @"the console of edge-1 was not there within 1 s: the command ended (exit status: 1): no such line");
}
