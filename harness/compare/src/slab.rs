//! Which slab caches of the kernel grew and shrank.

use std::collections::{BTreeMap, BTreeSet};

use kgate_model::journal::{BootRecord, RunRecord};
use kgate_model::outcome::Role;
use kgate_model::plan::Start;
use kgate_model::wire::KernelState;

use crate::metric::{self, Place};

/// A cache that moved by less is not told of, in bytes.
const LEAST: f64 = (64 << 10) as f64;
/// Caches told of for each moment.
const MOST: usize = 10;

/// The caches that moved most at one moment of a boot.
#[derive(Clone, Debug, PartialEq)]
pub struct SlabMoves {
    /// After boot or after load.
    pub place: Place,
    /// The largest move first.
    pub caches: Vec<Cache>,
}

/// The caches that moved most, after boot and after load, by image. They inform: what grows in total
/// is decided on by `Slab` of `/proc/meminfo`.
pub(crate) fn of(record: &RunRecord) -> Vec<SlabMoves> {
    let images: BTreeSet<String> = record.boots.iter().map(metric::image).collect();
    let mut all = Vec::new();
    for place in [|image| Place::AfterBoot { image }, |image| Place::AfterLoad { image }] {
        for image in &images {
            let place: Place = place(image.clone());
            // The machines of exact mode are others: they tell where there is nothing else.
            let exact = |b: &BootRecord| b.planned.start == Start::Exact;
            let here = || record.boots.iter().filter(|b| metric::image(b) == *image);
            let only = here().all(exact);
            let of = |role| -> Vec<&BTreeMap<String, u64>> {
                here()
                    .filter(|b| b.planned.role == role && exact(b) == only)
                    .filter_map(|boot| Some(&state(&place, boot)?.slab))
                    .filter(|slab| !slab.is_empty())
                    .collect()
            };
            let caches = moved(&of(Role::Baseline), &of(Role::Candidate), LEAST, MOST);
            if !caches.is_empty() {
                all.push(SlabMoves { place, caches });
            }
        }
    }
    all
}

/// What a boot said of its memory at that moment, where it can be compared.
pub(crate) fn state<'a>(place: &Place, boot: &'a BootRecord) -> Option<&'a KernelState> {
    match place {
        Place::AfterBoot { .. } => boot.after_boot.as_ref(),
        // A machine that was started again has not carried the whole load.
        _ => boot.after_load.as_ref().filter(|_| boot.attempts == 1 && boot.fault.is_none()),
    }
}

/// One cache in both kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Its name.
    pub name: String,
    /// Mean bytes over boots of the baseline; a boot without the cache counts as zero.
    pub baseline: f64,
    /// The same of the candidate.
    pub candidate: f64,
    /// Whether every boot of one kernel has more in it than any boot of the other.
    pub apart: bool,
}

impl Cache {
    /// Bytes that the candidate has more.
    pub fn difference(&self) -> f64 {
        self.candidate - self.baseline
    }
}

/// The `most` caches that moved most, the largest move first: those whose boots are apart, and by at
/// least `least` bytes. Each boot is a map from cache to bytes.
pub fn moved(
    baseline: &[&BTreeMap<String, u64>],
    candidate: &[&BTreeMap<String, u64>],
    least: f64,
    most: usize,
) -> Vec<Cache> {
    if baseline.is_empty() || candidate.is_empty() {
        return Vec::new();
    }
    let names: BTreeSet<&String> =
        baseline.iter().chain(candidate).flat_map(|b| b.keys()).collect();
    let mut caches: Vec<Cache> = names
        .into_iter()
        .map(|name| {
            let of = |boots: &[&BTreeMap<String, u64>]| -> Vec<u64> {
                boots.iter().map(|boot| boot.get(name).copied().unwrap_or(0)).collect()
            };
            let mean = |boots: &[u64]| {
                boots.iter().map(|&bytes| bytes as f64).sum::<f64>() / boots.len() as f64
            };
            let (base, new) = (of(baseline), of(candidate));
            let above = |a: &[u64], b: &[u64]| a.iter().min() > b.iter().max();
            Cache {
                name: name.clone(),
                baseline: mean(&base),
                candidate: mean(&new),
                apart: above(&base, &new) || above(&new, &base),
            }
        })
        .filter(|cache| cache.apart && cache.difference().abs() >= least)
        .collect();
    caches.sort_by(|a, b| b.difference().abs().total_cmp(&a.difference().abs()));
    caches.truncate(most);
    caches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_that_moved() {
        let boot = |dentry: u64, inode: u64, noise: u64| {
            let caches = [("dentry", dentry), ("inode_cache", inode), ("kmalloc-64", noise)];
            caches.into_iter().filter(|c| c.1 > 0).map(|(n, b)| (n.to_owned(), b)).collect()
        };
        let base: [BTreeMap<String, u64>; 2] = [boot(100_000, 0, 5000), boot(104_000, 0, 900_000)];
        let new = [boot(300_000, 50_000, 90_000), boot(310_000, 54_000, 5000)];
        let caches = moved(&base.each_ref(), &new.each_ref(), 1000.0, 10);
        let told: Vec<(&str, f64)> =
            caches.iter().map(|c| (c.name.as_str(), c.difference())).collect();
        assert_eq!(told, [("dentry", 203_000.0), ("inode_cache", 52_000.0)]);
        assert_eq!(moved(&base.each_ref(), &new.each_ref(), 60_000.0, 10).len(), 1);
        assert!(moved(&[], &new.each_ref(), 0.0, 10).is_empty());
    }
}
