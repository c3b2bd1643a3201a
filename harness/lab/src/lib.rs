//! Lab hosts: bare-metal machines that boot a kernel once and come back to production, whatever ends
//! that.

pub mod boot;
pub mod console;
pub mod crash;
pub mod host;
mod initrd;
pub mod power;
pub mod secret;
pub mod ssh;
pub mod stage;
