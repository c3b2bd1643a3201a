//! The outgoing side of the channel: one queue, one writer.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use kgate_model::wire::{self, Reply};

use crate::lock;

/// Bytes that may wait for the channel before bulk senders hold back.
const ROOM: usize = 1 << 20;

/// Replies on their way to the channel, in order.
///
/// Answers never wait, because there is at most one per request. Bulk data (output, the kernel log)
/// waits for [`Outbox::has_room`], so that a controller that doesn't read slows down the producer
/// instead of filling memory.
#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The latest heartbeat overtakes everything and replaces an older one that wasn't sent.
    heartbeat: Option<Vec<u8>>,
    writing: bool,
    closed: bool,
}

impl Outbox {
    /// Queues a reply.
    pub(crate) fn send(&self, reply: &Reply) {
        // Every reply is built from pieces far below the limit of a frame.
        let Ok(frame) = wire::encode(reply) else { return };
        let mut state = lock(&self.state);
        if !state.closed {
            state.bytes += frame.len();
            state.queue.push_back(frame);
            self.changed.notify_all();
        }
    }

    /// Queues a heartbeat, ahead of everything.
    pub(crate) fn beat(&self, reply: &Reply) {
        let Ok(frame) = wire::encode(reply) else { return };
        lock(&self.state).heartbeat = Some(frame);
        self.changed.notify_all();
    }

    /// Whether bulk data may be queued now.
    pub(crate) fn has_room(&self) -> bool {
        let state = lock(&self.state);
        state.bytes < ROOM || state.closed
    }

    /// Waits until bulk data may be queued.
    pub(crate) fn wait_room(&self) {
        let mut state = lock(&self.state);
        while state.bytes >= ROOM && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// Waits until everything queued was written, at most for `limit`.
    pub(crate) fn flush(&self, limit: Duration) {
        let state = lock(&self.state);
        let _ = self.changed.wait_timeout_while(state, limit, |state| {
            !state.closed && (state.bytes > 0 || state.writing)
        });
    }

    /// Throws away what is queued and what will be: nobody listens any more.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.queue.clear();
        state.heartbeat = None;
        state.bytes = 0;
        self.changed.notify_all();
    }

    /// Writes what is queued with `write`, for ever; returns when that fails or after
    /// [`Outbox::close`].
    pub(crate) fn write_all_with(
        &self,
        mut write: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        loop {
            let frame = {
                let mut state = lock(&self.state);
                loop {
                    if state.closed {
                        return Ok(());
                    }
                    if let Some(frame) = state.heartbeat.take() {
                        state.writing = true;
                        break frame;
                    }
                    if let Some(frame) = state.queue.pop_front() {
                        state.bytes -= frame.len();
                        state.writing = true;
                        break frame;
                    }
                    state =
                        self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
            };
            self.changed.notify_all();
            let written = write(&frame);
            lock(&self.state).writing = false;
            self.changed.notify_all();
            written?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kgate_model::wire::Decoder;

    #[test]
    fn a_heartbeat_overtakes_queued_output_and_replaces_an_older_one() {
        let outbox = Outbox::default();
        outbox.send(&Reply::Kmsg { data: vec![1] });
        outbox.beat(&Reply::Heartbeat { uptime_ms: 1 });
        outbox.beat(&Reply::Heartbeat { uptime_ms: 2 });
        let mut decoder = Decoder::default();
        let mut left = 2;
        let _ = outbox.write_all_with(|frame| {
            decoder.push(frame);
            left -= 1;
            if left == 0 { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
        });
        assert_eq!(decoder.message(), Ok(Some(Reply::Heartbeat { uptime_ms: 2 })));
        assert_eq!(decoder.message(), Ok(Some(Reply::Kmsg { data: vec![1] })));
        assert_eq!(decoder.message::<Reply>(), Ok(None));
    }

    #[test]
    fn room_ends_at_the_limit_and_returns_when_the_writer_catches_up() {
        let outbox = Outbox::default();
        while outbox.has_room() {
            outbox.send(&Reply::Kmsg { data: vec![0; wire::CHUNK] });
        }
        std::thread::scope(|scope| {
            scope.spawn(|| outbox.write_all_with(|_| Ok(())));
            outbox.wait_room();
            outbox.flush(Duration::from_secs(5));
            assert!(outbox.has_room());
            outbox.close();
        });
    }
}
