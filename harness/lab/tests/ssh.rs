//! SSH to a real server, and all that goes wrong with it: the section of `docs/lab-faults.md`.

mod faults;
#[expect(dead_code, reason = "the other tests boot kernels")]
mod support;

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use faults::Fault;
use kgate_lab::ssh::{Ssh, SshError, Upload};
use kgate_model::host::{Host, HostCommand};
use kgate_model::inventory::{self, HostKey};
use kgate_testkit::host::TestHost;
use kgate_testkit::lab::{Setup, StandIn};
use support::{ANSWER, entry, grub};

/// The limit of a call of which it is known that it comes.
const SHORT: Duration = Duration::from_secs(3);

struct Rows(Vec<Fault>);

impl Rows {
    /// Adds a row. Words that differ from run to run are replaced.
    fn add<T>(&mut self, fault: &str, does: &str, result: &Result<T, SshError>) {
        let error = result.as_ref().err();
        let code = match error {
            None => 0,
            Some(error) if error.is_configuration() => 2,
            Some(_) => 4,
        };
        let does = match error {
            None => does.to_owned(),
            Some(error) => format!("{does}: `{}`", steady(&error.to_string())),
        };
        self.0.push(Fault { fault: fault.into(), does, code });
    }
}

/// Without ports, fingerprints and places of this run.
fn steady(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let number = word.strip_suffix(':').is_some_and(|w| w.bytes().all(|b| b.is_ascii_digit()));
        if word.starts_with("/tmp/") {
            "FILE"
        } else if word.starts_with("SHA256:") {
            "SHA256:…"
        } else if word.starts_with("[127.0.0.1]") {
            "lab7"
        } else if number && word.len() > 4 {
            "PORT:"
        } else {
            word
        }
    });
    let text = words.collect::<Vec<_>>().join(" ").replace("127.0.0.1", "lab7");
    // Which of the two depends on who is quicker.
    text.replace("read: Connection reset by peer", "Connection closed by remote host")
}

/// A server that says `greeting` to whoever connects, and then keeps the connection or ends it.
fn server(greeting: &'static [u8], keep: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(greeting);
            if keep {
                kept.push(stream);
            }
        }
    });
    port
}

