//! The difference of two kernels in one operation, function by function.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{Function, Segment, Symbols};

/// One kernel's part of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// What it executed.
    pub segment: &'a Segment,
    /// The functions of that very kernel, where they were in that very guest.
    pub symbols: &'a Symbols,
}

/// Where instructions were executed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In user mode.
    User,
    /// In the kernel, where no function is known.
    Unknown,
    /// In a function of the kernel.
    Function(Function),
}

/// How often something was executed, in all operations together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Instructions.
    pub instructions: u64,
    /// Executions of the function's first instruction.
    pub calls: u64,
}

/// What became of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Both kernels executed it.
    Kept,
    /// The baseline has no function of that name: it is new, was renamed, or was inlined there.
    New,
    /// The candidate has no function of that name.
    Gone,
    /// Both have it; only the candidate executed it.
    NowReached,
    /// Both have it; only the baseline executed it.
    NoLongerReached,
}

/// One function, user mode, or the unknown rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Which. A function whose name differs in the number of a suffix has the candidate's name.
    pub place: Place,
    /// What became of it.
    pub fate: Fate,
    /// The baseline's count.
    pub baseline: Count,
    /// The candidate's count.
    pub candidate: Count,
}

impl Row {
    /// Instructions more in the candidate than in the baseline, in all operations together.
    #[must_use]
    pub fn difference(&self) -> i128 {
        i128::from(self.candidate.instructions) - i128::from(self.baseline.instructions)
    }
}

/// Where the difference of two kernels in one operation comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// How often the operation was done, in each kernel.
    pub operations: u64,
    /// The largest difference first. The rows of each kernel sum to all that it executed.
    pub rows: Vec<Row>,
}

impl Explanation {
    /// All instructions of the baseline.
    #[must_use]
    pub fn baseline(&self) -> u128 {
        self.rows.iter().map(|row| u128::from(row.baseline.instructions)).sum()
    }

    /// All instructions of the candidate.
    #[must_use]
    pub fn candidate(&self) -> u128 {
        self.rows.iter().map(|row| u128::from(row.candidate.instructions)).sum()
    }

    /// Instructions more in the candidate than in the baseline: the sum of the rows' differences.
    #[must_use]
    pub fn difference(&self) -> i128 {
        self.rows.iter().map(Row::difference).sum()
    }
}

/// What one kernel executed, by place.
#[must_use]
pub fn counts(side: Side<'_>) -> BTreeMap<Place, Count> {
    let mut functions: BTreeMap<&Function, Count> = BTreeMap::new();
    let mut unknown = side.segment.beyond;
    for &(address, count) in side.segment.kernel() {
        if let Some((function, start)) = side.symbols.find(address) {
            let sum = functions.entry(function).or_default();
            sum.instructions += count;
            sum.calls += if address == start { count } else { 0 };
        } else {
            unknown += count;
        }
    }
    let functions =
        functions.into_iter().map(|(function, count)| (Place::Function(function.clone()), count));
    let alone = |place, instructions| (place, Count { instructions, calls: 0 });
    let others = [alone(Place::User, side.segment.user), alone(Place::Unknown, unknown)];
    functions.chain(others).filter(|(_, count)| count.instructions > 0).collect()
}

/// The functions that one kernel executed, by module and name.
#[must_use]
pub fn reached(side: Side<'_>) -> Vec<Function> {
    let places = counts(side).into_keys();
    places
        .filter_map(|place| match place {
            Place::Function(function) => Some(function),
            Place::User | Place::Unknown => None,
        })
        .collect()
}

/// Compares what two kernels executed for the same number of operations.
///
/// Functions are the same when module and name are. Of the others, those are taken for the same
/// whose names differ only in the number of a compiler's suffix, in order.
#[must_use]
pub fn explain(baseline: Side<'_>, candidate: Side<'_>, operations: u64) -> Explanation {
    let mut old = counts(baseline);
    let mut rows = Vec::new();
    let mut new = Vec::new();
    for (place, count) in counts(candidate) {
        match old.remove(&place) {
            Some(before) => {
                rows.push(Row { place, fate: Fate::Kept, baseline: before, candidate: count });
            }
            None => new.push((place, count)),
        }
    }
    let mut left: Vec<(Place, Count)> = old.into_iter().collect();
    let (in_old, in_new) = (baseline.symbols.families(), candidate.symbols.families());
    for (place, count) in new {
        let same = left.iter().position(|(other, _)| is_family(other, &place));
        let (fate, before) = match same {
            Some(index) => (Fate::Kept, left.remove(index).1),
            None if knows(&in_old, &place) => (Fate::NowReached, Count::default()),
            None => (Fate::New, Count::default()),
        };
        rows.push(Row { place, fate, baseline: before, candidate: count });
    }
    for (place, count) in left {
        let fate = if knows(&in_new, &place) { Fate::NoLongerReached } else { Fate::Gone };
        rows.push(Row { place, fate, baseline: count, candidate: Count::default() });
    }
    rows.sort_by(|a, b| {
        let key = |row: &Row| Reverse(row.difference().unsigned_abs());
        key(a).cmp(&key(b)).then_with(|| a.place.cmp(&b.place))
    });
    Explanation { operations, rows }
}

fn is_family(one: &Place, other: &Place) -> bool {
    match (one, other) {
        (Place::Function(one), Place::Function(other)) => one.family() == other.family(),
        _ => false,
    }
}

type Families<'a> = BTreeSet<(Option<&'a str>, std::borrow::Cow<'a, str>)>;

/// Whether a kernel has this place: all have user mode and unknown code.
fn knows(families: &Families<'_>, place: &Place) -> bool {
    match place {
        Place::Function(function) => families.contains(&function.family()),
        Place::User | Place::Unknown => true,
    }
}
