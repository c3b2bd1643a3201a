//! SSH to a lab host: one connection, many commands, each with a deadline.
//!
//! The connection is a master `ssh -M -N` that dies with kgate; commands go through its control socket.
//! That something accepts TCP or even logs in proves nothing of a host: no call waits longer than its
//! caller allows.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use kgate_machine::process::{Complaint, Pages, Process};
use kgate_model::inventory::{self, HostKey};
use openssh::{ChildStderr, ChildStdin, ChildStdout, Session, Stdio};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Where control sockets are: their paths must be short.
const SOCKETS: &str = "/tmp";
/// What their directories are called.
const PREFIX: &str = "kgate-ssh-";
/// Bytes kept of each output stream of a command.
const KEPT: usize = 1 << 20;
/// A short question to a host takes no longer.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);
/// Bytes of a host's words that an error repeats.
const QUOTED: usize = 400;
/// What every command says first. Whatever comes before is the login's, such as of its `.bashrc`.
const BEGINS: &str = "@kgate-begins\n";
/// Bytes that a login may say before.
const BEFORE: u64 = 64 << 10;
/// How often a command is tried that ended before it began. Dropbear 2022.82 to 2024.85 closes a new
/// session when another command ends at that moment (<https://github.com/mkj/dropbear/issues/321>).
const TRIES: usize = 8;
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(100);
/// Has a script carried out that comes by standard input, since some servers take no long command. All
/// of it is read before any of it is carried out, so what it starts finds an empty input.
///
/// One that a broken connection has cut short lacks its last line, and is not carried out.
const SCRIPT: &str =
    r##"s=$(cat); case $s in *"#end") eval "$s" ;; *) echo cut short >&2; exit 1 ;; esac"##;
const LAST_LINE: &str = "\n#end\n";
/// A directory without a lock is a left-over when it is older than this.
const MAKING: Duration = Duration::from_secs(600);

/// Why a host did not do what it was asked for over SSH.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SshError {
    /// It proved to be another than the inventory says: a mistake in the inventory, or an attack.
    #[error("the host's key is not the one in the inventory: {0}")]
    HostKey(String),
    /// It refused the login.
    #[error("the host refused the login: {0}")]
    Auth(String),
    /// Nobody is there, or nobody that speaks SSH.
    #[error("the host can't be reached by SSH: {0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("the host did not answer over SSH within {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// The connection was there, and broke.
    #[error("the SSH connection broke: {0}")]
    Broken(String),
    /// A command failed.
    #[error("{what} failed on the host{}: {said}", .code.map(|c| format!(" (exit code {c})")).unwrap_or_default())]
    Exit {
        /// What was tried.
        what: String,
        /// Its exit code; `None` when a signal ended it.
        code: Option<i32>,
        /// The end of what it said.
        said: String,
    },
    /// `ssh`, or a file of the controller's, isn't as it must be.
    #[error("{0}")]
    Controller(String),
}

impl SshError {
    /// Whether the inventory, or what it refers to, has to be changed.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::HostKey(_) | Self::Auth(_))
    }
}

/// What a command left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output, at most 1 MiB of it.
    pub stdout: Vec<u8>,
    /// Standard error, at most 1 MiB of it.
    pub stderr: Vec<u8>,
    /// Bytes of both that were thrown away.
    pub dropped: u64,
}

impl Output {
    /// Standard output as text, without white space at its ends.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// What to upload.
#[derive(Clone, Copy, Debug)]
pub enum Upload<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// The content of a file of the controller.
    File(&'a Path),
}

/// A connection to a lab host. Dropping it ends it.
#[derive(Debug)]
pub struct Ssh {
    session: Arc<Session>,
    closed: watch::Receiver<Option<String>>,
    master: tokio::task::JoinHandle<()>,
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.master.abort();
    }
}

