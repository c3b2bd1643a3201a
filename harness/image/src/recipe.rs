//! Recipes: the YAML files that say what an image contains.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::ImageError;
use crate::glob::Globs;

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
            summary: raw.summary.0.trim().to_owned(),
            packages: raw.packages.0,
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

/// The recipe as it stands in the file; the types check their values while they are read, so that
/// every error has the place of the value it is about.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a recipe, with summary and packages")]
struct Raw {
    summary: Text<Summary>,
    packages: Packages,
    #[serde(default)]
    links: Paths<Text<Target>>,
    #[serde(default)]
    files: Paths<String>,
    #[serde(default)]
    strip: Vec<Text<Pattern>>,
}

/// A rule for one value.
trait Rule {
    /// What the value is, as in "expected …".
    const WHAT: &'static str;
    fn is_met(text: &str) -> bool;
}

/// Text that meets a rule.
struct Text<R>(String, PhantomData<R>);

impl<'de, R: Rule> Deserialize<'de> for Text<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Check<R>(PhantomData<R>);
        impl<R: Rule> Visitor<'_> for Check<R> {
            type Value = Text<R>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(R::WHAT)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text<R>, E> {
                if R::is_met(text) {
                    return Ok(Text(text.to_owned(), PhantomData));
                }
                Err(E::custom(format!("`{}` is not {}", text.escape_debug(), R::WHAT)))
            }
        }
        deserializer.deserialize_str(Check(PhantomData))
    }
}

struct Summary;

impl Rule for Summary {
    const WHAT: &'static str = "one line of text";
    fn is_met(text: &str) -> bool {
        !text.trim().is_empty() && !text.contains(['\n', '\0'])
    }
}

struct PackageName;

impl Rule for PackageName {
    const WHAT: &'static str = "a package, as NAME or NAME=VERSION";
    fn is_met(text: &str) -> bool {
        let (name, version) = text.split_once('=').unwrap_or((text, "0"));
        let in_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
        let in_version = |c: char| c.is_ascii_alphanumeric() || "+-.~:".contains(c);
        // Apt reads `name-` as an order to remove.
        name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && name.chars().all(in_name)
            && name.len() >= 2
            && !name.ends_with('-')
            && !version.is_empty()
            && version.chars().all(in_version)
    }
}

struct Target;

impl Rule for Target {
    const WHAT: &'static str = "the target of a link";
    fn is_met(text: &str) -> bool {
        !text.is_empty() && text.len() <= 4095 && !text.contains('\0')
    }
}

struct Pattern;

impl Rule for Pattern {
    const WHAT: &'static str = "an absolute path pattern";
    fn is_met(text: &str) -> bool {
        text.starts_with('/') && text.len() <= 1024 && Globs::new([text]).is_ok()
    }
}

struct AbsolutePath;

impl Rule for AbsolutePath {
    const WHAT: &'static str = "the absolute path of a file";
    fn is_met(text: &str) -> bool {
        let is_name = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
        text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_name))
            && text.len() <= 4095
            && !text.contains('\0')
    }
}

/// Packages, at least one and none twice.
struct Packages(Vec<String>);

impl<'de> Deserialize<'de> for Packages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Packages;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of packages")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Packages, A::Error> {
                let mut packages = Vec::new();
                while let Some(Text::<PackageName>(package, _)) = list.next_element()? {
                    if packages.contains(&package) {
                        return Err(A::Error::custom(format!("`{package}` is listed twice")));
                    }
                    packages.push(package);
                }
                if packages.is_empty() {
                    return Err(A::Error::custom("an image has at least one package"));
                }
                Ok(Packages(packages))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// A map from paths, none of them twice.
struct Paths<V>(BTreeMap<String, V>);

impl<V> Default for Paths<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Paths<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Map<V> {
            type Value = Paths<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from paths")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Paths<V>, A::Error> {
                let mut paths = BTreeMap::new();
                while let Some(Text::<AbsolutePath>(path, _)) = map.next_key()? {
                    if paths.contains_key(&path) {
                        return Err(A::Error::custom(format!("`{path}` appears twice")));
                    }
                    let value = map.next_value()?;
                    paths.insert(path, value);
                }
                Ok(Paths(paths))
            }
        }
        deserializer.deserialize_map(Map(PhantomData))
    }
}

/// The parser's message without its place, which stands in front, and with the nearest valid key.
fn message(text: &str) -> String {
    let text = text.split_once(" at line ").map_or(text, |(message, _)| message);
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
