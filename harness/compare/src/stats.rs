//! The statistics of what boots measured: how large a difference is, how sure, and what could have
//! been seen. Pure functions of numbers and a seed; what they mean is in `docs/comparison.md`.

use std::collections::BTreeMap;

use kgate_model::sample::Better;
use rayon::prelude::*;
use statrs::distribution::{ContinuousCDF, DiscreteCDF, Hypergeometric, Normal, StudentsT};

use crate::boot::{Boot, LEVELS, Statistic};

/// Share of runs of two equal kernels in which chance alone may look like a difference.
pub const SIGNIFICANCE: f64 = 0.05;
/// Share of real changes of the detectable size that are found.
pub const POWER: f64 = 0.8;
/// Resamples of the bootstrap, and random arrangements of the permutation test.
pub const RESAMPLES: usize = 10_000;
/// Up to so many arrangements of the boots are all looked at; 8 boots of each kernel have 12,870.
pub const ARRANGEMENTS: f64 = 20_000.0;
/// No more boots than this are ever asked for.
pub const MOST_BOOTS: u32 = 1000;

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

/// How a p-value was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Every arrangement of the boots over the kernels: true of any distribution.
    Exact,
    /// Random arrangements of the boots, [`RESAMPLES`] or more: true of any distribution.
    Random,
    /// Welch's t, because so few boots have too few arrangements to prove anything beside the run's
    /// other comparisons: true where boots of one kernel scatter about normally.
    Student,
}

impl Method {
    /// The words used in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "permutation, exact",
            Self::Random => "permutation, random",
            Self::Student => "Welch's t",
        }
    }
}

/// Whether the boots of two kernels differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Test {
    /// Probability of a difference of the means at least this large between equal kernels, in either
    /// direction.
    pub p: f64,
    /// How it was come by.
    pub method: Method,
}

/// Tests whether two lists of boots, a number each, differ. `comparisons` is how many such tests the
/// run makes: a permutation test that could not prove anything beside them gives way to Welch's t.
/// `None` with fewer than two boots on a side.
pub fn test(baseline: &[f64], candidate: &[f64], comparisons: usize, seed: u64) -> Option<Test> {
    let (base, new) = (Moments::new(baseline)?, Moments::new(candidate)?);
    let (error, freedom) = error(&base, &new);
    let student = two_sided(new.mean - base.mean, error, freedom);
    Some(arranged(&[(baseline, candidate)], student, comparisons, seed))
}

/// Tests by the arrangements of the boots of each machine, or by Student's t, whose p-value is `student`,
/// where these are too few.
fn arranged(machines: &[(&[f64], &[f64])], student: f64, comparisons: usize, seed: u64) -> Test {
    let pools: Vec<Pool> = machines.iter().map(|(base, new)| Pool::new(base, new)).collect();
    let arrangements: f64 =
        machines.iter().map(|(base, new)| arrangements(base.len(), new.len())).product();
    let (p, method) = if arrangements <= ARRANGEMENTS {
        (exact_permutation(&pools), Method::Exact)
    } else {
        (random_permutation(pools, comparisons, seed), Method::Random)
    };
    if 2.0 / arrangements <= level(comparisons) {
        return Test { p, method };
    }
    Test { p: student.max(if p > 2.5 / arrangements { p } else { 0.0 }), method: Method::Student }
}

/// The p-value that the first of `comparisons` has to reach for a rejection.
pub fn level(comparisons: usize) -> f64 {
    SIGNIFICANCE / comparisons.max(1) as f64
}

/// In how many ways boots can be dealt out over the kernels.
fn arrangements(baseline: usize, candidate: usize) -> f64 {
    let few = baseline.min(candidate);
    let all = baseline + candidate;
    (0..few).map(|i| (all - i) as f64 / (i + 1) as f64).product()
}

/// The boots of one machine, centred.
struct Pool {
    values: Vec<f64>,
    candidates: usize,
    /// Of the candidate's boots as they were measured. With the mean taken out, the difference of the means
    /// grows with it.
    sum: f64,
    /// Of all values without their signs.
    scale: f64,
}

