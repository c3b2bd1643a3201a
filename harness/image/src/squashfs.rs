//! Packs a tree into a squashfs, the same bytes for the same tree.

use std::io::{Seek, Write};

use backhand::compression::Compressor;
use backhand::{FilesystemCompressor, FilesystemWriter, NodeHeader};

use crate::tree::{Kind, Tree};

/// Time stamp of every file: 2020-01-01, early enough for every package and late enough for tools
/// that doubt 1970.
const TIME: u32 = 1_577_836_800;
/// Large blocks pack tighter; small ones cost less to read at random.
const BLOCK: u32 = 128 << 10;

/// Writes `tree` to `out`.
///
/// # Errors
/// What the squashfs writer answered.
pub(crate) fn pack(tree: &Tree, out: impl Write + Seek) -> Result<(), String> {
    let mut writer = FilesystemWriter::default();
    writer.set_time(TIME);
    writer.set_block_size(BLOCK);
    writer.set_root_mode(0o755);
    writer.set_only_root_id();
    fill(&mut writer, tree, out).map_err(|error| error.to_string())
}

fn fill(
    writer: &mut FilesystemWriter<'_, '_, '_>,
    tree: &Tree,
    out: impl Write + Seek,
) -> Result<(), backhand::BackhandError> {
    writer.set_compressor(FilesystemCompressor::new(Compressor::Zstd, None)?);
    for (path, node) in tree.nodes() {
        let header = NodeHeader::new(node.mode, 0, 0, TIME);
        match &node.kind {
            Kind::Dir => writer.push_dir(path, header)?,
            Kind::File(blob) => writer.push_file(tree.open(*blob), path, header)?,
            Kind::Symlink(target) => writer.push_symlink(target, path, header)?,
        }
    }
    writer.write(out)?;
    Ok(())
}
