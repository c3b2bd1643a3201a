//! A kernel's modules: which there are, what each needs, in which order to load them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use object::{Object, ObjectSection, ReadCache};
use rayon::prelude::*;

use crate::compress::{self, Format};
use crate::config::Config;
use crate::error::KernelError;

/// No module is larger, debug information included.
const MAX_MODULE: u64 = 512 << 20;
/// No kernel has more modules, nor a list of them more bytes.
const MAX_FILES: usize = 100_000;
const MAX_LIST: u64 = 64 << 20;
const MAX_DEPTH: usize = 16;

/// Where a kernel has a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// In the image.
    BuiltIn,
    /// In a module file.
    Module,
    /// In neither.
    Absent,
}

/// A module to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleFile {
    /// Name, with `_` for `-`.
    pub name: String,
    /// The file, perhaps compressed.
    pub path: PathBuf,
    /// It was asked for by a soft dependency only: the others work when it fails to load.
    pub optional: bool,
}

impl ModuleFile {
    /// The module itself, decompressed.
    ///
    /// # Errors
    /// When the file can't be read, is damaged, or is larger than 512 MiB.
    pub fn read(&self) -> Result<Vec<u8>, KernelError> {
        read_module(&self.path)
    }
}

/// What a module says of itself in its `.modinfo` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleInfo {
    /// Modules that have to be loaded before it.
    pub depends: Vec<String>,
    /// Modules or aliases that should be loaded before it.
    pub soft_pre: Vec<String>,
    /// Names under which it is asked for, patterns included.
    pub aliases: Vec<String>,
    /// Release and build options of the kernel it was built for.
    pub vermagic: Option<String>,
}

impl ModuleInfo {
    /// Reads `.modinfo` from a decompressed module.
    ///
    /// # Errors
    /// A fragment that says what is wrong with it.
    pub(crate) fn parse<'data, R: object::ReadRef<'data>>(data: R) -> Result<Self, String> {
        let file = object::File::parse(data).map_err(|e| format!("not an ELF object: {e}"))?;
        if file.architecture() != object::Architecture::X86_64 {
            return Err(format!("a module for {:?}, not x86-64", file.architecture()));
        }
        let section =
            file.section_by_name(".modinfo").ok_or("has no .modinfo section: not a module")?;
        let text = section.data().map_err(|e| format!(".modinfo: {e}"))?;
        let mut info = Self::default();
        for field in text.split(|b| *b == 0) {
            let Some((key, value)) =
                std::str::from_utf8(field).ok().and_then(|f| f.split_once('='))
            else {
                continue;
            };
            match key {
                "depends" => info.depends.extend(names(value, ',')),
                "softdep" => info.soft_pre.extend(soft_pre(value)),
                "alias" => info.aliases.push(value.to_owned()),
                "vermagic" => info.vermagic = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(info)
    }
}

fn names(list: &str, separator: char) -> impl Iterator<Item = String> {
    list.split(separator).map(str::trim).filter(|name| !name.is_empty()).map(normal)
}

/// The words after `pre:` and before `post:`.
fn soft_pre(value: &str) -> Vec<String> {
    let mut before = false;
    let mut found = Vec::new();
    for word in value.split_whitespace() {
        match word {
            "pre:" => before = true,
            "post:" => before = false,
            word if before => found.push(word.to_owned()),
            _ => {}
        }
    }
    found
}

/// The name under which a module is known: `-` and `_` are the same.
#[must_use]
pub fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// All modules of one kernel.
#[derive(Clone, Debug)]
pub struct Modules {
    image: PathBuf,
    release: String,
    root: Option<PathBuf>,
    files: BTreeMap<String, PathBuf>,
    builtin: Option<BTreeSet<String>>,
    config: Option<Arc<Config>>,
    aliases: OnceLock<BTreeMap<String, Vec<String>>>,
}

impl Modules {
    /// A kernel without module files.
    pub(crate) fn none(image: &Path, release: &str, config: Option<Arc<Config>>) -> Self {
        Self {
            image: image.to_owned(),
            release: release.to_owned(),
            root: None,
            files: BTreeMap::new(),
            builtin: None,
            config,
            aliases: OnceLock::new(),
        }
    }

    /// The modules below `root`: a `lib/modules/RELEASE`, or a build tree.
    pub(crate) fn open(
        root: &Path,
        image: &Path,
        release: &str,
        config: Option<Arc<Config>>,
    ) -> Result<Self, KernelError> {
        let mut modules = Self::none(image, release, config);
        modules.files = match listed(root)? {
            Some(files) => files,
            None => walk(root, module_name)?,
        };
        modules.builtin = read_list(&root.join("modules.builtin"))?
            .map(|text| text.lines().filter_map(|line| module_name(Path::new(line))).collect());
        modules.root = Some(root.to_owned());
        Ok(modules)
    }

    /// Names and files of all modules below `root`, those of debug information included; none when
    /// there is no such directory.
    pub(crate) fn debug(root: &Path) -> Result<BTreeMap<String, PathBuf>, KernelError> {
        if root.is_dir() { walk(root, debug_name) } else { Ok(BTreeMap::new()) }
    }

    /// The directory they are in; `None` for a kernel that came without modules.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Number of module files.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is no module file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Names and files of all modules, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.files.iter().map(|(name, path)| (name.as_str(), path.as_path()))
    }

    /// Where below [`root`](Self::root) all modules are, and where those would be that are built in
    /// and could have been modules; `None` for a kernel without a list of the latter.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn drivers(&self) -> Result<Option<Vec<PathBuf>>, KernelError> {
        let Some(root) = &self.root else { return Ok(None) };
        let Some(builtin) = read_list(&root.join("modules.builtin"))? else { return Ok(None) };
        let files = self.files.values().filter_map(|path| path.strip_prefix(root).ok());
        let builtin = builtin.lines().map(Path::new);
        Ok(Some(files.chain(builtin).map(Path::to_owned).collect()))
    }

