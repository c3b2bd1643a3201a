//! The cost of waiting: what comes together while a kernel stays as it is.

use jiff::civil::Date;
use serde::Serialize;

use crate::version::Version;
use crate::words::{counted, grouped};

/// What one release adds to what is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The release.
    pub version: Version,
    /// When it came out, where that is known.
    pub date: Option<Date>,
    /// What it adds, where that is known: commits, or CVEs that it fixes.
    pub adds: Option<u64>,
}

/// What has come together by a release.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The release.
    pub version: Version,
    /// When it came out, where that is known.
    pub date: Option<Date>,
    /// Weeks since the release that stayed, where both dates are known.
    pub weeks: Option<f64>,
    /// Releases since then.
    pub releases: u64,
    /// What has come together.
    pub total: u64,
}

/// What comes together, release after release.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// The release that stays as it is.
    pub from: Version,
    /// Its date, where it is known.
    pub date: Option<Date>,
    /// The releases after it, oldest first.
    pub points: Vec<Point>,
    /// Those of them of which it isn't known what they add.
    pub unknown: Vec<Version>,
}

/// How what comes together grows: half of the releases, and all of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Growth {
    /// After half of the releases.
    pub half: Point,
    /// After all.
    pub all: Point,
    /// How many times as long that is: in releases, which are as good as weekly.
    pub delay: f64,
    /// How many times as much has come together.
    pub delta: f64,
}

impl Curve {
    /// The curve from a release on, over those after it.
    pub fn new(from: Version, date: Option<Date>, steps: impl IntoIterator<Item = Step>) -> Self {
        let mut curve = Self { from, date, points: Vec::new(), unknown: Vec::new() };
        let mut total: u64 = 0;
        for (releases, step) in (1..).zip(steps) {
            match step.adds {
                Some(adds) => total = total.saturating_add(adds),
                None => curve.unknown.push(step.version),
            }
            let days = date.zip(step.date).map(|(from, to)| (to - from).get_days());
            curve.points.push(Point {
                version: step.version,
                date: step.date,
                weeks: days.map(|days| f64::from(days) / 7.0),
                releases,
                total,
            });
        }
        curve
    }

    /// How it grows; `None` when there are not two halves, or nothing came in the first.
    #[must_use]
    pub fn growth(&self) -> Option<Growth> {
        let all = self.points.last()?;
        let half = self.points.get((self.points.len() / 2).checked_sub(1)?)?;
        (half.total > 0).then(|| Growth {
            delay: all.releases as f64 / half.releases as f64,
            delta: all.total as f64 / half.total as f64,
            half: half.clone(),
            all: all.clone(),
        })
    }
}

impl Growth {
    /// In one sentence; `what` are `commits`, say.
    #[must_use]
    pub fn sentence(&self, what: &str) -> String {
        let times = match self.delay {
            2.0 => "twice the delay".to_owned(),
            other => format!("{other:.2} times the delay"),
        };
        let after = |point: &Point| {
            let (version, total) = (point.version, grouped(point.total));
            format!("{} on ({version}) {total} {what}", counted(point.releases, "release"))
        };
        let (half, all) = (after(&self.half), after(&self.all));
        format!("{half}, {all}: {times}, {:.2} times the delta", self.delta)
    }
}
