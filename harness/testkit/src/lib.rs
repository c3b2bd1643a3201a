//! For tests: scripted machines, real kernels, redaction.
