//! Inventories of labs: what they mean, and what malformed ones are answered.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use kgate_model::inventory::{ConsoleSource, HostKey, Inventory, SecretRef};
use kgate_scenario::{Places, inventory};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0rT0n1bV0h0v8wqkq1aT0Zk4f3x2mC9b1tq5m7S3dE";

const FULL: &str = include_str!("lab.yaml");

fn load(text: &str) -> Result<Inventory, String> {
    let places = Places { directory: "/etc/kgate".into(), home: Some("/srv/kim".into()) };
    inventory(Path::new("lab.yaml"), text, &places).map_err(|mistakes| mistakes.to_string())
}

#[test]
fn an_inventory_with_everything() {
    insta::assert_debug_snapshot!(load(FULL).unwrap_or_else(|mistakes| panic!("{mistakes}")));
}

#[test]
fn the_least_is_a_name() {
    let lab = load("hosts: { edge-1: {} }\n").unwrap();
    insta::assert_debug_snapshot!(lab.host("edge-1").unwrap());
    assert_eq!(load("hosts:\n  edge-1:\n"), Ok(lab));
}

#[test]
fn ten_equal_hosts_are_ten_short_entries() {
    let mut text = "defaults:\n  tags: [edge]\n  power: { user: root, password: { env: BMC } }\n  \
                    console: sol\n  hooks: { drain: { run: ./drain, timeout: 1m } }\nhosts:\n"
        .to_owned();
    for n in 0..10 {
        writeln!(text, "  edge-{n}: {{ power: {{ ipmi: bmc{n}.lab }} }}").unwrap();
    }
    let lab = load(&text).unwrap();
    assert_eq!(lab.hosts.len(), 10);
    let names: Vec<&str> = lab.hosts.iter().map(|host| host.ssh.address.as_str()).collect();
    assert_eq!(names[9], "edge-9");
    let words = ["edge".to_owned(), "edge-3".to_owned()];
    assert_eq!(lab.select(&words).unwrap().len(), 10);
    assert_eq!(lab.select(&words[1..]).unwrap()[0].name, "edge-3");
    assert_eq!(lab.select(&[]).unwrap().len(), 10);
    assert_eq!(lab.select(&["milan".to_owned()]), Err("milan".to_owned()));
}

#[test]
fn a_host_of_another_kind_takes_what_fits() {
    let text = "defaults:\n  console: { sol: bmc }\n  ssh: { host-key: 'KEY', user: lab }\n  power: { redfish: https://bmc, \
                user: root, password: { env: BMC }, ca: ca.pem }\n  boot: { grub: { production: x } }\n\
                hosts:\n  a: { power: { redfish: https://bmc-a, insecure: true } }\n  \
                b: { power: { ipmi: bmc-b, password: { file: p } }, ssh: { known-hosts: k } }\n  \
                c: { power: ~, console: { tcp: 's:1' }, boot: { method: kexec } }\n";
    let lab = load(&text.replace("KEY", KEY)).unwrap();
    insta::assert_debug_snapshot!(lab.hosts.iter().map(|h| &h.power).collect::<Vec<_>>());
    let [a, b, c] = lab.hosts.try_into().unwrap();
    assert_eq!(
        (a.ssh.host_key, c.boot.directory),
        (HostKey::Pinned(vec![KEY.into()]), "/var/lib/kgate".into())
    );
    assert_eq!(b.ssh.host_key, HostKey::KnownHosts(Some("/etc/kgate/k".into())));
    assert_eq!((b.ssh.user.as_str(), c.power), ("lab", None));
    assert!(matches!(c.consoles.as_slice(), [ConsoleSource::Tcp { .. }]), "{:?}", c.consoles);
}

#[test]
fn a_path_with_a_quote_stays_one_word() {
    let places = Places { directory: "/a 'b'".into(), home: None };
    let text = "hosts: { a: { hooks: { drain: ./x, ready: ./y } } }\n";
    let lab = inventory(Path::new("lab.yaml"), text, &places).unwrap();
    let hooks = &lab.hosts[0].hooks;
    assert_eq!(hooks.drain.as_ref().unwrap().command, r"cd '/a '\''b'\''' || exit; ./x");
    assert_eq!(hooks.ready.as_ref().unwrap().command, "./y");
}

