//! A made-up history of a kernel: commits with merges, one that brings a failure, some that don't build
//! and some that crash for another reason.

use std::fmt::Write as _;

/// Numbers that look random and follow from a seed.
#[derive(Clone, Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n.max(1) as u64).unwrap_or_default()
    }

    /// Something that happens with a probability of `percent` / 100.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// What becomes of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It builds, and passes or fails as it has the failure or not.
    Works,
    /// It doesn't build.
    Broken,
    /// It crashes before it is known whether it has the failure.
    Crashes,
}

/// Commits by number, parents before their children. The first is good, the last one bad.
#[derive(Clone, Debug)]
pub struct History {
    /// Parents of each commit.
    pub parents: Vec<Vec<usize>>,
    /// What becomes of each commit.
    pub fates: Vec<Fate>,
    /// The commit that brings the failure.
    pub culprit: usize,
}

impl History {
    /// So many commits with side lines that are merged; of ten one doesn't build, in stretches of up to
    /// eight, and one crashes, anywhere.
    #[must_use]
    pub fn new(seed: u64, commits: usize) -> Self {
        let mut chance = Chance(seed);
        let mut parents: Vec<Vec<usize>> = vec![Vec::new()];
        // The end of the main line, and of the side line that there is beside it.
        let (mut main, mut side) = (0, None);
        while parents.len() + 1 < commits {
            let new = parents.len();
            match side {
                Some(end) if chance.percent(12) => {
                    parents.push(vec![main, end]);
                    (main, side) = (new, None);
                }
                Some(end) if chance.percent(50) => {
                    parents.push(vec![end]);
                    side = Some(new);
                }
                None if chance.percent(8) => {
                    parents.push(vec![main]);
                    side = Some(new);
                }
                _ => {
                    parents.push(vec![main]);
                    main = new;
                }
            }
        }
        parents.push([Some(main), side].into_iter().flatten().collect());
        let mut fates = vec![Fate::Works; commits];
        let inner = commits - 2;
        let mut spoil = |fate: Fate, longest: usize| {
            let mut left = commits / 10;
            while left > 0 {
                let (first, length) = (1 + chance.below(inner), 1 + chance.below(longest));
                for one in (first..commits - 1).take(length) {
                    if left > 0 && fates[one] == Fate::Works {
                        fates[one] = fate;
                        left -= 1;
                    }
                }
            }
        };
        spoil(Fate::Broken, 8);
        spoil(Fate::Crashes, 1);
        let culprit = 1 + chance.below(commits - 1);
        Self { parents, fates, culprit }
    }

    /// For every commit whether it is `of` or came from it.
    #[must_use]
    pub fn after(&self, of: usize) -> Vec<bool> {
        let mut after = vec![false; self.parents.len()];
        for (at, parents) in self.parents.iter().enumerate() {
            after[at] = at == of || parents.iter().any(|&parent| after[parent]);
        }
        after
    }

    /// The commits that nothing tells from the culprit: those after each of them that can be judged are
    /// the same.
    #[must_use]
    pub fn alike(&self) -> Vec<usize> {
        let judged = |commit: usize| -> Vec<bool> {
            let works = self.fates.iter().map(|&fate| fate == Fate::Works);
            self.after(commit).into_iter().zip(works).map(|(after, works)| after && works).collect()
        };
        let culprit = judged(self.culprit);
        (1..self.parents.len()).filter(|&commit| judged(commit) == culprit).collect()
    }

    /// The same as input of `git fast-import`, on the branch `main`: the file `kernel` of each commit says
    /// what it does, and its subject is its number.
    #[must_use]
    pub fn fast_import(&self) -> String {
        let bad = self.after(self.culprit);
        let mut text = String::new();
        for (at, parents) in self.parents.iter().enumerate() {
            let content = match self.fates[at] {
                Fate::Broken => "broken",
                Fate::Crashes => "crashes",
                Fate::Works if bad[at] => "bad",
                Fate::Works => "good",
            };
            let _ = write!(
                text,
                "commit refs/heads/main\nmark :{}\n\
                 author A Developer <dev{}@example.org> {} +0000\n\
                 committer A Developer <dev@example.org> {} +0000\n\
                 data <<END\nsubject of {at}\nEND\n",
                at + 1,
                at % 7,
                1_700_000_000 + at,
                1_700_000_000 + at,
            );
            for (nth, parent) in parents.iter().enumerate() {
                let word = if nth == 0 { "from" } else { "merge" };
                let _ = writeln!(text, "{word} :{}", parent + 1);
            }
            let _ = write!(text, "M 100644 inline kernel\ndata <<END\n{content} {at}\nEND\n\n");
        }
        text
    }
}
