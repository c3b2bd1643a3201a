//! Ctrl-C and its kin: the first asks for an orderly end, the second doesn't wait for it.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::error::INTERRUPTED;

/// Becomes `true` at the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once.
/// Guests die with it either way.
pub(crate) fn watch_signals() -> std::io::Result<watch::Receiver<bool>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        any(&mut interrupt, &mut terminate, &mut hangup).await;
        sender.send_replace(true);
        any(&mut interrupt, &mut terminate, &mut hangup).await;
        anstream::eprintln!("\nkgate: ended at once; its guests end with it");
        std::process::exit(i32::from(INTERRUPTED));
    });
    Ok(receiver)
}

async fn any(a: &mut Signal, b: &mut Signal, c: &mut Signal) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
        _ = c.recv() => {}
    }
}