impl Pool {
    fn new(baseline: &[f64], candidate: &[f64]) -> Self {
        let mut values: Vec<f64> = baseline.iter().chain(candidate).copied().collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter_mut().for_each(|value| *value -= mean);
        let sum = values[baseline.len()..].iter().sum();
        let scale = values.iter().map(|value| value.abs()).sum();
        Self { values, candidates: candidate.len(), sum, scale }
    }

    /// The candidate's sum of each arrangement; with `half`, of those of which the others are the same
    /// ones with the kernels exchanged.
    fn sums(&self, half: bool) -> Vec<f64> {
        let (all, taken) = (self.values.len(), self.candidates);
        // In lexical order; `sums[i]` is the sum of the first i taken.
        let mut at: Vec<usize> = (0..taken).collect();
        let mut sums = vec![0.0; taken + 1];
        let (mut found, mut from) = (Vec::new(), 0);
        loop {
            for i in from..taken {
                sums[i + 1] = sums[i] + self.values[at[i]];
            }
            found.push(sums[taken]);
            let Some(i) = (0..taken).rev().find(|&i| at[i] < all - taken + i) else { break };
            at[i] += 1;
            for next in i + 1..taken {
                at[next] = at[next - 1] + 1;
            }
            from = i;
            if half && from == 0 {
                break;
            }
        }
        found
    }
}

/// A sum over all machines at least this far from zero counts as at least as extreme as the one that was
/// measured: equal sums compare as equal.
fn extreme(pools: &[Pool]) -> f64 {
    let sum: f64 = pools.iter().map(|pool| pool.sum).sum();
    let scale: f64 = pools.iter().map(|pool| pool.scale).sum();
    sum.abs() - 1e-9 * scale
}

fn exact_permutation(pools: &[Pool]) -> f64 {
    let extreme = extreme(pools);
    let even = pools.iter().all(|pool| 2 * pool.candidates == pool.values.len());
    let mut sums = vec![0.0];
    for (at, pool) in pools.iter().enumerate() {
        // Exchanging the kernels on all machines turns every sum's sign: half of the first will do.
        let of_pool = pool.sums(at == 0 && even);
        sums = sums.iter().flat_map(|sum| of_pool.iter().map(move |more| sum + more)).collect();
    }
    let found = sums.iter().filter(|sum| sum.abs() >= extreme).count();
    found as f64 / sums.len() as f64
}

/// Draws arrangements of the boots of one machine.
struct Drawn {
    values: Vec<f64>,
    /// The smaller side is drawn: the other's sum is the same with the other sign.
    few: usize,
    sign: f64,
    sums: Option<Sums>,
}

impl Drawn {
    fn new(pool: Pool) -> Self {
        let all = pool.values.len();
        let few = pool.candidates.min(all - pool.candidates);
        let sign = if few == pool.candidates { 1.0 } else { -1.0 };
        Self { sums: Sums::new(&pool.values, few), values: pool.values, few, sign }
    }

    #[inline]
    fn sum(&mut self, random: &mut fastrand::Rng) -> f64 {
        let sum = match &self.sums {
            Some(sums) => sums.random(self.few as u32, random),
            None => {
                let mut sum = 0.0;
                for i in 0..self.few {
                    let other = i + below(random, self.values.len() - i);
                    self.values.swap(i, other);
                    sum += self.values[i];
                }
                sum
            }
        };
        self.sign * sum
    }
}

