//! What stands for a boot: one number of its samples, and what that could have been.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use hdrhistogram::Histogram;
use kgate_model::sample::Better;
use statrs::function::beta::beta_reg;

use crate::stats::{Moments, normal_scores};

/// Values kept of what a boot's number could have been, each as likely as the others.
pub(crate) const LEVELS: usize = 128;

/// Samples that have to lie beyond a quantile for it to mean anything.
const BEYOND: f64 = 10.0;

/// What stands for a boot or a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Statistic {
    /// The decile at the better end of the samples.
    BestDecile,
    /// The mean of the samples.
    Mean,
    /// Half of the samples take no longer.
    P50,
    /// 99 % of the samples take no longer.
    P99,
    /// 99.9 % of the samples take no longer.
    P999,
    /// The cheapest batch of a clone.
    Path,
    /// The only reading.
    Reading,
}

impl Statistic {
    /// Of latencies of single operations.
    pub const LATENCY: [Self; 4] = [Self::Mean, Self::P50, Self::P99, Self::P999];

    /// A metric's name, with what of it is compared where that is not the usual.
    pub(crate) fn of(self, metric: &str) -> String {
        match self {
            Self::BestDecile | Self::Path | Self::Reading => metric.to_owned(),
            other => format!("{metric} {}", other.as_str()),
        }
    }

    /// The words used in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BestDecile => "best decile",
            Self::Mean => "mean",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::Path => "path",
            Self::Reading => "reading",
        }
    }

    /// Whether it is about the slowest few.
    pub const fn is_tail(self) -> bool {
        matches!(self, Self::P99 | Self::P999)
    }

    const fn quantile(self) -> Option<f64> {
        match self {
            Self::P50 => Some(0.5),
            Self::P99 => Some(0.99),
            Self::P999 => Some(0.999),
            _ => None,
        }
    }

    /// Samples that a boot must have: for a quantile at least ten on its rarer side.
    pub fn samples(self) -> usize {
        self.quantile().map_or(1, |quantile| (BEYOND / (1.0 - quantile)).round() as usize)
    }
}

/// One boot.
pub(crate) struct Boot {
    /// What stands for it.
    pub(crate) value: f64,
    /// What that could have been, had the boot drawn other samples.
    pub(crate) draws: [f64; LEVELS],
}

impl Boot {
    /// `None` of no samples.
    pub(crate) fn new(samples: &[f64], statistic: Statistic, better: Better) -> Option<Self> {
        let first = *samples.first()?;
        if samples.iter().all(|&sample| sample == first) {
            return Some(Self { value: first, draws: [first; LEVELS] });
        }
        Some(match (statistic, statistic.quantile()) {
            (_, Some(quantile)) => latency(samples, quantile),
            (Statistic::Mean, _) => mean(samples),
            _ => decile(samples, better),
        })
    }

    /// As it had been on a machine on which everything is so much more.
    pub(crate) fn scaled(self, by: f64) -> Self {
        Self { value: self.value * by, draws: self.draws.map(|draw| draw * by) }
    }
}

/// What stands for each boot; boots without samples are left out.
pub(crate) fn values(boots: &[Vec<f64>], statistic: Statistic, better: Better) -> Vec<f64> {
    let value = |samples: &Vec<f64>| match statistic {
        Statistic::Mean => Some(average(samples)).filter(|mean| mean.is_finite()),
        Statistic::Path => samples.iter().copied().min_by(f64::total_cmp),
        Statistic::BestDecile | Statistic::Reading => best_decile(samples, better),
        _ => Boot::new(samples, statistic, better).map(|boot| boot.value),
    };
    boots.iter().filter_map(value).collect()
}

fn average(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len() as f64
}

fn mean(samples: &[f64]) -> Boot {
    static SCORES: LazyLock<[f64; LEVELS]> = LazyLock::new(normal_scores);
    let value = average(samples);
    let error = Moments::new(samples).map_or(0.0, |m| m.squared_error().sqrt());
    Boot { value, draws: SCORES.map(|score| value + score * error) }
}

fn decile(samples: &[f64], better: Better) -> Boot {
    let sorted = best_first(samples, better);
    let (at, share) = position(sorted.len());
    let next = (at + 1).min(sorted.len() - 1);
    let (ranks, nexts) = (ranks(sorted.len(), at + 1), ranks(sorted.len(), next + 1));
    let value = between(sorted[at], sorted[next], share);
    let draws = |i: usize| between(sorted[ranks[i]], sorted[nexts[i]], share);
    Boot { value, draws: std::array::from_fn(draws) }
}

/// Quantiles of latencies are read from a histogram of four significant digits.
fn latency(samples: &[f64], quantile: f64) -> Boot {
    // So that the least of them has four digits; what is below zero is no latency.
    let least = samples.iter().copied().filter(|&s| s > 0.0).fold(f64::INFINITY, f64::min);
    let scale = if least < 1e4 { 1e4 / least } else { 1.0 };
    let scale = if scale.is_finite() { scale } else { 1.0 };
    let most = samples.iter().copied().fold(0.0, f64::max) * scale;
    let bound = (most.min(1e18) as u64 + 1).max(2);
    let Ok(mut histogram) = Histogram::<u32>::new_with_bounds(1, bound, 4) else {
        return mean(samples);
    };
    for &sample in samples {
        histogram.saturating_record((sample * scale).round().max(0.0) as u64);
    }
    let count = samples.len();
    let at = |rank: usize| {
        let share = (rank as f64 + 0.5) / count as f64;
        histogram.value_at_quantile(share) as f64 / scale
    };
    let rank = ((count as f64 * quantile).ceil() as usize).clamp(1, count);
    let ranks = ranks(count, rank);
    Boot { value: at(rank - 1), draws: std::array::from_fn(|i| at(ranks[i])) }
}

