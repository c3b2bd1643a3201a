//! How findings are compared with those of others: the names of types that the syzbot dashboard
//! gives to titles, and what that convention has no name for.

use kgate_model::finding::Finding;

use crate::rules::{GROUPS, Rule};

/// Types by how titles begin; the first that fits counts.
static TYPES: &[(&str, &[&str])] = &[
    ("KFENCE-USE-AFTER-FREE-WRITE", &["KFENCE: use-after-free write"]),
    ("KFENCE-USE-AFTER-FREE-READ", &["KFENCE: use-after-free"]),
    ("KFENCE-WRITE", &["KFENCE: invalid write", "KFENCE: out-of-bounds write"]),
    ("KFENCE-READ", &["KFENCE: invalid read", "KFENCE: out-of-bounds"]),
    ("KFENCE-MEMORY-CORRUPTION", &["KFENCE: memory corruption"]),
    ("KFENCE-INVALID-FREE", &["KFENCE: invalid free"]),
    ("KFENCE-UNKNOWN", &["KFENCE:"]),
    ("KMSAN-UNINIT-VALUE", &["KMSAN: uninit-value"]),
    (
        "KMSAN-USE-AFTER-FREE-READ",
        &[
            "KMSAN: kernel-infoleak-after-free",
            "KMSAN: kernel-usb-infoleak-after-free",
            "KMSAN: use-after-free",
        ],
    ),
    ("KMSAN-INFO-LEAK", &["KMSAN: kernel-infoleak", "KMSAN: kernel-usb-infoleak"]),
    ("KMSAN-UNKNOWN", &["KMSAN:"]),
    ("KASAN-NULL-POINTER-DEREFERENCE-WRITE", &["KASAN: null-ptr-deref Write"]),
    ("KASAN-NULL-POINTER-DEREFERENCE-READ", &["KASAN: null-ptr-deref Read"]),
    ("KASAN-INVALID-FREE", &["KASAN: double-free or invalid-free", "KASAN: invalid-free"]),
    (
        "KASAN-USE-AFTER-FREE-WRITE",
        &["KASAN: slab-use-after-free Write", "KASAN: use-after-free Write"],
    ),
    ("KASAN-USE-AFTER-FREE-READ", &["KASAN: slab-use-after-free Read", "KASAN: use-after-free"]),
    (
        "KASAN-WRITE",
        &[
            "KASAN: global-out-of-bounds Write",
            "KASAN: out-of-bounds Write",
            "KASAN: slab-out-of-bounds Write",
            "KASAN: stack-out-of-bounds Write",
            "KASAN: user-memory-access Write",
            "KASAN: vmalloc-out-of-bounds Write",
            "KASAN: wild-memory-access Write",
        ],
    ),
    (
        "KASAN-READ",
        &[
            "KASAN: global-out-of-bounds Read",
            "KASAN: invalid-access Read",
            "KASAN: out-of-bounds Read",
            "KASAN: slab-out-of-bounds",
            "KASAN: stack-out-of-bounds",
            "KASAN: unknown-crash Read",
            "KASAN: user-memory-access Read",
            "KASAN: vmalloc-out-of-bounds Read",
            "KASAN: wild-memory-access",
        ],
    ),
    ("KASAN-UNKNOWN", &["KASAN:"]),
    ("KCSAN-DATARACE", &["KCSAN: data-race"]),
    ("KCSAN-ASSERT", &["KCSAN: assert: race in"]),
    ("KCSAN-UNKNOWN", &["KCSAN:"]),
    ("MEMORY_SAFETY_UBSAN", &["UBSAN: array-index-out-of-bounds"]),
    ("UBSAN", &["UBSAN:"]),
    ("NULL-POINTER-DEREFERENCE", &["BUG: unable to handle kernel NULL pointer dereference in"]),
    ("MEMORY_SAFETY_BUG", &["BUG: corrupted list", "BUG: unable to handle kernel paging request"]),
    ("REFCOUNT_WARNING", &["WARNING: refcount bug"]),
    (
        "LOCKDEP",
        &[
            "BUG: bad unlock balance in",
            "BUG: held lock freed in",
            "BUG: rwlock",
            "BUG: spinlock",
            "BUG: still has locks held in",
            "BUG: using",
            "WARNING: bad unlock balance in",
            "WARNING: held lock freed in",
            "WARNING: lock held",
            "WARNING: locking bug in",
            "WARNING: nested lock was not taken in",
            "WARNING: still has locks held in",
            "WARNING: suspicious RCU usage in",
            "inconsistent lock state in",
            "possible deadlock in",
        ],
    ),
    (
        "ATOMIC_SLEEP",
        &[
            "BUG: scheduling while atomic in",
            "BUG: sleeping function called from invalid context in",
        ],
    ),
    ("LEAK", &["memory leak in"]),
    ("BUG", &["BUG: bad usercopy in", "kernel BUG"]),
    (
        // What the kernel itself says of these is text only.
        "",
        &[
            "BUG: stack guard page was hit in",
            "WARNING: corrupted",
            "WARNING: kernel stack frame pointer has bad value",
            "WARNING: kernel stack regs has bad",
        ],
    ),
    ("WARNING", &["WARNING in", "WARNING:"]),
    (
        "HANG",
        &[
            "BUG: soft lockup in",
            "INFO: rcu detected stall in",
            "INFO: task can't die in",
            "INFO: task hung in",
        ],
    ),
    (
        "DoS",
        &[
            "Alignment trap in",
            "BUG: Object already free",
            "Internal error in",
            "PANIC: double fault",
            "Unhandled fault in",
            "VFS: Busy inodes after unmount (use-after-free)",
            "VFS: Close: file count is zero (use-after-free)",
            "divide error in",
            "general protection fault in",
            "go runtime error",
            "int3 in",
            "invalid opcode in",
            "kernel panic:",
            "kernel stack overflow",
            "panic:",
            "rust_kernel panicked",
            "stack segment fault in",
            "trusty:",
            "unregister_netdevice: waiting for DEV to become free",
        ],
    ),
    ("REBOOT", &["unexpected kernel reboot"]),
    ("SYZ_FAILURE", &["SYZFAIL", "SYZFATAL:"]),
];

