//! Guests: QEMU virtual machines as a pool of machines.
//!
//! [`Guests`] is the pool. A guest's command line is a pure function of its [`GuestSpec`]
//! (`args`), its initramfs is put together in memory (`kit`), its life is followed over QMP
//! (`emulator`, and with its agent `guest`), and KVM is believed only after it has booted something (`accel`).
//!
//! Booted guests of which copies are started (`template`) are kept in a [`Store`]; a copy that is stopped
//! is forked where many are wanted of one (`fork`). How many run beside
//! each other depends on what they really use (`load`); one that measures time has CPUs of its own (`pins`). Where the clock is to count instructions, guests
//! run without a word from outside (`exact`).
//!
//! No guest leaves anything on disk: the console is a pair of pipes, agent and QMP are socket pairs,
//! the initramfs is an anonymous file in memory.

mod accel;
mod args;
mod emulator;
mod exact;
mod fork;
mod fresh;
mod guest;
mod kit;
mod load;
mod pins;
mod pool;
mod store;
mod template;

pub use accel::{Accel, AccelChoice};
pub use args::{Begin, Channel, Disk, Exact, Forks, GuestSpec, MemoryFile, arguments};
pub use exact::Plugin;
pub use kit::{KitError, Programs, Userland};
pub use pool::{Guests, GuestsConfig, Qemu, QemuError};
pub use store::{
    Building, Description, Kept, Key, Listed, Place, Pruned, Status, Store, StoreConfig, StoreError,
};
