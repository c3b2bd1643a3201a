//! Lab hosts: bare-metal machines that boot a kernel once and come back to production, whatever ends
//! that.

pub mod console;
pub mod power;
pub mod secret;
