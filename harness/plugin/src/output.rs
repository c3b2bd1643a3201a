//! The plugin's output: the text format, and the bound on what is written.

use std::fmt::Write as _;
use std::io::Write;

/// The version in the first line.
const VERSION: u32 = 1;
/// Larger than any real profile; a guest can't make the file grow past it.
const MAX_BYTES: usize = 256 << 20;

/// One segment, ready to be written.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    /// Its number: 0 before the first marker 03.
    pub number: u32,
    /// Pairs of markers.
    pub batches: u64,
    /// Instructions in user mode.
    pub user: u64,
    /// Instructions of the kernel at addresses beyond the limit.
    pub beyond: u64,
    /// Instructions of the kernel by address, ascending, none of them zero.
    pub kernel: Vec<(u64, u64)>,
    /// Nodes of the tree of stacks that no segment before had: parent and return address.
    pub nodes: Vec<(u32, u64)>,
    /// Instructions by node and block, ascending.
    pub stacks: Vec<(u32, u64, u64)>,
}

/// Where profiles are written to. After an error, or at the limit, nothing more is written, so
/// that the last line is missing.
#[derive(Debug)]
pub(crate) struct Output<W> {
    to: Option<W>,
    left: usize,
    segments: u32,
}

impl<W: Write> Output<W> {
    /// Writes the first line.
    ///
    /// # Errors
    /// When the first line can't be written.
    pub(crate) fn new(mut to: W) -> std::io::Result<Self> {
        writeln!(to, "kgate-plugin {VERSION}")?;
        to.flush()?;
        Ok(Self { to: Some(to), left: MAX_BYTES, segments: 0 })
    }

    /// Writes a segment at once.
    pub(crate) fn segment(&mut self, segment: &Segment) {
        self.segments += 1;
        self.write(&render(segment));
    }

    /// Writes the last line.
    pub(crate) fn finish(&mut self) {
        let line = format!("z {}\n", self.segments);
        self.write(&line);
        self.to = None;
    }

    fn write(&mut self, text: &str) {
        let Some(to) = &mut self.to else { return };
        match self.left.checked_sub(text.len()) {
            Some(left) if to.write_all(text.as_bytes()).and_then(|()| to.flush()).is_ok() => {
                self.left = left;
            }
            _ => self.to = None,
        }
    }
}

fn render(segment: &Segment) -> String {
    let mut text = String::new();
    let mut line = |args: std::fmt::Arguments<'_>| {
        // A String takes all.
        let _ = text.write_fmt(args);
    };
    line(format_args!("s {}\n", segment.number));
    let mut last = 0;
    let mut sum = 0_u64;
    for &(address, count) in &segment.kernel {
        line(format_args!("k {:x} {count}\n", address - last));
        last = address;
        sum = sum.wrapping_add(count);
    }
    for (parent, address) in &segment.nodes {
        line(format_args!("n {parent} {address:x}\n"));
    }
    for (node, block, count) in &segment.stacks {
        line(format_args!("t {node} {block:x} {count}\n"));
    }
    let Segment { number, batches, user, beyond, .. } = segment;
    line(format_args!("e {number} {batches} {user} {beyond} {sum}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_first_and_a_last_line_and_addresses_as_differences() {
        let mut bytes = Vec::new();
        let mut output = Output::new(&mut bytes).unwrap();
        output.segment(&Segment {
            number: 1,
            batches: 2,
            user: 30,
            beyond: 0,
            kernel: vec![(0xffff_ffff_8100_0000, 4), (0xffff_ffff_8100_0005, 6)],
            nodes: vec![(0, 0xffff_ffff_8100_0005)],
            stacks: vec![(0, 0, 30), (1, 0xffff_ffff_8100_0000, 10)],
        });
        output.finish();
        let expected = "kgate-plugin 1\n\
            s 1\n\
            k ffffffff81000000 4\n\
            k 5 6\n\
            n 0 ffffffff81000005\n\
            t 0 0 30\n\
            t 1 ffffffff81000000 10\n\
            e 1 2 30 0 10\n\
            z 1\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn past_the_limit_nothing_is_written_not_even_the_last_line() {
        let mut bytes = Vec::new();
        let mut output = Output::new(&mut bytes).unwrap();
        output.left = 8;
        output.segment(&Segment::default());
        output.finish();
        assert!(!String::from_utf8(bytes).unwrap().contains('z'));
    }
}
