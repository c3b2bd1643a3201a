//! An explanation as a flame graph.

use std::collections::BTreeMap;

use inferno::flamegraph::{self, Options};

use crate::explanation::{Place, Side, counts};
use crate::text::clean;

/// A flame graph could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw the flame graph: {0}")]
pub struct FlameError(String);

/// What is written above the graph.
#[derive(Clone, Copy, Debug)]
pub struct Titles<'a> {
    /// The first line.
    pub title: &'a str,
    /// The second line.
    pub subtitle: &'a str,
}

/// A differential flame graph, as SVG: the candidate's instructions by stack as widths, the change
/// against the baseline as colour, red for more and blue for fewer. Where a side has no stacks,
/// functions stand on their module alone. Functions have no numbers in compilers' suffixes, so that
/// they meet their like. What only the baseline executed has no width and is not
/// shown. The same input gives the same bytes.
///
/// # Errors
/// When the candidate executed nothing.
pub fn flame_graph(
    baseline: Side<'_>,
    candidate: Side<'_>,
    titles: Titles<'_>,
) -> Result<String, FlameError> {
    let with_stacks = baseline.segment.has_stacks() && candidate.segment.has_stacks();
    let mut folded: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    for (index, side) in [baseline, candidate].into_iter().enumerate() {
        let stacks = if with_stacks { by_stack(side) } else { by_module(side) };
        for (stack, count) in stacks {
            folded.entry(stack).or_default()[index] += count;
        }
    }
    let lines: Vec<String> =
        folded.iter().map(|(stack, [before, after])| format!("{stack} {before} {after}")).collect();
    let mut options = Options::default();
    options.title = one_line(titles.title);
    options.subtitle = Some(one_line(titles.subtitle));
    options.count_name = "instructions".to_owned();
    options.deterministic = true;
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)
        .map_err(|error| FlameError(error.to_string()))?;
    String::from_utf8(svg).map_err(|error| FlameError(error.to_string()))
}

/// Names of the stack's functions from the outside in, joined by semicolons.
fn by_stack(side: Side<'_>) -> BTreeMap<String, u64> {
    let mut folded = BTreeMap::new();
    for (calls, block, count) in side.segment.stacks() {
        let stack = match block {
            None => "user mode".to_owned(),
            Some(block) => {
                // A call that never returns may be the last instruction of its function.
                let callers = calls.into_iter().map(|address| address.wrapping_sub(1));
                let names = callers.chain([block]).map(|address| name(side, address));
                std::iter::once("kernel".to_owned()).chain(names).collect::<Vec<_>>().join(";")
            }
        };
        *folded.entry(stack).or_default() += count;
    }
    folded
}

fn by_module(side: Side<'_>) -> BTreeMap<String, u64> {
    let named = counts(side).into_iter().map(|(place, count)| {
        let stack = match place {
            Place::User => "user mode".to_owned(),
            Place::Unknown => "kernel;?".to_owned(),
            Place::Function(function) => {
                let (module, name) = function.family();
                format!("{};{}", module.map_or("kernel".to_owned(), frame), frame(&name))
            }
        };
        (stack, count.instructions)
    });
    named.collect()
}

fn name(side: Side<'_>, address: u64) -> String {
    let Some((function, _)) = side.symbols.find(address) else { return "?".to_owned() };
    let (module, name) = function.family();
    frame(&module.map_or(name.to_string(), |module| format!("{name} [{module}]")))
}

/// A name that can't end its frame.
fn frame(name: &str) -> String {
    let name = name.split(' ').map(clean).collect::<Vec<_>>().join(" ");
    name.replace(';', ":")
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
