//! Functions and offsets of reports to lines of source, by the kernel's debug information.
//!
//! What `scripts/decode_stacktrace.sh` and `scripts/faddr2line` of the kernel do, with functions of
//! one name told apart by their size, and nothing said where the debug information is of another
//! kernel.

mod object_file;
mod sources;

use std::collections::{BTreeMap, BTreeSet};

use kgate_model::finding::{Finding, Frame};

use crate::Resolver;
use crate::error::KernelError;
use crate::modules::normal;
use object_file::{Answers, Place, Query};
use sources::{Debug, Source};

/// Why frames stay without their line of source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Unresolved {
    /// The debug information is of other kernels than the one that reported.
    #[error("no debug information of kernel {wanted}: that at hand is of {}", found.join(", "))]
    OtherRelease {
        /// The release of the kernel that reported.
        wanted: String,
        /// The releases that there is debug information of.
        found: Vec<String>,
    },
    /// The report does not say which kernel it is of, and there is debug information of several.
    #[error("a report does not say which kernel it is of: of {}", found.join(", "))]
    UnknownRelease {
        /// The releases that there is debug information of.
        found: Vec<String>,
    },
    /// There is debug information of modules only.
    #[error("no debug information of the kernel itself, only of modules")]
    NoKernel,
    /// There is no debug information of a module.
    #[error("no debug information of module {module}: give its .ko file, built with -g, as well")]
    NoModule {
        /// The module.
        module: String,
    },
    /// A file of debug information is damaged, or can't be read.
    #[error("{file}: {detail}")]
    Unusable {
        /// The file.
        file: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The debug information knows no such function.
    #[error("there is no function {function}: was it built from another source or configuration?")]
    NoFunction {
        /// The function.
        function: String,
    },
    /// The function is not the one that was running.
    #[error(
        "function {function} is of another size in the log, {printed:#x}: \
        the debug information is of another build"
    )]
    OtherBuild {
        /// The function.
        function: String,
        /// Its size in the log, or the offset that is not in it.
        printed: u64,
        /// Its sizes according to the debug information.
        found: Vec<u64>,
    },
    /// Several functions have the name and the size.
    #[error("function {function} is one of {count} of the same name and size")]
    Ambiguous {
        /// The function.
        function: String,
        /// How many there are.
        count: usize,
    },
    /// The debug information does not say where the code comes from.
    #[error("function {function} has no line information there")]
    NoLine {
        /// The function.
        function: String,
    },
    /// The debug information of the function contradicts itself.
    #[error("the debug information of function {function} is damaged: {detail}")]
    Damaged {
        /// The function.
        function: String,
        /// What is wrong with it.
        detail: String,
    },
}

/// Debug information of kernels and modules. It is looked at when it is needed.
#[derive(Debug)]
pub struct Symbols {
    sources: Vec<Source>,
}

impl Symbols {
    /// Debug information in files and packages, each one of
    /// - a `vmlinux` with DWARF, with the modules of its build tree or root directory,
    /// - the `.ko` or `.ko.debug` file of a module,
    /// - a directory: a build tree, or a root directory with `usr/lib/debug`, `boot` or `lib/modules`,
    /// - a debug package: `.deb`, `.rpm`, or `apt:PACKAGE[=VERSION]`.
    ///
    /// # Errors
    /// When one of them is none of these, can't be read or fetched.
    pub fn open(references: &[String], resolver: &Resolver<'_>) -> Result<Self, KernelError> {
        let sources = references.iter().map(|reference| Source::open(reference, resolver));
        Ok(Self { sources: sources.collect::<Result<_, _>>()? })
    }

    /// Whether [`open`](Self::open) needs a cache for this one: it is a package.
    #[must_use]
    pub fn needs_cache(reference: &str) -> bool {
        sources::is_package(reference)
    }

    /// Fills in the source lines of the findings' frames, and inserts the functions that were
    /// inlined there before the frame they are part of. Frames that have a line are left alone.
    ///
    /// Findings of one log are best given together: each file is opened once a call. Answers why
    /// frames stay without one, sorted and each reason once.
    ///
    /// # Errors
    /// When a package is damaged or the cache can't be written.
    pub fn resolve(&self, findings: &mut [Finding]) -> Result<Vec<Unresolved>, KernelError> {
        let mut notes = BTreeSet::new();
        let mut by_release: BTreeMap<Option<String>, Vec<&mut Finding>> = BTreeMap::new();
        for finding in findings {
            by_release.entry(finding.release.clone()).or_default().push(finding);
        }
        for (release, mut findings) in by_release {
            let mut wanted = Wanted::new();
            for finding in &findings {
                let exact = pointers(&finding.excerpt);
                for frame in stacks(finding).flatten() {
                    if let Some(query) = query(frame, &exact) {
                        let module = frame.module.as_deref().map(normal);
                        wanted.entry(module).or_default().insert(query);
                    }
                }
            }
            if wanted.is_empty() {
                continue;
            }
            let found = self.look_up(release.as_deref(), &wanted, &mut notes)?;
            for finding in &mut findings {
                let exact = pointers(&finding.excerpt);
                let Finding { frames, stacks, .. } = &mut **finding;
                for frames in [frames].into_iter().chain(stacks.iter_mut().map(|s| &mut s.frames)) {
                    *frames = std::mem::take(frames)
                        .into_iter()
                        .flat_map(|frame| {
                            let module = frame.module.as_deref().map(normal);
                            let places = query(&frame, &exact)
                                .and_then(|query| found.get(&module)?.get(&query));
                            with_places(frame, places.map_or(&[], Vec::as_slice))
                        })
                        .collect();
                }
            }
        }
        Ok(notes.into_iter().collect())
    }

