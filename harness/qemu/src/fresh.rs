//! What makes a guest one of a kind.

use std::time::{SystemTime, UNIX_EPOCH};

use kgate_machine::BootError;
use kgate_model::outcome::FaultKind;
use kgate_model::wire::Fresh;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Entropy, machine id and MAC that no other guest has, and the time.
pub(crate) fn fresh() -> Result<Fresh, BootError> {
    let broken = |e: Errno| {
        let message = format!("no random bytes for a guest: {e}");
        BootError::harness(FaultKind::Controller, message)
    };
    let (mut entropy, mut id, mut mac) = ([0; 64], [0; 16], [0; 6]);
    // So few bytes come whole.
    for bytes in [&mut entropy[..], &mut id, &mut mac] {
        getrandom(bytes, GetRandomFlags::empty()).map_err(broken)?;
    }
    // One that is locally administered, and of one machine.
    mac[0] = mac[0] & 0xfc | 2;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Fresh {
        entropy: entropy.to_vec(),
        machine_id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
        time_ns: u64::try_from(now.as_nanos()).unwrap_or_default(),
        mac,
    })
}
