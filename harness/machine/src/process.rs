//! The only place that starts processes on the controller, or takes over one that a process has made of
//! itself. Each gets a process group of its own and
//! dies with kgate, whatever ends kgate.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kgate_model::host::{Host, HostCommand, HostOutput};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, getppid, kill_process, kill_process_group,
    pidfd_open, set_parent_process_death_signal, setpgid, waitpid,
};
use rustix::thread::disable_transparent_huge_pages;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::process::{ChildStdin, ChildStdout};

/// Bytes kept of each output stream of a [`HostCommand`].
pub const HOST_OUTPUT: u64 = 16 << 20;
/// Bytes kept of what something says on its standard error.
const COMPLAINT: usize = 16 << 10;

/// Runs a [`HostCommand`] on this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalHost;

impl Host for LocalHost {
    fn run(&self, command: &HostCommand) -> io::Result<HostOutput> {
        let mut std = Command::new(&command.program);
        std.args(&command.args).envs(command.env.iter().cloned());
        if let Some(dir) = &command.dir {
            std.current_dir(dir);
        }
        std.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        tie(&mut std, Vec::new(), Pages::Any);
        let mut child = std.spawn()?;
        let group = Group::of(child.id());
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        let end = Instant::now() + command.timeout;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() >= end {
                group.kill();
                child.wait()?;
                return Err(late(command));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        // What it left in its group would keep the pipes open.
        group.kill();
        let join = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
            reader.and_then(|r| r.join().ok()).unwrap_or_default()
        };
        Ok(HostOutput { code: status.code(), stdout: join(stdout), stderr: join(stderr) })
    }
}

fn collect(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A read error ends the output just as its end does.
        let _ = stream.by_ref().take(HOST_OUTPUT).read_to_end(&mut bytes);
        let _ = io::copy(&mut stream, &mut io::sink());
        bytes
    })
}

/// A process that runs beside kgate, such as an emulator. Killed with its group when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Group,
    complaint: Complaint,
    reader: tokio::task::JoinHandle<()>,
}

/// A child of ours.
#[derive(Debug)]
enum Child {
    Started(tokio::process::Child),
    Adopted(Adopted),
}

/// A child that another process made.
#[derive(Debug)]
struct Adopted {
    pid: Pid,
    /// Readable when it has ended.
    end: AsyncFd<OwnedFd>,
    status: Option<ExitStatus>,
}

impl Adopted {
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.status {
                return Ok(status);
            }
            let mut ready = self.end.readable().await?;
            match waitpid(Some(self.pid), WaitOptions::NOHANG)? {
                Some((_, status)) => self.status = Some(ExitStatus::from_raw(status.as_raw())),
                None => ready.clear_ready(),
            }
        }
    }
}

/// The beginning of what something says on its standard error, as it comes.
#[derive(Clone, Debug, Default)]
pub struct Complaint(Arc<Mutex<Vec<u8>>>);

impl Complaint {
    /// What was said so far, at most 16 KiB, without white space at its ends.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept()).trim().to_owned()
    }

    /// Listens until the stream ends.
    pub async fn listen(self, mut stream: impl AsyncRead + Unpin) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            let mut kept = self.kept();
            let room = COMPLAINT.saturating_sub(kept.len());
            kept.extend_from_slice(&buffer[..read.min(room)]);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process that runs beside kgate with its standard input and output in our hands.
#[derive(Debug)]
pub struct Piped {
    /// The process. Killed with its group when dropped.
    pub process: Process,
    /// Its standard input.
    pub stdin: ChildStdin,
    /// Its standard output.
    pub stdout: ChildStdout,
}

/// Runs a [`HostCommand`] to its end, as [`LocalHost`] does, while other tasks go on. Killed with its
/// group when the future is dropped.
///
/// # Errors
/// As of [`Host::run`].
pub async fn output(command: &HostCommand) -> io::Result<HostOutput> {
    let mut std = Command::new(&command.program);
    std.args(&command.args).envs(command.env.iter().cloned());
    if let Some(dir) = &command.dir {
        std.current_dir(dir);
    }
    std.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    tie(&mut std, Vec::new(), Pages::Any);
    let mut child = tokio::process::Command::from(std).kill_on_drop(true).spawn()?;
    let group = Killed(Group::of(child.id().unwrap_or_default()));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let end = async {
        let (stdout, stderr) = (tokio::spawn(kept(stdout)), tokio::spawn(kept(stderr)));
        let status = child.wait().await?;
        // What it left in its group would keep the pipes open.
        drop(group);
        let (stdout, stderr) = (stdout.await.unwrap_or_default(), stderr.await.unwrap_or_default());
        Ok(HostOutput { code: status.code(), stdout, stderr })
    };
    tokio::time::timeout(command.timeout, end).await.unwrap_or_else(|_| Err(late(command)))
}

