//! Turns failures into the wire's [`Trouble`].

use kgate_model::wire::Trouble;

/// A failed system call: what was tried, and what the kernel answered.
pub(crate) fn failed(what: impl std::fmt::Display, error: impl Into<std::io::Error>) -> Trouble {
    let error = error.into();
    Trouble { message: format!("{what}: {error}"), errno: error.raw_os_error() }
}

/// A request that can't be carried out for a reason of our own.
pub(crate) fn refused(message: impl Into<String>) -> Trouble {
    Trouble { message: message.into(), errno: None }
}
