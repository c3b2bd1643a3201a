//! YAML files against a JSON Schema.

use std::fs;
use std::process::ExitCode;

use serde_json::Value;

/// Says what is wrong, and where.
#[expect(clippy::print_stderr, reason = "a developer's tool")]
pub(crate) fn main(schema: &str, files: &[&str]) -> ExitCode {
    let mistakes = check(schema, files).unwrap_or_else(|error| vec![error]);
    mistakes.iter().for_each(|mistake| eprintln!("{mistake}"));
    ExitCode::from(u8::from(!mistakes.is_empty()))
}

fn check(schema: &str, files: &[&str]) -> Result<Vec<String>, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let at = |path: &str, error: &dyn std::fmt::Display| format!("{path}: {error}");
    let parsed: Value = serde_json::from_str(&read(schema)?).map_err(|e| at(schema, &e))?;
    let validator = jsonschema::validator_for(&parsed).map_err(|e| at(schema, &e))?;
    let mut mistakes = Vec::new();
    for file in files {
        let value: Value = serde_yaml::from_str(&read(file)?).map_err(|e| at(file, &e))?;
        let errors = validator.iter_errors(&value);
        mistakes.extend(errors.map(|e| format!("{file}: {}: {e}", e.instance_path())));
    }
    Ok(mistakes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_with_their_place() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let schema = write("s.json", r#"{"properties": {"jobs": {"items": {"type": "string"}}}}"#);
        let good = write("good.yml", "jobs: [a, b]\n");
        let bad = write("bad.yml", "jobs: [a, 1]\n");
        assert_eq!(check(&schema, &[&good]), Ok(Vec::new()));
        let told = check(&schema, &[&good, &bad]).unwrap();
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with(&format!("{bad}: /jobs/1: ")), "{told:?}");
        assert!(check(&schema, &[&write("no.yml", "a: [")]).unwrap_err().contains("no.yml"));
    }
}
