//! What the plugin wrote: instructions of the guest by address, one segment for each operation.

use std::sync::Arc;

/// The version of the format that this reads.
const VERSION: &str = "1";
/// As deep as the plugin lets stacks become, twice over.
const MAX_DEPTH: usize = 256;

/// Why a text is no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// It doesn't begin like one.
    #[error("not a profile: it does not begin with 'kgate-plugin' and a version")]
    NotAProfile,
    /// It is of another version.
    #[error("a profile of format {found:?}; this kgate reads format {VERSION}")]
    Version {
        /// What stands in place of the version.
        found: String,
    },
    /// It is damaged.
    #[error("line {line}: {what}")]
    Damaged {
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// The whole segments of the plugin's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// In ascending order of their numbers.
    pub segments: Vec<Segment>,
    /// Whether the end of the file is missing: QEMU was killed, or its output had no room. What
    /// was begun last is left out then.
    pub cut: bool,
}

/// What was executed between the markers of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its number: 1 for the first run of an operation, and so on.
    pub number: u32,
    /// Measured batches.
    pub batches: u64,
    /// Instructions in user mode.
    pub user: u64,
    /// Instructions of the kernel at addresses for which there were no counters left.
    pub beyond: u64,
    /// Instructions of the kernel by address, ascending.
    kernel: Vec<(u64, u64)>,
    stacks: Vec<StackCount>,
    nodes: Arc<Vec<Node>>,
    total: u64,
}

/// Instructions of one block on one stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StackCount {
    node: u32,
    block: u64,
    count: u64,
}

/// A call that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    parent: u32,
    address: u64,
}

impl Profile {
    /// Reads the plugin's output, which may be cut anywhere.
    ///
    /// # Errors
    /// When it isn't what the plugin writes, or its sums are wrong.
    pub fn read(bytes: &[u8]) -> Result<Self, ProfileError> {
        // What follows the last line end was cut.
        let end = bytes.iter().rposition(|&byte| byte == b'\n').ok_or(ProfileError::NotAProfile)?;
        let mut lines = bytes[..end].split(|&byte| byte == b'\n');
        let first = String::from_utf8_lossy(lines.next().unwrap_or_default());
        match first.strip_prefix("kgate-plugin ") {
            Some(VERSION) => {}
            Some(found) => {
                let found = found.chars().take(20).collect();
                return Err(ProfileError::Version { found });
            }
            None => return Err(ProfileError::NotAProfile),
        }
        let mut reader = Reader::default();
        for (index, line) in lines.enumerate() {
            reader.line(line).map_err(|what| ProfileError::Damaged { line: index + 2, what })?;
        }
        let Reader { mut segments, nodes, whole, .. } = reader;
        let nodes = Arc::new(nodes);
        segments.iter_mut().for_each(|segment| segment.nodes = Arc::clone(&nodes));
        Ok(Self { segments, cut: !whole })
    }

    /// The segment of this number.
    #[must_use]
    pub fn segment(&self, number: u32) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.number == number)
    }
}

impl Segment {
    /// All instructions of the segment.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Instructions of the kernel by address, ascending.
    #[must_use]
    pub fn kernel(&self) -> &[(u64, u64)] {
        &self.kernel
    }

    /// Whether the plugin was asked for stacks.
    #[must_use]
    pub fn has_stacks(&self) -> bool {
        !self.stacks.is_empty()
    }

    /// The instructions by stack: return addresses, outermost first, then the address of the block
    /// that was executed, or `None` in user mode. They sum to [`total`](Self::total) where there
    /// are any.
    pub fn stacks(&self) -> impl Iterator<Item = (Vec<u64>, Option<u64>, u64)> + '_ {
        self.stacks.iter().map(|&StackCount { node, block, count }| {
            let mut path = Vec::new();
            let mut node = self.node(node);
            while let Some(Node { parent, address }) = node.filter(|_| path.len() < MAX_DEPTH) {
                path.push(address);
                node = self.node(parent);
            }
            path.reverse();
            (path, (block != 0).then_some(block), count)
        })
    }

    fn node(&self, number: u32) -> Option<Node> {
        let index = (number as usize).checked_sub(1)?;
        self.nodes.get(index).copied()
    }
}

#[derive(Default)]
struct Reader {
    segments: Vec<Segment>,
    nodes: Vec<Node>,
    open: Option<Open>,
    whole: bool,
}

/// A segment that is being read.
#[derive(Default)]
struct Open {
    number: u32,
    kernel: Vec<(u64, u64)>,
    kernel_sum: u64,
    stacks: Vec<StackCount>,
    stacks_sum: u64,
}

const UNEXPECTED: &str = "not what follows here";
const NUMBERS: &str = "not the numbers of such a line";
const SUM: &str = "the sum is not that of the lines before";
const OVERFLOW: &str = "a sum is too large";