/// The convention's name for the type of a finding, such as `KASAN-READ`, `LOCKDEP` or `HANG`;
/// empty for those that it does not classify.
pub fn type_of(finding: &Finding) -> &'static str {
    let fits = |starts: &&[&str]| starts.iter().any(|start| finding.title.starts_with(start));
    TYPES.iter().find(|(_, starts)| fits(starts)).map_or("", |(name, _)| name)
}

/// Whether a finding is on top of the convention, which counts only what kernel developers would
/// call a bug in the kernel: those who compare with others leave it out.
pub fn is_extra(finding: &Finding) -> bool {
    let rules = GROUPS.iter().flat_map(|group| group.rules);
    let plain = |title: &'static str| title.split('{').next().unwrap_or_default();
    let fits = |rule: &&Rule| {
        rule.kind == finding.kind
            && !rule.title.is_empty()
            && finding.title.starts_with(
                plain(rule.title).trim_end_matches(" in ").trim_end_matches(": killed "),
            )
    };
    // The rule that says most; of two that say the same, the convention's.
    let said = rules.filter(fits).max_by_key(|rule| (plain(rule.title).len(), !rule.extra));
    said.is_some_and(|rule| rule.extra)
}

#[cfg(test)]
mod tests {
    use kgate_model::finding::{FindingKind, Severity};

    use super::*;

    #[test]
    fn extras() {
        use FindingKind::{
            Bug, Filesystem, HardLockup, OomKill, Oops, SlabCorruption, StackOverflow, Warning,
        };
        for (kind, title, extra) in [
            (Filesystem, "EXT4-fs error in ext4_lookup", true),
            (OomKill, "Out of memory", true),
            (OomKill, "Out of memory: killed tail", true),
            (HardLockup, "Watchdog detected hard LOCKUP in f", true),
            (Oops, "Oops in f", true),
            (Oops, "Internal error in f", false),
            (SlabCorruption, "BUG: Object already free", false),
            (SlabCorruption, "BUG: Poison overwritten in f", true),
            (StackOverflow, "kernel stack overflow in f", false),
            (Warning, "sysfs: duplicate filename in f", true),
            (Warning, "WARNING in f", false),
            (Bug, "BUG: arch topology borken", false),
        ] {
            let finding = Finding::new(kind, Severity::Severe, title);
            assert_eq!(is_extra(&finding), extra, "{title}");
        }
    }

    #[test]
    fn types() {
        for (title, name) in [
            ("KASAN: use-after-free Read in f", "KASAN-USE-AFTER-FREE-READ"),
            ("KASAN: slab-use-after-free Write in f", "KASAN-USE-AFTER-FREE-WRITE"),
            ("WARNING in f", "WARNING"),
            ("WARNING: suspicious RCU usage", "WARNING"),
            ("WARNING: refcount bug in f", "REFCOUNT_WARNING"),
            ("BUG: soft lockup in f", "HANG"),
            ("BUG: workqueue lockup", ""),
            ("kernel panic: x", "DoS"),
        ] {
            let finding = Finding::new(FindingKind::Bug, Severity::Severe, title);
            assert_eq!(type_of(&finding), name, "{title}");
        }
    }
}
