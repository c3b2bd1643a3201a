//! How many boots make an answer, when a failure may not show in each.

use serde::{Deserialize, Serialize};

/// Boots of the bad end to begin with.
const FIRST: u32 = 5;
/// Failures by which a rate is known well enough.
const ENOUGH: u32 = 5;
/// How many times as many boots are tried when there were too few failures, and how often that is done.
const MORE: u32 = 4;
const LOOKS: u32 = 3;
/// In so many searches a point that is asked may pass for good although it is bad: it costs a detour.
const DETOUR: f64 = 0.05;
/// More boots of one point are never asked for.
const MOST: u32 = 10_000;

/// In how many of its boots a bad point failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sightings {
    /// Boots that came to something.
    pub boots: u32,
    /// Boots with the failure.
    pub failed: u32,
}

impl Sightings {
    /// Boots of the bad end with which to begin.
    pub const FIRST: u32 = FIRST;

    /// With how many boots to try the bad end again, from the beginning, because it failed in some and
    /// in too few to tell the rate. `first` boots were tried at first.
    #[must_use]
    pub fn again(&self, first: u32) -> Option<u32> {
        let looks = if self.failed == 0 { 2 } else { LOOKS };
        let most = first.saturating_mul(MORE.pow(looks - 1));
        let enough = self.always() || self.failed >= ENOUGH || self.boots >= most;
        (!enough).then(|| self.boots.saturating_mul(MORE))
    }

    /// It failed in every boot.
    #[must_use]
    pub fn always(&self) -> bool {
        self.failed == self.boots
    }

    /// The least failing rate with which so many boots or more had failed with a probability of `level`:
    /// Clopper's and Pearson's lower bound.
    fn least_rate(&self, level: f64) -> f64 {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let rate = f64::midpoint(low, high);
            if self.at_least_as_many(rate) < level { low = rate } else { high = rate }
        }
        low
    }

    /// The probability of so many failures or more at a failing rate.
    fn at_least_as_many(&self, rate: f64) -> f64 {
        let n = f64::from(self.boots);
        let mut ways = 0.0;
        let mut sum = 0.0;
        for i in 0..=self.boots {
            let failed = f64::from(i);
            if i >= self.failed {
                sum += (ways + failed * rate.ln() + (n - failed) * (1.0 - rate).ln()).exp();
            }
            ways += ((n - failed) / (failed + 1.0)).ln();
        }
        sum
    }
}

/// Keeps the probability that a search ends at the wrong point within what is asked for.
///
/// A bad answer is never wrong: the failure was seen. A good one may be, and then all that is asked after
/// it is bad, so that the search ends right behind it. So it is enough that the good points right before
/// the end are [verified](Self::boots_to_verify): if they are good, the end is right, whatever else was
/// answered. If one fails there, it is a bad answer, and the search goes on.
///
/// For any failing rate *q* of bad points:
/// - That the bad end fails in all of *n* boots and a bad point in none of *k* has the probability
///   qⁿ(1−q)ᵏ, which is at most nⁿkᵏ/(n+k)ⁿ⁺ᵏ.
/// - That the bad end fails so often in *n* boots that the lower bound *b* of its rate is above *q* has at
///   most the probability for which *b* is made; otherwise a bad point fails in none of *k* with at most
///   (1−b)ᵏ.
///
/// A half of the risk is for either. Of the second a half goes to the bound, over all looks at the bad
/// end. What there is for clean boots is halved with each verification.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Certainty {
    end: Sightings,
    /// The same with what else was seen, by which nothing is decided but how long the way is.
    all: Sightings,
    risk: f64,
    verifications: u32,
}

impl Certainty {
    /// For a search that may end at the wrong point with a probability of 1 − `confidence`, by the boots
    /// of its bad end.
    #[must_use]
    pub fn new(confidence: f64, end: Sightings) -> Self {
        Self { end, all: end, risk: 1.0 - confidence, verifications: 0 }
    }

    /// Clean boots that make a good answer.
    #[must_use]
    pub fn boots(&self) -> u32 {
        if self.all.always() {
            return 1;
        }
        let rate = f64::from(self.all.failed.max(1)) / f64::from(self.all.boots);
        least(|k| (1.0 - rate).powi(k) <= DETOUR)
    }

    /// Clean boots that verify a good point right before the end; none for failures that are no matter
    /// of chance.
    #[must_use]
    pub fn boots_to_verify(&self) -> u32 {
        let share = self.risk / 4.0 / f64::from(self.verifications).exp2();
        if self.end.always() {
            let n = f64::from(self.end.boots);
            least(|k| {
                let k = f64::from(k);
                n * (n / (n + k)).ln() + k * (k / (n + k)).ln() <= share.ln()
            })
        } else {
            let rate = self.end.least_rate(self.risk / 4.0 / f64::from(LOOKS));
            least(|k| (1.0 - rate).powi(k) <= share / 2.0)
        }
    }

    /// A point was verified, or is about to be.
    pub fn verified(&mut self) {
        self.verifications += 1;
    }

    /// A bad point failed after so many clean boots.
    pub fn refuted(&mut self, clean: u32) {
        self.all.boots += clean + 1;
        self.all.failed += 1;
    }
}

/// The smallest number of boots that is enough.
fn least(enough: impl Fn(i32) -> bool) -> u32 {
    (1..MOST).find(|&boots| enough(boots.cast_signed())).unwrap_or(MOST)
}
