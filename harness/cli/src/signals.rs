//! Ctrl-C and its kin: the first asks for an orderly end, the second doesn't wait for it.

use std::io;
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::error::INTERRUPTED;

/// An end that takes longer is explained.
const PATIENCE: Duration = Duration::from_secs(1);

/// Becomes `true` at the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once.
/// Guests die with it either way. A thread of its own watches, since kernels and images are prepared
/// without a look at anything else.
pub(crate) fn watch_signals() -> io::Result<watch::Receiver<bool>> {
    watch_signals_and("its guests end with it")
}

/// As [`watch_signals`], for what may also have lab hosts away from production.
pub(crate) fn watch_signals_with_hosts() -> io::Result<watch::Receiver<bool>> {
    watch_signals_and("its guests end with it, and `kgate lab recover` brings its lab hosts back")
}

/// Watches; `at_once` is what becomes of machines when the process ends at once.
fn watch_signals_and(at_once: &'static str) -> io::Result<watch::Receiver<bool>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _of_the_thread = runtime.enter();
        let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()];
        (signal(interrupt)?, signal(terminate)?, signal(SignalKind::hangup())?)
    };
    let (sender, receiver) = watch::channel(false);
    let watch = async move {
        let mut any = async || any(&mut interrupt, &mut terminate, &mut hangup).await;
        any().await;
        sender.send_replace(true);
        if tokio::time::timeout(PATIENCE, any()).await.is_err() {
            anstream::eprintln!(
                "kgate: interrupted; it ends after what it does now, at once with a second Ctrl-C"
            );
            any().await;
        }
        anstream::eprintln!("\nkgate: ended at once; {at_once}");
        std::process::exit(i32::from(INTERRUPTED));
    };
    thread::Builder::new().spawn(move || runtime.block_on(watch))?;
    Ok(receiver)
}

async fn any(a: &mut Signal, b: &mut Signal, c: &mut Signal) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
        _ = c.recv() => {}
    }
}
