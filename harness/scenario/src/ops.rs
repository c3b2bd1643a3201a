//! The operations that a `measure` step can name: those of the in-guest program in `workloads/ops`.

/// One operation and the metric that it reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// Name of the operation and of its metric.
    pub name: &'static str,
    /// What one operation does.
    pub summary: &'static str,
}
