//! Telling compression formats apart by their first bytes, and reading them.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// A compression format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Gzip,
    Xz,
    Lzma,
    Bzip2,
    Zstd,
    Lz4Legacy,
    Lzop,
}

/// First bytes of each format.
const MAGICS: &[(Format, &[u8])] = &[
    (Format::Gzip, &[0x1f, 0x8b]),
    (Format::Xz, &[0xfd, b'7', b'z', b'X', b'Z', 0]),
    (Format::Lzma, &[0x5d, 0, 0]),
    (Format::Bzip2, b"BZh"),
    (Format::Zstd, &[0x28, 0xb5, 0x2f, 0xfd]),
    (Format::Lz4Legacy, &[0x02, 0x21, 0x4c, 0x18]),
    (Format::Lzop, &[0x89, b'L', b'Z', b'O', 0]),
];

impl Format {
    /// The format that `bytes` begin like.
    pub(crate) fn detect(bytes: &[u8]) -> Option<Self> {
        MAGICS.iter().find(|(_, magic)| bytes.starts_with(magic)).map(|(format, _)| *format)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Bzip2 => "bzip2",
            Self::Zstd => "zstd",
            Self::Lz4Legacy => "lz4",
            Self::Lzop => "lzo",
        }
    }
}

/// The format of a file, which is left at its beginning.
pub(crate) fn detect_file(file: &mut (impl Read + Seek)) -> io::Result<Option<Format>> {
    let mut head = Vec::new();
    file.by_ref().take(8).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(Format::detect(&head))
}

/// Decompresses to the end; several streams one after another are one, as their tools have it.
pub(crate) fn reader<'a>(format: Format, packed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    /// Bounds the memory that a stream's header can ask for.
    const MEMORY: u64 = 256 << 20;
    let packed = BufReader::with_capacity(1 << 16, packed);
    Ok(match format {
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
        Format::Xz => {
            let stream =
                liblzma::stream::Stream::new_stream_decoder(MEMORY, liblzma::stream::CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(packed, stream))
        }
        Format::Lzma => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(MEMORY)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(packed, stream))
        }
        Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(packed)),
        Format::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
            decoder.window_log_max(27)?;
            Box::new(decoder)
        }
        Format::Lz4Legacy => Box::new(Lz4Legacy { packed, block: Vec::new(), at: 0, begun: false }),
        Format::Lzop => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "lzo compression is not supported",
            ));
        }
    })
}

/// What `packed` holds, unpacked when it begins like the output of gzip, bzip2, xz or zstd, and
/// whether it does.
///
/// # Errors
/// It can't be read, or what it begins like is broken at once.
pub fn unpacked<'a>(mut packed: impl Read + 'a) -> io::Result<(Box<dyn Read + 'a>, bool)> {
    let mut head = Vec::new();
    packed.by_ref().take(6).read_to_end(&mut head)?;
    let format = Format::detect(&head).filter(|format| {
        matches!(format, Format::Gzip | Format::Bzip2 | Format::Xz | Format::Zstd)
    });
    let whole = io::Cursor::new(head).chain(packed);
    Ok(match format {
        Some(format) => (reader(format, whole)?, true),
        None => (Box::new(whole), false),
    })
}

/// The frame that the kernel's build uses (`lz4 -l`): blocks of at most 8 MiB, each with its
/// packed size before it, until the data ends.
struct Lz4Legacy<R> {
    packed: R,
    block: Vec<u8>,
    at: usize,
    begun: bool,
}

const LZ4_BLOCK: usize = 8 << 20;

impl<R: Read> Read for Lz4Legacy<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let n = buf.len().min(self.block.len() - self.at);
        buf[..n].copy_from_slice(&self.block[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

impl<R: Read> Lz4Legacy<R> {
    fn next_block(&mut self) -> io::Result<bool> {
        if !self.begun {
            self.packed.read_exact(&mut [0; 4])?;
            self.begun = true;
        }
        let mut word = Vec::new();
        if self.packed.by_ref().take(4).read_to_end(&mut word)? < 4 {
            return Ok(false);
        }
        let size = u32::from_le_bytes([word[0], word[1], word[2], word[3]]) as usize;
        // A full block of incompressible data grows by less than this.
        if size == 0 || size > LZ4_BLOCK + LZ4_BLOCK / 128 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("lz4 block of {size} bytes"),
            ));
        }
        let mut packed = Vec::new();
        if self.packed.by_ref().take(size as u64).read_to_end(&mut packed)? < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.block.resize(LZ4_BLOCK, 0);
        let n = lz4_flex::block::decompress_into(&packed, &mut self.block)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("lz4: {e}")))?;
        self.block.truncate(n);
        self.at = 0;
        Ok(true)
    }
}
