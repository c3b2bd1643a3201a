//! Images made for real: apt resolves and downloads, the result is read back.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use backhand::{FilesystemReader, InnerNode};
use kgate_model::host::{Host, HostCommand, HostOutput};

use super::{Builder, ImageError, Recipe, busybox};

/// Runs commands as they are.
struct Real;

impl Host for Real {
    fn run(&self, command: &HostCommand) -> io::Result<HostOutput> {
        let mut process = Command::new(&command.program);
        process.args(&command.args).envs(command.env.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &command.dir {
            process.current_dir(dir);
        }
        let output = process.output()?;
        Ok(HostOutput { code: output.status.code(), stdout: output.stdout, stderr: output.stderr })
    }
}

/// Why apt cannot be used here, found out without the code under test.
fn no_apt() -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let command = HostCommand::new("apt-get", Duration::from_secs(60))
        .args(["download", "-q", "-o", "APT::Sandbox::User=", "netbase"])
        .dir(dir.path());
    match Real.run(&command) {
        Err(error) => Some(format!("apt-get: {error}")),
        Ok(output) if output.code != Some(0) => {
            Some(String::from_utf8_lossy(&output.stderr).into_owned())
        }
        Ok(_) => None,
    }
}

fn skip() -> bool {
    let reason = no_apt();
    if let Some(reason) = &reason {
        eprintln!("SKIPPED, apt cannot download here: {reason}");
    }
    reason.is_some()
}

fn recipe(text: &str) -> Recipe {
    Recipe::parse(Path::new("small.yaml"), text).unwrap()
}

const SMALL: &str = "\
summary: the smallest useful image
packages: [dash, netbase, mawk]
links: { /usr/bin/awk: mawk, /etc/resolv.conf: /run/resolv.conf }
files:
  /usr/local/bin/hello: |
    #!/bin/sh
    echo hello
strip: [/usr/lib/x86_64-linux-gnu/gconv]
";

