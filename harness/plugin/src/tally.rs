//! What each counter counted between markers: differences of readings, summed over a segment.

/// Sums of the pairs of markers 01 and 02 of one segment.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// While a pair is open, the sum less the reading at its beginning (modulo 2⁶⁴).
    sums: Vec<u64>,
    open: bool,
    batches: u64,
}

impl Tally {
    /// Whether a pair is open.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Marker 01: counting begins with this reading of all counters. Without effect inside a pair.
    pub(crate) fn start(&mut self, reading: impl Iterator<Item = u64>) {
        if !self.open {
            self.open = true;
            self.add(reading, u64::wrapping_sub);
        }
    }

    /// Marker 02: counting ends with this reading. Counters that are new since the beginning began
    /// at zero. Without effect outside a pair.
    pub(crate) fn stop(&mut self, reading: impl Iterator<Item = u64>) {
        if self.open {
            self.open = false;
            self.batches += 1;
            self.add(reading, u64::wrapping_add);
        }
    }

    /// The sums of the segment and how many pairs they are of; begins another segment. An open pair
    /// has to be stopped first.
    pub(crate) fn take(&mut self) -> (Vec<u64>, u64) {
        let batches = std::mem::take(&mut self.batches);
        (std::mem::take(&mut self.sums), batches)
    }

    fn add(&mut self, reading: impl Iterator<Item = u64>, how: impl Fn(u64, u64) -> u64) {
        for (index, value) in reading.enumerate() {
            if index == self.sums.len() {
                self.sums.push(0);
            }
            if let Some(sum) = self.sums.get_mut(index) {
                *sum = how(*sum, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_add_up_and_what_is_between_them_does_not_count() {
        let mut tally = Tally::default();
        tally.start([10, 100].into_iter());
        tally.start([11, 100].into_iter());
        tally.stop([13, 100, 7].into_iter());
        tally.stop([20, 100, 7].into_iter());
        tally.start([50, 100, 9].into_iter());
        tally.stop([51, 102, 9].into_iter());
        assert_eq!(tally.take(), (vec![4, 2, 7], 2));
        assert_eq!(tally.take(), (vec![], 0));
    }
}
