//! GRUB: an entry of kgate's own in `custom.cfg`, which `next_entry` names for one boot.
//!
//! `grub.cfg` is read, never written. It has to boot `saved_entry` by default, to clear `next_entry` before
//! it boots what that names, and to source `custom.cfg`: then whatever becomes of our entry, the boot
//! after it is production's. Image and initrd are beside `custom.cfg`, where GRUB finds them without
//! knowing of disks.

use std::path::{Path, PathBuf};

use crate::boot::{Armament, Assertion, PATH, Production, SelectError, unchanged};
use crate::host::{HostFacts, first, sections};
use crate::ssh::{ANSWER, Ssh, Upload, hex, quote};
use crate::stage::Staged;
use sha2::{Digest, Sha256};

/// Lines around what is ours in `custom.cfg`.
const BEGIN: &str = "### kgate: begin. Written for one boot, removed after it.";
const END: &str = "### kgate: end.";
/// What our entries' names begin with.
const OURS: &str = "kgate-";
/// Sets `e` to what edits GRUB's environment.
const EDITOR: &str =
    "e=$(command -v grub-editenv || command -v grub2-editenv) || { echo @missing; exit 0; }";
/// File systems that GRUB only reads.
const READ_ONLY: &[&str] = &["btrfs", "zfs", "iso9660", "squashfs", "overlay", "f2fs"];

/// A bootable entry of a `grub.cfg`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// Title and id of each menu on the way to it, and its own.
    path: Vec<[String; 2]>,
    /// The image, as GRUB finds it.
    linux: String,
}

pub(super) async fn production(
    ssh: &Ssh,
    facts: &HostFacts,
    wanted: Option<&str>,
) -> Result<Production, SelectError> {
    let directory = directory(facts)?;
    let g = quote(&directory.to_string_lossy());
    let script = format!(
        "{PATH}\n{EDITOR}\ng={g}\necho @env; $e $g/grubenv list\n\
         echo @mount; set -- $(df -P \"$g\" | tail -n 1); while [ $# -gt 1 ]; do shift; done\n\
         while read -r _ _ _ _ at rest; do [ \"$at\" = \"$1\" ] && echo \"${{rest#* - }}\"; done </proc/self/mountinfo\n\
         echo @sum; sha256sum <$g/grub.cfg\n\
         echo @bls; for f in /boot/loader/entries/*.conf; do [ -f \"$f\" ] && echo \"id ${{f##*/}}\" && grep '^linux' \"$f\"; done\n\
         echo @cfg; sed 's/^/ /' $g/grub.cfg"
    );
    let text = ssh.ask("asking for GRUB's default", &script, ANSWER).await?;
    let asked = sections(&text);
    let unsafe_ = |why: String| Err(SelectError::NotSafe(why));
    if asked.contains_key("missing") {
        return unsafe_("the host has neither grub-editenv nor grub2-editenv".into());
    }
    let lines = |name: &str| asked.get(name).cloned().unwrap_or_default();
    let env = |key: &str| {
        let lines = lines("env");
        lines
            .iter()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or("")
            .to_owned()
    };
    let (next, saved) = (env("next_entry"), env("saved_entry"));
    if !next.is_empty() {
        return unsafe_(format!(
            "GRUB is told to boot `{next}` next: `grub-editenv {0}/grubenv unset next_entry`",
            directory.display()
        ));
    }
    if !env("prev_saved_entry").is_empty() {
        return unsafe_(
            "GRUB's environment has a prev_saved_entry, which changes the default".into(),
        );
    }
    let mount = lines("mount").last().copied().unwrap_or_default().to_owned();
    let mut mount = mount.split(' ');
    let (fs, source) = (mount.next().unwrap_or_default(), mount.next().unwrap_or_default());
    if READ_ONLY.contains(&fs)
        || source.starts_with("/dev/mapper/")
        || source.starts_with("/dev/md")
    {
        return unsafe_(format!(
            "GRUB can't clear next_entry on {source} ({fs}), so it would boot it for ever: move /boot \
             to a plain partition, or use kexec"
        ));
    }
    let cfg = lines("cfg");
    if let Some(why) = not_safe(&cfg) {
        return unsafe_(why.into());
    }
    if saved.is_empty() {
        return unsafe_(
            "GRUB has no saved_entry: `grub-set-default` the production entry's id".into(),
        );
    }
    if saved.split('>').any(|name| name.bytes().all(|b| b.is_ascii_digit())) {
        return unsafe_(format!(
            "GRUB's saved_entry is `{saved}`, a place that another kernel takes when one is installed: \
             `grub-set-default` the production entry's id"
        ));
    }
    let entries = match cfg.contains(&"blscfg") {
        true => loader_entries(&lines("bls")),
        false => entries(&cfg),
    };
    let Some(entry) = entries.iter().find(|entry| is(entry, &saved)) else {
        return unsafe_(format!("GRUB's saved_entry is `{saved}`, and there is no such entry"));
    };
    if let Some(wanted) = wanted
        && !is(entry, wanted)
        && saved != wanted
    {
        return unsafe_(format!(
            "GRUB boots `{saved}` by default, the inventory says `{wanted}`: `grub-set-default '{wanted}'`"
        ));
    }
    let identity = &facts.identity;
    if !runs(&entry.linux, &identity.command_line, &identity.release) {
        return unsafe_(format!(
            "GRUB's default `{saved}` boots {}, and {} runs: reboot, or `grub-set-default` the entry of \
             the kernel that runs",
            entry.linux, identity.release
        ));
    }
    let sum = first(&asked, "sum").split(' ').next().unwrap_or_default().to_owned();
    let list = "$e \"$g/grubenv\" list";
    Ok(Production {
        proof: format!("GRUB's saved_entry is `{saved}`, which boots {}; it runs", entry.linux),
        assertions: vec![
            Assertion::new(
                unchanged(&directory.join("grub.cfg"), &sum),
                "grub.cfg was changed meanwhile",
            ),
            Assertion::new(
                format!(
                    "{EDITOR}; g={g}; {list} | grep -qxF {}",
                    quote(&format!("saved_entry={saved}"))
                ),
                "GRUB's default was changed meanwhile",
            ),
            Assertion::new(
                format!("! {list} | grep -q '^next_entry=.'"),
                "something is armed already",
            ),
        ],
        entry: saved,
        ..Production::default()
    })
}