    /// Where the module `name` is. `modules.builtin` lists only what could have been a module, and
    /// may be absent: the configuration counts too, `foo` as built in with `CONFIG_FOO=y` or
    /// `CONFIG_FOO_FS=y`.
    #[must_use]
    pub fn status(&self, name: &str) -> Status {
        let name = normal(name);
        if self.files.contains_key(&name) {
            return Status::Module;
        }
        let listed = self.builtin.as_ref().is_some_and(|builtin| builtin.contains(&name));
        let configured = self.config.as_ref().is_some_and(|config| {
            let symbol = name.to_ascii_uppercase();
            [symbol.clone(), format!("{symbol}_FS")].iter().any(|s| config.get(s) == Some("y"))
        });
        if listed || configured { Status::BuiltIn } else { Status::Absent }
    }

    /// What module `name` says of itself.
    ///
    /// # Errors
    /// [`KernelError::MissingDrivers`] when there is no such module file, [`KernelError::OtherRelease`]
    /// when it was built for another kernel, otherwise what is wrong with the file.
    pub fn info(&self, name: &str) -> Result<ModuleInfo, KernelError> {
        let Some(path) = self.files.get(&normal(name)) else {
            return Err(self.missing(vec![crate::Driver::named(name)]));
        };
        let info = read_info(path)?;
        let built_for = info.vermagic.as_deref().and_then(|v| v.split_whitespace().next());
        match built_for {
            Some(release) if release != self.release => Err(KernelError::OtherRelease {
                path: path.clone(),
                image: self.image.clone(),
                release: self.release.clone(),
                found: vec![release.to_owned()],
            }),
            _ => Ok(info),
        }
    }