impl Ssh {
    /// Logs in. The user's own SSH configuration counts where the inventory says nothing.
    ///
    /// # Errors
    /// All of [`SshError`] but `Exit`; within `within` at the latest.
    pub async fn connect(to: &inventory::Ssh, within: Duration) -> Result<Self, SshError> {
        if let Some(file) = to.identity.as_ref().filter(|file| !file.exists()) {
            return Err(SshError::Auth(format!("there is no key {}", file.display())));
        }
        sweep(Path::new(SOCKETS));
        let place = Place::make(to)?;
        let control = place.dir.path().join("s");
        let args = arguments(to, place.dir.path(), within);
        let mut process = Process::spawn(
            Path::new("ssh"),
            &args.into_iter().map(Into::into).collect::<Vec<_>>(),
            Vec::new(),
            Pages::Any,
        )
        .map_err(|e| SshError::Controller(format!("`ssh` can't be started: {e}")))?;
        let session = Session::resume_mux(control.clone().into_boxed_path(), None);
        let up = async {
            // The socket appears when the login has succeeded.
            while !control.exists() || session.check().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = up => {}
            _ = process.wait() => return Err(refusal(&process.complaint().text())),
            () = tokio::time::sleep(within) => return Err(SshError::Silent(within)),
        }
        let (sender, closed) = watch::channel(None);
        let master = tokio::spawn(async move {
            let _ = process.wait().await;
            sender.send_replace(Some(last_words(
                process.complaint().text().as_bytes(),
                "the host no longer answers",
            )));
            drop(place);
        });
        Ok(Self { session: Arc::new(session), closed, master })
    }

    /// Runs a script by the host's `sh` to its end, with nothing to read.
    ///
    /// # Errors
    /// [`SshError::Silent`] after `within`, [`SshError::Broken`]; never for an exit code.
    pub async fn run(&self, script: &str, within: Duration) -> Result<Output, SshError> {
        self.script(script, KEPT, within).await
    }

    /// As [`Self::run`], and gives what it printed, as text without white space at its ends. `what` is
    /// said of it when it fails.
    ///
    /// # Errors
    /// As of [`Self::run`]; [`SshError::Exit`] when it fails.
    pub async fn ask(
        &self,
        what: &str,
        script: &str,
        within: Duration,
    ) -> Result<String, SshError> {
        let output = self.run(script, within).await?;
        succeeded(what, &output)?;
        Ok(output.text())
    }

    /// As [`Self::ask`], but gives the bytes, up to `limit`.
    ///
    /// # Errors
    /// As of [`Self::ask`].
    pub async fn fetch(
        &self,
        what: &str,
        script: &str,
        limit: usize,
        within: Duration,
    ) -> Result<Vec<u8>, SshError> {
        let output = self.script(script, limit, within).await?;
        succeeded(what, &output)?;
        Ok(output.stdout)
    }

    /// Writes a file of the host: whole and with this content, or not at all. Directories above it are
    /// made.
    ///
    /// # Errors
    /// As of [`Self::ask`]; [`SshError::Controller`] when the file can't be read here.
    pub async fn upload(
        &self,
        path: &Path,
        mode: u32,
        what: Upload<'_>,
        within: Duration,
    ) -> Result<(), SshError> {
        let read;
        let bytes = match what {
            Upload::Bytes(bytes) => bytes,
            Upload::File(file) => {
                read = fs::read(file).map_err(|e| {
                    SshError::Controller(format!("can't read {}: {e}", file.display()))
                })?;
                &read
            }
        };
        let (target, digest) = (quote(&path.to_string_lossy()), hex(&Sha256::digest(bytes)));
        let command = shell(&format!(
            "set -e; t={target}; mkdir -p \"${{t%/*}}\"; umask 077; trap 'rm -f \"$t.part\"' EXIT; \
             cat >\"$t.part\"; s=$(sha256sum <\"$t.part\"); \
             [ \"${{s%% *}}\" = {digest} ] || {{ echo 'it arrived damaged' >&2; exit 1; }}; \
             chmod {mode:o} \"$t.part\"; sync; mv -f \"$t.part\" \"$t\"; sync"
        ));
        let output = self.carry_out(&command, bytes, KEPT, within).await?;
        succeeded(&format!("writing {}", path.display()), &output)
    }

    /// As [`Self::ask`], with something to read for the script.
    ///
    /// # Errors
    /// As of [`Self::ask`].
    pub async fn feed(
        &self,
        what: &str,
        script: &str,
        input: impl AsyncRead + Unpin,
        within: Duration,
    ) -> Result<String, SshError> {
        let output = self.carry_out(&shell(script), input, KEPT, within).await?;
        succeeded(what, &output)?;
        Ok(output.text())
    }