fn random_permutation(pools: Vec<Pool>, comparisons: usize, seed: u64) -> f64 {
    /// With fewer extreme arrangements than this, more are drawn where the level asks for it.
    const FEW: u64 = 20;
    let extreme = extreme(&pools);
    let mut machines: Vec<Drawn> = pools.into_iter().map(Drawn::new).collect();
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut seen, mut found) = (0, 0);
    // So many that none being extreme is half of what the level asks for.
    let wanted = RESAMPLES.max((2.0 / level(comparisons)).ceil() as usize);
    for stop in [RESAMPLES, wanted] {
        if seen > 0 && found >= FEW {
            break;
        }
        for _ in seen..stop {
            let sum: f64 = machines.iter_mut().map(|machine| machine.sum(&mut random)).sum();
            found += u64::from(sum.abs() >= extreme);
        }
        seen = stop;
    }
    // The arrangement that was measured is one of them.
    (found + 1) as f64 / (seen + 1) as f64
}

/// Sums of parts of at most 64 values, by eight values at a time.
struct Sums {
    parts: Vec<[f64; 256]>,
    all: usize,
}

impl Sums {
    /// `None` where a random set is rarely one of `few` values, or there are too many values.
    fn new(values: &[f64], few: usize) -> Option<Self> {
        const OFTEN: f64 = 0.03;
        let all = values.len();
        if all > 64 || arrangements(few, all - few) * (-(all as f64)).exp2() < OFTEN {
            return None;
        }
        let part = |values: &[f64]| {
            let mut sums = [0.0; 256];
            for (bits, sum) in sums.iter_mut().enumerate() {
                *sum = (values.iter().enumerate())
                    .filter(|(bit, _)| bits >> bit & 1 == 1)
                    .map(|(_, value)| value)
                    .sum();
            }
            sums
        };
        Some(Self { parts: values.chunks(8).map(part).collect(), all })
    }

    /// The sum of `few` random values.
    #[inline]
    fn random(&self, few: u32, random: &mut fastrand::Rng) -> f64 {
        let mut bits = loop {
            let bits = random.u64(..) >> (64 - self.all);
            if bits.count_ones() == few {
                break bits;
            }
        };
        let mut sum = 0.0;
        for part in &self.parts {
            sum += part[bits as usize & 0xff];
            bits >>= 8;
        }
        sum
    }
}

/// A random index below `bound`, which is far below 2^32, so that the bias doesn't matter.
#[inline]
fn below(random: &mut fastrand::Rng, bound: usize) -> usize {
    ((u64::from(random.u32(..)) * bound as u64) >> 32) as usize
}

/// Mean and variance of some numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments {
    pub(crate) count: f64,
    pub(crate) mean: f64,
    pub(crate) variance: f64,
}

impl Moments {
    /// `None` of fewer than two, and of what isn't finite.
    pub(crate) fn new(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let variance = squares / (count - 1.0);
        // What rounding leaves of equal numbers is no variance.
        let variance = if variance.sqrt() <= 1e-12 * mean.abs() { 0.0 } else { variance };
        (values.len() >= 2 && variance.is_finite()).then_some(Self { count, mean, variance })
    }

    /// Of the mean.
    pub(crate) fn squared_error(&self) -> f64 {
        self.variance / self.count
    }
}

/// Standard error of the difference of two means, and its degrees of freedom by Welch and
/// Satterthwaite.
pub(crate) fn error(base: &Moments, new: &Moments) -> (f64, f64) {
    let (b, n) = (base.squared_error(), new.squared_error());
    let freedom = (b + n).powi(2) / (b * b / (base.count - 1.0) + n * n / (new.count - 1.0));
    let freedom = if freedom.is_finite() { freedom } else { base.count + new.count - 2.0 };
    ((b + n).sqrt(), freedom.max(1.0))
}

/// Probability of so large a difference by Student's t; without any error every difference is real.
pub(crate) fn two_sided(difference: f64, error: f64, freedom: f64) -> f64 {
    match (error, difference) {
        (0.0, 0.0) => 1.0,
        (0.0, _) => 0.0,
        _ => StudentsT::new(0.0, 1.0, freedom)
            .map_or(1.0, |t| (2.0 * t.sf((difference / error).abs())).clamp(0.0, 1.0)),
    }
}