#[test]
fn a_guard_lets_a_host_boot() {
    let text = "hosts:\n  a: { limits: { boot: 20m } }\n  b: { limits: { boot: 20m }, boot: { guard: 1m } }\n";
    let guards =
        load(text).unwrap().hosts.iter().map(|host| host.boot.guard.as_secs()).collect::<Vec<_>>();
    assert_eq!(guards, [20 * 60, 60]);
}

#[test]
fn mistakes() {
    let cases = [
        ("no hosts", "defaults: {}\n"),
        ("no host", "hosts: {}\n"),
        ("a list of hosts", "hosts: [a, b]\n"),
        (
            "unknown keys",
            "host: {}\nhosts:\n  a: { sssh: {}, ssh: { adress: x }, power: { ipmi: b, usr: x } }\n",
        ),
        ("names", "hosts:\n  ../a: {}\n  -oProxyCommand=x: {}\n"),
        ("tags", "hosts:\n  a: { tags: [b, 'x y', c, c] }\n  b: {}\n"),
        (
            "addresses",
            "hosts:\n  a: { ssh: { address: -oProxyCommand=x } }\n  b: { ssh: { address: 'x y', port: 70000, user: -x, jump: '-x,y' } }\n",
        ),
        (
            "host keys",
            "hosts:\n  a: { ssh: { host-key: 'SHA256:abcdef' } }\n  b: { ssh: { host-key: 'b ssh-ed25519 AAAA' } }\n  c: { ssh: { host-key: ssh-ed25519 } }\n  d: { ssh: { host-key: [] } }\n",
        ),
        (
            "host key and known hosts",
            "hosts: { a: { ssh: { host-key: 'KEY', known-hosts: x } } }\n",
        ),
        (
            "a password in the clear",
            "hosts: { a: { power: { ipmi: bmc, user: root, password: hunter2 } } }\n",
        ),
        (
            "one of two lines",
            "hosts:\n  a:\n    power:\n      ipmi: bmc\n      user: root\n      password:\n        hunter2\n",
        ),
        (
            "in the defaults",
            "defaults: { power: { user: root, password: hunter2 } }\nhosts: { a: { power: { ipmi: x } }, b: { power: { ipmi: y } } }\n",
        ),
        ("in a list", "hosts: { a: { power: { ipmi: bmc, user: root, password: [hunter2] } } }\n"),
        (
            "under another key",
            "hosts: { a: { power: { ipmi: bmc, user: root, pasword: hunter2 } } }\n",
        ),
        (
            "under a key of a secret",
            "hosts: { a: { power: { ipmi: bmc, user: root, password: { value: hunter2 } } } }\n",
        ),
        ("not YAML", "hosts: { a: { power: { ipmi: bmc, user: root, password: 'hunter2 } } }\n"),
        (
            "in a URL",
            "hosts: { a: { power: { redfish: 'https://root:hunter2@bmc', user: root, password: { env: X } } } }\n",
        ),
        (
            "secrets",
            "hosts: { a: { power: { ipmi: bmc, user: root, password: { env: A B, file: x } } }, b: { power: { ipmi: bmc2, user: root, password: {} } } }\n",
        ),
        ("home without one", "hosts: { a: { ssh: { identity: '~kim/x', known-hosts: '' } } }\n"),
        ("power of two kinds", "hosts: { a: { power: { ipmi: bmc, redfish: https://bmc } } }\n"),
        ("power of no kind", "hosts: { a: { power: { user: root } } }\n"),
        ("power without a login", "hosts: { a: { power: { ipmi: bmc } } }\n"),
        (
            "keys of other kinds",
            "hosts: { a: { power: { ipmi: bmc, user: root, password: { env: X }, system: 1, insecure: true } }, b: { power: { command: { state: x, cycle: y }, user: root } } }\n",
        ),
        (
            "Redfish",
            "hosts:\n  a: { power: { redfish: bmc, user: r, password: { env: X } } }\n  b: { power: { redfish: http://bmc, user: r, password: { env: X } } }\n  c: { power: { redfish: https://bmc3, user: r, password: { env: X }, certificate-sha256: 'AB:CD', insecure: maybe } }\n  d: { power: { redfish: https://bmc4, user: r, password: { env: X }, ca: x, insecure: true } }\n",
        ),
        (
            "power commands",
            "hosts: { a: { power: { command: { on: x, reboot: y } } }, b: { power: { command: {} } } }\n",
        ),
        (
            "consoles",
            "hosts: { a: { console: [sol, serial, { tcp: x }, { tcp: 'x:1', sol: true }, {}, { telnet: 'x:y' }, { command: x, name: y }, { netconsole: x }] } }\n",
        ),
        (
            "serial over LAN of nobody",
            "hosts: { a: { power: { command: { state: x, cycle: y } }, console: sol } }\n",
        ),
        (
            "boot",
            "hosts:\n  a: { boot: { method: lilo } }\n  b: { boot: { method: pxe, grub: {}, directory: /boot/../x, guard: 1s, modules: some } }\n  c: { boot: { command-line: 'a=\"b c\"', root: 'a b', initrd-modules: [a b] } }\n",
        ),
        (
            "pxe",
            "hosts:\n  a: { boot: { method: pxe, pxe: { script: ../x, url: x } } }\n  b: { boot: { method: pxe } }\n",
        ),
        (
            "pxe without power",
            "hosts: { b: { boot: { method: pxe, pxe: { directory: /srv, script: x, url: http://x } } } }\n",
        ),
        ("hooks", "hosts: { a: { hooks: { drain: '', undrian: x, ready: { timeout: 5 } } } }\n"),
        ("reservation", "hosts: { a: { reservation: { place: x } } }\n"),
        ("limits", "hosts: { a: { limits: { boot: 5, shutdwon: 1s } } }\n"),
        (
            "one machine twice",
            "hosts:\n  a: { ssh: { address: x }, power: { ipmi: bmc, user: root, password: { env: X } }, console: { tcp: 's:1' } }\n  x: { power: { ipmi: 'bmc:623', user: root, password: { env: X } }, console: { telnet: 's:1' } }\n",
        ),
        (
            "one machine by default",
            "defaults: { power: { ipmi: bmc, user: root, password: { env: X } } }\nhosts:\n  a: {}\n  b: {}\n",
        ),
    ];
    let mut answers = String::new();
    for (name, text) in cases {
        let answer = load(&text.replace("KEY", KEY)).expect_err(name);
        assert!(!answer.contains("hunter2"), "{name}: {answer}");
        writeln!(answers, "=== {name}\n{answer}\n").unwrap();
    }
    insta::assert_snapshot!(answers);
}

