//! Scenarios, profiles and images: from a directory, or those built into the binary.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use kgate_image::Recipe;
use kgate_scenario::{Library, Scenario, Workload};

use crate::args::LibraryArgs;
use crate::error::{CommandError, at};
use crate::guests::BASE;
use crate::text::line;

/// Path below the project's root, and content.
const BUILT_IN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/library.rs"));

const SCENARIOS: &str = "scenarios";
const PROFILES: &str = "workloads/profiles";
const IMAGES: &str = "images";

/// Larger files are no scenarios.
const MAX_FILE: u64 = 1 << 20;

/// Where the files are.
pub(crate) enum Source {
    BuiltIn,
    Directory(PathBuf),
}

impl Source {
    pub(crate) fn new(args: &LibraryArgs) -> Result<Self, CommandError> {
        match &args.library {
            Some(dir) if dir.join(SCENARIOS).is_dir() => Ok(Self::Directory(dir.clone())),
            Some(dir) => Err(CommandError::usage(format!(
                "{} has no directory `{SCENARIOS}`",
                dir.display()
            ))
            .hint("a library holds scenarios/, workloads/profiles/ and images/")),
            None if Path::new(SCENARIOS).is_dir() => Ok(Self::Directory(PathBuf::new())),
            None => Ok(Self::BuiltIn),
        }
    }

    /// All scenarios.
    pub(crate) fn scenarios(&self) -> Result<Library, CommandError> {
        Ok(Library::load(self.files(SCENARIOS)?)?)
    }

    /// A workload by the name of its profile, or by its file.
    pub(crate) fn workload(&self, name: &str, library: &Library) -> Result<Workload, CommandError> {
        let given = Path::new(name);
        if given.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            return Ok(Workload::load(given, &read(given)?, library)?);
        }
        let profiles = self.files(PROFILES)?;
        let stem = |path: &Path| path.file_stem().map(|s| s.to_string_lossy().into_owned());
        match profiles.iter().find(|(path, _)| stem(path).as_deref() == Some(name)) {
            Some((path, text)) => Ok(Workload::load(path, text, library)?),
            None => {
                let known: Vec<_> = profiles.iter().filter_map(|(path, _)| stem(path)).collect();
                Err(CommandError::usage(format!("no workload `{name}`"))
                    .hint(format!("there are {}; or name a .yaml file", known.join(", "))))
            }
        }
    }

    /// All profiles.
    pub(crate) fn profiles(&self) -> Result<Vec<(PathBuf, String)>, CommandError> {
        self.files(PROFILES)
    }

    /// An image's recipe by name.
    pub(crate) fn recipe(&self, name: &str) -> Result<Recipe, CommandError> {
        let recipes = self.files(IMAGES)?;
        let stem = |path: &Path| path.file_stem().map(|s| s.to_string_lossy().into_owned());
        match recipes.iter().find(|(path, _)| stem(path).as_deref() == Some(name)) {
            Some((path, text)) => Ok(Recipe::parse(path, text)?),
            None => {
                let known: Vec<_> = recipes.iter().filter_map(|(path, _)| stem(path)).collect();
                Err(CommandError::usage(format!("no image `{name}`"))
                    .hint(format!("there are base, {}", known.join(", "))))
            }
        }
    }

    /// Refuses scenarios on images that there are none of, before anything is fetched or booted.
    pub(crate) fn check_images<'a>(
        &self,
        scenarios: impl IntoIterator<Item = &'a Scenario>,
    ) -> Result<(), CommandError> {
        for scenario in scenarios.into_iter().filter(|scenario| scenario.image != BASE) {
            self.recipe(&scenario.image).map_err(|error| error.within(scenario.id.as_str()))?;
        }
        Ok(())
    }

    /// The library's `.yaml` files below `part`, sorted.
    fn files(&self, part: &str) -> Result<Vec<(PathBuf, String)>, CommandError> {
        match self {
            Self::BuiltIn => Ok(BUILT_IN
                .iter()
                .filter(|(path, _)| Path::new(path).starts_with(part))
                .map(|(path, text)| (PathBuf::from(path), (*text).to_owned()))
                .collect()),
            Self::Directory(dir) => {
                let mut paths = Vec::new();
                walk(&dir.join(part), &mut paths)?;
                paths.sort();
                paths.into_iter().map(|path| Ok((path.clone(), read(&path)?))).collect()
            }
        }
    }
}

fn walk(dir: &Path, paths: &mut Vec<PathBuf>) -> Result<(), CommandError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(dir)(error)),
    };
    for entry in entries {
        let path = entry.map_err(at(dir))?.path();
        // A link into the tree could lead round in circles.
        if path.is_dir() && !path.is_symlink() {
            walk(&path, paths)?;
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            paths.push(path);
        }
    }
    Ok(())
}

/// Reads a file that is no larger than `most` bytes, some MiB.
pub(crate) fn read_bytes(path: &Path, most: u64) -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        .map_err(at(path))?;
    if bytes.len() as u64 > most {
        let path = line(&path.display().to_string());
        return Err(CommandError::usage(format!("{path} is larger than {} MiB", most >> 20)));
    }
    Ok(bytes)
}

/// Reads a file of the user's, as text of reasonable size.
pub(crate) fn read(path: &Path) -> Result<String, CommandError> {
    let metadata = fs::metadata(path).map_err(at(path))?;
    if !metadata.is_file() {
        return Err(CommandError::usage(format!("{} is not a file", path.display())));
    }
    String::from_utf8(read_bytes(path, MAX_FILE)?).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|&&b| b == b'\n')
            .count();
        CommandError::usage(format!("{}:{line}: not UTF-8", path.display()))
    })
}