/// The t that is exceeded with probability `tail`.
pub(crate) fn critical(tail: f64, freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom.max(1.0)).map_or(f64::INFINITY, |t| t.inverse_cdf(1.0 - tail))
}

/// The relative change that is found with probability [`POWER`], in a run that makes `comparisons`:
/// what can be said before a run. `between` and `within` are coefficients of variation, of boots and
/// of the samples within a boot; `samples` are those of a boot.
pub fn detectable(between: f64, within: f64, boots: u32, samples: u32, comparisons: usize) -> f64 {
    let one = between.powi(2) + within.powi(2) / f64::from(samples.max(1));
    seen(2.0 * one, boots, comparisons)
}

/// As [`detectable`], with the variances of one boot of either kernel added up.
fn seen(variance: f64, boots: u32, comparisons: usize) -> f64 {
    let freedom = f64::from(boots.max(2) - 1) * 2.0;
    detected((variance / f64::from(boots.max(1))).sqrt(), freedom, comparisons)
}

fn detected(error: f64, freedom: f64, comparisons: usize) -> f64 {
    if error == 0.0 {
        return 0.0;
    }
    // The noncentral t, by Johnson and Welch.
    let proven = critical(level(comparisons) / 2.0, freedom);
    let spread = (1.0 + proven * proven / (2.0 * freedom)).sqrt();
    let standard = proven * (1.0 - 0.25 / freedom) + Normal::standard().inverse_cdf(POWER) * spread;
    (standard * error).exp_m1()
}

