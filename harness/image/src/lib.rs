//! Guest images: recipes of Debian packages to a squashfs root, without root.
