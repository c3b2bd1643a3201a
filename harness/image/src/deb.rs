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

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One ar member after another, as `dpkg-deb` writes them.
    pub(crate) fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = b"!<arch>\n".to_vec();
        for (name, data) in members {
            out.extend(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100644, data.len())
                    .bytes(),
            );
            out.extend(*data);
            out.extend(std::iter::repeat_n(b'\n', data.len() % 2));
        }
        out
    }

    fn read(deb: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        data_tar(deb)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn every_compression_gives_the_same_data() {
        let plain = b"some files".repeat(1000);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gz, &plain).unwrap();
        let mut xz = Vec::new();
        liblzma::read::XzEncoder::new(plain.as_slice(), 1).read_to_end(&mut xz).unwrap();
        let variants = [
            ("data.tar", plain.clone()),
            ("data.tar.gz", gz.finish().unwrap()),
            ("data.tar.xz", xz),
            ("data.tar.zst", zstd::encode_all(plain.as_slice(), 1).unwrap()),
            // Some tools end names with a slash.
            ("data.tar/", plain.clone()),
        ];
        for (name, data) in variants {
            let deb = ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (name, &data)]);
            assert_eq!(read(&deb).unwrap(), plain, "{name}");
            let cut = read(&deb[..deb.len() - 5]);
            // A plain member has no end mark of its own: its tar has.
            assert!(cut.is_err() || name.starts_with("data.tar/") || name == "data.tar", "{name}");
        }
    }

    #[test]
    fn what_is_not_a_package_is_refused() {
        let good = ar(&[("debian-binary", b"2.0\n"), ("data.tar", b"x")]);
        let mut bad_end = good.clone();
        bad_end[66] = b'x';
        let mut bad_size = good.clone();
        bad_size[56] = b'-';
        let table: [(&[u8], &str); 8] = [
            (b"", "failed to fill whole buffer"),
            (b"PK\x03\x04 zip archive", "not a Debian package"),
            (b"!<arch>\n", "no data.tar member in the package"),
            (&good[..40], "no data.tar member in the package"),
            (&good[..70], "debian-binary is cut short"),
            (&bad_end, "damaged ar header"),
            (&bad_size, "damaged ar member size"),
            (&ar(&[("data.tar.lzma", b"")]), "data.tar.lzma has an unknown compression"),
        ];
        for (bytes, expected) in table {
            assert_eq!(read(bytes).unwrap_err().to_string(), expected);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(name in "[a-z.]{0,20}", data: Vec<u8>, cut in 0..200_usize) {
            let mut deb = ar(&[(&name.chars().take(16).collect::<String>(), &data), ("data.tar.xz", &data)]);
            deb.truncate(cut);
            let _ = read(&deb);
        }
    }
}