#[tokio::test]
async fn boots_nothing_and_survives_what_ssh_does() {
    let Some(host) = StandIn::start(Setup::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let good = entry(&host, grub()).ssh;
    let mut rows = Rows(Vec::new());
    let at = |port| inventory::Ssh { port, ..good.clone() };
    let connect = async |to: &inventory::Ssh| Ssh::connect(to, SHORT).await.map(drop);

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    rows.add("nobody listens at its address", "says so", &connect(&at(closed)).await);
    let nowhere = inventory::Ssh { address: "lab7.invalid".into(), ..good.clone() };
    rows.add("its name leads nowhere", "says so", &connect(&nowhere).await);
    let silent = at(server(b"", true));
    rows.add("takes connections and says nothing", "ends at the limit", &connect(&silent).await);
    let hangs = at(server(b"SSH-2.0-lab\r\n", true));
    rows.add("says its name and nothing more", "ends at the limit", &connect(&hangs).await);
    let ends = at(server(b"", false));
    rows.add("ends every connection", "says so", &connect(&ends).await);
    let other = at(server(b"220 mail ready\r\n", true));
    rows.add("isn't an SSH server", "ends at the limit", &connect(&other).await);

    let key = stranger(dir.path());
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let pinned = HostKey::Pinned(vec![public.trim().into()]);
    let changed = inventory::Ssh { host_key: pinned, ..good.clone() };
    rows.add("its key isn't the pinned one", "sends nothing", &connect(&changed).await);
    let known = dir.path().join("known_hosts");
    std::fs::write(&known, format!("[127.0.0.1]:{} {public}", good.port)).unwrap();
    let file =
        inventory::Ssh { host_key: HostKey::KnownHosts(Some(known.clone())), ..good.clone() };
    rows.add("its key isn't the one in `known-hosts`", "sends nothing", &connect(&file).await);
    std::fs::write(&known, "").unwrap();
    rows.add("its key isn't in `known-hosts`", "sends nothing", &connect(&file).await);
    let refused = inventory::Ssh { identity: Some(key), ..good.clone() };
    rows.add("refuses the key", "says so", &connect(&refused).await);
    let missing = inventory::Ssh { identity: Some(dir.path().join("none")), ..good.clone() };
    rows.add("the key's file isn't there", "says so", &connect(&missing).await);

    let begun = Instant::now();
    let ssh = Ssh::connect(&good, ANSWER).await.unwrap();
    println!("connected after {:?}", begun.elapsed());
    let begun = Instant::now();
    assert!(ssh.alive(ANSWER).await);
    println!("answered after {:?}", begun.elapsed());

    let long = format!("# {}\necho end", "x".repeat(50_000));
    assert_eq!(ssh.ask("a long script", &long, ANSWER).await.unwrap(), "end");
    let code = async |script: &str| ssh.run(script, ANSWER).await.unwrap().code;
    assert_eq!(code("exit 3").await, Some(3));
    assert_eq!(code("no-such-command").await, Some(127));
    assert_eq!(code("kill -9 $$").await, None);
    let fails = ssh.ask("reading", "cat /nonexistent", ANSWER).await;
    rows.add("a command fails", "says what it said", &fails);
    let flood = ssh.run("head -c 5000000 /dev/zero", ANSWER).await.unwrap();
    assert_eq!((flood.stdout.len(), flood.dropped), (1 << 20, 5_000_000 - (1 << 20)));
    rows.add("a command says 5 MB", "keeps 1 MiB of it", &Ok(()));
    let endless = ssh.run("yes", SHORT).await;
    rows.add("a command never stops talking", "ends at the limit", &endless);
    assert!(ssh.alive(ANSWER).await, "the connection has another command");
    let hangs = ssh.run("sleep 1000", SHORT).await;
    rows.add("a command hangs", "ends at the limit; the connection goes on", &hangs);
    assert!(ssh.alive(ANSWER).await);

    // A login shell that doesn't begin, and one that says something first.
    let shell = |first: &str| {
        host.ssh(&format!(
            "printf '%s\\n' '#!/bin/sh' '{first}' 'exec /bin/sh \"$@\"' >/root/shell
             chmod +x /root/shell; echo /root/shell >>/etc/shells
             sed -i '/^root:/s,[^:]*$,/root/shell,' /etc/passwd"
        ));
    };
    shell("rm /root/once 2>/dev/null && kill -9 $$");
    let odd = Ssh::connect(&good, ANSWER).await.unwrap();
    host.ssh("touch /root/once");
    let again = odd.ask("a command", "ls -d /root/once || echo done", ANSWER).await;
    assert_eq!(again.as_deref(), Ok("done"));
    let ends = "ends a session before its command has begun, as Dropbear 2022.82 to 2024.85 may";
    rows.add(ends, "begins the command again", &again);
    shell("echo Welcome");
    let greets = odd.ask("a command", "echo done", ANSWER).await;
    assert_eq!(greets.as_deref(), Ok("done"));
    rows.add("greets every command", "doesn't take that for the command's words", &greets);
    shell(":");

    let big = vec![7; 2 << 20];
    let upload =
        async |path: &str| ssh.upload(Path::new(path), 0o640, Upload::Bytes(&big), ANSWER).await;
    upload("/root/new/file").await.unwrap();
    let seen = ssh.ask("a look", "stat -c '%a %s' /root/new/file; ls /root/new", ANSWER).await;
    assert_eq!(seen.unwrap(), "640 2097152\nfile");
    host.ssh("mkdir /mnt/full /mnt/ro; mount -t tmpfs -o size=1m t /mnt/full; mount -t tmpfs -o ro t /mnt/ro");
    rows.add("its disk is full", "leaves no part of the file", &upload("/mnt/full/file").await);
    assert_eq!(host.ssh("ls -A /mnt/full"), "");
    rows.add("its file system is read-only", "says so", &upload("/mnt/ro/file").await);
    // What is dropped half-way leaves no file under its name.
    let cut = tokio::time::timeout(Duration::from_millis(5), upload("/root/new/cut")).await;
    assert!(cut.is_err());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!host.ssh("ls /root/new").contains("cut\n"));

    let kill = "p=$$; while [ $(cat /proc/$p/comm) != dropbear ]; do p=$(cut -d' ' -f4 /proc/$p/stat); done
                kill -9 $p; sleep 1000";
    let killed = ssh.ask("waiting", kill, ANSWER).await;
    rows.add("the session's server is killed", "says so at once", &killed);
    ssh.closed().await;

    let ssh = Ssh::connect(&good, ANSWER).await.unwrap();
    host.set_link(false);
    let half_open = ssh.run("echo", SHORT).await;
    rows.add("the network is cut", "ends at the limit", &half_open);
    let begun = Instant::now();
    ssh.closed().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let lost = ssh.run("echo", SHORT).await;
    rows.add("the network was cut some seconds ago", "knows that the connection is lost", &lost);
    let half_open = connect(&good).await;
    rows.add("takes connections, and the network behind is cut", "ends at the limit", &half_open);
    host.set_link(true);
    let ssh = Ssh::connect(&good, ANSWER).await.unwrap();
    let begun = Instant::now();
    let panics = ssh.run("echo c >/proc/sysrq-trigger", SHORT).await;
    rows.add("the kernel panics under a command", "ends at the limit", &panics);
    ssh.closed().await;
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());

    faults::check("SSH", &rows.0);
}

/// A key that no host knows.
fn stranger(dir: &Path) -> PathBuf {
    let key = dir.join("stranger");
    let command = HostCommand::new("ssh-keygen", ANSWER)
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key);
    assert_eq!(TestHost.run(&command).expect("ssh-keygen").code, Some(0));
    key
}