#[test]
fn an_image_is_made_of_packages() {
    if skip() {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let builder = Builder::new(cache.path(), &Real);
    let recipe = recipe(SMALL);
    let image = builder.build(&recipe).unwrap();

    let names: Vec<&str> = image.manifest.packages.iter().map(|p| p.name.as_str()).collect();
    for name in ["base-files", "base-passwd", "dash", "libc6", "mawk", "netbase"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert!(!names.contains(&"perl"), "{names:?}");

    let reader = BufReader::new(File::open(&image.path).unwrap());
    let squashfs = FilesystemReader::from_reader(reader).unwrap();
    let look = |path: &str| {
        let node = squashfs.files().find(|node| node.fullpath == Path::new(path))?;
        let text = match &node.inner {
            InnerNode::Symlink(link) => format!("-> {}", link.link.display()),
            InnerNode::Dir(_) => "directory".to_owned(),
            InnerNode::File(file) => {
                let mut bytes = Vec::new();
                squashfs.file(file).reader().read_to_end(&mut bytes).unwrap();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            other => format!("{other:?}"),
        };
        Some((node.header.permissions, text))
    };
    assert_eq!(look("/bin"), Some((0o777, "-> usr/bin".to_owned())));
    assert_eq!(look("/usr/bin/awk"), Some((0o777, "-> mawk".to_owned())));
    assert_eq!(look("/tmp"), Some((0o1777, "directory".to_owned())));
    assert_eq!(look("/root"), Some((0o700, "directory".to_owned())));
    let hello = Some((0o755, "#!/bin/sh\necho hello\n".to_owned()));
    assert_eq!(look("/usr/local/bin/hello"), hello);
    assert!(look("/etc/passwd").unwrap().1.contains("www-data:"));
    assert!(look("/etc/group").unwrap().1.contains("nogroup:"));
    assert!(look("/etc/nsswitch.conf").unwrap().1.contains("hosts:"));
    assert!(look("/usr/bin/dash").unwrap().1.contains("ELF"));
    assert!(look("/usr/bin/sh").is_some());
    for unused in ["/usr/share/doc", "/usr/share/man", "/usr/lib/x86_64-linux-gnu/gconv"] {
        assert_eq!(look(unused), None, "{unused}");
    }

    // The second time it is taken from the cache.
    let made = fs::metadata(&image.path).unwrap().modified().unwrap();
    let again = builder.build(&recipe).unwrap();
    assert_eq!(again.manifest, image.manifest);
    assert_eq!(fs::metadata(&again.path).unwrap().modified().unwrap(), made);

    // A damaged package and a lost image are made good, with the same bytes.
    let deb = fs::read_dir(cache.path().join("packages/debs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("netbase_"))
        .unwrap();
    let mut bytes = fs::read(&deb).unwrap();
    bytes[500] ^= 1;
    fs::write(&deb, &bytes).unwrap();
    File::options().write(true).open(&image.path).unwrap().set_len(1000).unwrap();
    let repaired = builder.build(&recipe).unwrap();
    assert_eq!(repaired.sha256, image.sha256);
    assert_eq!(fs::metadata(&repaired.path).unwrap().len(), image.manifest.bytes);

    // Nothing is left lying about.
    for dir in ["images", "packages/debs", "packages/apt", "."] {
        for entry in fs::read_dir(cache.path().join(dir)).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            assert!(!name.starts_with('.'), "{dir}/{name}");
        }
    }
}

#[test]
fn builders_that_share_a_cache_agree() {
    if skip() {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let sums: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    Builder::new(cache.path(), &Real).build(&recipe(SMALL)).unwrap().sha256
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    assert_eq!(fs::read_dir(cache.path().join("images")).unwrap().count(), 1);
}

#[test]
fn a_link_to_nowhere_is_refused() {
    if skip() {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let recipe = recipe("summary: s\npackages: [mawk]\nlinks: { /usr/bin/awk: gawk }\n");
    let error = Builder::new(cache.path(), &Real).build(&recipe).unwrap_err();
    insta::assert_snapshot!(error, @"image small: link /usr/bin/awk leads to gawk, which is not in the image");
    assert_eq!(fs::read_dir(cache.path().join("images")).unwrap().count(), 0);
}

#[test]
fn the_base_userland_is_a_static_busybox() {
    if skip() {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let busybox = Builder::new(cache.path(), &Real).base_userland().unwrap();
    for applet in ["bin/sh", "bin/mount", "sbin/ip"] {
        assert!(busybox.applets.iter().any(|found| found.ends_with(applet)), "{applet}");
    }
    assert_eq!(busybox.bytes, fs::read(&busybox.path).unwrap());
}

/// On a controller without one, busybox comes out of its package.
#[test]
fn busybox_can_be_fetched() {
    if skip() {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let busybox = Builder::new(cache.path(), &Real).packaged_busybox().unwrap();
    assert!(busybox.path.starts_with(fs::canonicalize(cache.path()).unwrap()));
    assert!(busybox.applets.iter().any(|applet| applet == "bin/sh"));
}

#[test]
fn what_is_no_static_busybox_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("text"), "#!/bin/sh\n").unwrap();
    fs::copy("/bin/ls", path("dynamic")).unwrap();
    let mut elf = fs::read("/bin/ls").unwrap();
    elf[18] = 183;
    fs::write(path("arm"), &elf).unwrap();
    fs::write(path("cut"), &elf[..100]).unwrap();
    let answers: Vec<String> = ["text", "dynamic", "arm", "cut", "none"]
        .iter()
        .map(|name| busybox::load(&path(name), &Real).unwrap_err().to_string())
        .map(|answer| answer.replace(dir.path().to_str().unwrap(), "DIR"))
        .collect();
    insta::assert_snapshot!(answers.join("\n"), @"
    no static x86-64 busybox: DIR/text is not a 64-bit ELF program: Invalid ELF header size or alignment
    no static x86-64 busybox: DIR/dynamic is not static
    no static x86-64 busybox: DIR/arm is not for x86-64
    no static x86-64 busybox: DIR/cut is not a 64-bit ELF program: Invalid ELF program header size or alignment
    cannot read DIR/none
    ");
}

/// Answers every command in the same way.
struct Answer(fn() -> io::Result<HostOutput>);

impl Host for Answer {
    fn run(&self, _: &HostCommand) -> io::Result<HostOutput> {
        (self.0)()
    }
}

#[test]
fn what_apt_cannot_do_is_said() {
    fn refuse(code: Option<i32>, stdout: &str, stderr: &str) -> io::Result<HostOutput> {
        Ok(HostOutput { code, stdout: stdout.into(), stderr: stderr.into() })
    }
    let table: [fn() -> io::Result<HostOutput>; 6] = [
        || Err(io::ErrorKind::NotFound.into()),
        || Err(io::ErrorKind::TimedOut.into()),
        || refuse(Some(100), "", "W: old\nE: Unable to locate package mawk\nE: Sorry\n"),
        || refuse(Some(100), "", ""),
        || refuse(None, "", ""),
        || refuse(Some(0), "'uri' odd\n", ""),
    ];
    let answers: Vec<String> = table
        .into_iter()
        .map(|answer| {
            let cache = tempfile::tempdir().unwrap();
            let recipe = recipe("summary: s\npackages: [mawk]\n");
            Builder::new(cache.path(), &Answer(answer)).build(&recipe).unwrap_err().to_string()
        })
        .collect();
    insta::assert_snapshot!(answers.join("\n"), @"
    no apt-get on this controller; images are built with the apt of Debian or Ubuntu
    apt-get did not run to its end
    apt cannot resolve the packages of image small: Unable to locate package mawk; Sorry
    apt cannot resolve the packages of image small: apt ended with exit code 100
    apt cannot resolve the packages of image small: apt was ended by a signal or its time limit
    apt cannot resolve the packages of image small: answer not understood: 'uri' odd
    ");
}

#[test]
fn a_cache_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Builder::new(&file.join("cache"), &Real).build(&recipe(SMALL)).unwrap_err();
    assert!(matches!(error, ImageError::Io { .. }), "{error}");
}