/// The fewest boots of each kernel with which a change of `ratio` is found among `comparisons`, when
/// the relative variances of one boot of either kernel add up to `variance`. `None` when more than
/// [`MOST_BOOTS`] are.
pub fn boots_that_see(ratio: f64, variance: f64, comparisons: usize) -> Option<u32> {
    let enough = |boots: u32| {
        let few = boots as usize;
        2.0 / arrangements(few, few) <= level(comparisons)
            && seen(variance, boots, comparisons) <= ratio
    };
    let (mut low, mut high) = (2, MOST_BOOTS);
    if !enough(high) {
        return None;
    }
    // `low` is too few, `high` is enough.
    while low + 1 < high {
        let middle = low.midpoint(high);
        if enough(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// A relative change between two kernels, measured in boots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Of the mean over boots, relative to the baseline: 0.03 is 3 % more.
    pub ratio: f64,
    /// Where it is with a confidence of 95 %.
    pub interval: (f64, f64),
    /// Whether it is chance.
    pub test: Test,
    /// The change that these boots find with probability [`POWER`] beside the run's other
    /// comparisons.
    pub detectable: f64,
    /// Relative variances of one boot of either kernel, added up.
    pub variance: f64,
}

/// What boots of two kernels measured of one metric, and how it is to be compared.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Samples of each boot of the baseline.
    pub baseline: Vec<Vec<f64>>,
    /// Samples of each boot of the candidate.
    pub candidate: Vec<Vec<f64>>,
    /// The machine on which each boot of the baseline, and each of the candidate, ran: only boots of one
    /// machine are compared with each other. Empty when machines are alike.
    pub machines: [Vec<usize>; 2],
    /// What stands for a boot.
    pub statistic: Statistic,
    /// Which direction is an improvement.
    pub better: Better,
    /// Seed of the resampling.
    pub seed: u64,
}

/// The change of each metric, `None` where a side has fewer than two boots, a boot has no samples, or
/// a mean isn't positive, so that nothing can be related to it. The same whatever the number of
/// threads.
pub fn changes(metrics: &[Metric], comparisons: usize) -> Vec<Option<Change>> {
    metrics.par_iter().map(|metric| change(metric, comparisons)).collect()
}

fn change(metric: &Metric, comparisons: usize) -> Option<Change> {
    let side = |boots: &[Vec<f64>]| -> Option<Vec<Boot>> {
        boots.iter().map(|samples| Boot::new(samples, metric.statistic, metric.better)).collect()
    };
    let boots = [side(&metric.baseline)?, side(&metric.candidate)?];
    let Within { boots: [base_boots, new_boots], pools, lost } = within(boots, &metric.machines)?;
    let (base_values, new_values) = (values(&base_boots), values(&new_boots));
    let (base, new) = (Moments::new(&base_values)?, Moments::new(&new_values)?);
    let log = (new.mean / base.mean).ln();
    if base.mean <= 0.0 || new.mean <= 0.0 || !log.is_finite() {
        return None;
    }
    // Boots that are set against the centre of their machine scatter less than they do by themselves.
    let all = base.count + new.count - 2.0;
    let wider = all / (all - lost);
    let moments = |side: &Moments, scale: f64| Moments {
        mean: side.mean / scale,
        variance: wider * side.variance / (scale * scale),
        ..*side
    };
    let of = |base: &Moments, new: &Moments| {
        let (error, freedom) = error(base, new);
        (error, (freedom / wider).max(1.0))
    };
    let (absolute, student_freedom) = of(&moments(&base, 1.0), &moments(&new, 1.0));
    let student = two_sided(new.mean - base.mean, absolute, student_freedom);
    let relative = [moments(&base, base.mean), moments(&new, new.mean)];
    let (error, freedom) = of(&relative[0], &relative[1]);
    let draws = [(&base_boots, &base), (&new_boots, &new)];
    let draws = draws.map(|(boots, moments)| Draws::new(boots, moments, wider));
    let (low, high) = bootstrap(&draws, log, freedom, metric.seed);
    let machines: Vec<(&[f64], &[f64])> = pools.iter().map(|(b, n)| (&**b, &**n)).collect();
    Some(Change {
        ratio: new.mean / base.mean - 1.0,
        interval: (low.exp_m1(), high.exp_m1()),
        test: arranged(&machines, student, comparisons, metric.seed),
        detectable: detected(error, freedom, comparisons),
        variance: relative[0].variance + relative[1].variance,
    })
}

fn values(boots: &[Boot]) -> Vec<f64> {
    boots.iter().map(|boot| boot.value).collect()
}

/// The boots of two kernels, such that machines make no difference.
struct Within {
    /// Those of each kernel.
    boots: [Vec<Boot>; 2],
    /// What stands for them, by machine, in shares of its mean over all boots: which kernel they are of
    /// does not change these.
    pools: Vec<(Vec<f64>, Vec<f64>)>,
    /// Degrees of freedom that it took.
    lost: f64,
}

/// Sets boots against the centre of their machine, the geometric mean of both kernels' means, so that
/// kernels count alike however many boots each has there. Boots of a machine that has none of the other
/// kernel are left out. `None` where too few are left, or a machine's mean isn't positive.
fn within(boots: [Vec<Boot>; 2], machines: &[Vec<usize>; 2]) -> Option<Within> {
    let [mut base, mut new] = boots;
    if machines.iter().all(Vec::is_empty) {
        let pools = vec![(values(&base), values(&new))];
        return Some(Within { boots: [base, new], pools, lost: 0.0 });
    }
    let mut on: BTreeMap<usize, [Vec<Boot>; 2]> = BTreeMap::new();
    for (at, side) in [&mut base, &mut new].into_iter().enumerate() {
        for (boot, machine) in side.drain(..).zip(&machines[at]) {
            on.entry(*machine).or_default()[at].push(boot);
        }
    }
    on.retain(|_, [base, new]| !base.is_empty() && !new.is_empty());
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mut pools, mut centres) = (Vec::new(), Vec::new());
    for [base, new] in on.values() {
        let (base, new) = (values(base), values(new));
        let centre = (mean(&base) * mean(&new)).sqrt();
        let all = mean(&[&*base, &*new].concat());
        if !(centre > 0.0 && all > 0.0 && centre.is_finite()) {
            return None;
        }
        centres.push(centre);
        let shares = |side: &[f64]| side.iter().map(|value| value / all).collect::<Vec<f64>>();
        pools.push((shares(&base), shares(&new)));
    }
    let boots: usize = pools.iter().map(|(base, new)| base.len() + new.len()).sum();
    // Each machine but one takes a degree of freedom.
    let lost = on.len().saturating_sub(1);
    if boots < lost + 3 {
        return None;
    }
    let common = mean(&centres);
    for ([base_on, new_on], centre) in on.into_values().zip(centres) {
        let share = |boot: Boot| boot.scaled(common / centre);
        base.extend(base_on.into_iter().map(share));
        new.extend(new_on.into_iter().map(share));
    }
    Some(Within { boots: [base, new], pools, lost: lost as f64 })
}