impl Reader {
    fn line(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let line = str::from_utf8(line).map_err(|_| "not text")?;
        let (word, rest) = line.split_once(' ').ok_or(NUMBERS)?;
        let mut fields = rest.split(' ');
        let mut field = || fields.next().ok_or(NUMBERS);
        if self.whole {
            return Err("there is something after the end");
        }
        match (word, &mut self.open) {
            ("s", None) => {
                let number = decimal(field()?)?;
                if self.segments.last().is_some_and(|last| last.number >= number) {
                    return Err("segments are not in order");
                }
                self.open = Some(Open { number, ..Open::default() });
            }
            ("k", Some(open)) => {
                let distance = hexadecimal(field()?)?;
                let count = decimal(field()?)?;
                let last = open.kernel.last().map_or(0, |(address, _)| *address);
                let address = last.checked_add(distance).filter(|address| address >> 63 == 1);
                let address = address.filter(|_| distance > 0).ok_or("not a kernel's address")?;
                open.kernel.push((address, count));
                open.kernel_sum = open.kernel_sum.checked_add(count).ok_or(OVERFLOW)?;
            }
            ("n", Some(_)) => {
                let parent: u32 = decimal(field()?)?;
                let address = hexadecimal(field()?)?;
                if parent as usize > self.nodes.len() {
                    return Err("there is no such stack");
                }
                self.nodes.push(Node { parent, address });
            }
            ("t", Some(open)) => {
                let node: u32 = decimal(field()?)?;
                let block = hexadecimal(field()?)?;
                let count = decimal(field()?)?;
                if node as usize > self.nodes.len() {
                    return Err("there is no such stack");
                }
                open.stacks.push(StackCount { node, block, count });
                open.stacks_sum = open.stacks_sum.checked_add(count).ok_or(OVERFLOW)?;
            }
            ("e", Some(open)) => {
                let number: u32 = decimal(field()?)?;
                let batches = decimal(field()?)?;
                let user: u64 = decimal(field()?)?;
                let beyond: u64 = decimal(field()?)?;
                let kernel: u64 = decimal(field()?)?;
                if number != open.number || kernel != open.kernel_sum {
                    return Err(SUM);
                }
                let total = user.checked_add(beyond).and_then(|sum| sum.checked_add(kernel));
                let total = total.ok_or(OVERFLOW)?;
                let Open { kernel, stacks, stacks_sum, .. } = std::mem::take(open);
                if !stacks.is_empty() && stacks_sum != total {
                    return Err(SUM);
                }
                let nodes = Arc::default();
                let segment =
                    Segment { number, batches, user, beyond, kernel, stacks, nodes, total };
                self.segments.push(segment);
                self.open = None;
            }
            ("z", None) => {
                let segments: usize = decimal(field()?)?;
                if segments != self.segments.len() {
                    return Err(SUM);
                }
                self.whole = true;
            }
            _ => return Err(UNEXPECTED),
        }
        if fields.next().is_some() { Err(NUMBERS) } else { Ok(()) }
    }
}

fn decimal<T: std::str::FromStr>(field: &str) -> Result<T, &'static str> {
    field.parse().map_err(|_| NUMBERS)
}

fn hexadecimal(field: &str) -> Result<u64, &'static str> {
    u64::from_str_radix(field, 16).map_err(|_| NUMBERS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: &str = "kgate-plugin 1\n\
        s 1\n\
        k ffffffff81000000 4\n\
        k 5 6\n\
        n 0 ffffffff81000005\n\
        t 0 0 30\n\
        t 1 ffffffff81000000 10\n\
        e 1 2 30 0 10\n\
        s 2\n\
        e 2 0 0 0 0\n\
        z 2\n";

    #[test]
    fn a_whole_file_is_read() {
        let profile = Profile::read(WHOLE.as_bytes()).unwrap();
        assert!(!profile.cut);
        let segment = profile.segment(1).unwrap();
        assert_eq!((segment.batches, segment.user, segment.total()), (2, 30, 40));
        assert_eq!(segment.kernel(), [(0xffff_ffff_8100_0000, 4), (0xffff_ffff_8100_0005, 6)]);
        let stacks: Vec<_> = segment.stacks().collect();
        let block = 0xffff_ffff_8100_0000;
        assert_eq!(stacks, [(vec![], None, 30), (vec![block + 5], Some(block), 10)]);
        assert_eq!(profile.segment(2).unwrap().total(), 0);
    }

    #[test]
    fn a_file_that_is_cut_anywhere_gives_its_whole_segments() {
        for end in "kgate-plugin 1\n".len()..WHOLE.len() {
            let profile = Profile::read(&WHOLE.as_bytes()[..end]).unwrap();
            assert!(profile.cut, "{end}");
            let lines = &WHOLE[..=WHOLE[..end].rfind('\n').unwrap()];
            assert_eq!(profile.segments.len(), lines.matches("\ne ").count(), "{end}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let error = |text: &str| Profile::read(text.as_bytes()).unwrap_err().to_string();
        let with = |from: &str, to: &str| error(&WHOLE.replace(from, to));
        insta::assert_snapshot!(
            [
                error(""),
                error("x\n"),
                error("kgate-plugin 2\n"),
                with("k 5 6", "k 5 7"),
                with("k 5 6", "k 0 6"),
                with("k 5 6", "k 5"),
                with("k 5 6", "k 5 6 7"),
                with("k 5 6", "k 5 -6"),
                with("k 5 6", "k ffffffffffffffff 6"),
                with("k 5 6", "k 5 18446744073709551615"),
                with("t 0 0 30", "t 0 0 31"),
                with("t 0 0 30", "t 9 0 30"),
                with("n 0", "n 5"),
                with("s 2", "s 1"),
                with("s 2", "e 2"),
                with("z 2", "z 3"),
                with("z 2\n", "z 2\nz 2\n"),
            ]
            .join("\n")
        );
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "(kgate-plugin 1\n)?([sknetz]( [0-9a-f]{1,3}){0,5}\n?){0,20}") {
            let _ = Profile::read(text.as_bytes());
        }

        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Profile::read(&bytes);
        }
    }
}
