//! Randomness as an argument.

use std::fmt;

/// Where random bytes come from: a cryptographic generator in use, a seeded one in tests.
pub trait Random: fmt::Debug + Send + Sync + 'static {
    /// Fills `bytes`.
    ///
    /// # Errors
    ///
    /// [`RandomError`] when the source fails; nothing may be made of the bytes then.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomError>;
}

/// The source of randomness failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the source of randomness failed")]
#[non_exhaustive]
pub struct RandomError;

impl RandomError {
    /// The error, for implementors of [`Random`].
    pub const fn new() -> Self {
        Self
    }
}

impl Default for RandomError {
    fn default() -> Self {
        Self::new()
    }
}
