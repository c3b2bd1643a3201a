//! Comparisons that are decided by one rule: what chance comes to over all of them together.

use crate::exact::Noise;
use crate::metric::{Comparison, Evidence};
use crate::stats::{Method, benjamini_hochberg, holm};

/// The comparisons of a run that were made by one rule, and what is known of all of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families {
    /// Comparisons of boots that gave a p-value, memory among them.
    pub boots: usize,
    /// Of these, by Welch's t, for want of boots.
    pub student: usize,
    /// Comparisons of counts of instructions.
    pub exact: usize,
    /// Of these, the ones where templates differ more than their clones explain.
    pub templates: usize,
}

impl Families {
    pub(crate) fn new(comparisons: &[Comparison]) -> Self {
        let mut families = Self::default();
        for comparison in comparisons {
            match comparison.evidence {
                Some(Evidence::Boots { method, .. }) => {
                    families.boots += 1;
                    families.student += usize::from(method == Method::Student);
                }
                Some(Evidence::Instructions { noise, .. }) => {
                    families.exact += 1;
                    families.templates += usize::from(noise != Noise::Clones);
                }
                None => {}
            }
        }
        families
    }

    /// What is promised of each family, in a sentence.
    pub fn statements(&self) -> Vec<String> {
        let mut told = Vec::new();
        if self.boots > 0 {
            let mut text = format!(
                "of {} comparisons of boots: equal kernels are rejected in at most 5 % of runs (Holm), \
                 at most 5 % of the changes shown are chance on average (Benjamini-Hochberg)",
                self.boots
            );
            if self.student > 0 {
                text += &format!(
                    "; {} of them have too few boots for a permutation test and assume that boots \
                     scatter about normally",
                    self.student
                );
            }
            told.push(text);
        }
        if self.exact > 0 {
            let mut text = format!(
                "of {} comparisons of instructions: in simulations chance called at most 4 of 1,000 better or \
                 worse, and rejected over at most 2 of 10,000",
                self.exact
            );
            if self.templates > 0 {
                text += &format!(
                    "; in {} templates differ more than their clones explain",
                    self.templates
                );
            }
            told.push(text);
        }
        told
    }
}

/// Sets the p-values of comparisons of boots beside each other.
pub(crate) fn adjust(comparisons: &mut [Comparison]) {
    let of_boots = |c: &Comparison| matches!(c.evidence, Some(Evidence::Boots { .. }));
    let p: Vec<f64> = (comparisons.iter()).filter(|c| of_boots(c)).filter_map(|c| c.p).collect();
    let mut adjusted = holm(&p).into_iter().zip(benjamini_hochberg(&p));
    for comparison in comparisons {
        if let Some(Evidence::Boots { family, discovery, .. }) = &mut comparison.evidence
            && let Some(both) = adjusted.next()
        {
            (*family, *discovery) = both;
        }
    }
}
