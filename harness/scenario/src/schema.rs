//! JSON Schemas of the files, for editors. Made from the types that read them.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::raw;

/// Every schema: the name of its file below `schemas/`, and its content.
pub fn all() -> [(&'static str, Value); 5] {
    [
        ("scenario.schema.json", of::<raw::Scenario>("kgate scenario")),
        ("workload.schema.json", of::<raw::Workload>("kgate workload profile")),
        ("policy.schema.json", of::<raw::Policy>("kgate gate policy")),
        ("waivers.schema.json", of::<Vec<raw::Waiver>>("kgate waivers")),
        ("lab.schema.json", of::<raw::Inventory>("kgate lab inventory")),
    ]
}

fn of<T: schemars::JsonSchema>(title: &str) -> Value {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<T>();
    schema.insert("title".into(), title.into());
    schema.into()
}
