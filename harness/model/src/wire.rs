//! The messages between controller and agent, and their framing over any byte stream.
//!
//! A frame is a little-endian `u32` length, a little-endian `u32` CRC-32 of the payload, and the
//! payload: one message in postcard's encoding. The same bytes travel over a virtio-serial port, a
//! serial line or an SSH channel. The stream has no resynchronisation: a broken frame means a broken
//! channel, which is the harness's fault and never a kernel's.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sample::Better;

/// Version of the messages below. Controller and agent are built together; the number catches an
/// agent left behind on a lab host by another build.
pub const PROTOCOL: u32 = 3;

/// No payload is larger. Senders cut long output into pieces of at most [`CHUNK`].
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Largest piece of output or file content in one message, in bytes.
pub const CHUNK: usize = 32 << 10;

/// Number that pairs an answer with its request, chosen by the controller, unique in one boot.
pub type RequestId = u32;

/// What the controller asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// First message: the agent answers with [`Reply::Hello`], then applies `setup` and answers
    /// [`Reply::Done`] for id 0.
    Hello {
        /// The controller's [`PROTOCOL`].
        protocol: u32,
        /// What to prepare before the first step.
        setup: Setup,
    },
    /// Loads kernel modules, in this order; one that is already loaded is no error.
    LoadModules {
        /// Pairs the [`Reply::Done`].
        id: RequestId,
        /// Absolute paths of uncompressed modules on the agent's side.
        paths: Vec<String>,
    },
    /// Starts a command. Answered by `Output`, `Sample` … and at last [`Reply::Exited`].
    Spawn {
        /// Pairs the answers.
        id: RequestId,
        /// What to start.
        command: Command,
    },
    /// Bytes for the standard input of a command started with [`Stdin::Pipe`] or on a terminal.
    Input {
        /// The command's id.
        id: RequestId,
        /// The bytes; empty closes the input.
        data: Vec<u8>,
    },
    /// Sets the size of a command's terminal.
    Resize {
        /// The command's id.
        id: RequestId,
        /// Columns and rows.
        size: (u16, u16),
    },
    /// Kills a command with everything it started. [`Reply::Exited`] follows.
    Kill {
        /// The command's id.
        id: RequestId,
    },
    /// Waits until something is ready; answered by [`Reply::Done`].
    WaitReady {
        /// Pairs the [`Reply::Done`].
        id: RequestId,
        /// What to wait for.
        ready: Ready,
        /// Give up after so many milliseconds.
        timeout_ms: u64,
    },
    /// Reads a file; answered by [`Reply::Content`] or [`Reply::Done`] with an error.
    ReadFile {
        /// Pairs the answer.
        id: RequestId,
        /// Absolute path, as the steps see it.
        path: String,
        /// Read at most so many bytes.
        limit: u32,
    },
    /// Writes a file (content first truncated); answered by [`Reply::Done`].
    WriteFile {
        /// Pairs the [`Reply::Done`].
        id: RequestId,
        /// Absolute path, as the steps see it.
        path: String,
        /// Permission bits of a new file.
        mode: u32,
        /// `true` appends: a large file comes in several requests.
        append: bool,
        /// The content, at most [`CHUNK`] bytes.
        data: Vec<u8>,
    },
    /// Asks for the kernel's state; answered by [`Reply::State`].
    State {
        /// Pairs the answer.
        id: RequestId,
    },
    /// Of an exact guest: disturbs what comes after it as much as chance would, and always in the same
    /// way; answered by [`Reply::Done`].
    Disturb {
        /// Pairs the [`Reply::Done`].
        id: RequestId,
        /// Instructions to spend, which moves the phase of the timer tick.
        delay: u32,
        /// Pages of memory to keep, which moves where others come from.
        pages: u32,
    },
    /// Waits until everything that the agent had to say is said, the records of `/dev/kmsg` so far
    /// included; answered by [`Reply::Done`].
    Settle {
        /// Pairs the [`Reply::Done`].
        id: RequestId,
    },
    /// Ends what earlier steps left running; answered by [`Reply::Done`].
    KillAll {
        /// Pairs the [`Reply::Done`].
        id: RequestId,
    },
    /// Syncs and powers the machine off (a guest) or ends the agent (a lab host).
    PowerOff,
}

