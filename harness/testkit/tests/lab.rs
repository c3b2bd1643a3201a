//! The lab stand-in: what others rely on when they test against it.

use std::time::{Duration, Instant};

use kgate_testkit::lab::{Setup, StandIn};

#[test]
fn boots_from_its_snapshot() {
    let Some(_) = StandIn::start(Setup::default()) else { return };
    let start = Instant::now();
    let Some(host) = StandIn::start(Setup::default()) else { return };
    println!("started in {:?}", start.elapsed());
    let booted = host.booted().expect("it answers");
    println!("{booted:?}");
    assert!(host.would_boot().is_production());
    host.power("reset");
    let start = Instant::now();
    let again = host.until_rebooted(&booted, Duration::from_secs(60));
    println!("reset to ssh {:?}", start.elapsed());
    assert_eq!(again.release, booted.release);
}
