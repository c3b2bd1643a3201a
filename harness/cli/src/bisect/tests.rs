//! Bisections in this process.
