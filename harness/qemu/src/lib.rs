//! Guests: QEMU arguments, QMP, acceleration.
