//! The controller's side of the wire: requests to an agent and its answers, over any byte stream.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kgate_model::wire::{
    self, Command, Decoder, Identity, KernelState, Ready, Reply, Request, RequestId, Setup, Trouble,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

/// Messages of one command that may wait before the channel is held up.
const WAITING: usize = 64;
/// Bytes of `/dev/kmsg` that are written to disk for one boot.
const KERNEL_LOG_LIMIT: usize = 64 << 20;
/// Any answer that isn't a command's end comes within this time, or the machine is not well.
const ANSWER: Duration = Duration::from_secs(30);

/// Why an agent did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// The channel ended or was corrupted.
    #[error("the agent's channel broke: {0}")]
    Closed(String),
    /// The agent said no.
    #[error("{}", .0.message)]
    Refused(Trouble),
    /// It did not answer.
    #[error("the agent did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// It is of another build.
    #[error("the agent speaks protocol {theirs}, this program {}", wire::PROTOCOL)]
    Protocol {
        /// Its protocol.
        theirs: u32,
    },
}

/// A connection to an agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Agent {
    shared: Arc<Shared>,
    outbox: mpsc::UnboundedSender<Vec<u8>>,
    heard: watch::Receiver<Instant>,
    closed: watch::Receiver<Option<String>>,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<HashMap<RequestId, mpsc::Sender<Reply>>>,
    next: AtomicU32,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, HashMap<RequestId, mpsc::Sender<Reply>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agent {
    /// Waits for the agent's first word on `stream` and has it prepare what `setup` says. Records of
    /// `/dev/kmsg` go to `kernel_log`. The caller sets the deadline.
    ///
    /// # Errors
    /// The stream ended, held something else, or the agent could not prepare.
    pub async fn connect(
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        mut setup: Setup,
        kernel_log: Option<&Path>,
    ) -> Result<(Self, Identity), AgentError> {
        setup.kernel_log = kernel_log.is_some();
        let log = kernel_log
            .map(File::create)
            .transpose()
            .map_err(|e| AgentError::Closed(format!("the kernel log's file: {e}")))?;
        let (read, write) = tokio::io::split(stream);
        let shared = Arc::new(Shared { waiting: Mutex::default(), next: AtomicU32::new(1) });
        let (outbox, letters) = mpsc::unbounded_channel();
        let (heard_sender, heard) = watch::channel(Instant::now());
        let (closed_sender, closed) = watch::channel(None);
        let (hello_sender, mut hello) = mpsc::channel(1);
        let (ready_sender, mut ready) = mpsc::channel(1);
        shared.waiting().insert(0, ready_sender);
        tokio::spawn(deliver(write, letters));
        let receiver = Receiver {
            shared: Arc::clone(&shared),
            hello: hello_sender,
            heard: heard_sender,
            log,
            logged: 0,
        };
        tokio::spawn(async move {
            let why = receiver.run(read).await;
            closed_sender.send_replace(Some(why));
        });
        let agent = Self { shared, outbox, heard, closed };
        agent.send(&Request::Hello { protocol: wire::PROTOCOL, setup })?;
        let Some((theirs, identity)) = hello.recv().await else { return Err(agent.why().await) };
        if theirs != wire::PROTOCOL {
            return Err(AgentError::Protocol { theirs });
        }
        match ready.recv().await {
            Some(Reply::Done { result, .. }) => {
                result.map_err(AgentError::Refused)?;
                Ok((agent, identity))
            }
            _ => Err(agent.why().await),
        }
    }

    /// Has the agent prepare what `setup` says, once more.
    ///
    /// # Errors
    /// As of [`connect`](Self::connect).
    pub async fn prepare(&self, setup: Setup) -> Result<(), AgentError> {
        let (sender, mut ready) = mpsc::channel(1);
        self.shared.waiting().insert(0, sender);
        self.send(&Request::Hello { protocol: wire::PROTOCOL, setup })?;
        match timeout(ANSWER, ready.recv()).await {
            Ok(Some(Reply::Done { result, .. })) => result.map_err(AgentError::Refused),
            Ok(_) => Err(self.why().await),
            Err(_) => Err(AgentError::Silent(ANSWER)),
        }
    }

    /// When the agent was last heard of.
    pub fn heard(&self) -> Instant {
        *self.heard.borrow()
    }

    /// Waits until nothing was heard of the agent for `limit`.
    pub async fn silent(&self, limit: Duration) {
        loop {
            let end = self.heard() + limit;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }

    /// Waits until the channel breaks, and says how.
    pub async fn closed(&self) -> String {
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "its reader ended".into(),
        }
    }

    /// Starts a command.
    ///
    /// # Errors
    /// [`AgentError::Closed`].
    pub fn spawn(&self, command: Command) -> Result<Running, AgentError> {
        let (id, replies) = self.expect();
        self.send(&Request::Spawn { id, command })?;
        Ok(Running { id, replies, agent: self.clone() })
    }

    /// Loads modules by their paths on the agent's side, in this order.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn load_modules(&self, paths: Vec<String>) -> Result<(), AgentError> {
        self.done(|id| Request::LoadModules { id, paths }, ANSWER).await
    }

    /// Waits until something is ready.
    ///
    /// # Errors
    /// [`AgentError::Refused`] when it isn't within `within`.
    pub async fn wait_ready(&self, ready: Ready, within: Duration) -> Result<(), AgentError> {
        let timeout_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.done(|id| Request::WaitReady { id, ready, timeout_ms }, within + ANSWER).await
    }

    /// Reads a file; the flag tells whether there was more than `limit` bytes.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn read_file(&self, path: &str, limit: u32) -> Result<(Vec<u8>, bool), AgentError> {
        let path = path.to_owned();
        match self.answer(|id| Request::ReadFile { id, path, limit }, ANSWER).await? {
            Reply::Content { data, truncated, .. } => Ok((data, truncated)),
            other => Err(unexpected(&other)),
        }
    }

    /// Writes a file, in several requests where it is large.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn write_file(&self, path: &str, mode: u32, data: &[u8]) -> Result<(), AgentError> {
        let mut append = false;
        let mut rest = data;
        loop {
            let (piece, more) = rest.split_at(rest.len().min(wire::CHUNK));
            let (path, data) = (path.to_owned(), piece.to_vec());
            self.done(|id| Request::WriteFile { id, path, mode, append, data }, ANSWER).await?;
            if more.is_empty() {
                return Ok(());
            }
            (append, rest) = (true, more);
        }
    }

    /// The kernel's taint and memory.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn state(&self) -> Result<KernelState, AgentError> {
        match self.answer(|id| Request::State { id }, ANSWER).await? {
            Reply::State { state, .. } => Ok(state),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until everything that the agent had to say so far is here, records of `/dev/kmsg`
    /// included.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn settle(&self) -> Result<(), AgentError> {
        self.done(|id| Request::Settle { id }, ANSWER).await
    }

    /// Ends everything that earlier commands left running.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn kill_all(&self) -> Result<(), AgentError> {
        self.done(|id| Request::KillAll { id }, ANSWER).await
    }

    /// Asks the machine to power off. The channel breaks soon after.
    ///
    /// # Errors
    /// [`AgentError::Closed`].
    pub fn power_off(&self) -> Result<(), AgentError> {
        self.send(&Request::PowerOff)
    }

    async fn done(
        &self,
        request: impl FnOnce(RequestId) -> Request,
        within: Duration,
    ) -> Result<(), AgentError> {
        match self.answer(request, within).await? {
            Reply::Done { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// One request, one answer; a refusal is an error.
    async fn answer(
        &self,
        request: impl FnOnce(RequestId) -> Request,
        within: Duration,
    ) -> Result<Reply, AgentError> {
        let (id, mut replies) = self.expect();
        self.send(&request(id))?;
        let reply = timeout(within, replies.recv()).await;
        self.shared.waiting().remove(&id);
        match reply {
            Ok(Some(Reply::Done { result: Err(trouble), .. })) => Err(AgentError::Refused(trouble)),
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(self.why().await),
            Err(_) => Err(AgentError::Silent(within)),
        }
    }

    fn expect(&self) -> (RequestId, mpsc::Receiver<Reply>) {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, replies) = mpsc::channel(WAITING);
        self.shared.waiting().insert(id, sender);
        // The channel may have broken, and been tidied up, just before.
        if self.closed.borrow().is_some() {
            self.shared.waiting().clear();
        }
        (id, replies)
    }

    fn send(&self, request: &Request) -> Result<(), AgentError> {
        let frame = wire::encode(request).map_err(|e| AgentError::Closed(e.to_string()))?;
        self.outbox.send(frame).map_err(|_| AgentError::Closed("its writer ended".into()))
    }

    async fn why(&self) -> AgentError {
        AgentError::Closed(self.closed().await)
    }
}

fn unexpected(reply: &Reply) -> AgentError {
    AgentError::Closed(format!("an answer that does not fit: {reply:?}"))
}

/// A command that runs on the machine.
#[derive(Debug)]
pub struct Running {
    id: RequestId,
    replies: mpsc::Receiver<Reply>,
    agent: Agent,
}

impl Running {
    /// The next message: output, samples, and at last [`Reply::Exited`].
    ///
    /// # Errors
    /// [`AgentError::Closed`].
    pub async fn next(&mut self) -> Result<Reply, AgentError> {
        match self.replies.recv().await {
            Some(reply) => Ok(reply),
            None => Err(self.agent.why().await),
        }
    }

    /// Sends bytes to its standard input; none close it.
    ///
    /// # Errors
    /// [`AgentError::Closed`].
    pub fn input(&self, bytes: &[u8]) -> Result<(), AgentError> {
        if bytes.is_empty() {
            return self.agent.send(&Request::Input { id: self.id, data: Vec::new() });
        }
        bytes.chunks(wire::CHUNK).try_for_each(|piece| {
            self.agent.send(&Request::Input { id: self.id, data: piece.to_vec() })
        })
    }

    /// Sets the size of its terminal, in columns and rows.
    ///
    /// # Errors
    /// [`AgentError::Closed`].
    pub fn resize(&self, size: (u16, u16)) -> Result<(), AgentError> {
        self.agent.send(&Request::Resize { id: self.id, size })
    }

    /// Kills it; [`Reply::Exited`] follows.
    ///
    /// # Errors
    /// [`AgentError::Closed`].
    pub fn kill(&self) -> Result<(), AgentError> {
        self.agent.send(&Request::Kill { id: self.id })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.agent.shared.waiting().remove(&self.id);
    }
}

async fn deliver(
    mut write: impl AsyncWrite + Unpin,
    mut letters: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    while let Some(frame) = letters.recv().await {
        // A write that fails is told by the reader, which sees the same end.
        if write.write_all(&frame).await.is_err() || write.flush().await.is_err() {
            return;
        }
    }
}

struct Receiver {
    shared: Arc<Shared>,
    hello: mpsc::Sender<(u32, Identity)>,
    heard: watch::Sender<Instant>,
    log: Option<File>,
    logged: usize,
}

impl Receiver {
    /// Delivers answers until the stream ends; returns why it ended.
    async fn run(mut self, mut read: impl AsyncRead + Unpin) -> String {
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; 64 << 10];
        let why = loop {
            match read.read(&mut buffer).await {
                Ok(0) => break "the machine's end of it was closed".into(),
                Ok(length) => decoder.push(&buffer[..length]),
                Err(error) => break error.to_string(),
            }
            self.heard.send_replace(Instant::now());
            let broken = loop {
                match decoder.message() {
                    Ok(Some(reply)) => self.take(reply).await,
                    Ok(None) => break None,
                    Err(error) => break Some(error.to_string()),
                }
            };
            if let Some(error) = broken {
                break error;
            }
        };
        // Whoever still waits learns that nothing will come.
        self.shared.waiting().clear();
        why
    }

    async fn take(&mut self, reply: Reply) {
        match &reply {
            Reply::Hello { protocol, identity } => {
                let _ = self.hello.try_send((*protocol, identity.clone()));
            }
            Reply::Kmsg { data } => self.write_log(data),
            _ => {}
        }
        let Some(id) = reply.id() else { return };
        let sender = self.shared.waiting().get(&id).cloned();
        if let Some(sender) = sender {
            // Nobody waits any more when it was dropped meanwhile.
            let _ = sender.send(reply).await;
        }
    }

    fn write_log(&mut self, data: &[u8]) {
        let Some(log) = &mut self.log else { return };
        let room = KERNEL_LOG_LIMIT.saturating_sub(self.logged);
        let data = &data[..data.len().min(room)];
        self.logged += data.len();
        // A full disk shows on the console's file, which is the record of the two.
        if log.write_all(data).is_err() {
            self.log = None;
        }
    }
}
