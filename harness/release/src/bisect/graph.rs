//! The points of a bisection, and which came from which.

/// Commits with their parents, or the releases of a line. Points are numbers from 0, parents before
/// their children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    parents: Vec<Vec<usize>>,
}

impl Graph {
    /// Points by their parents; `None` when a point has a parent that doesn't come before it.
    #[must_use]
    pub fn new(parents: Vec<Vec<usize>>) -> Option<Self> {
        let ordered = parents.iter().enumerate().all(|(at, of)| of.iter().all(|&p| p < at));
        ordered.then_some(Self { parents })
    }

    /// So many points, each from the one before.
    #[must_use]
    pub fn line(points: usize) -> Self {
        Self { parents: (0..points).map(|at| at.checked_sub(1).into_iter().collect()).collect() }
    }

    /// How many points there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parents.len()
    }

    /// Whether there is no point.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parents.is_empty()
    }

    /// What a point came from directly.
    #[must_use]
    pub fn parents(&self, point: usize) -> &[usize] {
        &self.parents[point]
    }

    /// For every point whether it is `of`, or `of` came from it.
    #[must_use]
    pub fn ancestry(&self, of: usize) -> Vec<bool> {
        let mut is = vec![false; self.len()];
        is[of] = true;
        for point in (0..=of).rev() {
            if is[point] {
                for &parent in &self.parents[point] {
                    is[parent] = true;
                }
            }
        }
        is
    }

    /// For every point of `among` how many of `among` it is or came from. With a point `among` has all
    /// that lies between it and another of `among`.
    pub(crate) fn reach(&self, among: &[bool]) -> Vec<usize> {
        let mut reach = vec![0; self.len()];
        // Of each point the last one that counted it.
        let mut counted = vec![usize::MAX; self.len()];
        let mut open = Vec::new();
        for point in (0..self.len()).filter(|&point| among[point]) {
            let parents = || self.parents[point].iter().copied().filter(|&parent| among[parent]);
            if parents().count() <= 1 {
                reach[point] = 1 + parents().map(|parent| reach[parent]).sum::<usize>();
                continue;
            }
            // What several parents have in common is counted once.
            open.push(point);
            counted[point] = point;
            while let Some(next) = open.pop() {
                reach[point] += 1;
                for &parent in &self.parents[next] {
                    if among[parent] && counted[parent] != point {
                        counted[parent] = point;
                        open.push(parent);
                    }
                }
            }
        }
        reach
    }

    /// For every point how many of `among` it is or came from, whatever lies between. Takes longer than
    /// [`Self::reach`] when `among` is many.
    pub(crate) fn descent(&self, among: &[bool]) -> Vec<usize> {
        let mut count = vec![0; self.len()];
        for first in (0..self.len()).filter(|&point| among[point]) {
            let mut after = vec![false; self.len()];
            after[first] = true;
            count[first] += 1;
            for point in first + 1..self.len() {
                after[point] = self.parents[point].iter().any(|&parent| after[parent]);
                count[point] += usize::from(after[point]);
            }
        }
        count
    }

    /// For every point the steps to the nearest of `from`, along lines of descent within `among`.
    pub(crate) fn distance(&self, from: &[bool], among: &[bool]) -> Vec<usize> {
        let far = self.len();
        let start = |point: usize| if from[point] { 0 } else { far };
        let mut distance: Vec<usize> = (0..self.len()).map(start).collect();
        let inside = |point: &usize| among[*point];
        for point in (0..self.len()).filter(inside) {
            for &parent in self.parents[point].iter().filter(|parent| inside(parent)) {
                distance[point] = distance[point].min(distance[parent] + 1);
            }
        }
        for point in (0..self.len()).rev().filter(inside) {
            for &parent in self.parents[point].iter().filter(|parent| inside(parent)) {
                distance[parent] = distance[parent].min(distance[point] + 1);
            }
        }
        distance
    }
}