/// All that a stream says, cut at [`HOST_OUTPUT`].
async fn kept(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        // A read error ends the output just as its end does.
        let _ = (&mut stream).take(HOST_OUTPUT).read_to_end(&mut bytes).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    bytes
}

fn late(command: &HostCommand) -> io::Error {
    let (program, limit) = (command.program.display(), command.timeout.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, format!("`{program}` ran longer than {limit} s"))
}

impl Process {
    /// Starts a command whose standard input and output the caller has; its time limit is not looked at.
    ///
    /// # Errors
    /// What the operating system answered, `NotFound` when there is no such program.
    pub fn piped(command: &HostCommand) -> io::Result<Piped> {
        let mut std = Command::new(&command.program);
        std.args(&command.args).envs(command.env.iter().cloned());
        if let Some(dir) = &command.dir {
            std.current_dir(dir);
        }
        std.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Self::start(std, Vec::new(), Pages::Any)?;
        let Child::Started(child) = &mut process.child else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Piped { process, stdin, stdout })
    }

    /// Starts `program`; `inherit` are descriptors that keep their numbers in the child. With
    /// [`Pages::Small`] it takes no more memory than it touches.
    ///
    /// # Errors
    /// What the operating system answered, `NotFound` when there is no such program.
    pub fn spawn(
        program: &Path,
        args: &[OsString],
        inherit: Vec<OwnedFd>,
        pages: Pages,
    ) -> io::Result<Self> {
        let mut std = Command::new(program);
        std.args(args).stdin(Stdio::null()).stdout(Stdio::null());
        Self::start(std, inherit, pages)
    }

    fn start(mut std: Command, inherit: Vec<OwnedFd>, pages: Pages) -> io::Result<Self> {
        std.stderr(Stdio::piped());
        tie(&mut std, inherit, pages);
        let mut child = tokio::process::Command::from(std).kill_on_drop(true).spawn()?;
        let group = Group::of(child.id().unwrap_or_default());
        let stderr = child.stderr.take();
        Ok(Self::watched(Child::Started(child), group, stderr))
    }

    /// Takes over a child of kgate's that another process made and tied to kgate's life; `stderr` is
    /// what its standard error goes to.
    ///
    /// # Errors
    /// What the operating system answered. The child is killed then.
    pub fn adopt(pid: Pid, stderr: impl AsyncRead + Unpin + Send + 'static) -> io::Result<Self> {
        let watched = || {
            let end = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
            #[expect(unsafe_code, reason = "tokio has nothing safe for what it doesn't know")]
            // SAFETY: the descriptor is the same for as long as its owner is there.
            let end = unsafe { AsyncFd::register_with_interest(end, Interest::READABLE) }?;
            setpgid(Some(pid), None)?;
            io::Result::Ok(end)
        };
        let end = watched().inspect_err(|_| {
            let _ = kill_process(pid, Signal::KILL);
            reap(pid);
        })?;
        let child = Child::Adopted(Adopted { pid, end, status: None });
        Ok(Self::watched(child, Group(Some(pid)), Some(stderr)))
    }

    fn watched(
        child: Child,
        group: Group,
        stderr: Option<impl AsyncRead + Unpin + Send + 'static>,
    ) -> Self {
        let complaint = Complaint::default();
        let listener = complaint.clone();
        let reader = tokio::spawn(async move {
            if let Some(stderr) = stderr {
                listener.listen(stderr).await;
            }
        });
        Self { child, group, complaint, reader }
    }

    /// The process's number, until its end was waited for.
    pub fn id(&self) -> Option<u32> {
        match &self.child {
            Child::Started(child) => child.id(),
            Child::Adopted(child) if child.status.is_some() => None,
            Child::Adopted(child) => u32::try_from(child.pid.as_raw_pid()).ok(),
        }
    }

    /// Waits for its end. May be called again.
    ///
    /// # Errors
    /// What the operating system answered.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = match &mut self.child {
            Child::Started(child) => child.wait().await?,
            Child::Adopted(child) => child.wait().await?,
        };
        // The last words may still be in the pipe. A task that was waited for may not be once more.
        if !self.reader.is_finished() {
            let _ = tokio::time::timeout(Duration::from_millis(200), &mut self.reader).await;
        }
        Ok(status)
    }

    /// What it says on its standard error, as it comes.
    pub fn complaint(&self) -> Complaint {
        self.complaint.clone()
    }

    /// Kills it with everything in its group.
    pub fn kill(&self) {
        if self.id().is_some() {
            self.group.kill();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.reader.abort();
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        if self.status.is_none() {
            reap(self.pid);
        }
    }
}

