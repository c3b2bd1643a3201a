//! A controller in miniature: starts the agent as a process and talks to it over pipes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use kgate_model::wire::{
    Command, Decoder, ExitStatus, Limits, PROTOCOL, Reply, Request, RequestId, Setup, Stdin,
    Stream, WireSample, encode,
};

/// Nothing in these tests takes so long: the agent hangs.
const HANGS: Duration = Duration::from_secs(30);

/// An agent and the replies that nobody has taken.
pub(crate) struct Agent {
    child: Child,
    requests: Option<ChildStdin>,
    replies: Receiver<Reply>,
    kept: Vec<Reply>,
    next: RequestId,
    pub(crate) heartbeats: Vec<u64>,
    pub(crate) kernel_log: Vec<u8>,
}

/// Everything that a command said until it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) samples: Vec<WireSample>,
    pub(crate) wall_ms: u64,
    pub(crate) cpu_ms: (u64, u64),
    pub(crate) dropped: u64,
    /// From the request to the reply, as seen here.
    pub(crate) took: Duration,
}

impl Agent {
    /// Starts an agent without saying hello.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_kgate-agent"))
            .arg("--stdio")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = child.stdin.take();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, replies) = channel();
        std::thread::spawn(move || {
            let mut decoder = Decoder::default();
            let mut buffer = vec![0; 64 << 10];
            while let Ok(n @ 1..) = stdout.read(&mut buffer) {
                decoder.push(&buffer[..n]);
                while let Some(reply) = decoder.message().expect("the agent sends frames only") {
                    if sender.send(reply).is_err() {
                        return;
                    }
                }
            }
        });
        let (kept, next, heartbeats, kernel_log) = (Vec::new(), 1, Vec::new(), Vec::new());
        Self { child, requests, replies, kept, next, heartbeats, kernel_log }
    }

    /// Starts an agent and exchanges the first messages.
    pub(crate) fn ready(arguments: &[&str]) -> Self {
        let mut agent = Self::start(arguments);
        agent.send(&Request::Hello {
            protocol: PROTOCOL,
            setup: Setup { kernel_log: true, ..Setup::default() },
        });
        let first = agent.reply(|_| true);
        assert!(matches!(first, Reply::Hello { protocol: PROTOCOL, .. }), "{first:?}");
        assert_eq!(agent.reply(|_| true), Reply::Done { id: 0, result: Ok(()) });
        agent
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn send(&mut self, request: &Request) {
        self.send_bytes(&encode(request).unwrap());
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.requests.as_mut().unwrap().write_all(bytes).unwrap();
    }

    pub(crate) fn id(&mut self) -> RequestId {
        self.next += 1;
        self.next
    }

    /// The first reply, heartbeats and the kernel log aside, that `wanted` accepts.
    pub(crate) fn reply(&mut self, wanted: impl Fn(&Reply) -> bool) -> Reply {
        if let Some(at) = self.kept.iter().position(&wanted) {
            return self.kept.remove(at);
        }
        let deadline = Instant::now() + HANGS;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.replies.recv_timeout(left) {
                Ok(Reply::Heartbeat { uptime_ms }) => self.heartbeats.push(uptime_ms),
                Ok(Reply::Kmsg { data }) => self.kernel_log.extend(data),
                Ok(reply) if wanted(&reply) => return reply,
                Ok(reply) => self.kept.push(reply),
                Err(RecvTimeoutError::Timeout) => panic!("no reply; kept: {:?}", self.kept),
                Err(RecvTimeoutError::Disconnected) => panic!("agent ended; {:?}", self.kept),
            }
        }
    }

    /// Sends a request that is answered by `Done`.
    pub(crate) fn done(
        &mut self,
        request: impl FnOnce(RequestId) -> Request,
    ) -> Result<(), kgate_model::wire::Trouble> {
        let id = self.id();
        self.send(&request(id));
        match self.reply(|reply| matches!(reply, Reply::Done { id: of, .. } if *of == id)) {
            Reply::Done { result, .. } => result,
            other => panic!("{other:?}"),
        }
    }

    /// Starts a command.
    pub(crate) fn spawn(&mut self, command: Command) -> RequestId {
        let id = self.id();
        self.send(&Request::Spawn { id, command });
        id
    }

    /// Waits for a command's end.
    pub(crate) fn outcome(&mut self, of: RequestId) -> Outcome {
        let begin = Instant::now();
        let (mut stdout, mut stderr, mut samples) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let reply = self.reply(|reply| match reply {
                Reply::Output { id, .. } | Reply::Sample { id, .. } | Reply::Exited { id, .. } => {
                    *id == of
                }
                _ => false,
            });
            match reply {
                Reply::Output { stream: Stream::Stdout, data, .. } => stdout.extend(data),
                Reply::Output { stream: Stream::Stderr, data, .. } => stderr.extend(data),
                Reply::Sample { sample, .. } => samples.push(sample),
                Reply::Exited { status, wall_ms, cpu_ms, dropped, .. } => {
                    let text = |bytes| String::from_utf8(bytes).unwrap();
                    let (stdout, stderr) = (text(stdout), text(stderr));
                    let took = begin.elapsed();
                    return Outcome {
                        status,
                        stdout,
                        stderr,
                        samples,
                        wall_ms,
                        cpu_ms,
                        dropped,
                        took,
                    };
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits until a command has written `text` to standard output.
    pub(crate) fn wait_output(&mut self, of: RequestId, text: &str) {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            match self.reply(|r| matches!(r, Reply::Output { id, .. } if *id == of)) {
                Reply::Output { data, .. } => seen.extend(data),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn run(&mut self, command: Command) -> Outcome {
        let id = self.spawn(command);
        self.outcome(id)
    }

    /// Closes the requests and waits for the agent to end.
    pub(crate) fn end(mut self) -> i32 {
        drop(self.requests.take());
        self.wait()
    }

    /// Kills the agent, as nothing should.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the agent to end.
    pub(crate) fn wait(&mut self) -> i32 {
        let deadline = Instant::now() + HANGS;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "the agent does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Its requests end, so it ends what it started and takes its control groups away.
        drop(self.requests.take());
        for _ in 0..1000 {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A shell command without limits.
pub(crate) fn shell(script: &str) -> Command {
    Command {
        argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
        env: BTreeMap::from([("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())]),
        dir: "/".into(),
        stdin: Stdin::Null,
        timeout_ms: None,
        output_limit: 1 << 20,
        limits: Limits::default(),
        background: false,
    }
}

/// Living processes with `text` among their arguments.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let Ok(arguments) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        if name.parse::<u32>().is_ok() && arguments.contains(text) {
            found.push(format!("{name}: {arguments}"));
        }
    }
    found
}
