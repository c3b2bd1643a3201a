//! The initrd of a staged kernel.
