//! The inventory of a lab: secrets in the clear are refused without showing them, what is written
//! short is written out, and the defaults are put under each host. What is read then is
//! `raw::Inventory`.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use kgate_model::inventory::Inventory;
use regex::Regex;

use crate::mistake::Mistakes;
use crate::read::read;
use crate::resolve;
use crate::sink::Sink;
use crate::yaml::{self, Node, Span, Value};

/// Where an inventory's relative paths begin.
#[derive(Clone, Debug)]
pub struct Places {
    /// Absolute directory of its file.
    pub directory: PathBuf,
    /// What `~/` is.
    pub home: Option<PathBuf>,
}

/// Most hosts of an inventory.
const HOSTS_BOUND: usize = 1000;
/// Most values of the defaults, each of which every host has.
const DEFAULTS_BOUND: usize = 500;

/// Keys of which a host that has one takes none of the others from the defaults.
const INSTEAD: [&[&str]; 4] = [
    &["redfish", "ipmi", "command"],
    &["env", "file", "command"],
    &["host-key", "known-hosts"],
    &["ca", "certificate-sha256", "insecure"],
];

/// Keys that some kinds of power have and others don't.
pub(crate) const POWER_KEYS: [(&str, &[&str]); 7] = [
    ("user", &["redfish", "ipmi"]),
    ("password", &["redfish", "ipmi"]),
    ("system", &["redfish"]),
    ("ca", &["redfish"]),
    ("certificate-sha256", &["redfish"]),
    ("insecure", &["redfish"]),
    ("cipher-suite", &["ipmi"]),
];

/// Keys that some ways to boot have and others don't.
pub(crate) const BOOT_KEYS: [(&str, &[&str]); 2] = [("grub", &["grub"]), ("pxe", &["pxe"])];

/// Reads an inventory.
///
/// # Errors
/// Every mistake in the file. No mistake shows a secret that is there in the clear.
pub fn load(path: &Path, text: &str, places: &Places) -> Result<Inventory, Mistakes> {
    let sink = Sink::new(path, text);
    // What is a secret isn't known before it is read.
    sink.mask(|_, _| String::new());
    let inventory = yaml::parse(text, &sink).and_then(|mut root| {
        sink.mask(mask);
        hide(&mut root, &sink);
        write_out(&mut root, &sink);
        resolve::inventory(read(&root, &sink), places, &sink)
    });
    let mistakes = sink.into_mistakes();
    match inventory {
        Some(inventory) if mistakes.is_empty() => Ok(inventory),
        _ => Err(Mistakes(mistakes)),
    }
}

/// A line as a message may show it: nothing after what the message is about, and before it neither
/// what stands where only a reference to a secret may, nor the user of a URL.
fn mask(line: &str, end: usize) -> String {
    static CLEAR: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"(?i)((?:pass|pwd|secret|token|value)[^:]*:\s*)[^{\s].*$").ok()
    });
    static USER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new("(://)[^/@ ]*@").ok());
    let mut shown: String = line.chars().take(end).collect();
    for pattern in [&*CLEAR, &*USER].into_iter().flatten() {
        shown = pattern.replace(&shown, "$1…").into_owned();
    }
    if line.chars().count() > end {
        shown.push_str(" …");
    }
    shown
}

/// Reports the secrets that are there in the clear, and puts a reference in their place.
fn hide(node: &mut Node, sink: &Sink<'_>) {
    match &mut node.value {
        Value::Map(entries) => {
            for (key, value) in entries {
                if is(key, "password") && matches!(value.value, Value::Scalar(_) | Value::List(_)) {
                    let hint =
                        "name where it is: { env: VARIABLE }, { file: PATH } or { command: … }";
                    sink.report(key.span, "a password in the clear", Some(hint.to_owned()));
                    *value = map("env", scalar("IN_THE_CLEAR", value.span));
                }
                hide(value, sink);
            }
        }
        Value::List(items) => items.iter_mut().for_each(|item| hide(item, sink)),
        Value::Null | Value::Scalar(_) => {}
    }
}

