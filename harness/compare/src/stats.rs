//! The statistics: how sure a difference is.

use kgate_model::sample::Better;
use statrs::distribution::{ContinuousCDF, DiscreteCDF, Hypergeometric, StudentsT};

/// Share of runs of two equal kernels in which chance alone may look like a difference.
pub const SIGNIFICANCE: f64 = 0.05;

/// Probability that the candidate fails at least as often as it did, of all ways to deal the same
/// failures out over the boots of two equal kernels: Fisher's exact test, one-sided.
pub fn at_least_as_often(candidate: (u32, u32), baseline: (u32, u32)) -> f64 {
    let ((failed, boots), (failed_base, boots_base)) = (candidate, baseline);
    let (failed, failed_base) = (u64::from(failed), u64::from(failed_base));
    let all = u64::from(boots) + u64::from(boots_base);
    if failed == 0 {
        return 1.0;
    }
    // Draws the candidate's boots out of all, and counts the failed ones among them.
    Hypergeometric::new(all, failed + failed_base, u64::from(boots))
        .map_or(1.0, |dealt| dealt.sf(failed - 1).clamp(0.0, 1.0))
}

/// A relative change between two kernels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Change {
    /// Of the mean over boots, relative to the baseline: 0.03 is 3 % more.
    pub(crate) ratio: f64,
    /// Where it is with a confidence of 95 %.
    pub(crate) interval: (f64, f64),
    /// Probability of a change at least this large between equal kernels, in either direction.
    pub(crate) p: f64,
}

const RESAMPLES: usize = 2000;
/// Deciles drawn per boot; the outer resampling picks among them.
const DECILES: usize = 200;
/// Samples of one boot that take part in the resampling; evenly spaced in rank when there are more.
const SAMPLES: usize = 512;
/// Probability in both tails of the interval.
const TAILS: f64 = 0.05;
/// The share of a boot's samples that may be better than the number that stands for the boot.
const DECILE: f64 = 0.1;

/// The change from `baseline` to `candidate`, each a list of boots with their samples. `None` when
/// a side has fewer than two boots, a boot has no samples, or a mean isn't positive, so that
/// nothing can be related to it.
///
/// Works on logarithms: twice as much and half as much are equally far, and no interval reaches a
/// change of -100 %.
pub(crate) fn change(
    baseline: &[Vec<f64>],
    candidate: &[Vec<f64>],
    better: Better,
    seed: u64,
) -> Option<Change> {
    let base = Group::new(baseline, better)?;
    let new = Group::new(candidate, better)?;
    let log = (new.mean / base.mean).ln();
    if base.mean <= 0.0 || new.mean <= 0.0 || !log.is_finite() {
        return None;
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let base_draws = Draws::new(baseline, better, &mut random);
    let new_draws = Draws::new(candidate, better, &mut random);
    let mut deviations: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let base_mean = base.inflate(base_draws.mean(&mut random));
            let new_mean = new.inflate(new_draws.mean(&mut random));
            (new_mean / base_mean).ln() - log
        })
        .collect();
    deviations.sort_by(f64::total_cmp);
    let error = (deviations.iter().map(|d| d * d).sum::<f64>() / RESAMPLES as f64).sqrt();
    let student = StudentsT::new(0.0, 1.0, freedom(&base, &new)).ok()?;
    // A bootstrap of few boots has the tails of a normal distribution; the truth has Student's.
    let widen = student.inverse_cdf(1.0 - TAILS / 2.0) / 1.959_963_985;
    let at = |share: f64| deviations[((RESAMPLES - 1) as f64 * share).round() as usize];
    let (low, high) = (at(TAILS / 2.0), at(1.0 - TAILS / 2.0));
    // Reflected, because the resampled means err from the measured one as that errs from the truth.
    let interval = (log - widen * high.max(0.0), log - widen * low.min(0.0));
    let p = match error {
        0.0 if log == 0.0 => 1.0,
        0.0 => 0.0,
        _ => (2.0 * student.sf((log / error).abs())).clamp(0.0, 1.0),
    };
    Some(Change {
        ratio: new.mean / base.mean - 1.0,
        interval: (interval.0.exp_m1(), interval.1.exp_m1()),
        p,
    })
}

/// The boots of one role, each by its best decile.
struct Group {
    boots: f64,
    mean: f64,
    /// Of the deciles, between boots.
    variance: f64,
}

impl Group {
    fn new(boots: &[Vec<f64>], better: Better) -> Option<Self> {
        let deciles = boots.iter().map(|b| best_decile(b, better)).collect::<Option<Vec<_>>>()?;
        if deciles.len() < 2 {
            return None;
        }
        let boots = deciles.len() as f64;
        let mean = deciles.iter().sum::<f64>() / boots;
        let squares: f64 = deciles.iter().map(|d| (d - mean).powi(2)).sum();
        mean.is_finite().then_some(Self { boots, mean, variance: squares / (boots - 1.0) })
    }

    /// Undoes that resampled means of `n` boots vary less than real ones by (n-1)/n.
    /// Stays positive.
    fn inflate(&self, resampled: f64) -> f64 {
        let wider = (resampled - self.mean) * (self.boots / (self.boots - 1.0)).sqrt();
        (self.mean + wider).max(self.mean / 100.0)
    }
}

/// Degrees of freedom of the difference by Welch and Satterthwaite.
fn freedom(base: &Group, new: &Group) -> f64 {
    let part = |g: &Group| g.variance / g.boots / (g.mean * g.mean).max(f64::MIN_POSITIVE);
    let (b, n) = (part(base), part(new));
    let freedom = (b + n).powi(2) / (b * b / (base.boots - 1.0) + n * n / (new.boots - 1.0));
    if freedom.is_finite() { freedom.max(1.0) } else { base.boots + new.boots - 2.0 }
}

/// What the best decile of each boot could have been.
struct Draws(Vec<Vec<f64>>);

impl Draws {
    fn new(boots: &[Vec<f64>], better: Better, random: &mut fastrand::Rng) -> Self {
        Self(boots.iter().map(|samples| deciles(samples, better, random)).collect())
    }

    /// The mean over as many boots as there are, drawn with replacement.
    fn mean(&self, random: &mut fastrand::Rng) -> f64 {
        let boots = self.0.len();
        let mut sum = 0.0;
        for _ in 0..boots {
            let deciles = &self.0[random.usize(..boots)];
            sum += deciles[random.usize(..deciles.len())];
        }
        sum / boots as f64
    }
}

fn deciles(samples: &[f64], better: Better, random: &mut fastrand::Rng) -> Vec<f64> {
    let mut sorted = best_first(samples, better);
    if sorted.first() == sorted.last() {
        sorted.truncate(1);
        return sorted;
    }
    if sorted.len() > SAMPLES {
        let step = sorted.len() as f64 / SAMPLES as f64;
        sorted = (0..SAMPLES).map(|i| sorted[((i as f64 + 0.5) * step) as usize]).collect();
    }
    let mut ranks = vec![0; sorted.len()];
    (0..DECILES)
        .map(|_| {
            ranks.fill_with(|| random.usize(..sorted.len()));
            let (at, share) = position(ranks.len());
            let (_, &mut rank, above) = ranks.select_nth_unstable(at);
            let next = above.iter().min().map_or(rank, |&next| next);
            between(sorted[rank], sorted[next], share)
        })
        .collect()
}

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
    sorted.sort_by(|a, b| match better {
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

    use super::best_decile;

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
}