/// What the agent prepares before the first step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Modules to load after the channel is up, in order: absolute paths.
    pub modules: Vec<String>,
    /// Root for the steps; `None` keeps the initramfs.
    pub root: Option<Root>,
    /// Host name; none set when empty.
    pub hostname: String,
    /// Kernel settings written before the first step, path below `/proc/sys` to value. One that the
    /// kernel doesn't have is passed over.
    pub sysctls: BTreeMap<String, String>,
    /// Send the records of `/dev/kmsg`, from the first one on.
    pub kernel_log: bool,
    /// A NIC is attached: bring it up with QEMU's user-network defaults (10.0.2.15/24).
    pub network: bool,
    /// What tells this guest from every other one. A guest that gets none is a template: it doesn't
    /// even look at what would make all its clones the same machine.
    pub fresh: Option<Fresh>,
}

/// What tells a guest from every other one that began as a copy of the same memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fresh {
    /// Random bytes for the kernel's generator, which is made to start anew with them.
    pub entropy: Vec<u8>,
    /// `/etc/machine-id`: 32 hexadecimal digits.
    pub machine_id: String,
    /// Time of the controller, in nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// Address of the NIC, where there is one.
    pub mac: [u8; 6],
}

/// A read-only file system under a writable overlay in memory, as the root of the steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Root {
    /// Block device, such as `/dev/vda`.
    pub device: String,
    /// File system type, such as `squashfs`.
    pub fs: String,
}

/// A command to run on the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments. A program without a slash is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub dir: String,
    /// Where standard input comes from.
    pub stdin: Stdin,
    /// Killed, with everything it started, after so many milliseconds.
    pub timeout_ms: Option<u64>,
    /// Output bytes forwarded per stream; more is counted and thrown away.
    pub output_limit: u64,
    /// Resource limits.
    pub limits: Limits,
    /// Left running when the next step starts; still bounded by the trial.
    pub background: bool,
}

/// Standard input of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    /// `/dev/null`.
    Null,
    /// What [`Request::Input`] sends.
    Pipe,
    /// A terminal of this many columns and rows, also for standard output and error.
    Terminal {
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
}

/// Resource limits of a command and its children; `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes, by cgroup where there is one, else as address space.
    pub memory: Option<u64>,
    /// CPU seconds.
    pub cpu_seconds: Option<u64>,
    /// Processes, by cgroup where there is one, else per user.
    pub processes: Option<u64>,
    /// Open files per process.
    pub files: Option<u64>,
}

/// What [`Request::WaitReady`] waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Ready {
    /// A TCP connect to `host:port` succeeds (numeric address).
    Tcp(String),
    /// A file exists.
    File(String),
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// First message: who is there.
    Hello {
        /// The agent's [`PROTOCOL`].
        protocol: u32,
        /// The kernel it runs on.
        identity: Identity,
    },
    /// The agent is being scheduled: sent about once a second.
    Heartbeat {
        /// Milliseconds since the kernel started.
        uptime_ms: u64,
    },
    /// Output of a command.
    Output {
        /// The command's id.
        id: RequestId,
        /// Which stream; a terminal's output is `Stdout`.
        stream: Stream,
        /// The bytes, at most [`CHUNK`].
        data: Vec<u8>,
    },
    /// A line that a command wrote to its samples descriptor.
    Sample {
        /// The command's id.
        id: RequestId,
        /// What was measured.
        sample: WireSample,
    },
    /// A command ended.
    Exited {
        /// The command's id.
        id: RequestId,
        /// How.
        status: ExitStatus,
        /// Wall time in milliseconds.
        wall_ms: u64,
        /// User and system CPU time of the command and its waited-for children, in milliseconds.
        cpu_ms: (u64, u64),
        /// Bytes of output that were thrown away over the limit.
        dropped: u64,
    },
    /// A request without an answer of its own was carried out, or not.
    Done {
        /// The request's id.
        id: RequestId,
        /// Nothing, or what went wrong.
        result: Result<(), Trouble>,
    },
    /// Content of a file.
    Content {
        /// The request's id.
        id: RequestId,
        /// The bytes, up to the request's limit.
        data: Vec<u8>,
        /// There was more.
        truncated: bool,
    },
    /// The kernel's state.
    State {
        /// The request's id.
        id: RequestId,
        /// The state.
        state: KernelState,
    },
    /// Records of `/dev/kmsg`, each `level,sequence,microseconds,flags;text`, newline-ended.
    Kmsg {
        /// The bytes.
        data: Vec<u8>,
    },
}

impl Reply {
    /// The request that it answers; `None` of what is said unasked.
    pub fn id(&self) -> Option<RequestId> {
        match self {
            Self::Output { id, .. }
            | Self::Sample { id, .. }
            | Self::Exited { id, .. }
            | Self::Done { id, .. }
            | Self::Content { id, .. }
            | Self::State { id, .. } => Some(*id),
            Self::Hello { .. } | Self::Heartbeat { .. } | Self::Kmsg { .. } => None,
        }
    }
}

