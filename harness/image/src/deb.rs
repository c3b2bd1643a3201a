//! Debian packages: the ar archive and the compressed tar of files inside it.

use std::io::{self, BufReader, Error, ErrorKind, Read};

/// Length of an ar member header.
const AR_HEADER: usize = 60;

/// Finds the package's file archive in `deb` and decompresses it on the fly.
///
/// # Errors
/// `InvalidData` when `deb` is not a Debian package or uses an unknown compression,
/// `UnexpectedEof` when it is cut short.
pub(crate) fn data_tar<'a>(deb: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut deb = BufReader::with_capacity(1 << 16, deb);
    let mut magic = [0; 8];
    deb.read_exact(&mut magic)?;
    if &magic != b"!<arch>\n" {
        return Err(invalid("not a Debian package"));
    }
    loop {
        let mut header = [0; AR_HEADER];
        deb.read_exact(&mut header)
            .map_err(|error| Error::new(error.kind(), "no data.tar member in the package"))?;
        let text = std::str::from_utf8(&header)
            .ok()
            .filter(|text| text.ends_with("`\n") && text.is_ascii())
            .ok_or_else(|| invalid("damaged ar header"))?;
        let name = text[..16].trim_end().trim_end_matches('/');
        let size: u64 =
            text[48..58].trim_end().parse().map_err(|_| invalid("damaged ar member size"))?;
        if let Some(suffix) = name.strip_prefix("data.tar") {
            let data = deb.take(size);
            return Ok(match suffix {
                "" => Box::new(data),
                ".gz" => Box::new(flate2::read::MultiGzDecoder::new(data)),
                ".xz" => Box::new(liblzma::read::XzDecoder::new_multi_decoder(data)),
                ".zst" => Box::new(zstd::Decoder::new(data)?),
                _ => return Err(invalid(format!("{name} has an unknown compression"))),
            });
        }
        let skipped = size + size % 2;
        if io::copy(&mut (&mut deb).take(skipped), &mut io::sink())? < skipped {
            return Err(Error::new(ErrorKind::UnexpectedEof, format!("{name} is cut short")));
        }
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, text.into())
}
