//! The machine boundary: pools, machines, the console monitor, host processes.
