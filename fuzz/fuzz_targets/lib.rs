//! What the fuzz targets share: how an input divides itself.

use kgate_klog::Source;

/// Numbers that depend on nothing but the input, so that a crash can be had again.
pub struct Dice(u64);

impl Dice {
    /// Seeded by the input (FNV-1a).
    pub fn new(input: &[u8]) -> Self {
        let hash = input.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash | 1)
    }

    /// A number below `bound` (xorshift).
    pub fn roll(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound.max(1)
    }

    /// The bytes in pieces, mostly short ones.
    pub fn divide<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let longest = [1, 7, 100, 10_000][self.roll(4)];
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(1 + self.roll(longest)));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}

/// Where the input is taken to come from: records of `/dev/kmsg` begin with a digit.
pub fn source(input: &[u8]) -> Source {
    match input.first() {
        Some(b'0'..=b'9') => Source::Kmsg,
        _ => Source::Console,
    }
}
