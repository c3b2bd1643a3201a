//! Secrets, which an inventory only refers to.

use secrecy::SecretString;

use kgate_model::inventory::SecretRef;

/// Why a secret can't be had. Never tells any of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SecretError(pub String);

/// Where secrets come from. Asked each time one is needed: none is kept.
pub trait Secrets {
    /// The secret's value.
    ///
    /// # Errors
    /// It isn't there, or others may read it.
    fn get(&self, secret: &SecretRef) -> Result<SecretString, SecretError>;
}