    /// Starts a command and gives its standard input and output.
    ///
    /// # Errors
    /// [`SshError::Silent`], [`SshError::Broken`]; [`SshError::Exit`] when the host has no `sh` to carry it
    /// out. That the command itself fails shows when it is read from.
    pub async fn channel(&self, command: &str, within: Duration) -> Result<Channel, SshError> {
        let begun = match timeout(within, self.begin(&shell(command))).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return Err(self.broken(&error).await),
            Err(_) => return Err(SshError::Silent(within)),
        };
        let Running { stdin, stdout, stderr, child } = match begun {
            Ok(running) => running,
            Err(output) => return Err(failed("starting a command", &output)),
        };
        let complaint = Complaint::default();
        tokio::spawn(complaint.clone().listen(stderr));
        Ok(Channel { stdin, stdout, complaint, _child: Box::new(child) })
    }

    /// Whether the host answers.
    pub async fn alive(&self, within: Duration) -> bool {
        self.run(":", within).await.is_ok_and(|output| output.code == Some(0))
    }

    /// Waits until the connection has ended, and says how. A host that went away without a word is
    /// noticed within some seconds.
    pub async fn closed(&self) -> String {
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "its watch ended".into(),
        }
    }

    async fn script(
        &self,
        script: &str,
        limit: usize,
        within: Duration,
    ) -> Result<Output, SshError> {
        let whole = format!("{script}{LAST_LINE}");
        self.carry_out(&shell(SCRIPT), whole.as_bytes(), limit, within).await
    }

    async fn carry_out(
        &self,
        command: &str,
        mut input: impl AsyncRead + Unpin,
        limit: usize,
        within: Duration,
    ) -> Result<Output, SshError> {
        let end = Instant::now() + within;
        let done = async {
            let Running { stdin, stdout, stderr, child } = match self.begin(command).await? {
                Ok(running) => running,
                Err(output) => return Ok::<_, openssh::Error>(output),
            };
            let write = async {
                if let Some(mut stdin) = stdin {
                    // A command that doesn't read to the end says itself why.
                    let _ = tokio::io::copy(&mut input, &mut stdin).await;
                }
            };
            let ((), stdout, stderr) = tokio::join!(write, kept(stdout, limit), kept(stderr, KEPT));
            let dropped = stdout.1 + stderr.1;
            Ok(Output { code: code(child).await?, stdout: stdout.0, stderr: stderr.0, dropped })
        };
        match timeout_at(end, done).await {
            // The end of a connection looks like that of a command.
            Ok(Ok(Output { code: None, .. })) if !self.is_up().await => {
                Err(self.broken(&"its end was lost").await)
            }
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => Err(self.broken(&error).await),
            Err(_) => Err(SshError::Silent(within)),
        }
    }

    /// Starts a command, and waits until it says that it has begun. When it ends before that, gives what it
    /// left behind.
    async fn begin(&self, command: &str) -> Result<Result<Running, Output>, openssh::Error> {
        let mut tries = 0;
        loop {
            let mut command = Arc::clone(&self.session).arc_raw_command(command);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().await?;
            let streams = (child.stdin().take(), child.stdout().take(), child.stderr().take());
            let (stdin, Some(stdout), Some(stderr)) = streams else {
                return Err(openssh::Error::Disconnected);
            };
            let mut stdout = BufReader::new(stdout);
            let mut before = Vec::new();
            while !before.ends_with(BEGINS.as_bytes()) {
                let mut line = (&mut stdout).take(BEFORE.saturating_sub(before.len() as u64));
                // A read error ends the output just as its end does.
                if line.read_until(b'\n', &mut before).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            if before.ends_with(BEGINS.as_bytes()) {
                return Ok(Ok(Running { stdin, stdout, stderr, child }));
            }
            drop((stdin, stdout));
            let (said, dropped) = kept(stderr, KEPT).await;
            let code = code(child).await?;
            if code.is_none() && !self.is_up().await {
                return Err(openssh::Error::Disconnected);
            }
            tries += 1;
            if code.is_some() || tries == TRIES {
                return Ok(Err(Output { code, stdout: before, stderr: said, dropped }));
            }
            sleep(AGAIN).await;
        }
    }

    /// Whether the master still has its connection, as far as it knows.
    async fn is_up(&self) -> bool {
        let check = timeout(Duration::from_secs(2), self.session.check()).await;
        check.is_ok_and(|checked| checked.is_ok())
    }

    /// What to say of a connection that doesn't do: the master knows more when it has ended.
    async fn broken(&self, error: &(dyn std::fmt::Display + Sync)) -> SshError {
        match timeout(Duration::from_millis(200), self.closed()).await {
            Ok(why) => SshError::Broken(why),
            Err(_) => SshError::Broken(error.to_string()),
        }
    }
}

type Child = openssh::Child<Arc<Session>>;

/// A command that has begun.
struct Running {
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
    child: Child,
}

