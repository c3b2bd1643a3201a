//! The statistics of exact mode: counts of instructions in clones of templates.

use crate::stats::{Moments, critical, error, two_sided};

/// Fewest templates of each kernel on which anything is decided: clones of one boot can't tell what
/// differs between boots.
pub const MIN_TEMPLATES: usize = 2;

/// Between what the noise is that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// Between clones, each taken for itself.
    Clones,
    /// Between the means of templates, which differ more than their clones explain.
    Templates,
    /// Between the means of templates as in the run's other metrics, see [`pool`].
    Run,
}

impl Noise {
    /// The word used in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clones => "clones",
            Self::Templates => "templates",
            Self::Run => "templates of the run",
        }
    }
}

/// A relative change of a count of instructions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exact {
    /// Relative to the baseline: 0.003 is 0.3 % more.
    pub ratio: f64,
    /// The largest of the standard errors: over clones, over templates, and what the run's other
    /// metrics say of templates. Relative to the baseline.
    pub error: f64,
    /// Which of them it is.
    pub noise: Noise,
    /// Its degrees of freedom, by Welch and Satterthwaite.
    pub freedom: f64,
    /// The change in standard errors; infinite where every clone of a kernel gave the same.
    pub t: f64,
    /// Standard error by the scatter of clones around their templates alone, relative.
    within: f64,
    /// Standard error by the scatter of the templates' means alone, relative, and its degrees of
    /// freedom.
    between: (f64, f64),
}

impl Exact {
    /// Where the change is with a confidence of 95 %, by Student's t.
    pub fn interval(&self) -> (f64, f64) {
        let half = if self.error == 0.0 { 0.0 } else { critical(0.025, self.freedom) * self.error };
        (self.ratio - half, self.ratio + half)
    }

    /// Probability of such a change between equal kernels, by Student's t.
    pub fn p(&self) -> f64 {
        two_sided(self.ratio, self.error, self.freedom)
    }
}

/// Compares two kernels, each a list of templates with a number for each of their clones. `None` with
/// fewer than [`MIN_TEMPLATES`] on a side, or when the baseline isn't positive.
pub fn compare(baseline: &[Vec<f64>], candidate: &[Vec<f64>]) -> Option<Exact> {
    let few = |side: &[Vec<f64>]| side.len() < MIN_TEMPLATES || side.iter().any(Vec::is_empty);
    if few(baseline) || few(candidate) {
        return None;
    }
    let means = |side: &[Vec<f64>]| -> Vec<f64> {
        side.iter().map(|clones| clones.iter().sum::<f64>() / clones.len() as f64).collect()
    };
    let centred = |side: &[Vec<f64>]| -> Option<f64> {
        // Of the mean, by clones around their templates.
        let squares: f64 = (side.iter())
            .filter_map(|clones| Some((clones.len() - 1) as f64 * Moments::new(clones)?.variance))
            .sum();
        let clones: usize = side.iter().map(Vec::len).sum();
        let freedom = clones - side.len();
        (freedom > 0).then(|| squares / freedom as f64 / clones as f64)
    };
    let within = (centred(baseline).unwrap_or(0.0) + centred(candidate).unwrap_or(0.0)).sqrt();
    let templates = (Moments::new(&means(baseline))?, Moments::new(&means(candidate))?);
    let clones = (Moments::new(&baseline.concat())?, Moments::new(&candidate.concat())?);
    let (by_template, by_clone) = (error(&templates.0, &templates.1), error(&clones.0, &clones.1));
    let noise = if by_template.0 > by_clone.0 { Noise::Templates } else { Noise::Clones };
    let (error, freedom) = if noise == Noise::Templates { by_template } else { by_clone };
    let base = templates.0.mean;
    let difference = templates.1.mean - base;
    // What rounding leaves of equal numbers is no difference.
    let difference = if difference.abs() <= 1e-12 * base.abs() { 0.0 } else { difference };
    let t = match (difference, error) {
        (0.0, _) => 0.0,
        (_, 0.0) => f64::INFINITY.copysign(difference),
        _ => difference / error,
    };
    (base > 0.0).then_some(Exact {
        ratio: difference / base,
        error: error / base,
        noise,
        freedom,
        t,
        within: within / base,
        between: (by_template.0 / base, by_template.1),
    })
}

/// Raises errors to what a run's metrics say together of templates.
///
/// Two templates of a kernel tell little of how much templates differ: their error has two degrees of
/// freedom and is often far too small by luck. Forty metrics of the same templates tell much. So the
/// median over metrics of how much the templates' means scatter beyond what clones explain holds for
/// every metric, as the least.
pub fn pool(metrics: &mut [&mut Exact]) {
    /// Median of the F distribution with 2 and 16 degrees of freedom: that of two templates of five
    /// clones in each kernel that differ by their clones alone.
    const USUAL: f64 = 0.724;
    let mut ratios: Vec<f64> = (metrics.iter())
        .filter(|m| m.within > 0.0 || m.between.0 > 0.0)
        .map(|m| (m.between.0 / m.within).powi(2))
        .collect();
    ratios.sort_by(f64::total_cmp);
    let Some(&median) = ratios.get(ratios.len() / 2) else { return };
    let beyond = (median / USUAL).sqrt();
    let freedom: f64 = metrics.iter().map(|m| m.between.1).sum();
    for metric in metrics {
        let error = beyond * metric.within;
        if beyond > 1.0 && error.is_finite() && error > metric.error {
            metric.t *= metric.error / error;
            metric.error = error;
            metric.noise = Noise::Run;
            metric.freedom = freedom;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_that_are_all_the_same() {
        let base = vec![vec![1000.0; 5]; 2];
        let same = compare(&base, &base).unwrap();
        assert_eq!((same.ratio, same.t, same.p(), same.interval()), (0.0, 0.0, 1.0, (0.0, 0.0)));
        let one_more = compare(&base, &vec![vec![1001.0; 5]; 2]).unwrap();
        assert_eq!((one_more.t, one_more.p()), (f64::INFINITY, 0.0));
        assert!((one_more.ratio - 0.001).abs() < 1e-12);
        assert_eq!(compare(&base, &vec![vec![999.0; 5]; 2]).unwrap().t, f64::NEG_INFINITY);
    }

    #[test]
    fn templates_that_differ_as_much_as_the_kernels_prevent_a_claim() {
        // Every clone repeats its template to the instruction.
        let base = [vec![1000.0; 5], vec![1004.0; 5]];
        let new = [vec![1004.0; 5], vec![1008.0; 5]];
        let found = compare(&base, &new).unwrap();
        assert_eq!(found.noise, Noise::Templates);
        assert!((found.freedom - 2.0).abs() < 1e-9 && found.t.abs() < 2.0, "{found:?}");
    }

    #[test]
    fn one_template_is_not_enough() {
        assert_eq!(compare(&[vec![1.0; 5]], &[vec![2.0; 5]]), None);
        assert_eq!(compare(&[vec![1.0], vec![]], &[vec![2.0], vec![2.0]]), None);
        assert_eq!(compare(&[vec![0.0], vec![0.0]], &[vec![2.0], vec![2.0]]), None);
    }
}
