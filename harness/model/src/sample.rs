//! Measured numbers: a sample, its unit, its direction.

use serde::{Deserialize, Serialize};

/// Which direction of a metric is an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// A larger number: throughput.
    Higher,
    /// A smaller number: latency, memory.
    Lower,
}

/// All samples of one metric in one trial, in the order in which they were measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// Metric's name, unique within its scenario.
    pub metric: String,
    /// Unit of the values, such as `ns` or `1/s`.
    pub unit: String,
    /// Which direction is an improvement.
    pub better: Better,
    /// The numbers. Finite: what isn't is the measuring program's error and never gets here.
    pub values: Vec<f64>,
}
