//! Lab hosts: bare-metal machines that boot a kernel once and come back to production, whatever ends
//! that.

pub mod boot;
pub mod console;
pub mod crash;
pub mod host;
mod initrd;
pub mod journal;
pub mod machine;
pub mod pool;
pub mod power;
pub mod recover;
pub mod reservation;
pub mod secret;
pub mod ssh;
pub mod stage;
mod steps;
mod text;
mod trip;
pub mod walk;
mod window;
