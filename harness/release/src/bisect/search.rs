//! Halving what the first bad point can be, around points that can't be judged.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Graph;

/// What a point came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The failure is not there.
    Good,
    /// It is.
    Bad,
    /// It can't be told.
    Skip,
}

/// How a search ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The first bad point.
    Culprit(usize),
    /// The first bad point is one of these, in order: no point that can be judged tells them apart.
    Range(Vec<usize>),
}

/// A search for the first bad point: the one from which the failure came to all points after it.
///
/// A good answer clears the point and all that it came from; a bad one says that the first bad point is
/// among these. Whatever is answered, the search ends, and there always is a candidate left.
#[derive(Clone, Debug)]
pub struct Search {
    graph: Arc<Graph>,
    /// Can be the first bad point.
    candidates: Vec<bool>,
    skipped: Vec<bool>,
    /// Not to be asked again.
    answered: Vec<bool>,
    /// Answered, and believed.
    good: Vec<usize>,
    /// The last bad answer that narrowed the search.
    bad: usize,
}

impl Search {
    /// The last point is bad; `good`, and with it all that it came from, is not. `None` when that leaves
    /// no point that can be the first bad one.
    #[must_use]
    pub fn new(graph: Graph, good: usize) -> Option<Self> {
        let bad = graph.len().checked_sub(1)?;
        let (skipped, answered) = (vec![false; graph.len()], vec![false; graph.len()]);
        let candidates = graph.ancestry(bad);
        let good = vec![good];
        let mut search = Self { candidates, skipped, answered, good, bad, graph: Arc::new(graph) };
        search.clear_good();
        search.candidates[bad].then_some(search)
    }

    /// Takes an answer in; of a point that was not asked for as well. True when it contradicts earlier
    /// ones. A bad answer is a failure that was seen, a good one only that none was: so a bad one refutes
    /// the good ones of all points that came from it.
    pub fn answer(&mut self, point: usize, answer: Answer) -> bool {
        self.answered[point] = true;
        let ancestry = self.graph.ancestry(point);
        let left = |keep: bool| {
            let both = self.candidates.iter().zip(&ancestry);
            both.map(|(&is, &before)| is && before == keep).collect::<Vec<_>>()
        };
        match answer {
            Answer::Skip => self.skipped[point] = true,
            Answer::Good => {
                let left = left(false);
                if !left.contains(&true) {
                    return true;
                }
                self.candidates = left;
                self.good.push(point);
            }
            Answer::Bad => {
                let left = left(true);
                if left.contains(&true) {
                    // Otherwise a later one than is known already.
                    if left != self.candidates {
                        self.candidates = left;
                        self.bad = point;
                    }
                    return false;
                }
                let before = self.good.len();
                let graph = &self.graph;
                self.good.retain(|&good| !graph.ancestry(good)[point]);
                // Otherwise it is another failure's first point, on a side line.
                if self.good.len() < before {
                    self.candidates = ancestry;
                    self.bad = point;
                    self.clear_good();
                }
                return true;
            }
        }
        false
    }

    fn clear_good(&mut self) {
        for &good in &self.good {
            for (is, cleared) in self.candidates.iter_mut().zip(self.graph.ancestry(good)) {
                *is &= !cleared;
            }
        }
    }

    /// The points that can be the first bad one, in order.
    pub fn candidates(&self) -> impl Iterator<Item = usize> {
        (0..self.graph.len()).filter(|&point| self.candidates[point])
    }

    /// The last point that was good and that the first bad one may have come from.
    #[must_use]
    pub fn last_good(&self) -> Option<usize> {
        let before = self.graph.ancestry(self.bad);
        self.good.iter().copied().filter(|&good| before[good]).max()
    }

    /// The first point that is known to be bad.
    #[must_use]
    pub fn first_bad(&self) -> usize {
        self.bad
    }

