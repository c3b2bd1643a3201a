//! The machine's side of the wire: PID 1 in a guest, a process on a lab host.
//!
//! [`init`] is what a guest's initramfs starts as `/init`; [`stdio`] serves the same requests as an
//! ordinary process. Both end up in `serve`, which reads requests from the channel and hands them
//! to threads, so that one request that hangs in the kernel never stops the next:
//!
//! - the main thread reads requests and carries out the short ones;
//! - each command has a thread of its own (`command`), and so has each wait;
//! - the file worker touches files and loads modules, in order;
//! - one reaper collects every child (`reaper`);
//! - one writer owns the outgoing side of the channel (`outbox`);
//! - the kernel log and the heartbeat have their own threads.
//!
//! [`guard`] is another program of a lab host's: it reboots one that was left.
//!
//! In a guest that nobody talks to, `script` carries out what the emulator hands over instead.
//!
//! The agent is built to outlive hostile steps: whatever they write, fork, fill or kill, PID 1 goes
//! on answering. It never returns from a failure as PID 1, because the kernel would panic and get
//! the blame; it says what went wrong on the console and powers off.

mod base;
mod cgroup;
mod channel;
mod command;
mod fresh;
mod guard;
mod guest;
mod kmsg;
mod net;
mod outbox;
mod ports;
mod processes;
mod reaper;
mod root;
mod sample;
mod script;
mod serve;
mod setup;
mod spawn;
mod state;
mod trouble;

pub use guard::guard;
pub use guest::init;
pub use serve::{Options, stdio};

/// Locks, also after a thread that held the lock panicked: its data are plain values that are never
/// left half written, and the agent has to go on.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
