//! How much the boots of one kernel scatter, as a run measured it: what a later run will be able to
//! see follows from that.

use std::collections::BTreeMap;

use kgate_model::journal::RunRecord;
use kgate_scenario::Selected;

use crate::boot::Boot;
use crate::metric::measured;
use crate::stats::{Metric, Moments};

/// How much one metric scatters between boots of equal kernels, and within a boot.
#[derive(Clone, Debug, PartialEq)]
pub struct Scatter {
    /// The scenario's id.
    pub scenario: String,
    /// The metric as reports name it, such as `getppid p99`.
    pub metric: String,
    /// Coefficient of variation between boots, without what their samples explain.
    pub between: f64,
    /// That of a boot's number with one sample, such that `within² / samples` is what the samples
    /// of a boot leave uncertain.
    pub within: f64,
    /// Samples of a boot.
    pub samples: u32,
}

/// The scatter of every metric of which both kernels, or one, have two boots or more. Kernels may
/// differ: only boots of one are compared with each other.
pub fn scatter(record: &RunRecord, selected: &[Selected]) -> Vec<Scatter> {
    (measured(record, selected).into_iter())
        .filter_map(|(scenario, metric, numbers)| {
            let (between, within, samples) = of_metric(&numbers)?;
            Some(Scatter { scenario, metric, between, within, samples })
        })
        .collect()
}

fn of_metric(metric: &Metric) -> Option<(f64, f64, u32)> {
    let mut all = Parts::default();
    for (side, machines) in [&metric.baseline, &metric.candidate].into_iter().zip(&metric.machines)
    {
        let mut on: BTreeMap<usize, Vec<Boot>> = BTreeMap::new();
        for (at, samples) in side.iter().enumerate() {
            let boot = Boot::new(samples, metric.statistic, metric.better)?;
            on.entry(machines.get(at).copied().unwrap_or_default()).or_default().push(boot);
        }
        on.values().for_each(|boots| all.add(boots));
    }
    let boots = metric.baseline.iter().chain(&metric.candidate);
    let (count, samples) =
        boots.fold((0.0, 0.0), |(count, all), samples| (count + 1.0, all + samples.len() as f64));
    let samples = (samples / count).round();
    (all.freedom > 0.0 && samples >= 1.0).then(|| {
        let (boot, sampled) = (all.boot / all.freedom, all.sampled / all.freedom);
        let between = (boot - sampled).max(0.0).sqrt();
        (between, (sampled * samples).sqrt(), samples as u32)
    })
}

/// Relative variances, each as often as it has degrees of freedom.
#[derive(Default)]
struct Parts {
    freedom: f64,
    /// Of the numbers of boots.
    boot: f64,
    /// Of what a boot's number could have been, had the boot drawn other samples.
    sampled: f64,
}

impl Parts {
    fn add(&mut self, boots: &[Boot]) {
        let values: Vec<f64> = boots.iter().map(|boot| boot.value).collect();
        let Some(moments) = Moments::new(&values).filter(|moments| moments.mean > 0.0) else {
            return;
        };
        let (freedom, square) = (moments.count - 1.0, moments.mean.powi(2));
        let drawn = |boot: &Boot| Moments::new(&boot.draws).map_or(0.0, |draws| draws.variance);
        let drawn = boots.iter().map(drawn).sum::<f64>() / moments.count;
        self.freedom += freedom;
        self.boot += freedom * moments.variance / square;
        self.sampled += freedom * drawn / square;
    }
}

#[cfg(test)]
mod tests {
    use kgate_model::sample::Better;

    use super::*;
    use crate::boot::Statistic;

    fn normal(random: &mut fastrand::Rng) -> f64 {
        let (radius, angle) = (1.0 - random.f64(), random.f64() * std::f64::consts::TAU);
        (-2.0 * radius.ln()).sqrt() * angle.cos()
    }

    /// Boots around 50, of the candidate around 80.
    fn boots(
        between: f64,
        within: f64,
        count: usize,
        samples: usize,
        statistic: Statistic,
    ) -> Metric {
        let mut random = fastrand::Rng::with_seed(7);
        let mut side = |mean: f64| -> Vec<Vec<f64>> {
            let mut boot = || {
                let boot = mean * (1.0 + between * normal(&mut random));
                (0..samples).map(|_| boot * (1.0 + within * normal(&mut random))).collect()
            };
            (0..count).map(|_| boot()).collect()
        };
        let (baseline, candidate) = (side(50.0), side(80.0));
        let machines = Default::default();
        Metric { baseline, candidate, machines, statistic, better: Better::Lower, seed: 0 }
    }

    #[test]
    fn both_parts_are_found_whatever_the_kernels_differ() {
        for (between, within) in [(0.03, 0.1), (0.0, 0.05), (0.1, 0.001)] {
            let found = of_metric(&boots(between, within, 400, 25, Statistic::Mean)).unwrap();
            assert!((found.0 - between).abs() <= 0.1 * between.max(within), "{found:?}");
            assert!((found.1 - within).abs() <= 0.1 * within, "{found:?}");
            assert_eq!(found.2, 25);
        }
    }

    #[test]
    fn of_deciles_what_samples_explain_is_taken_out_as_well() {
        let (between, within, samples) =
            of_metric(&boots(0.02, 0.05, 300, 40, Statistic::BestDecile)).unwrap();
        assert!((between - 0.02).abs() < 0.003, "{between}");
        // A decile is known worse than a mean.
        assert!((0.05..0.12).contains(&within), "{within}");
        assert_eq!(samples, 40);
    }

    #[test]
    fn machines_that_differ_are_no_scatter() {
        let mut metric = boots(0.03, 0.01, 400, 25, Statistic::Mean);
        let alike = of_metric(&metric).unwrap();
        metric.machines = [0, 1].map(|_| (0..400).map(|boot| boot % 2).collect());
        for side in [&mut metric.baseline, &mut metric.candidate] {
            side.iter_mut().step_by(2).flatten().for_each(|sample| *sample *= 3.0);
        }
        let found = of_metric(&metric).unwrap();
        assert!((found.0 - alike.0).abs() < 0.001, "{found:?} {alike:?}");
    }

    #[test]
    fn of_single_boots_and_of_nothing_nothing_is_known() {
        assert_eq!(of_metric(&boots(0.1, 0.1, 1, 9, Statistic::Mean)), None);
        assert_eq!(of_metric(&boots(0.1, 0.1, 0, 9, Statistic::Mean)), None);
        assert_eq!(of_metric(&boots(0.1, 0.1, 3, 0, Statistic::Mean)), None);
        let zero =
            Metric { baseline: vec![vec![0.0; 3]; 3], ..boots(0.0, 0.0, 3, 3, Statistic::Mean) };
        assert_eq!(of_metric(&zero), Some((0.0, 0.0, 3)));
    }
}
