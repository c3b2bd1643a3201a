//! Recipes: the YAML files that say what an image contains.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::ImageError;
use crate::glob;

/// A recipe is read by people; anything larger is a mistake.
const MAX_RECIPE_BYTES: u64 = 1 << 20;

/// What an image is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recipe {
    /// The image's name: the recipe's file name without `.yaml`.
    pub name: String,
    /// What the image is for, in one line.
    pub summary: String,
    /// Debian packages, as `NAME` or `NAME=VERSION`; apt adds what they depend on.
    pub packages: Vec<String>,
    /// Symbolic links to make, path to target: what `update-alternatives` would have done.
    pub links: BTreeMap<String, String>,
    /// Files to write, path to content. Content that starts with `#!` becomes executable.
    pub files: BTreeMap<String, String>,
    /// Patterns of paths to leave out, beside documentation, locales and manual pages.
    pub strip: Vec<String>,
}

impl Recipe {
    /// Reads the recipe at `path`.
    ///
    /// # Errors
    /// [`ImageError::Io`] when the file cannot be read, else as [`Recipe::parse`].
    pub fn read(path: &Path) -> Result<Self, ImageError> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_RECIPE_BYTES + 1).read_to_string(&mut text))
            .map_err(ImageError::io("read", path))?;
        Self::parse(path, &text)
    }

    /// Parses the `text` of the recipe at `path`, which names the image and appears in messages.
    ///
    /// # Errors
    /// [`ImageError::Recipe`] with the line and column of the first mistake.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ImageError> {
        let file = path.display().to_string();
        let fail = |line, column, message| ImageError::Recipe {
            file: file.clone(),
            line,
            column,
            message,
        };
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        if !is_image_name(name) {
            let rule = "a recipe is named with small letters, digits and dashes, as in edge.yaml";
            return Err(fail(1, 1, format!("`{name}` cannot name an image; {rule}")));
        }
        if text.len() as u64 > MAX_RECIPE_BYTES {
            return Err(fail(1, 1, "larger than 1 MiB".to_owned()));
        }
        let raw: Raw = serde_yaml::from_str(text).map_err(|error| {
            let (line, column) =
                error.location().map_or((1, 1), |place| (place.line(), place.column()));
            fail(line, column, message(&error.to_string()))
        })?;
        Ok(Self {
            name: name.to_owned(),
            summary: raw.summary.0,
            packages: raw.packages.0.into_iter().map(|package| package.0).collect(),
            links: raw.links.0.into_iter().map(|(path, target)| (path, target.0)).collect(),
            files: raw.files.0,
            strip: raw.strip.into_iter().map(|pattern| pattern.0).collect(),
        })
    }
}

/// Whether `name` can name an image. `base` is taken by the busybox userland.
fn is_image_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 64 && name != "base" && name.chars().all(allowed)
}

/// The recipe as it stands in the file; the types check their values, so that every error has the
/// place of the value it is about.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    summary: Summary,
    packages: Packages,
    #[serde(default)]
    links: Paths<Target>,
    #[serde(default)]
    files: Paths<String>,
    #[serde(default)]
    strip: Vec<Pattern>,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Summary(String);

impl TryFrom<String> for Summary {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let text = text.trim();
        if text.is_empty() || text.contains('\n') {
            return Err("the summary is one line of text");
        }
        Ok(Self(text.to_owned()))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "Vec<PackageName>")]
struct Packages(Vec<PackageName>);

impl TryFrom<Vec<PackageName>> for Packages {
    type Error = String;
    fn try_from(packages: Vec<PackageName>) -> Result<Self, Self::Error> {
        if packages.is_empty() {
            return Err("an image has at least one package".to_owned());
        }
        for (i, package) in packages.iter().enumerate() {
            if packages[..i].iter().any(|other| other.0 == package.0) {
                return Err(format!("package `{}` is listed twice", package.0));
            }
        }
        Ok(Self(packages))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct PackageName(String);

impl TryFrom<String> for PackageName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (name, version) = text.split_once('=').unwrap_or((&text, "0"));
        let in_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
        let in_version = |c: char| c.is_ascii_alphanumeric() || "+-.~:".contains(c);
        // Apt reads `name-` as an order to remove.
        let valid = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && name.chars().all(in_name)
            && name.len() >= 2
            && !name.ends_with('-')
            && !version.is_empty()
            && version.chars().all(in_version);
        if valid { Ok(Self(text)) } else { Err(format!("`{text}` is not a package name")) }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Target(String);

impl TryFrom<String> for Target {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() || text.len() > 4095 || text.contains('\0') {
            return Err(format!("`{text}` is not the target of a link"));
        }
        Ok(Self(text))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Pattern(String);

impl TryFrom<String> for Pattern {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        glob::check(&text).map(|()| Self(text))
    }
}

/// A map from absolute paths, which are checked and do not repeat.
struct Paths<V>(BTreeMap<String, V>);

impl<V> Default for Paths<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Paths<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(std::marker::PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Paths<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from paths")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Paths<V>, A::Error> {
                let mut paths = BTreeMap::new();
                while let Some(AbsolutePath(path)) = map.next_key()? {
                    if paths.contains_key(&path) {
                        return Err(A::Error::custom(format!("path `{path}` appears twice")));
                    }
                    let value = map.next_value()?;
                    paths.insert(path, value);
                }
                Ok(Paths(paths))
            }
        }
        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct AbsolutePath(String);

impl TryFrom<String> for AbsolutePath {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let clean = text.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255)
        });
        if !clean || text.len() > 4095 || text.contains('\0') {
            return Err(format!("`{text}` is not an absolute path to a file"));
        }
        Ok(Self(text))
    }
}

/// The parser's message without its place, which stands in front, and with the nearest valid key.
fn message(text: &str) -> String {
    let text = text.rsplit_once(" at line ").map_or(text, |(message, _)| message);
    let Some((_, rest)) = text.split_once("unknown field `") else { return text.to_owned() };
    let quoted: Vec<&str> = rest.split('`').step_by(2).collect();
    let [unknown, known @ ..] = quoted.as_slice() else { return text.to_owned() };
    let nearest = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .filter(|(distance, known)| *distance <= known.len() / 2)
        .min_by_key(|(distance, _)| *distance);
    let help = match nearest {
        Some((_, known)) => format!("did you mean `{known}`?"),
        None => format!("a recipe has {}", known.join(", ").trim_end_matches(", ")),
    };
    format!("unknown key `{unknown}`; {help}")
}
