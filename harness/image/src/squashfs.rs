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

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};
    use std::path::Path;

    use backhand::{FilesystemReader, InnerNode};

    use super::*;

    fn tree(order: impl Iterator<Item = usize>) -> Tree {
        let mut tree = Tree::new(tempfile::tempfile().unwrap());
        for i in order {
            let content = format!("content {} ", i % 7).repeat(i * 40);
            let path = format!("usr/lib/{}/file{i}", i % 5);
            tree.add_file(Path::new(&path), 0o644, content.as_bytes()).unwrap();
        }
        tree.add_dir(Path::new("tmp"), 0o1777).unwrap();
        tree.add_symlink(Path::new("bin"), Path::new("usr/bin")).unwrap();
        let large: Vec<u8> = (0..400_000_u32).flat_map(u32::to_le_bytes).collect();
        tree.add_file(Path::new("usr/bin/su"), 0o4755, large.as_slice()).unwrap();
        tree.add_file(Path::new("etc/empty"), 0o600, &b""[..]).unwrap();
        tree
    }

    fn packed(tree: &Tree) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        pack(tree, &mut out).unwrap();
        out.into_inner()
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes_in_whatever_order_it_was_filled() {
        let first = packed(&tree(0..60));
        assert!(first == packed(&tree(0..60)), "packed twice");
        assert!(first == packed(&tree((0..60).rev())), "filled backwards");
        assert!(first != packed(&tree(0..59)), "another tree");
    }

    #[test]
    fn everything_can_be_read_back() {
        let tree = tree(0..60);
        let image = FilesystemReader::from_reader(Cursor::new(packed(&tree))).unwrap();
        let mut count = 0;
        for node in image.files().filter(|node| node.fullpath != Path::new("/")) {
            let path = node.fullpath.strip_prefix("/").unwrap();
            let (_, expected) = tree.nodes().find(|(other, _)| *other == path).unwrap();
            let header = node.header;
            assert_eq!((header.uid, header.gid, header.mtime), (0, 0, TIME), "{path:?}");
            match (&node.inner, &expected.kind) {
                (InnerNode::Dir(_), Kind::Dir) => assert_eq!(header.permissions, expected.mode),
                (InnerNode::Symlink(link), Kind::Symlink(target)) => assert_eq!(&link.link, target),
                (InnerNode::File(file), Kind::File(blob)) => {
                    assert_eq!(header.permissions, expected.mode, "{path:?}");
                    let (mut found, mut wanted) = (Vec::new(), Vec::new());
                    image.file(file).reader().read_to_end(&mut found).unwrap();
                    tree.open(*blob).read_to_end(&mut wanted).unwrap();
                    assert!(found == wanted, "content of {path:?}");
                }
                other => panic!("{path:?} became {other:?}"),
            }
            count += 1;
        }
        assert_eq!(count, tree.nodes().count());
    }
}
