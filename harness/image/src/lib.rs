//! Guest images: what the scenarios run in, made on the controller without root.
//!
//! There are two forms. The *base* userland is one static busybox that goes straight into the
//! initramfs ([`Builder::base_userland`]). An *image* is a squashfs made from a [`Recipe`]: a list
//! of Debian packages that apt resolves and downloads, unpacked and packed in this process
//! ([`Builder::build`]). No maintainer script of a package ever runs, so a recipe's links and files
//! stand in for what those scripts would have done.

mod apt;
pub mod base;
mod builder;
mod busybox;
mod deb;
mod error;
mod glob;
mod recipe;
mod squashfs;
mod tree;

pub use builder::{Builder, Image, Manifest, Package};
pub use busybox::Busybox;
pub use error::ImageError;
pub use recipe::Recipe;
