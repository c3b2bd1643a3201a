//! Lab hosts: whether what they measured of two kernels may be compared, and whether they came back.

use std::collections::BTreeMap;

use kgate_model::inventory::Conditions;
use kgate_model::journal::{BootRecord, RunRecord};
use kgate_model::outcome::Role;

use crate::finding::count;

/// Boots that are named one by one.
const NAMED: usize = 3;

/// A lab host in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostUse {
    /// Its name.
    pub name: String,
    /// Times that it booted one of the two kernels and got ready.
    pub boots: u32,
    /// The run is done with it: `None` inside when it was verified to be back on production, else what it
    /// was left in.
    pub returned: Option<Option<String>>,
    /// State that changes what it measures and was not the same in all boots, so that its numbers don't
    /// count.
    pub uneven: Option<String>,
    /// Such state, as its first boot told it.
    pub conditions: Conditions,
}

/// The lab hosts of a run, in the order of the plan.
pub(crate) fn of(record: &RunRecord) -> Vec<HostUse> {
    let mut uneven = uneven(record);
    let host = |name: &str| HostUse {
        name: name.to_owned(),
        boots: count(on(record, name).map(|boot| boot.ready_ms.len()).sum()),
        returned: record.hosts.get(name).cloned(),
        uneven: uneven.remove(name),
        conditions: on(record, name)
            .flat_map(|b| &b.conditions)
            .next()
            .cloned()
            .unwrap_or_default(),
    };
    record.plan.hosts().into_iter().map(host).collect()
}

fn on<'a>(record: &'a RunRecord, host: &'a str) -> impl Iterator<Item = &'a BootRecord> {
    record.boots.iter().filter(move |boot| boot.planned.host.as_deref() == Some(host))
}

/// Values of a condition, each with the boots that had it.
type Values<'a> = BTreeMap<&'a str, Vec<(Role, u32)>>;

/// Why what a lab host measured doesn't count, by host: its boots were not in the same state.
pub(crate) fn uneven(record: &RunRecord) -> BTreeMap<String, String> {
    let why = |host: &str| {
        let mut states: BTreeMap<&str, Values<'_>> = BTreeMap::new();
        for boot in on(record, host) {
            for (name, value) in boot.conditions.iter().flatten() {
                let boots = states.entry(name).or_default().entry(value).or_default();
                boots.push((boot.planned.role, boot.planned.number));
            }
        }
        let uneven = states.iter().filter(|(_, values)| values.len() > 1);
        let told: Vec<String> = uneven.map(|(name, values)| told(name, values)).collect();
        (!told.is_empty()).then(|| format!("{host} was not in one state: {}", told.join("; ")))
    };
    let hosts = record.plan.hosts();
    hosts.into_iter().filter_map(|host| Some((host.to_owned(), why(host)?))).collect()
}

/// `governor powersave in candidate-2, performance in the others`.
fn told(name: &str, values: &Values<'_>) -> String {
    let mut values: Vec<_> = values.iter().collect();
    values.sort_by_key(|(_, boots)| boots.len());
    let last = values.len() - 1;
    let told = values.into_iter().enumerate().map(|(at, (value, boots))| {
        let of = |role| boots.iter().filter(|(of, _)| *of == role).count();
        let named = boots.iter().take(NAMED).map(|(role, number)| format!("{role}-{number}"));
        let named = named.collect::<Vec<_>>().join(", ");
        let more = boots.len().saturating_sub(NAMED);
        match Role::ALL.into_iter().find(|&role| more > 0 && of(role) == boots.len()) {
            Some(role) => format!("{value} in {} boots of the {role}", boots.len()),
            None if at == last => format!("{value} in the others"),
            None if more > 0 => format!("{value} in {named} and {more} more"),
            None => format!("{value} in {named}"),
        }
    });
    format!("{name} {}", told.collect::<Vec<_>>().join(", "))
}
