//! The statistics: how sure a difference is.

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
/// Medians drawn per boot; the outer resampling picks among them.
const MEDIANS: usize = 200;
/// Samples of one boot that take part in the resampling; evenly spaced in rank when there are more.
const SAMPLES: usize = 512;
/// Probability in both tails of the interval.
const TAILS: f64 = 0.05;

/// The change from `baseline` to `candidate`, each a list of boots with their samples. `None` when
/// a side has fewer than two boots, a boot has no samples, or a mean isn't positive, so that
/// nothing can be related to it.
///
/// Works on logarithms: twice as much and half as much are equally far, and no interval reaches a
/// change of -100 %.
pub(crate) fn change(baseline: &[Vec<f64>], candidate: &[Vec<f64>], seed: u64) -> Option<Change> {
    let base = Group::new(baseline)?;
    let new = Group::new(candidate)?;
    let log = (new.mean / base.mean).ln();
    if base.mean <= 0.0 || new.mean <= 0.0 || !log.is_finite() {
        return None;
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let base_draws = Draws::new(baseline, &mut random);
    let new_draws = Draws::new(candidate, &mut random);
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

/// The boots of one role, each by its median.
struct Group {
    boots: f64,
    mean: f64,
    /// Of the medians, between boots.
    variance: f64,
}

impl Group {
    fn new(boots: &[Vec<f64>]) -> Option<Self> {
        let medians = boots.iter().map(|b| median(b)).collect::<Option<Vec<_>>>()?;
        if medians.len() < 2 {
            return None;
        }
        let boots = medians.len() as f64;
        let mean = medians.iter().sum::<f64>() / boots;
        let squares: f64 = medians.iter().map(|m| (m - mean).powi(2)).sum();
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

/// What the median of each boot could have been.
struct Draws(Vec<Vec<f64>>);

impl Draws {
    fn new(boots: &[Vec<f64>], random: &mut fastrand::Rng) -> Self {
        Self(boots.iter().map(|samples| medians(samples, random)).collect())
    }

    /// The mean over as many boots as there are, drawn with replacement.
    fn mean(&self, random: &mut fastrand::Rng) -> f64 {
        let boots = self.0.len();
        let mut sum = 0.0;
        for _ in 0..boots {
            let medians = &self.0[random.usize(..boots)];
            sum += medians[random.usize(..medians.len())];
        }
        sum / boots as f64
    }
}

fn medians(samples: &[f64], random: &mut fastrand::Rng) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    if sorted.first() == sorted.last() {
        sorted.truncate(1);
        return sorted;
    }
    if sorted.len() > SAMPLES {
        let step = sorted.len() as f64 / SAMPLES as f64;
        sorted = (0..SAMPLES).map(|i| sorted[((i as f64 + 0.5) * step) as usize]).collect();
    }
    let mut ranks = vec![0; sorted.len()];
    (0..MEDIANS)
        .map(|_| {
            ranks.fill_with(|| random.usize(..sorted.len()));
            middle(&mut ranks, |&rank| sorted[rank])
        })
        .collect()
}

/// The median; `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    Some(low + (high - low) / 2.0)
}

/// The median by a monotonic key; `items` must not be empty.
fn middle(items: &mut [usize], key: impl Fn(&usize) -> f64) -> f64 {
    let half = items.len() / 2;
    let even = items.len().is_multiple_of(2);
    let (below, &mut at, _) = items.select_nth_unstable(half);
    let high = key(&at);
    match below.iter().max() {
        Some(low) if even => key(low) + (high - key(low)) / 2.0,
        _ => high,
    }
}