    /// The places of the queries that can be told.
    fn look_up(
        &self,
        release: Option<&str>,
        wanted: &Wanted,
        notes: &mut BTreeSet<Unresolved>,
    ) -> Result<Found, KernelError> {
        let modules: BTreeSet<String> = wanted.keys().flatten().cloned().collect();
        let debug = Debug::find(&self.sources, release, &modules)?;
        notes.extend(debug.notes.iter().cloned());
        let mut found = Found::new();
        if debug.is_refused {
            return Ok(found);
        }
        // The kernel comes first, as `None` does: it tells where the source tree was.
        let mut roots: Vec<String> = Vec::new();
        let none = BTreeSet::new();
        let kernel = (!wanted.contains_key(&None)).then_some((&None, &none));
        for (module, queries) in kernel.into_iter().chain(wanted) {
            let path = match module {
                None => debug.kernel.as_ref(),
                Some(module) => debug.modules.get(module),
            };
            let Some(path) = path else {
                notes.extend(module.clone().map(|module| Unresolved::NoModule { module }));
                continue;
            };
            let queries: Vec<Query> = queries.iter().cloned().collect();
            let unusable =
                |detail: String| Unresolved::Unusable { file: path.display().to_string(), detail };
            let answers = match object_file::open(path) {
                Ok(bytes) => object_file::look_up(&bytes, &queries).map_err(unusable),
                Err(error) => Err(Unresolved::Unusable {
                    file: path.display().to_string(),
                    detail: error.to_string(),
                }),
            };
            match answers {
                Err(note) => drop(notes.insert(note)),
                Ok(Answers { places, roots: mut more }) => {
                    roots.append(&mut more);
                    let found = found.entry(module.clone()).or_default();
                    for (query, places) in queries.into_iter().zip(places) {
                        match places {
                            Ok(mut places) => {
                                shorten(&mut places, &roots);
                                found.insert(query, places);
                            }
                            Err(note) => drop(notes.insert(note)),
                        }
                    }
                }
            }
        }
        Ok(found)
    }
}

/// What is asked of the kernel (`None`) and of each module.
type Wanted = BTreeMap<Option<String>, BTreeSet<Query>>;
type Found = BTreeMap<Option<String>, BTreeMap<Query, Vec<Place>>>;

/// Makes paths relative to the source tree.
fn shorten(places: &mut [Place], roots: &[String]) {
    for source in places.iter_mut().filter_map(|place| place.source.as_mut()) {
        let root =
            roots.iter().filter(|root| source.file.starts_with(*root)).max_by_key(|r| r.len());
        source.file.drain(..root.map_or(0, String::len));
    }
}

fn stacks(finding: &Finding) -> impl Iterator<Item = &Vec<Frame>> {
    [&finding.frames].into_iter().chain(finding.stacks.iter().map(|stack| &stack.frames))
}

/// What to ask for a frame; nothing when it has its line, or has no place of its own.
fn query(frame: &Frame, exact: &BTreeSet<String>) -> Option<Query> {
    if frame.inlined || frame.source.is_some() {
        return None;
    }
    let offset = frame.offset?;
    let function = frame.function.to_string();
    let exact = exact.contains(&format!("{function}+{offset:#x}"));
    Some(Query { function, offset, size: frame.size, exact })
}

/// The functions with offsets that the report names as instruction pointers: all others are
/// addresses that calls return to.
fn pointers(excerpt: &str) -> BTreeSet<String> {
    const POINTERS: &[&str] = &["RIP:", "EIP:", "IP:", "NIP ", "pc :", "PC is at ", "epc :"];
    excerpt
        .lines()
        .filter(|line| POINTERS.iter().any(|begin| line.trim_start().starts_with(begin)))
        .flat_map(|line| line.split([' ', ':']))
        .filter(|word| word.contains("+0x"))
        .map(|word| word.split('/').next().unwrap_or(word).to_owned())
        .collect()
}

/// The frame with its line, after the functions that were inlined there.
fn with_places(mut frame: Frame, places: &[Place]) -> Vec<Frame> {
    let Some((own, inlined)) = places.split_last() else { return vec![frame] };
    let inlined = inlined.iter().filter_map(|place| {
        Some(Frame {
            function: place.function.as_deref()?.into(),
            offset: None,
            size: None,
            module: frame.module.clone(),
            inlined: true,
            reliable: frame.reliable,
            source: place.source.clone(),
        })
    });
    let mut frames: Vec<_> = inlined.collect();
    frame.source = own.source.clone();
    frames.push(frame);
    frames
}