#[test]
fn size_is_bounded() {
    let hosts =
        |n: usize| (0..n).fold("hosts:\n".to_owned(), |text, n| text + &format!("  h{n}: {{}}\n"));
    assert_eq!(load(&hosts(1000)).unwrap().hosts.len(), 1000);
    assert!(load(&hosts(1001)).unwrap_err().contains("more than 1000 hosts"));
    let many = format!("defaults: {{ tags: [{}] }}\n{}", "a, ".repeat(600), hosts(1000));
    assert!(load(&many).unwrap_err().contains("`defaults` has more than 500 values"));
}

proptest::proptest! {
    #[test]
    fn no_damage_panics(
        at in 0..FULL.chars().count(),
        drop in 0..4_usize,
        put in "[\\[\\]{}:'\"|>#&*!%@`, \t\n\\-a-z0-9é~]{0,3}",
    ) {
        let text: String =
            FULL.chars().take(at).chain(put.chars()).chain(FULL.chars().skip(at + drop)).collect();
        let _ = load(&text);
    }

    #[test]
    fn a_password_in_the_clear_is_never_shown(
        at in 0..CLEAR.chars().count(),
        put in "[\\[\\]{}:'\"|>#, \t\n]{1,2}",
    ) {
        let text: String = CLEAR.chars().take(at).chain(put.chars()).chain(CLEAR.chars().skip(at)).collect();
        if let Err(told) = load(&text) && text.contains("hunter2") && text.contains("password") {
            proptest::prop_assert!(!told.contains("hunter2"), "{text}\n{told}");
        }
    }
}

const CLEAR: &str =
    "hosts:\n  a:\n    power:\n      ipmi: bmc\n      password: hunter2\n      usr: root\n";

#[test]
fn secrets_are_references() {
    let lab = load(FULL).unwrap();
    let told = format!("{lab:?}");
    assert!(
        told.contains(&format!("{:?}", SecretRef::File(PathBuf::from("/etc/kgate/bmc.secret")))),
        "{told}"
    );
}
