//! Real data to test against, which is no part of the repository.
#![allow(dead_code, clippy::allow_attributes, reason = "not every test uses all of it")]

use std::fs;
use std::io::Read;
use std::path::Path;

/// Text of a file, unpacked if it is packed; `None`, visibly, where the data isn't there.
#[expect(clippy::print_stdout, reason = "a test that tests nothing says so")]
pub(crate) fn fixture(name: &str) -> Option<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures-release");
    let Ok(bytes) = fs::read(dir.join(name)) else {
        println!("SKIP: no {name} in ../shared/fixtures-release");
        return None;
    };
    if !name.ends_with(".gz") {
        return Some(String::from_utf8(bytes).unwrap());
    }
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
    Some(text)
}

/// The figures that the data comes with.
pub(crate) fn expected() -> serde_json::Value {
    fixture("expected.json")
        .map_or_else(Default::default, |text| serde_json::from_str(&text).unwrap())
}
