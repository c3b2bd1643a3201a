//! Real data to test against, which is no part of the repository.
#![allow(dead_code, clippy::allow_attributes, reason = "not every test uses all of it")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where a file of it is.
pub(crate) fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures-release").join(name)
}

/// A file, unpacked if it is packed; `None`, visibly, where the data isn't there.
#[expect(clippy::print_stdout, reason = "a test that tests nothing says so")]
pub(crate) fn bytes(name: &str) -> Option<Vec<u8>> {
    let Ok(bytes) = fs::read(place(name)) else {
        println!("SKIP: no {name} in ../shared/fixtures-release");
        return None;
    };
    if !name.ends_with(".gz") {
        return Some(bytes);
    }
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).unwrap();
    Some(plain)
}

/// The same, as text.
pub(crate) fn fixture(name: &str) -> Option<String> {
    Some(String::from_utf8(bytes(name)?).unwrap())
}

/// The figures that the data comes with.
pub(crate) fn expected() -> serde_json::Value {
    fixture("expected.json")
        .map_or_else(Default::default, |text| serde_json::from_str(&text).unwrap())
}