/// Waits for the end of a command. Its exit code; `None` when a signal ended it.
async fn code(child: Child) -> Result<Option<i32>, openssh::Error> {
    match child.wait().await {
        Ok(status) => Ok(status.code()),
        Err(openssh::Error::Remote(e)) if e.kind() == io::ErrorKind::NotFound => Ok(Some(127)),
        Err(openssh::Error::RemoteProcessTerminated) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The standard input and output of a command on a host. Dropping it leaves the command alone with an
/// input that has ended.
#[derive(Debug)]
pub struct Channel {
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    complaint: Complaint,
    _child: Box<Child>,
}

impl Channel {
    /// What the command says on its standard error.
    #[must_use]
    pub fn complaint(&self) -> Complaint {
        self.complaint.clone()
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(context, buffer)
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

/// `text` as one word of a shell.
#[must_use]
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A command line for whatever shell the login has, that has `sh` carry out `script`.
fn shell(script: &str) -> String {
    format!("sh -c {}", quote(&format!("echo {}; {script}", BEGINS.trim_end())))
}

fn succeeded(what: &str, output: &Output) -> Result<(), SshError> {
    if output.code == Some(0) {
        return Ok(());
    }
    Err(failed(what, output))
}

fn failed(what: &str, output: &Output) -> SshError {
    let said = if output.stderr.trim_ascii().is_empty() { &output.stdout } else { &output.stderr };
    let said = last_words(said, "it said nothing");
    SshError::Exit { what: what.to_owned(), code: output.code, said }
}

/// The end of what was said, on one line.
pub(crate) fn last_words(said: &[u8], nothing: &str) -> String {
    let text = String::from_utf8_lossy(&said[said.len().saturating_sub(QUOTED)..]);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { nothing.to_owned() } else { lines.join("; ") }
}

async fn kept(mut stream: impl AsyncRead + Unpin, limit: usize) -> (Vec<u8>, u64) {
    let (mut bytes, mut dropped) = (Vec::new(), 0);
    let mut buffer = vec![0; 64 << 10];
    // A read error ends the output just as its end does.
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let keep = read.min(limit - bytes.len());
        bytes.extend_from_slice(&buffer[..keep]);
        dropped += (read - keep) as u64;
        // A flood doesn't starve what else runs on this thread.
        tokio::task::yield_now().await;
    }
    (bytes, dropped)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Marks in what `ssh` says to what they mean; the first that fits counts.
type Meaning = fn(String) -> SshError;
const MEANINGS: &[(&str, Meaning)] = &[
    ("host key verification failed", SshError::HostKey),
    ("remote host identification has changed", SshError::HostKey),
    ("host key is known for", SshError::HostKey),
    ("no matching host key type", SshError::HostKey),
    ("permission denied", SshError::Auth),
    ("too many authentication failures", SshError::Auth),
    ("no more authentication methods", SshError::Auth),
    ("bad configuration option", SshError::Controller),
    ("bad owner or permissions", SshError::Controller),
    ("control socket", SshError::Controller),
];

/// What an `ssh` that ended before it was logged in means by what it said.
fn refusal(complaint: &str) -> SshError {
    // `ssh` has a page to say of a key that changed.
    if let Some((_, sent)) = complaint.split_once("sent by the remote host is") {
        let key = sent.split_whitespace().next().unwrap_or_default().trim_end_matches('.');
        return SshError::HostKey(format!("it has {key}"));
    }
    let lower = complaint.to_lowercase();
    let said = last_words(complaint.as_bytes(), "`ssh` ended without a word");
    match MEANINGS.iter().find(|(mark, _)| lower.contains(mark)) {
        Some((_, meaning)) => meaning(said),
        None => SshError::Unreachable(said),
    }
}

/// The master's arguments.
fn arguments(to: &inventory::Ssh, dir: &Path, within: Duration) -> Vec<String> {
    let dir = dir.display();
    let mut options = vec![
        format!("ControlPath={dir}/s"),
        "ControlPersist=no".into(),
        "BatchMode=yes".into(),
        "StrictHostKeyChecking=yes".into(),
        "UpdateHostKeys=no".into(),
        format!("ConnectTimeout={}", within.as_secs().max(1)),
        "ConnectionAttempts=1".into(),
        // A host that panics says nothing more: noticed after six seconds.
        "ServerAliveInterval=2".into(),
        "ServerAliveCountMax=3".into(),
        "TCPKeepAlive=yes".into(),
        "ClearAllForwardings=yes".into(),
        "ForwardAgent=no".into(),
        "ForwardX11=no".into(),
        "PermitLocalCommand=no".into(),
        "RemoteCommand=none".into(),
        "RequestTTY=no".into(),
        "LogLevel=ERROR".into(),
    ];
    if let Some(identity) = &to.identity {
        options.push("IdentitiesOnly=yes".into());
        options.push(format!("IdentityFile={}", option_value(&identity.to_string_lossy())));
    }
    match &to.host_key {
        HostKey::Pinned(_) => options.extend([
            "HostKeyAlias=kgate".into(),
            "CheckHostIP=no".into(),
            format!("UserKnownHostsFile={dir}/known_hosts"),
            "GlobalKnownHostsFile=/dev/null".into(),
            "KnownHostsCommand=none".into(),
            "VerifyHostKeyDNS=no".into(),
        ]),
        HostKey::KnownHosts(Some(file)) => options.extend([
            format!("UserKnownHostsFile={}", option_value(&file.to_string_lossy())),
            "GlobalKnownHostsFile=/dev/null".into(),
        ]),
        HostKey::KnownHosts(None) => {}
    }
    let mut args = vec!["-M".into(), "-N".into(), "-T".into()];
    args.extend(options.into_iter().flat_map(|option| ["-o".into(), option]));
    if let Some(jump) = &to.jump {
        args.extend(["-J".into(), jump.clone()]);
    }
    args.extend(["-p".into(), to.port.to_string(), "-l".into(), to.user.clone()]);
    args.extend(["--".into(), to.address.clone()]);
    args
}

/// A path as a value of an option: one word, in which `%` stands for itself.
fn option_value(path: &str) -> String {
    format!("\"{}\"", path.replace('%', "%%"))
}

/// A private directory for a control socket, locked as long as it is in use.
#[derive(Debug)]
struct Place {
    dir: tempfile::TempDir,
    _lock: File,
}

impl Place {
    fn make(to: &inventory::Ssh) -> Result<Self, SshError> {
        let made = || -> io::Result<Self> {
            let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(SOCKETS)?;
            let lock = File::create(dir.path().join("lock"))?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            if let HostKey::Pinned(keys) = &to.host_key {
                let mut known = File::create(dir.path().join("known_hosts"))?;
                for key in keys {
                    writeln!(known, "kgate {key}")?;
                }
            }
            Ok(Self { dir, _lock: lock })
        };
        made().map_err(|e| {
            SshError::Controller(format!("no directory for a control socket below {SOCKETS}: {e}"))
        })
    }
}

/// Removes the directories of controllers that were killed.
fn sweep(below: &Path) {
    let mine = rustix::process::getuid().as_raw();
    let abandoned = |path: &PathBuf| -> io::Result<bool> {
        let metadata = fs::symlink_metadata(path)?;
        if !metadata.is_dir() || metadata.uid() != mine {
            return Ok(false);
        }
        match File::open(path.join("lock")) {
            Ok(lock) => Ok(flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()),
            Err(_) => Ok(metadata.modified()?.elapsed().is_ok_and(|age| age > MAKING)),
        }
    };
    let Ok(entries) = fs::read_dir(below) else { return };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .filter(|path| abandoned(path).unwrap_or(false))
        // Another controller may be at it as well.
        .for_each(|path| drop(fs::remove_dir_all(path)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_overs_of_killed_controllers_are_swept() {
        let below = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let dir = below.path().join(name);
            fs::create_dir(&dir).unwrap();
            dir
        };
        let [left, used, making, other] =
            ["kgate-ssh-left", "kgate-ssh-used", "kgate-ssh-making", "other"].map(make);
        let [_left, used_lock] = [&left, &used].map(|dir| File::create(dir.join("lock")).unwrap());
        flock(&used_lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        sweep(below.path());
        assert!(!left.exists());
        assert!(used.exists() && making.exists() && other.exists());
    }

    #[test]
    fn what_ssh_says_has_a_meaning() {
        let kind =
            |said: &str| format!("{:?}", refusal(said)).split('(').next().unwrap().to_owned();
        assert_eq!(kind("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @"), "HostKey");
        assert_eq!(kind("root@h: Permission denied (publickey)."), "Auth");
        assert_eq!(kind("ssh: connect to host h port 22: Connection refused"), "Unreachable");
        assert_eq!(kind(""), "Unreachable");
    }

    #[test]
    fn a_word_of_a_shell_stays_one() {
        assert_eq!(quote("a'b $(c)"), r"'a'\''b $(c)'");
    }
}