/// Waits for the end of a child that was killed, beside everything else: nobody else does.
fn reap(pid: Pid) {
    let wait = move || waitpid(Some(pid), WaitOptions::empty());
    let _ = std::thread::Builder::new().spawn(wait);
}

/// Pages in which a process is given memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// As the kernel sees fit: large ones are quicker.
    Any,
    /// Small ones only.
    Small,
}

/// A process group of ours.
#[derive(Clone, Copy, Debug)]
struct Group(Option<Pid>);

impl Group {
    fn of(leader: u32) -> Self {
        Self(i32::try_from(leader).ok().and_then(Pid::from_raw))
    }

    fn kill(self) {
        if let Some(group) = self.0 {
            // Already gone is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// A group that is killed when this is dropped.
#[derive(Debug)]
struct Killed(Group);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// Gives the child a group of its own, ties its life to ours and lets it keep `inherit`.
///
/// The tie is to the *thread* that starts the child: callers start long-running processes from a
/// thread that lives as long as they do, as the single thread of the `kgate` runtime does.
#[expect(unsafe_code, reason = "pre_exec is unsafe; its closure only makes system calls")]
fn tie(command: &mut Command, inherit: Vec<OwnedFd>, pages: Pages) {
    let parent = getpid();
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe system calls are made; nothing allocates.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid() != Some(parent) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if pages == Pages::Small {
                // Only dearer where the kernel can't.
                let _ = disable_transparent_huge_pages(true);
            }
            for fd in &inherit {
                fcntl_setfd(fd.as_fd(), FdFlags::empty())?;
            }
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn sh(script: &str, timeout: Duration) -> io::Result<HostOutput> {
        LocalHost.run(&HostCommand::new("sh", timeout).args(["-c", script]))
    }

    #[test]
    fn output_and_code_are_kept() {
        let output = sh("echo out; echo err >&2; exit 3", Duration::from_secs(10)).unwrap();
        let expected =
            HostOutput { code: Some(3), stdout: b"out\n".to_vec(), stderr: b"err\n".to_vec() };
        assert_eq!(output, expected);
    }

    #[test]
    fn a_command_that_runs_too_long_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let error = sh(&script, Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let child = std::fs::read_to_string(&pid).unwrap();
        let gone = |child: &str| {
            std::fs::read_to_string(format!("/proc/{}/stat", child.trim()))
                .map_or(true, |stat| stat.contains(") Z "))
        };
        let end = Instant::now() + Duration::from_secs(5);
        while !gone(&child) {
            assert!(Instant::now() < end, "the command's child is still there");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[tokio::test]
    async fn a_command_runs_beside_other_tasks() {
        let command = |script: &str, timeout| {
            HostCommand::new("sh", Duration::from_millis(timeout)).args(["-c", script])
        };
        let left = output(&command("echo out; echo err >&2; sleep 1000 & exit 3", 10_000)).await;
        let expected =
            HostOutput { code: Some(3), stdout: b"out\n".to_vec(), stderr: b"err\n".to_vec() };
        assert_eq!(left.unwrap(), expected);
        let late = output(&command("sleep 1000", 100)).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_piped_process_is_talked_to() {
        let cat = HostCommand::new("cat", Duration::ZERO);
        let Piped { mut process, mut stdin, mut stdout } = Process::piped(&cat).unwrap();
        stdin.write_all(b"there").await.unwrap();
        drop(stdin);
        let mut back = String::new();
        stdout.read_to_string(&mut back).await.unwrap();
        assert_eq!(back, "there");
        for _ in 0..2 {
            assert!(process.wait().await.unwrap().success());
        }
    }

    #[test]
    fn a_missing_program_is_not_found() {
        let error = LocalHost
            .run(&HostCommand::new("kgate-no-such-program", Duration::from_secs(1)))
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_dropped_process_is_killed() {
        let args = ["-c", "sleep 1000"].map(OsString::from);
        let process = Process::spawn(Path::new("sh"), &args, Vec::new(), Pages::Any).unwrap();
        let id = process.id().unwrap();
        drop(process);
        let gone = async {
            while std::fs::read_to_string(format!("/proc/{id}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("it is gone");
    }
}