    /// The modules `names` and all that they need, each after what it needs; names that are built
    /// in are left out. The same names give the same order.
    ///
    /// # Errors
    /// [`KernelError::MissingDrivers`] for names in neither image nor modules,
    /// [`KernelError::MissingDependency`] for an incomplete directory, [`KernelError::OtherRelease`]
    /// for modules of another kernel, otherwise what is wrong with a file.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<ModuleFile>, KernelError> {
        let missing: Vec<_> = names
            .iter()
            .filter(|name| self.status(name) == Status::Absent)
            .map(|name| crate::Driver::named(name))
            .collect();
        if !missing.is_empty() {
            return Err(self.missing(missing));
        }
        let mut order = Order {
            modules: self,
            infos: BTreeMap::new(),
            entered: BTreeSet::new(),
            files: Vec::new(),
        };
        for name in names {
            order.visit(&normal(name))?;
        }
        let hard = order.hard(names);
        for file in &mut order.files {
            file.optional = !hard.contains(&file.name);
        }
        Ok(order.files)
    }

    fn missing(&self, missing: Vec<crate::Driver>) -> KernelError {
        KernelError::MissingDrivers {
            release: self.release.clone(),
            missing,
            has_modules: !self.is_empty(),
        }
    }

    /// The module file behind a name or alias of a soft dependency; `None` when it is built in or
    /// unknown, which a soft dependency may be.
    fn soft_target(&self, name: &str) -> Option<String> {
        match self.status(name) {
            Status::Module => return Some(normal(name)),
            Status::BuiltIn => return None,
            Status::Absent => {}
        }
        let providers = self.aliases.get_or_init(|| self.read_aliases()).get(&normal(name))?;
        if providers.iter().any(|p| !self.files.contains_key(p)) {
            return None;
        }
        // Several modules may offer one algorithm; the generic one runs on every CPU.
        providers.iter().find(|p| p.ends_with("_generic")).or(providers.first()).cloned()
    }

    /// Aliases that are plain names, each with the modules that have it; built-in ones too.
    fn read_aliases(&self) -> BTreeMap<String, Vec<String>> {
        let mut aliases: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let Some(root) = &self.root else { return aliases };
        let mut add = |alias: &str, module: &str| {
            if is_plain(alias) {
                aliases.entry(normal(alias)).or_default().push(normal(module));
            }
        };
        // Both lists are hints for soft dependencies: what can't be read says nothing.
        if let Ok(Some(text)) = read_list(&root.join("modules.builtin.modinfo")) {
            for field in text.split('\0') {
                if let Some((module, alias)) = field.split_once(".alias=") {
                    add(alias, module);
                }
            }
        }
        match read_list(&root.join("modules.alias")) {
            Ok(Some(text)) => {
                for line in text.lines() {
                    if let ["alias", alias, module] = line.split(' ').collect::<Vec<_>>()[..] {
                        add(alias, module);
                    }
                }
            }
            _ => {
                for (alias, module) in self.scan_aliases() {
                    add(&alias, &module);
                }
            }
        }
        aliases
    }

    /// Reads every module for its plain aliases, in the order of the modules' names.
    pub(crate) fn scan_aliases(&self) -> Vec<(String, String)> {
        let files: Vec<_> = self.files.iter().collect();
        files
            .par_iter()
            .map(|(name, path)| {
                let aliases = read_info(path).map(|info| info.aliases).unwrap_or_default();
                aliases
                    .into_iter()
                    .filter(|alias| is_plain(alias))
                    .map(|alias| (alias, (*name).clone()))
                    .collect::<Vec<_>>()
            })
            .flatten()
            .collect()
    }
}

/// Not a pattern of device ids.
fn is_plain(alias: &str) -> bool {
    !alias.contains([':', '*', '?', '[', ' '])
}

/// One walk over the dependencies.
struct Order<'a> {
    modules: &'a Modules,
    infos: BTreeMap<String, ModuleInfo>,
    entered: BTreeSet<String>,
    files: Vec<ModuleFile>,
}

impl Order<'_> {
    /// Puts what `name` needs in order, then `name`. On its own stack, so that a chain of any
    /// length in a damaged directory does no harm; a cycle is cut where it closes.
    fn visit(&mut self, name: &str) -> Result<(), KernelError> {
        enum Step {
            Enter(String),
            Leave(String),
        }
        let mut stack = vec![Step::Enter(name.to_owned())];
        while let Some(step) = stack.pop() {
            match step {
                Step::Leave(name) => {
                    let path = self.modules.files[&name].clone();
                    self.files.push(ModuleFile { name, path, optional: false });
                }
                Step::Enter(name) => {
                    if self.modules.status(&name) != Status::Module
                        || !self.entered.insert(name.clone())
                    {
                        continue;
                    }
                    let info = self.modules.info(&name)?;
                    if let Some(needs) =
                        info.depends.iter().find(|d| self.modules.status(d) == Status::Absent)
                    {
                        return Err(KernelError::MissingDependency {
                            path: self.modules.files[&name].clone(),
                            module: name,
                            needs: needs.clone(),
                            release: self.modules.release.clone(),
                        });
                    }
                    let soft = info.soft_pre.iter().filter_map(|s| self.modules.soft_target(s));
                    let before: Vec<_> = soft.chain(info.depends.iter().cloned()).collect();
                    stack.push(Step::Leave(name.clone()));
                    stack.extend(before.into_iter().rev().map(Step::Enter));
                    self.infos.insert(name, info);
                }
            }
        }
        Ok(())
    }

    /// The names and what they need without any soft dependency.
    fn hard(&self, names: &[&str]) -> BTreeSet<String> {
        let mut hard = BTreeSet::new();
        let mut left: Vec<_> = names.iter().map(|name| normal(name)).collect();
        while let Some(name) = left.pop() {
            if let Some(info) = self.infos.get(&name)
                && hard.insert(name)
            {
                left.extend(info.depends.iter().cloned());
            }
        }
        hard
    }
}

/// The module name of a file path: `drivers/a-b.ko.xz` is `a_b`. `None` for other files.
pub(crate) fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem = ["", ".xz", ".zst", ".gz"]
        .iter()
        .find_map(|packed| file.strip_suffix(packed)?.strip_suffix(".ko"))?;
    (!stem.is_empty()).then(|| normal(stem))
}

