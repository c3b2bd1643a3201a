//! An append-only file of one JSON value a line: what a kill leaves of a last line is never read, and
//! is removed before the next line is written.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use serde::Serialize;

/// No file of lines that is read whole is larger.
const BOUND: u64 = 1 << 30;

/// An append-only file of lines, open for writing.
#[derive(Debug)]
pub struct Lines {
    file: File,
    length: u64,
    failed: bool,
    /// What a kill had left of a last line, in the file until something is appended.
    tail: Vec<u8>,
}

impl Lines {
    /// The whole lines in the file (opened for reading and writing), and the file to append to. What is
    /// left of a last line that was cut short is [`Self::tail`], and removed when something is appended.
    ///
    /// # Errors
    /// It can't be read or written, or is larger than 1 GiB.
    pub fn take(mut file: File) -> io::Result<(Self, Vec<u8>)> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        (&file).take(BOUND + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > BOUND {
            return Err(io::Error::other("larger than 1 GiB"));
        }
        let whole = whole_lines(&bytes);
        let tail = bytes.split_off(whole);
        file.seek(SeekFrom::Start(whole as u64))?;
        Ok((Self { file, length: whole as u64, failed: false, tail }, bytes))
    }

    /// What a kill had left of a last line.
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// Removes what a kill had left of a last line.
    ///
    /// # Errors
    /// The file can't be changed.
    pub fn remove_tail(&mut self) -> io::Result<()> {
        if !self.tail.is_empty() {
            self.file.set_len(self.length).inspect_err(|_| self.failed = true)?;
            self.tail.clear();
        }
        Ok(())
    }

    /// Appends one value. After a failure nothing is appended any more: what follows a torn line would
    /// be lost with it.
    ///
    /// # Errors
    /// The disk is full or broken. Everything before this line stays readable.
    pub fn append(&mut self, value: &impl Serialize) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write to it failed"));
        }
        let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
        line.push(b'\n');
        self.remove_tail()?;
        if let Err(error) = self.file.write_all(&line) {
            self.failed = true;
            // A reader drops a torn line anyway; without one there is nothing to note.
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += line.len() as u64;
        Ok(())
    }

    /// Waits until the disk has everything.
    ///
    /// # Errors
    /// The disk is full or broken.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data().inspect_err(|_| self.failed = true)
    }

    /// Puts another file in its place, to see what a disk does that fails.
    #[cfg(test)]
    pub(crate) fn replace(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }
}

/// Length of the lines that are whole.
#[must_use]
pub fn whole_lines(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1)
}
