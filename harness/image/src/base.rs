//! What the root of the steps holds beside the busybox of the `base` userland, in guests and on lab
//! hosts.

/// Directories, relative to the root, with their permissions.
pub const DIRECTORIES: [(&str, u32); 6] = [
    ("proc", 0o755),
    ("sys", 0o755),
    ("run", 0o755),
    ("root", 0o700),
    ("mnt", 0o755),
    ("tmp", 0o1777),
];

/// Files, relative to the root.
pub const FILES: [(&str, &str); 3] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost kgate\n::1 localhost\n"),
];