/// The 95 % interval of the logarithm of the change, by the hierarchical bootstrap.
///
/// Works on logarithms: twice as much and half as much are equally far, and no interval reaches a
/// change of -100 %.
fn bootstrap([base, new]: &[Draws; 2], log: f64, freedom: f64, seed: u64) -> (f64, f64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ratios: Vec<f64> =
        (0..RESAMPLES).map(|_| new.mean(&mut random) / base.mean(&mut random)).collect();
    // A bootstrap of few boots has the tails of a normal distribution; the truth has Student's.
    let widen = critical(SIGNIFICANCE / 2.0, freedom) / 1.959_963_985;
    let mut at = |share: f64| {
        let rank = ((RESAMPLES - 1) as f64 * share).round() as usize;
        let (_, ratio, _) = ratios.select_nth_unstable_by(rank, f64::total_cmp);
        ratio.ln() - log
    };
    let (low, high) = (at(SIGNIFICANCE / 2.0), at(1.0 - SIGNIFICANCE / 2.0));
    // Reflected, because the resampled means err from the measured one as that errs from the truth.
    (log - widen * high.max(0.0), log - widen * low.min(0.0))
}

/// Bits of 32 that decide on the boot: those that a level leaves.
const BOOT_BITS: u32 = 32 - LEVELS.ilog2();

/// What the boots of one kernel could have measured.
struct Draws {
    /// [`LEVELS`] values of each boot.
    values: Vec<f64>,
    boots: usize,
    centre: f64,
    /// Undoes that resampled means of n boots vary less than real ones by (n-1)/n.
    wider: f64,
}

impl Draws {
    /// `more` is what the variance of boots is larger by than that of their numbers.
    fn new(boots: &[Boot], moments: &Moments, more: f64) -> Self {
        Self {
            values: boots.iter().flat_map(|boot| boot.draws).collect(),
            boots: boots.len(),
            centre: moments.mean,
            wider: (more * moments.count / (moments.count - 1.0)).sqrt(),
        }
    }

    /// The mean over as many boots as there are, drawn with replacement. Stays positive.
    #[inline]
    fn mean(&self, random: &mut fastrand::Rng) -> f64 {
        let mut sum = 0.0;
        let mut dice = 0;
        for draw in 0..self.boots {
            // Two draws of 32 bits: a level, and of what is left a boot.
            dice = if draw % 2 == 0 { random.u64(..) } else { dice >> 32 };
            let level = dice as usize & (LEVELS - 1);
            let boot = (((dice & 0xffff_ffff) / LEVELS as u64) * self.boots as u64) >> BOOT_BITS;
            sum += self.values[boot as usize * LEVELS + level];
        }
        let wider = (sum / self.boots as f64 - self.centre) * self.wider;
        (self.centre + wider).max(self.centre / 100.0)
    }
}

/// Values that stand for equal shares of the standard normal distribution.
pub(crate) fn normal_scores() -> [f64; LEVELS] {
    let normal = Normal::standard();
    std::array::from_fn(|i| normal.inverse_cdf((i as f64 + 0.5) / LEVELS as f64))
}

/// Holm's adjustment: with those at most [`SIGNIFICANCE`] taken for real, at most that share of runs
/// takes any that is chance for real.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let all = p.len();
    let mut worst = 0.0_f64;
    adjust(p, ascending(p), |rank, p| {
        worst = worst.max(p * (all - rank) as f64).min(1.0);
        worst
    })
}

