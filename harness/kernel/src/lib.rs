//! Kernel references to kernels: packages, directories, build trees, images, modules.
