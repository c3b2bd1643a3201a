//! Outcomes and samples of two kernels to comparisons and a verdict.