/// The adjustment of Benjamini and Hochberg: with those at most [`SIGNIFICANCE`] taken for real, on
/// average at most that share of them is chance.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let all = p.len();
    let mut best = 1.0_f64;
    let mut order = ascending(p);
    order.reverse();
    adjust(p, order, |rank, p| {
        best = best.min(p * all as f64 / (all - rank) as f64);
        best
    })
}

fn ascending(p: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    order
}

fn adjust(p: &[f64], order: Vec<usize>, mut by: impl FnMut(usize, f64) -> f64) -> Vec<f64> {
    let adjusted: BTreeMap<usize, f64> =
        order.into_iter().enumerate().map(|(rank, i)| (i, by(rank, p[i]))).collect();
    adjusted.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjustments() {
        let p = [0.01, 0.04, 0.03, 0.005];
        let round =
            |all: Vec<f64>| all.into_iter().map(|p| (1e6 * p).round() / 1e6).collect::<Vec<_>>();
        assert_eq!(round(holm(&p)), [0.03, 0.06, 0.06, 0.02]);
        assert_eq!(round(benjamini_hochberg(&p)), [0.02, 0.04, 0.04, 0.02]);
        assert_eq!((holm(&[]), benjamini_hochberg(&[])), (vec![], vec![]));
    }

    #[test]
    fn permutations() {
        // 20 arrangements, two of which are as extreme; 70 of which four are.
        let exact = |base: &[f64], new: &[f64]| exact_permutation(&[Pool::new(base, new)]);
        assert!((exact(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]) - 0.1).abs() < 1e-12);
        assert!((exact(&[1.0, 2.0, 3.0, 5.0], &[4.0, 6.0, 7.0, 8.0]) - 4.0 / 70.0).abs() < 1e-12);
        assert!((exact(&[1.0, 1.0], &[1.0, 1.0, 1.0]) - 1.0).abs() < 1e-12);
        // Within two machines of 2 and 2, and of 2 and 1 boots: 6 times 3, one as extreme, and the other way
        // round only the first machine's.
        let uneven = [Pool::new(&[1.0, 2.0], &[3.0, 4.0]), Pool::new(&[5.0, 6.0], &[9.0])];
        assert!((exact_permutation(&uneven) - 1.0 / 18.0).abs() < 1e-12);
        assert_eq!(arrangements(8, 8).round(), 12_870.0);
        let (base, new): (Vec<f64>, Vec<f64>) =
            ((0..8).map(f64::from).collect(), (0..8).map(|i| f64::from(i) + 2.5).collect());
        let both = |machines: &[(&[f64], &[f64])]| {
            let pools =
                || machines.iter().map(|(base, new)| Pool::new(base, new)).collect::<Vec<_>>();
            (exact_permutation(&pools()), random_permutation(pools(), 1, 1))
        };
        for machines in
            [vec![(&base[..], &new[..])], vec![(&base[..3], &new[..3]), (&base[3..], &new[4..])]]
        {
            let (exact, random) = both(&machines);
            assert!((exact - random).abs() < 0.01, "{exact} {random}");
        }
    }

    #[test]
    fn what_can_be_seen() {
        let three = |boots, comparisons| detectable(0.03, 0.0, boots, 1, comparisons);
        assert!(three(8, 1) < three(4, 1) && three(8, 1) < three(8, 10));
        let boots = boots_that_see(0.03, 2.0 * 0.03 * 0.03, 10).unwrap();
        assert!(three(boots, 10) <= 0.03 && three(boots - 1, 10) > 0.03, "{boots}");
        // However quiet, so many comparisons need arrangements.
        assert_eq!(
            (boots_that_see(0.03, 0.0, 1), boots_that_see(0.03, 0.0, 40)),
            (Some(4), Some(7))
        );
        assert_eq!(boots_that_see(0.0001, 1.0, 1), None);
    }
}