/// Whether an image is that of the running kernel.
fn runs(linux: &str, command_line: &str, release: &str) -> bool {
    let file = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    match command_line.split(' ').find_map(|word| word.strip_prefix("BOOT_IMAGE=")) {
        Some(image) => file(image) == file(linux),
        None => file(linux).ends_with(release),
    }
}

/// Why this `grub.cfg` might boot something else than its saved entry, or one of ours more than once.
fn not_safe(cfg: &[&str]) -> Option<&'static str> {
    let menu =
        cfg.iter().position(|line| line.starts_with("menuentry ") || line.starts_with("submenu "));
    let head = &cfg[..menu.unwrap_or(cfg.len())];
    let at = |line: &str| head.iter().position(|l| l.replace('"', "") == line);
    let order = [
        head.iter().position(|line| line.starts_with("load_env")),
        at("set default=${next_entry}"),
        at("set next_entry="),
        at("save_env next_entry"),
    ];
    if order.iter().any(Option::is_none) || !order.is_sorted() {
        return Some(
            "grub.cfg doesn't clear next_entry by `save_env` before it boots: write it anew by \
             `update-grub` or `grub2-mkconfig`",
        );
    }
    let defaults = cfg.iter().filter_map(|line| line.strip_prefix("set default="));
    if defaults
        .map(|value| value.trim_matches('"'))
        .any(|v| !["${next_entry}", "${saved_entry}"].contains(&v))
    {
        return Some(
            "GRUB doesn't boot its saved entry by default, so an installed kernel may become it: set \
             GRUB_DEFAULT=saved in /etc/default/grub, run `update-grub` or `grub2-mkconfig`, and \
             `grub-set-default` the production entry's id",
        );
    }
    if !cfg.iter().any(|line| line.starts_with("source ") && line.ends_with("custom.cfg")) {
        return Some("grub.cfg doesn't source custom.cfg: make /etc/grub.d/41_custom executable");
    }
    None
}

/// Whether a name such as `submenu>entry` is this entry's.
fn is(entry: &Entry, name: &str) -> bool {
    let parts: Vec<_> = name.split('>').collect();
    parts.len() == entry.path.len()
        && parts.iter().zip(&entry.path).all(|(part, names)| names.iter().any(|n| n == part))
}

