//! The kernel log, from its start, as the kernel hands it out record by record.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use kgate_model::wire::{CHUNK, Reply};
use rustix::event::{PollFd, PollFlags, poll};

use crate::lock;
use crate::outbox::Outbox;

/// Largest record that `/dev/kmsg` gives.
const RECORD: usize = 8192;

/// How far the kernel log is read.
#[derive(Default)]
pub(crate) struct Reading {
    /// The reader sleeps: everything that was logged is on its way. `None`: nobody reads.
    asleep: Mutex<Option<bool>>,
    changed: Condvar,
}

impl Reading {
    fn set(&self, asleep: Option<bool>) {
        *lock(&self.asleep) = asleep;
        self.changed.notify_all();
    }

    /// Waits until what was logged so far is read, where somebody reads, at most for `limit`.
    pub(crate) fn wait_read(&self, limit: Duration) {
        let asleep = lock(&self.asleep);
        let _ = self.changed.wait_timeout_while(asleep, limit, |asleep| *asleep == Some(false));
    }
}

/// Streams `/dev/kmsg` until it fails; returns at once where it isn't readable.
pub(crate) fn stream(outbox: &Outbox, reading: &Reading) {
    follow(outbox, reading);
    reading.set(None);
}

fn follow(outbox: &Outbox, reading: &Reading) {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let Ok(mut log) = File::options().read(true).custom_flags(flags).open("/dev/kmsg") else {
        return;
    };
    // The log of the boot is hundreds of records long and has time; the first step hasn't.
    let _ = rustix::process::setpriority_process(None, 19);
    reading.set(Some(false));
    let mut caught_up = false;
    let mut batch = Batch::default();
    let mut record = vec![0; RECORD];
    loop {
        match log.read(&mut record) {
            Ok(0) => return,
            Ok(n) => batch.add(&record[..n]),
            // Records were overwritten before they could be read; the next sequence number tells.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                batch.send(outbox);
                if !std::mem::replace(&mut caught_up, true) {
                    let _ = rustix::process::setpriority_process(None, 0);
                }
                reading.set(Some(true));
                if poll(&mut [PollFd::new(&log, PollFlags::IN)], None).is_err() {
                    std::thread::yield_now();
                }
                reading.set(Some(false));
            }
            Err(_) => {
                batch.send(outbox);
                return;
            }
        }
        if batch.bytes.len() + RECORD > CHUNK {
            batch.send(outbox);
        }
    }
}

/// Records on their way, and the number that the next one should have.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    next: Option<u64>,
}

impl Batch {
    /// Adds a record's first line. The lines after it are a device dictionary, which nobody needs;
    /// a newline within the text arrives escaped.
    fn add(&mut self, record: &[u8]) {
        let line = record.split(|&b| b == b'\n').next().unwrap_or_default();
        let sequence = std::str::from_utf8(line.split(|&b| b == b';').next().unwrap_or_default())
            .ok()
            .and_then(|prefix| prefix.split(',').nth(1)?.parse::<u64>().ok());
        if let Some(sequence) = sequence {
            if let Some(lost) = self.next.and_then(|next| sequence.checked_sub(next))
                && lost > 0
            {
                self.bytes.extend_from_slice(format!("# {lost} records lost\n").as_bytes());
            }
            self.next = Some(sequence + 1);
        }
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
    }

    fn send(&mut self, outbox: &Outbox) {
        if !self.bytes.is_empty() {
            outbox.wait_room();
            outbox.send(&Reply::Kmsg { data: std::mem::take(&mut self.bytes) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_lose_their_dictionary_and_a_gap_is_noted() {
        let mut batch = Batch::default();
        batch.add(b"6,7,100,-;first\n SUBSYSTEM=pci\n DEVICE=+pci:0000\n");
        batch.add(b"4,8,101,-,caller=T1;second\\x0aline\n");
        batch.add(b"4,20,200,-;after the gap\n");
        batch.add(b"no prefix");
        assert_eq!(
            String::from_utf8_lossy(&batch.bytes),
            "6,7,100,-;first\n4,8,101,-,caller=T1;second\\x0aline\n# 11 records lost\n\
             4,20,200,-;after the gap\nno prefix\n"
        );
    }
}
