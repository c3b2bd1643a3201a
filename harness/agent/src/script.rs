//! Serving without a channel: requests from a script that the emulator hands over, each carried out to
//! its end before the next, and answers that leave byte by byte.
//!
//! Nothing from outside reaches such a guest while it runs. So where its clock counts instructions, it
//! does the same in every bit whenever it runs.

use std::io;
use std::time::Duration;

use kgate_model::wire::{Decoder, Request, Trouble};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use crate::ports;
use crate::serve::{self, Agent};
use crate::state::Of;
use crate::trouble::failed;

/// The emulator's name of the script: `-fw_cfg name=…,file=…`.
const SCRIPT: &str = "opt/org.kgate/script";

/// A page of memory, in bytes.
const PAGE: usize = 4096;

/// After a command the kernel clears away what it left, some of it only after a grace period: what is
/// measured next is not to pay for that.
const REST: Duration = Duration::from_millis(100);

/// After it has booted a kernel still tests, seeds and frees things; a template is to have that behind it.
const SETTLED: Duration = Duration::from_secs(2);

/// An answer is on its way no longer than this.
const WRITTEN_WITHIN: Duration = Duration::from_secs(60);

/// Prepares the guest as its first script says, stops there to be copied, and carries out the script
/// that is there when it goes on.
pub(crate) fn run(agent: &'static Agent) -> Result<(), String> {
    let no_ports = |e: io::Error| format!("open the emulator's ports: {e}");
    ports::open().map_err(no_ports)?;
    // The right to use ports is a thread's own.
    let mut opened = false;
    serve::start_writing(agent, move |frame| {
        if !std::mem::replace(&mut opened, true) {
            ports::open()?;
        }
        ports::write_console(frame);
        Ok(())
    })?;
    carry_out(agent, Of::Template)?;
    std::thread::sleep(SETTLED);
    ports::park();
    carry_out(agent, Of::Clone)
}

fn carry_out(agent: &'static Agent, of: Of) -> Result<(), String> {
    let mut decoder = Decoder::default();
    decoder.push(&ports::read_file(SCRIPT).ok_or("the emulator has no script")?);
    while let Some(request) = decoder.message().map_err(|e| e.to_string())? {
        match request {
            Request::PowerOff => break,
            Request::Hello { protocol, setup } => {
                let fresh = setup.fresh.as_ref().map_or(Ok(()), crate::fresh::apply);
                agent.outbox.send(&serve::hello(of));
                serve::greet(agent, protocol, &setup, fresh);
            }
            Request::Spawn { id, command } if command.background => {
                serve::spawn_command(agent, id, command);
            }
            Request::Spawn { id, command } => {
                serve::run_command(agent, id, &command);
                std::thread::sleep(REST);
            }
            Request::Disturb { .. } => {
                serve::perform(agent, request);
                std::thread::sleep(REST);
            }
            request => serve::perform(agent, request),
        }
        // What is measured next is not to be disturbed by answers.
        agent.outbox.flush(WRITTEN_WITHIN);
    }
    Ok(())
}

/// Keeps so many pages for the rest of the guest's life, and spends so many instructions.
#[expect(unsafe_code, reason = "memory that is never given back")]
pub(crate) fn disturb(delay: u32, pages: u32) -> Result<(), Trouble> {
    if pages > 0 {
        let length = pages as usize * PAGE;
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: new memory, at a place of the kernel's choice, that nothing else refers to.
        unsafe {
            mmap_anonymous(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags)
        }
        .map_err(|e| failed(format!("keep {pages} pages"), e))?;
    }
    ports::spend(delay);
    Ok(())
}
