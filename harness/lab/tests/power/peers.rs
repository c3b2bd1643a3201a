//! Power by the real peers of a stand-in: `sushy-emulator` over TLS, `ipmi_sim` through `ipmitool`.

use std::rc::Rc;
use std::time::Duration;

use crate::faults;
use async_trait::async_trait;
use futures::future::join_all;
use kgate_lab::power::{self, Action, Firmware, Power, PowerError, PowerState};
use kgate_lab::secret::{LocalSecrets, SecretError, Secrets};
use kgate_model::inventory::{self, Limits, SecretRef, Tls};
use kgate_testkit::lab::{self, ChassisFault, Setup, StandIn};
use secrecy::SecretString;
use serde_json::json;

fn stand_in(power: lab::Power) -> Option<StandIn> {
    StandIn::start(Setup { power, ..Setup::default() })
}

/// The password of a stand-in's BMC.
pub(crate) const PASSWORD: &str = "labpw";

/// The stand-in's password, or what the reference itself says.
struct Told;

#[async_trait(?Send)]
impl Secrets for Told {
    async fn get(&self, secret: &SecretRef) -> Result<SecretString, SecretError> {
        match secret {
            SecretRef::Env(value) => Ok(value.as_str().into()),
            file => LocalSecrets::new(|_: &str| None).get(file).await,
        }
    }
}

fn open(host: &StandIn, change: impl FnOnce(&mut inventory::Power, &mut Limits)) -> Box<dyn Power> {
    let inventory::LabHost { power, mut limits, .. } = host.lab_host();
    let mut power = power.expect("a stand-in has power");
    change(&mut power, &mut limits);
    power::open(&power, host.name(), &limits, Rc::new(Told))
}

/// What every BMC can, from on to on.
async fn all_buttons(host: &StandIn, power: &dyn Power) {
    assert_eq!(power.state().await, Ok(PowerState::On));
    power.act(Action::Off).await.unwrap();
    assert_eq!(power.state().await, Ok(PowerState::Off));
    assert_eq!(host.power("status"), "off");
    power.act(Action::Off).await.unwrap();
    power.act(Action::SoftOff).await.unwrap();
    power.act(Action::On).await.unwrap();
    assert_eq!(host.power("status"), "on");
    let before = host.power_commands().len();
    power.act(Action::Reset).await.unwrap();
    power.act(Action::Cycle).await.unwrap();
    assert_eq!(power.state().await, Ok(PowerState::On));
    let done = host.power_commands().split_off(before);
    assert_eq!(done.first().map(String::as_str), Some("reset"), "{done:?}");
    assert!(done.len() > 1, "{done:?}");
}

/// A boot from the network, ordered and taken back, by what the chassis would do.
async fn network_once(host: &StandIn, power: &dyn Power) {
    power.boot_from_network_once(Firmware::Bios).await.unwrap();
    assert_eq!(host.power("boot"), "pxe once");
    assert_ne!(power.boots_from_network().await, Ok(Some(false)));
    power.boot_from_disk().await.unwrap();
    assert!(!host.power("boot").starts_with("pxe"), "{}", host.power("boot"));
    assert_eq!(power.boots_from_network().await, Ok(Some(false)));
}

#[tokio::test]
async fn redfish_switches_a_stand_in() {
    let Some(host) = stand_in(lab::Power::Redfish) else { return };
    let power = open(&host, |_, _| {});
    // Before anything that resets: the firmware makes another reset of its own, and once is over by it.
    network_once(&host, &*power).await;
    all_buttons(&host, &*power).await;
    let before = host.power_commands().len();
    power.act(Action::Nmi).await.unwrap();
    assert_eq!(host.power_commands()[before..], ["nmi"]);

    // Its certificate vouches for itself and is marked as an authority's.
    let file = host.certificate_file();
    let by_file = open(&host, |power, _| {
        let inventory::Power::Redfish { tls, .. } = power else { unreachable!() };
        *tls = Tls::Ca(file);
    });
    assert_eq!(by_file.state().await, Ok(PowerState::On));

    host.redfish_fault(&json!({ "tasks": 2 }));
    power.act(Action::Off).await.unwrap();
    assert_eq!(host.power("status"), "off");
    host.redfish_fault(&json!({}));
    power.act(Action::On).await.unwrap();

    host.chassis_fault(Some(ChassisFault::Late));
    power.act(Action::Off).await.unwrap();
    assert_eq!(host.power("status"), "off");
    host.chassis_fault(Some(ChassisFault::SaysOn));
    let quick = open(&host, |_, limits| limits.bmc = Duration::from_secs(3));
    let lied = quick.act(Action::Off).await;
    assert!(matches!(lied, Err(PowerError::Lied { told: PowerState::On, .. })), "{lied:?}");
    host.chassis_fault(None);

    host.restart_bmc(true);
    let stranger = power.state().await;
    assert!(matches!(stranger, Err(PowerError::Identity(_))), "{stranger:?}");
}

#[tokio::test]
async fn ipmi_switches_a_stand_in() {
    let Some(host) = stand_in(lab::Power::Ipmi) else { return };
    let power = open(&host, |_, _| {});
    // Before anything that resets: the firmware makes another reset of its own, and once is over by it.
    network_once(&host, &*power).await;
    all_buttons(&host, &*power).await;
    let mut rows = Vec::new();
    let mut row = |fault: &str, does: &str, result: Result<(), PowerError>| {
        let result = result.map(|()| String::new());
        rows.push(crate::row(fault, does, &result, str::to_owned));
    };
    let with = |change: fn(&mut inventory::Ipmi)| {
        open(&host, |power, limits| {
            let inventory::Power::Ipmi(ipmi) = power else { unreachable!() };
            change(ipmi);
            limits.bmc = Duration::from_secs(5);
        })
    };
    type Change = fn(&mut inventory::Ipmi);
    let changes: [(&str, &str, Change); 6] = [
        ("wrong password", "tries it once", |i| i.password = SecretRef::Env("wrong".into())),
        ("a password longer than IPMI has them", "asks nothing of the BMC", |i| {
            i.password = SecretRef::Env("more than twenty bytes".into());
        }),
        ("unknown user", "tries it once", |i| i.user = "nobody".into()),
        ("a cipher suite that it doesn't have", "says so", |i| i.cipher_suite = Some(17)),
        ("a name that nobody has", "tries again until the limit", |i| {
            i.address = "bmc.invalid".into();
        }),
        ("nobody answers", "ends at the limit", |i| i.port = 9),
    ];
    let asked = changes.map(async |(_, _, change)| with(change).state().await.map(drop));
    for ((fault, does, _), told) in changes.into_iter().zip(join_all(asked).await) {
        row(fault, does, told);
    }
    let power = with(|_| {});
    row("can't send an NMI", "says so; a walk goes on with a reset", power.act(Action::Nmi).await);
    host.stop_bmc(true);
    row("hangs", "ends at the limit", power.state().await.map(drop));
    host.stop_bmc(false);
    // What it had been asked meanwhile, it answers now.
    let _ = power.state().await;
    host.chassis_fault(Some(ChassisFault::SaysOn));
    row("says on, and it is off", "ends at the limit", power.act(Action::Off).await);
    host.chassis_fault(Some(ChassisFault::Fails));
    row("refuses an order", "says what it said", power.act(Action::Reset).await);
    host.chassis_fault(None);
    faults::check("Power by IPMI", &rows);
}
