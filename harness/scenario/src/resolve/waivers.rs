//! Waivers, as their file says them.

use std::collections::BTreeMap;

use super::unique;
use crate::raw;
use crate::read::Field;
use crate::sink::Sink;
use crate::waiver::{Waiver, WaiverScope, Waivers};
use crate::yaml::Span;

pub(crate) fn waivers(raw: Field<Vec<Field<raw::Waiver>>>, sink: &Sink<'_>) -> Waivers {
    let mut ids = BTreeMap::new();
    let waivers = raw
        .get()
        .unwrap_or_default()
        .into_iter()
        .filter_map(Field::spanned)
        .filter_map(|(span, raw)| {
            let id_span = raw.id.span();
            let waiver = waiver(span, raw, sink)?;
            unique(&mut ids, &waiver.id, id_span, "a second waiver called", sink);
            Some(waiver)
        })
        .collect();
    Waivers(waivers)
}

fn waiver(span: Span, raw: raw::Waiver, sink: &Sink<'_>) -> Option<Waiver> {
    const OWNER: &str = "a waiver";
    let id = raw.id.required(span, OWNER, "id", sink);
    let scope_span = raw.scope.span();
    let scope = raw.scope.required(span, OWNER, "scope", sink);
    let reason = raw.reason.required(span, OWNER, "reason", sink);
    let owner = raw.owner.required(span, OWNER, "owner", sink);
    let expires = raw.expires.required(span, OWNER, "expires", sink);
    let scope = scope?;
    let about =
        [scope.scenario.is_present(), scope.metric.is_present(), scope.finding.is_present()];
    if !about.contains(&true) {
        let hint = Some("add scenario, metric or finding".to_owned());
        sink.report(scope_span, "a waiver's scope that would waive everything", hint);
    }
    if scope.subtest.is_present() && !scope.scenario.is_present() {
        let hint = Some("add scenario".to_owned());
        sink.report(scope.subtest.span(), "`subtest` without the scenario that it is of", hint);
    }
    Some(Waiver {
        id: id?.0.0,
        scope: WaiverScope {
            scenario: scope.scenario.plain(),
            subtest: scope.subtest.plain(),
            metric: scope.metric.plain(),
            finding: scope.finding.plain(),
            release: scope.release.plain(),
        },
        reason: reason?.0.0,
        owner: owner?.0.0,
        expires: expires?.0,
        line: span.line,
    })
}