/// The entries of a `grub.cfg`, by its lines.
fn entries(cfg: &[&str]) -> Vec<Entry> {
    let mut entries = Vec::new();
    // What each brace belongs to; a menu has names.
    let mut open: Vec<Option<[String; 2]>> = Vec::new();
    for line in cfg {
        let words = words(line);
        let word = |at: usize| words.get(at).map(String::as_str).unwrap_or_default();
        match word(0) {
            "menuentry" | "submenu" => {
                let id = words.iter().position(|w| w == "--id" || w == "$menuentry_id_option");
                let id = id.map_or("", |at| word(at + 1));
                open.push(Some([word(1).to_owned(), id.to_owned()]));
            }
            "linux" | "linux16" | "linuxefi" => {
                let path: Vec<_> = open.iter().flatten().cloned().collect();
                if !path.is_empty() {
                    entries.push(Entry { path, linux: word(1).to_owned() });
                }
            }
            "}" => drop(open.pop()),
            _ if words.last().is_some_and(|last| last == "{") => open.push(None),
            _ => {}
        }
    }
    entries
}

/// The entries of a boot loader specification: lines `id NAME.conf` and `linux PATH`.
fn loader_entries(lines: &[&str]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in lines {
        match line.split_once(char::is_whitespace) {
            Some(("id", name)) => {
                let name = name.trim_end_matches(".conf").to_owned();
                entries.push(Entry { path: vec![[name.clone(), name]], linux: String::new() });
            }
            Some(("linux", path)) => {
                if let Some(entry) = entries.last_mut() {
                    entry.linux = path.trim().to_owned();
                }
            }
            _ => {}
        }
    }
    entries
}