/// Where the order statistic `rank` (from 1) of `count` samples, drawn with replacement, comes from:
/// indices of the sorted samples, each as likely as the others. Exact, so that nothing need be drawn.
fn ranks(count: usize, rank: usize) -> Arc<[usize; LEVELS]> {
    type Known = RwLock<BTreeMap<(usize, usize), Arc<[usize; LEVELS]>>>;
    // The same whoever asks first; bounded, because anything may come in a record.
    static KNOWN: Known = RwLock::new(BTreeMap::new());
    const BOUND: usize = 4096;
    let key = (count, rank);
    if let Some(ranks) = KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Arc::clone(ranks);
    }
    let (least, rest) = (rank as f64, (count - rank + 1) as f64);
    // At least `rank` of `count` draws come from the first `j + 1` samples.
    let reached = |j: usize| beta_reg(least, rest, (j + 1) as f64 / count as f64);
    let level = |i: usize| {
        let level = (i as f64 + 0.5) / LEVELS as f64;
        let (mut low, mut high) = (0, count - 1);
        while low < high {
            let middle = low.midpoint(high);
            if reached(middle) < level { low = middle + 1 } else { high = middle }
        }
        low
    };
    let ranks: Arc<[usize; LEVELS]> = Arc::new(std::array::from_fn(level));
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= BOUND {
        known.clear();
    }
    known.insert(key, Arc::clone(&ranks));
    ranks
}

/// The share of a boot's samples that may be better than the number that stands for the boot.
const DECILE: f64 = 0.1;

/// What is measured when nothing disturbs: the quantile that a tenth of the samples is better than,
/// interpolated. `None` of nothing.
///
/// On a shared machine a disturbance only ever makes a sample worse, so that the better end of the
/// samples is the machine's own, however many of the others were disturbed. The very best sample
/// would be closer yet, but one stroke of luck decides it.
pub(crate) fn best_decile(samples: &[f64], better: Better) -> Option<f64> {
    if samples.is_empty() {
        return None;
    }
    let sorted = best_first(samples, better);
    let (at, share) = position(sorted.len());
    Some(between(sorted[at], sorted[(at + 1).min(sorted.len() - 1)], share))
}

fn best_first(samples: &[f64], better: Better) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(|a, b| match better {
        Better::Lower => a.total_cmp(b),
        Better::Higher => b.total_cmp(a),
    });
    sorted
}

/// Where the decile of `samples` sorted samples is: the index at or before it, and the share of the
/// way to the next one.
fn position(samples: usize) -> (usize, f64) {
    let at = (samples - 1) as f64 * DECILE;
    (at as usize, at.fract())
}

fn between(from: f64, to: f64, share: f64) -> f64 {
    from + (to - from) * share
}

#[cfg(test)]
mod tests {
    use kgate_model::sample::Better::{Higher, Lower};

    use super::*;

    #[test]
    fn the_decile_is_taken_at_the_better_end_and_interpolated() {
        let eleven: Vec<f64> = (0..11).map(f64::from).collect();
        for (samples, better, expected) in [
            (&[][..], Lower, None),
            (&[7.0], Lower, Some(7.0)),
            (&[7.0], Higher, Some(7.0)),
            (&[20.0, 10.0], Lower, Some(11.0)),
            (&[20.0, 10.0], Higher, Some(19.0)),
            (&eleven, Lower, Some(1.0)),
            (&eleven, Higher, Some(9.0)),
        ] {
            assert_eq!(best_decile(samples, better), expected, "{samples:?} {better:?}");
        }
    }

    #[test]
    fn quantiles_of_latencies() {
        let samples: Vec<f64> = (1..=10_000).map(|i| f64::from(i) * 0.37).collect();
        for (statistic, expected) in
            [(Statistic::P50, 5000.0), (Statistic::P99, 9900.0), (Statistic::P999, 9990.0)]
        {
            let boot = Boot::new(&samples, statistic, Lower).unwrap();
            let expected = 0.37 * expected;
            assert!((boot.value / expected - 1.0).abs() < 2e-4, "{statistic:?}: {}", boot.value);
            assert!(boot.draws.is_sorted());
            let (low, high) = (boot.draws[0], boot.draws[LEVELS - 1]);
            assert!(low < expected && expected < high, "{statistic:?}: {low} {high}");
        }
        assert_eq!(Statistic::P999.samples(), 10_000);
        assert_eq!(Statistic::P99.samples(), 1000);
    }

    #[test]
    fn order_statistics_are_where_resampling_finds_them() {
        let mut random = fastrand::Rng::with_seed(3);
        let (count, rank) = (40, 5);
        let mut found: Vec<usize> = (0..20_000)
            .map(|_| {
                let mut draw: Vec<usize> = (0..count).map(|_| random.usize(..count)).collect();
                draw.sort_unstable();
                draw[rank - 1]
            })
            .collect();
        found.sort_unstable();
        let ranks = ranks(count, rank);
        for i in (0..LEVELS).step_by(8) {
            let at = found[(i * 2 + 1) * found.len() / (2 * LEVELS)];
            assert!(ranks[i].abs_diff(at) <= 1, "level {i}: {} for {at}", ranks[i]);
        }
    }
}