    /// The good points on which the end rests: if they are good, no point before the candidates is the
    /// first bad one.
    #[must_use]
    pub fn support(&self) -> Vec<usize> {
        let mut support: Vec<usize> = Vec::new();
        let parents = self.candidates().flat_map(|point| self.graph.parents(point));
        for &parent in parents.filter(|&&parent| !self.candidates[parent]) {
            let clears = |&&good: &&usize| self.graph.ancestry(good)[parent];
            // The parent itself, where it was asked.
            let mut clearing = self.good.iter().filter(clears);
            if let Some(&good) = clearing.clone().find(|&&good| good == parent).or(clearing.next())
                && !support.contains(&good)
            {
                support.push(good);
            }
        }
        support
    }

    /// What to ask next: the point whose answer is worth most. `None` at the end.
    ///
    /// Worth is the information of an answer, times the chance to get one. Without skipped points that is
    /// the middle. A skipped point is rarely alone: a broken build stays broken until it is mended. That a
    /// point `d` away from the nearest can be judged is believed with `d / (span + d)`, where `span` is how
    /// far apart the skipped ones are. That is Pareto's law for the length of such stretches, which has no
    /// scale: each skip in a row goes further than the last one.
    #[must_use]
    pub fn next(&self) -> Option<usize> {
        let reach = self.graph.reach(&self.candidates);
        let skipped: Vec<bool> = self
            .candidates
            .iter()
            .zip(&self.skipped)
            .map(|(&is, &skipped)| is && skipped)
            .collect();
        let Some(span) = span(&reach, &skipped) else { return self.best(&reach, |_| 1.0) };
        let distance = self.graph.distance(&skipped, &self.candidates);
        let judged = |point: usize| distance[point] as f64 / (span + distance[point] as f64);
        // On a side line there may be what tells skipped ones apart.
        self.best(&reach, judged)
            .or_else(|| self.best(&self.graph.descent(&self.candidates), |_| 1.0))
    }

    /// Of the points that can be asked and that some candidates came before and some did not, as `reach`
    /// counts them, the first of those whose answers are worth most.
    fn best(&self, reach: &[usize], judged: impl Fn(usize) -> f64) -> Option<usize> {
        let all = self.candidates.iter().filter(|&&is| is).count();
        let worth = |point: usize| {
            let p = reach[point] as f64 / all as f64;
            -(p * p.log2() + (1.0 - p) * (1.0 - p).log2()) * judged(point)
        };
        let open = |&point: &usize| !self.answered[point] && (1..all).contains(&reach[point]);
        let worths = (0..reach.len()).filter(open).map(|point| (worth(point), point));
        worths.reduce(|best, one| if one.0 > best.0 { one } else { best }).map(|(_, point)| point)
    }

    /// At most `n` points to ask at once: the next one, then those that its answers would lead to.
    #[must_use]
    pub fn next_batch(&self, n: usize) -> Vec<usize> {
        let mut batch = Vec::new();
        let mut open = VecDeque::from([self.clone()]);
        while batch.len() < n {
            let Some(search) = open.pop_front() else { break };
            let Some(point) = search.next() else { continue };
            if !batch.contains(&point) {
                batch.push(point);
            }
            for answer in [Answer::Good, Answer::Bad] {
                let mut after = search.clone();
                after.answer(point, answer);
                open.push_back(after);
            }
        }
        batch
    }

    /// About so many answers are still needed.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.candidates().count().next_power_of_two().ilog2()
    }

    /// How it ended; `None` while there is something to ask.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        if self.next().is_some() {
            return None;
        }
        let left: Vec<usize> = self.candidates().collect();
        Some(match *left.as_slice() {
            [point] => Ending::Culprit(point),
            _ => Ending::Range(left),
        })
    }
}

/// How far apart the skipped points are, by what they came from.
fn span(reach: &[usize], skipped: &[bool]) -> Option<f64> {
    let reached =
        || reach.iter().zip(skipped).filter(|(_, skipped)| **skipped).map(|(reach, _)| reach);
    Some((reached().max()? - reached().min()? + 1) as f64)
}
