//! Lines of a text that comes in chunks.

/// The longest line in bytes; what is beyond it is dropped.
pub(super) const MAX_LINE: usize = 16 << 10;

/// Cuts bytes into lines, the same however they come.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
}

impl Lines {
    pub(super) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let body = piece.strip_suffix(b"\n");
            let text = body.unwrap_or(piece);
            let room = MAX_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if body.is_some() {
                self.finish(&mut each);
            }
        }
    }

    /// The last line has no end.
    pub(super) fn finish(&mut self, mut each: impl FnMut(&str)) {
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        each(&String::from_utf8_lossy(&self.line));
        self.line.clear();
    }
}