/// Words of a line of GRUB's language, without their quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, None);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quoted, c) {
            (Some(q), c) if c == q => quoted = None,
            (None, '\'' | '"') => {
                quoted = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Where image and initrd go.
pub(super) fn images(facts: &HostFacts) -> Result<PathBuf, SelectError> {
    Ok(directory(facts)?.join("kgate"))
}

fn directory(facts: &HostFacts) -> Result<&Path, SelectError> {
    facts.grub.as_deref().ok_or_else(|| {
        SelectError::NotSafe("there is no grub.cfg below /boot/grub or /boot/grub2".into())
    })
}

pub(super) async fn armament(
    ssh: &Ssh,
    staged: &Staged,
    command_line: &str,
) -> Result<Armament, SelectError> {
    let directory = staged.image.parent().and_then(Path::parent).unwrap_or(Path::new("/boot/grub"));
    let custom = directory.join("custom.cfg");
    let text = with_block(&read(ssh, &custom).await?, Some(&block(staged, command_line)?));
    ssh.upload(&custom, 0o644, Upload::Bytes(text.as_bytes()), ANSWER).await?;
    let g = quote(&directory.to_string_lossy());
    let name = format!("{OURS}{}", staged.role);
    Ok(Armament {
        assertions: vec![Assertion::new(
            unchanged(&custom, &hex(&Sha256::digest(text.as_bytes()))),
            "custom.cfg was changed meanwhile",
        )],
        arm: format!(
            "{EDITOR}; \"$e\" {g}/grubenv set next_entry={name} && \"$e\" {g}/grubenv list | grep -qx next_entry={name}"
        ),
        disarm: format!("{EDITOR}; \"$e\" {g}/grubenv unset next_entry"),
        reboot: "reboot".into(),
    })
}

/// What is ours of `custom.cfg`.
fn block(staged: &Staged, command_line: &str) -> Result<String, SelectError> {
    let file = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (image, initrd) = (file(&staged.image), file(&staged.initrd));
    if command_line.contains('\'') || command_line.chars().any(char::is_control) {
        return Err(SelectError::Refused(format!(
            "a command line with a single quote can't be given to GRUB: {command_line}"
        )));
    }
    let arguments: String = command_line.split(' ').map(|word| format!(" '{word}'")).collect();
    let name = format!("{OURS}{}", staged.role);
    // What GRUB couldn't clear it would boot for ever: so it is read again. And an entry that fails
    // would leave it waiting for a key.
    Ok(format!(
        "{BEGIN}
set kgate=\"${{config_directory}}/kgate\"
export kgate
if [ \"${{default}}\" = \"{name}\" ]; then
  load_env
  if [ \"${{next_entry}}\" ]; then
    echo 'kgate: next_entry could not be cleared: booting production'
    set default=\"${{saved_entry}}\"
  fi
fi
menuentry '{name}' --id '{name}' {{
  if linux \"${{kgate}}/{image}\"{arguments}; then
    if initrd \"${{kgate}}/{initrd}\"; then
      true
    else
      reboot
    fi
  else
    reboot
  fi
}}
{END}
"
    ))
}

/// `custom.cfg` with our block replaced; what is the site's stays as it is.
fn with_block(text: &str, block: Option<&str>) -> String {
    let mut kept = String::new();
    let mut ours = false;
    for line in text.lines() {
        match line {
            BEGIN => ours = true,
            END if ours => ours = false,
            line if !ours => {
                kept += line;
                kept.push('\n');
            }
            _ => {}
        }
    }
    kept + block.unwrap_or_default()
}

async fn read(ssh: &Ssh, path: &Path) -> Result<String, SelectError> {
    let path = quote(&path.to_string_lossy());
    let bytes = ssh
        .fetch("reading custom.cfg", &format!("cat {path} 2>/dev/null; :"), 1 << 20, ANSWER)
        .await?;
    String::from_utf8(bytes)
        .map_err(|_| SelectError::Refused(format!("{path} on the host is not text")))
}

pub(super) async fn armed(ssh: &Ssh, facts: &HostFacts) -> Result<Option<String>, SelectError> {
    let g = quote(&directory(facts)?.to_string_lossy());
    let script = format!("{PATH}\n{EDITOR}\n\"$e\" {g}/grubenv list | sed -n 's/^next_entry=//p'");
    let next = ssh.ask("asking for GRUB's next entry", &script, ANSWER).await?;
    Ok(Some(next).filter(|next| !next.is_empty() && next != "@missing"))
}

pub(super) async fn disarm(ssh: &Ssh, facts: &HostFacts) -> Result<(), SelectError> {
    let g = quote(&directory(facts)?.to_string_lossy());
    // What a person has armed stays.
    let script = format!(
        "{PATH}\n{EDITOR}\ncase $(\"$e\" {g}/grubenv list | sed -n 's/^next_entry=//p') in \
         {OURS}*) \"$e\" {g}/grubenv unset next_entry && sync ;; esac"
    );
    ssh.ask("clearing GRUB's next entry", &script, ANSWER).await?;
    Ok(())
}

pub(super) async fn clean(ssh: &Ssh, facts: &HostFacts) -> Result<(), SelectError> {
    let directory = directory(facts)?;
    let custom = directory.join("custom.cfg");
    let text = read(ssh, &custom).await?;
    let left = with_block(&text, None);
    let files = quote(&directory.join("kgate").to_string_lossy());
    let remove = if left.trim().is_empty() && !text.is_empty() {
        format!("rm -f {}; ", quote(&custom.to_string_lossy()))
    } else {
        if left != text {
            ssh.upload(&custom, 0o644, Upload::Bytes(left.as_bytes()), ANSWER).await?;
        }
        String::new()
    };
    ssh.ask("taking away what GRUB was given", &format!("{remove}rm -rf {files}; sync"), ANSWER)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kgate_model::outcome::Role;

    use super::*;

    /// What Debian's `update-grub` writes, in the parts that matter.
    const DEBIAN: &str = r#"
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="${saved_entry}"
fi
function savedefault {
  if [ -z "${boot_once}" ]; then
    saved_entry="${chosen}"
    save_env saved_entry
  fi
}
menuentry 'Debian GNU/Linux' --class debian --class os $menuentry_id_option 'gnulinux-simple-u1' {
	load_video
	linux	/boot/vmlinuz-6.1.0-47 root=UUID=u1 ro  console=ttyS0
	initrd	/boot/initrd.img-6.1.0-47
}
submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced-u1' {
	menuentry 'Debian, with Linux 6.1.0-56' --class debian $menuentry_id_option 'gnulinux-6.1.0-56-advanced-u1' {
		if [ x$grub_platform = xxen ]; then insmod xzio; fi
		linux	/boot/vmlinuz-6.1.0-56 root=UUID=u1 ro
	}
}
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
fi
"#;

    fn lines(text: &str) -> Vec<&str> {
        text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
    }

    #[test]
    fn entries_are_found_by_id_and_title_and_menu() {
        let entries = entries(&lines(DEBIAN));
        let found = |name: &str| {
            entries.iter().find(|entry| is(entry, name)).map(|entry| entry.linux.as_str())
        };
        assert_eq!(found("gnulinux-simple-u1"), Some("/boot/vmlinuz-6.1.0-47"));
        assert_eq!(found("Debian GNU/Linux"), Some("/boot/vmlinuz-6.1.0-47"));
        let nested = "gnulinux-advanced-u1>gnulinux-6.1.0-56-advanced-u1";
        assert_eq!(found(nested), Some("/boot/vmlinuz-6.1.0-56"));
        assert_eq!(found("gnulinux-6.1.0-56-advanced-u1"), None);
    }

    #[test]
    fn entries_of_the_boot_loader_specification() {
        let lines = [
            "id 1a2b-5.14.0.conf",
            "linux /vmlinuz-5.14.0",
            "id 1a2b-0-rescue.conf",
            "linux\t/vmlinuz-0",
        ];
        let entries = loader_entries(&lines);
        assert!(is(&entries[0], "1a2b-5.14.0") && entries[0].linux == "/vmlinuz-5.14.0");
        assert!(is(&entries[1], "1a2b-0-rescue") && entries[1].linux == "/vmlinuz-0");
    }

    #[test]
    fn what_makes_production_uncertain_is_refused() {
        let verdict = |from: &str, to: &str| {
            not_safe(&lines(&DEBIAN.replace(from, to))).map(|why| why.split(':').next().unwrap())
        };
        assert_eq!(verdict("", ""), None);
        let clears = Some("grub.cfg doesn't clear next_entry by `save_env` before it boots");
        let default = verdict("set default=\"${saved_entry}\"", "set default=\"0\"");
        assert!(default.is_some_and(|why| why.starts_with("GRUB doesn't boot its saved entry")));
        let default = verdict("menuentry 'Debian GNU/Linux'", "set default=1\nmenuentry 'D'");
        assert!(default.is_some_and(|why| why.starts_with("GRUB doesn't boot its saved entry")));
        assert_eq!(verdict("   save_env next_entry\n", ""), clears);
        assert_eq!(verdict("  load_env\n", ""), clears);
        let swapped = ["   set next_entry=\n", "   save_env next_entry\n"];
        assert_eq!(verdict(&swapped.concat(), &[swapped[1], swapped[0]].concat()), clears);
        assert_eq!(
            verdict("  source ${config_directory}/custom.cfg\n", ""),
            Some("grub.cfg doesn't source custom.cfg")
        );
    }

    #[test]
    fn the_running_kernel_is_that_of_an_entry() {
        assert!(runs("/boot/vmlinuz-6.1", "BOOT_IMAGE=/vmlinuz-6.1 ro", "6.1"));
        assert!(runs("/boot/vmlinuz-6.1", "BOOT_IMAGE=(hd0,gpt2)/vmlinuz-6.1 ro", "6.1"));
        assert!(!runs("/boot/vmlinuz-6.1", "BOOT_IMAGE=/vmlinuz-6.2 ro", "6.1"));
        assert!(runs("/boot/vmlinuz-6.1", "ro", "6.1"));
    }

    fn staged() -> Staged {
        Staged {
            role: Role::Candidate,
            release: "6.1.0-56".into(),
            banner: String::new(),
            digest: String::new(),
            image: "/boot/grub/kgate/candidate-vmlinuz".into(),
            initrd: "/boot/grub/kgate/candidate-initrd".into(),
            command_line: String::new(),
            agent: PathBuf::new(),
            ops: PathBuf::new(),
            modules: BTreeMap::new(),
        }
    }

    #[test]
    fn our_block_leaves_the_sites_own_lines_alone() {
        let ours = block(&staged(), "root=UUID=u1 ro kgate.boot=b").unwrap();
        insta::assert_snapshot!(ours);
        let site = "menuentry 'mine' {\n  true\n}\n";
        let with = with_block(site, Some(&ours));
        assert_eq!(with_block(&with, Some(&ours)), with);
        assert_eq!(with_block(&with, None), site);
        // A block that was cut short takes nothing of the site's before it along.
        let cut = &with[..with.len() - END.len() - 1];
        assert_eq!(with_block(cut, None), site);
        assert!(block(&staged(), "a='b'").is_err());
    }
}