/// Writes out what is written short, and puts the defaults under each host.
fn write_out(root: &mut Node, sink: &Sink<'_>) {
    let Value::Map(entries) = &mut root.value else { return };
    let mut defaults = None;
    for (key, value) in entries.iter_mut() {
        if is(key, "defaults") {
            lengthen(value);
            if size(value) > DEFAULTS_BOUND {
                let message = format!("`defaults` has more than {DEFAULTS_BOUND} values");
                return sink.report(key.span, message, None);
            }
            defaults = Some(value.clone());
        }
    }
    let hosts = entries.iter_mut().find(|(key, _)| is(key, "hosts"));
    let Some((key, Node { value: Value::Map(hosts), .. })) = hosts else { return };
    if hosts.len() > HOSTS_BOUND {
        sink.report(key.span, format!("more than {HOSTS_BOUND} hosts"), None);
    }
    for (_, host) in hosts.iter_mut().take(HOSTS_BOUND) {
        lengthen(host);
        if let Value::Null = host.value {
            host.value = Value::Map(Vec::new());
        }
        if let Some(defaults) = &defaults {
            merge("", defaults, host);
        }
    }
}

/// Writes out a host's hooks and consoles that are one piece of text.
fn lengthen(host: &mut Node) {
    let Value::Map(entries) = &mut host.value else { return };
    for (key, value) in entries {
        match &mut value.value {
            Value::Map(hooks) if is(key, "hooks") => {
                for (_, hook) in hooks {
                    if let Value::Scalar(_) = hook.value {
                        *hook = map("run", hook.clone());
                    }
                }
            }
            Value::List(consoles) if is(key, "console") => consoles.iter_mut().for_each(console),
            Value::Scalar(_) | Value::Map(_) if is(key, "console") => {
                console(value);
                // A list is never put together with another.
                let one = std::mem::replace(&mut value.value, Value::Null);
                let one = Node { span: value.span, value: one };
                value.value = Value::List(vec![one]);
            }
            _ => {}
        }
    }
}

/// `sol` is `{ sol: true }`.
fn console(node: &mut Node) {
    if let Value::Scalar(kind) = &node.value {
        *node = map(kind, scalar("true", node.span));
    }
}

/// Puts the defaults of what is called `name` under a host's own.
fn merge(name: &str, defaults: &Node, own: &mut Node) {
    let (Value::Map(defaults), Value::Map(own)) = (&defaults.value, &mut own.value) else { return };
    let (kind, keys): (_, &[(&str, &[&str])]) = match name {
        "power" => {
            let kind = |entries| INSTEAD[0].iter().find(|kind| get(entries, kind).is_some());
            (kind(own).or_else(|| kind(defaults)).copied(), &POWER_KEYS)
        }
        "boot" => {
            let method = |entries| match &get(entries, "method")?.value {
                Value::Scalar(method) => Some(method.as_str()),
                _ => None,
            };
            (Some(method(own).or_else(|| method(defaults)).unwrap_or("grub")), &BOOT_KEYS)
        }
        _ => (None, &[]),
    };
    let kind = kind.map(ToOwned::to_owned);
    let mut taken_back = Vec::new();
    let mut added = Vec::new();
    for (key, value) in defaults {
        let Value::Scalar(word) = &key.value else { continue };
        if let Some((_, mine)) = own.iter_mut().find(|(key, _)| is(key, word)) {
            match mine.value {
                Value::Null => taken_back.push(word),
                _ => merge(word, value, mine),
            }
            continue;
        }
        let instead = INSTEAD.iter().any(|group| {
            group.contains(&word.as_str()) && group.iter().any(|other| get(own, other).is_some())
        });
        let misfit = keys.iter().any(|(key, kinds)| {
            key == word && kind.as_ref().is_some_and(|kind| !kinds.contains(&kind.as_str()))
        });
        if !instead && !misfit {
            added.push((key.clone(), value.clone()));
        }
    }
    own.retain(|(key, _)| !taken_back.iter().any(|word| is(key, word)));
    own.extend(added);
}

fn get<'a>(entries: &'a [(Node, Node)], word: &str) -> Option<&'a Node> {
    entries.iter().find(|(key, _)| is(key, word)).map(|(_, value)| value)
}

fn is(key: &Node, word: &str) -> bool {
    matches!(&key.value, Value::Scalar(text) if text == word)
}

fn scalar(text: &str, span: Span) -> Node {
    Node { span, value: Value::Scalar(text.to_owned()) }
}

/// A map with one entry, at the entry's place.
fn map(key: &str, value: Node) -> Node {
    let span = value.span;
    Node { span, value: Value::Map(vec![(scalar(key, span), value)]) }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Null | Value::Scalar(_) => 1,
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, value)| 1 + size(value)).sum::<usize>(),
    }
}
