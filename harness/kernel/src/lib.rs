//! Kernel references to kernels: packages, directories, build trees, images, modules.
//!
//! [`Reference::parse`] reads what a user wrote; [`Resolver::resolve`] turns it into a [`Kernel`]
//! or refuses it with a [`KernelError`] that says which file, why, and what to do next.

pub mod apt;
pub mod bzimage;
mod compress;
pub mod config;
mod deb;
pub mod error;
mod extract;
pub mod initramfs;
mod kernel;
mod locate;
pub mod modules;
pub mod reference;
mod resolve;
mod rpm;
pub mod symbols;
pub mod vmlinux;

pub use compress::unpacked;
pub use config::Config;
pub use error::KernelError;
pub use kernel::{Driver, Kernel, Origin, Package};
pub use modules::{ModuleFile, Modules, Status};
pub use reference::{PackageReference, Reference};
pub use resolve::Resolver;
pub use symbols::{Symbols, Unresolved};
pub use vmlinux::Vmlinux;