/// An output stream of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One measured number on the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WireSample {
    /// Metric's name within its scenario.
    pub metric: String,
    /// The number.
    pub value: f64,
    /// Its unit, such as `ns` or `1/s`.
    pub unit: String,
    /// Which direction is an improvement.
    pub better: Better,
}

/// Why a request failed on the agent's side, with the blame it can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What was tried and what the kernel answered.
    pub message: String,
    /// The system call's error number, where there is one.
    pub errno: Option<i32>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// Its time limit killed it.
    TimedOut,
    /// [`Request::Kill`] or the end of the trial killed it.
    Killed,
    /// It could not be started.
    NotStarted(Trouble),
}

/// Which kernel a machine really runs. A clone tells release, version and machine only; the rest is
/// known of its template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// `uname -m`.
    pub machine: String,
    /// GNU build id from `/sys/kernel/notes`, in hexadecimal; empty when the kernel has none.
    pub build_id: String,
    /// `/proc/sys/kernel/random/boot_id`; empty of a template, where looking at it would fix it.
    pub boot_id: String,
    /// `/proc/cmdline`.
    pub command_line: String,
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
}

/// Taint and memory of a kernel at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelState {
    /// `/proc/sys/kernel/tainted`.
    pub taint: u64,
    /// `/proc/meminfo`, name to KiB.
    pub memory: BTreeMap<String, u64>,
    /// `/proc/slabinfo`, cache to the bytes of its slabs; those with less than 16 KiB are left out.
    #[serde(default)]
    pub slab: BTreeMap<String, u64>,
}

/// A byte stream that doesn't hold frames of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The length field is larger than [`MAX_PAYLOAD`].
    #[error("frame of {0} bytes is over the limit")]
    TooLarge(usize),
    /// The checksum doesn't match.
    #[error("frame checksum differs: the channel was corrupted")]
    Checksum,
    /// The payload is no message of ours.
    #[error("frame does not decode: {0}")]
    Decode(String),
}

/// Bytes of a frame before its payload.
pub const HEADER: usize = 8;

/// One message as a frame.
///
/// # Errors
/// [`WireError::TooLarge`] when the message is larger than any frame.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, WireError> {
    let mut frame = postcard::to_extend(message, vec![0; HEADER])
        .map_err(|e| WireError::Decode(e.to_string()))?;
    let length = frame.len() - HEADER;
    if length > MAX_PAYLOAD {
        return Err(WireError::TooLarge(length));
    }
    let checksum = crc32fast::hash(&frame[HEADER..]);
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    frame[4..HEADER].copy_from_slice(&checksum.to_le_bytes());
    Ok(frame)
}

/// Takes frames out of a byte stream that arrives in arbitrary pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start >= self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, `None` when more bytes are needed.
    ///
    /// # Errors
    /// The stream is broken; nothing more can be taken from it.
    pub fn message<M: DeserializeOwned>(&mut self) -> Result<Option<M>, WireError> {
        let rest = &self.buffer[self.start..];
        let Some((header, rest)) = rest.split_at_checked(HEADER) else { return Ok(None) };
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = word(0) as usize;
        if length > MAX_PAYLOAD {
            return Err(WireError::TooLarge(length));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        if crc32fast::hash(payload) != word(4) {
            return Err(WireError::Checksum);
        }
        let message =
            postcard::from_bytes(payload).map_err(|e| WireError::Decode(e.to_string()))?;
        self.start += HEADER + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_division_into_pieces_gives_the_same_messages(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            piece in 1_usize..40,
        ) {
            let sent: Vec<_> = contents
                .into_iter()
                .map(|data| Reply::Output { id: 7, stream: Stream::Stdout, data })
                .collect();
            let bytes: Vec<u8> = sent.iter().flat_map(|m| encode(m).unwrap()).collect();
            let mut decoder = Decoder::default();
            let mut received = Vec::new();
            for part in bytes.chunks(piece) {
                decoder.push(part);
                while let Some(message) = decoder.message::<Reply>().unwrap() {
                    received.push(message);
                }
            }
            prop_assert_eq!(sent, received);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.message::<Reply>() {}
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut frame = encode(&Request::State { id: 3 }).unwrap();
        *frame.last_mut().unwrap() ^= 1;
        let mut decoder = Decoder::default();
        decoder.push(&frame);
        assert_eq!(decoder.message::<Request>(), Err(WireError::Checksum));
    }
}
