//! The reasons of a verdict as annotations of a CI job.

use kgate_compare::Effect;

use crate::text::{bounded, clean};
use crate::{Report, log, view};

/// GitHub shows so many errors and so many warnings of one step, and drops the others without a word.
const SHOWN: usize = 10;
/// Bytes of an annotation's text.
const TEXT: usize = 4000;

/// The reasons as workflow commands of GitHub Actions, one on a line: errors for what rejects or failed,
/// warnings for what was left open; where there are too many of a sort, the last one says how many more.
/// Nothing for a run without reasons.
pub fn annotations(report: &Report<'_>) -> String {
    let of = |level: &'static str, such: fn(Effect) -> bool| {
        let reasons: Vec<_> =
            report.assessment.reasons.iter().filter(|reason| such(reason.effect)).collect();
        let fitting = if reasons.len() > SHOWN { SHOWN - 1 } else { SHOWN };
        let title = format!("{}: {}", report.assessment.verdict, view::kernels(report));
        let more = (reasons.len() > SHOWN).then(|| {
            let text = format!("{} more reasons are in the report", reasons.len() - fitting);
            log::command(level, &title, None, &text)
        });
        let shown = reasons.into_iter().take(fitting);
        let shown = shown.map(|reason| {
            let text =
                format!("{}: {}", reason.effect.as_str(), bounded(&clean(&reason.text), TEXT));
            log::command(level, &title, None, &text)
        });
        shown.chain(more).collect::<String>()
    };
    of("error", |effect| effect > Effect::Inconclusive)
        + &of("warning", |effect| effect == Effect::Inconclusive)
}
