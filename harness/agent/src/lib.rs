//! The machine's side of the wire: PID 1 in a guest, a process on a lab host.