/// As [`module_name`], also of a module's debug information: `drivers/a-b.ko.debug`.
pub(crate) fn debug_name(path: &Path) -> Option<String> {
    match path.extension() {
        Some(extension) if extension == "debug" => module_name(&path.with_extension("")),
        _ => module_name(path),
    }
}

/// A build tree's modules, from its `modules.order`; `None` for an installed directory, whose
/// `modules.order` may name modules that live in another package.
fn listed(root: &Path) -> Result<Option<BTreeMap<String, PathBuf>>, KernelError> {
    if !root.join("include/config/kernel.release").exists() {
        return Ok(None);
    }
    let Some(text) = read_list(&root.join("modules.order"))? else { return Ok(None) };
    let mut files = BTreeMap::new();
    for line in text.lines() {
        // Up to 5.2 the lines begin with kernel/, from 6.3 on they name the .o.
        let line = line.strip_prefix("kernel/").unwrap_or(line);
        let path = root.join(line).with_extension("ko");
        if let Some(name) = module_name(&path)
            && path.is_file()
        {
            files.entry(name).or_insert(path);
        }
    }
    Ok(Some(files))
}

fn walk(
    root: &Path,
    name_of: impl Fn(&Path) -> Option<String>,
) -> Result<BTreeMap<String, PathBuf>, KernelError> {
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut dirs = vec![(root.to_owned(), 0)];
    let mut seen = 0;
    while let Some((dir, depth)) = dirs.pop() {
        let entries = fs::read_dir(&dir).map_err(|e| KernelError::io("read", &dir, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| KernelError::io("read", &dir, e))?;
            let path = entry.path();
            seen += 1;
            if seen > MAX_FILES || depth > MAX_DEPTH {
                let detail =
                    "more than 100000 files or 16 levels below it: not a modules directory"
                        .to_owned();
                return Err(KernelError::Unsafe { path: root.to_owned(), detail });
            }
            let is_dir = match entry.file_type().map_err(|e| KernelError::io("read", &path, e))? {
                kind if kind.is_symlink() => path.is_dir(),
                kind => kind.is_dir(),
            };
            // Links to where the kernel was built.
            let elsewhere =
                depth == 0 && (entry.file_name() == "build" || entry.file_name() == "source");
            if is_dir && !elsewhere {
                dirs.push((path, depth + 1));
            } else if let Some(name) = name_of(&path) {
                // As depmod does: updates/ before all others. Otherwise the first path.
                let rank = |p: &Path| (!p.starts_with(root.join("updates")), p.to_owned());
                match files.get(&name) {
                    Some(other) if rank(other) <= rank(&path) => {}
                    _ => drop(files.insert(name, path)),
                }
            }
        }
    }
    Ok(files)
}

/// The text of an optional list beside the modules.
fn read_list(path: &Path) -> Result<Option<String>, KernelError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(KernelError::io("read", path, e)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_LIST).read_to_end(&mut bytes).map_err(|e| KernelError::io("read", path, e))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn read_info(path: &Path) -> Result<ModuleInfo, KernelError> {
    let mut file = File::open(path).map_err(|e| KernelError::io("read", path, e))?;
    let info =
        match compress::detect_file(&mut file).map_err(|e| KernelError::io("read", path, e))? {
            // Only the headers and the one section are read.
            None => ModuleInfo::parse(&ReadCache::new(file)),
            Some(_) => ModuleInfo::parse(read_module(path)?.as_slice()),
        };
    info.map_err(|detail| KernelError::damaged(path, detail))
}

pub(crate) fn read_module(path: &Path) -> Result<Vec<u8>, KernelError> {
    let mut file = File::open(path).map_err(|e| KernelError::io("read", path, e))?;
    let format: Option<Format> =
        compress::detect_file(&mut file).map_err(|e| KernelError::io("read", path, e))?;
    let mut bytes = Vec::new();
    let result = match format {
        None => file.take(MAX_MODULE + 1).read_to_end(&mut bytes),
        Some(format) => compress::reader(format, file)
            .and_then(|reader| reader.take(MAX_MODULE + 1).read_to_end(&mut bytes)),
    };
    result.map_err(|e| KernelError::packed(path, "the module", &e))?;
    if bytes.len() as u64 > MAX_MODULE {
        return Err(KernelError::Unsafe {
            path: path.to_owned(),
            detail: "unpacks to more than 512 MiB".to_owned(),
        });
    }
    Ok(bytes)
}
