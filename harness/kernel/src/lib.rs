//! Kernel references to kernels: packages, directories, build trees, images, modules.
//!
//! [`Reference::parse`] reads what a user wrote; it becomes a [`Kernel`] or is
//! refused with a [`KernelError`] that says which file, why, and what to do next.

pub mod bzimage;
mod compress;
pub mod config;
pub mod error;
pub mod initramfs;
mod kernel;
pub mod modules;
pub mod reference;
pub mod vmlinux;

pub use config::Config;
pub use error::KernelError;
pub use kernel::{Driver, Kernel, Origin, Package};
pub use modules::{ModuleFile, Modules, Status};
pub use reference::{PackageReference, Reference};
pub use vmlinux::Vmlinux;
