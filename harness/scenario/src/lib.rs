//! YAML to validated scenarios, workloads and gate policies.
