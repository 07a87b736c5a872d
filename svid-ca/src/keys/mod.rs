//! Key managers: where authorities' private keys are made and stay.
//!
//! A manager hands out signers, never keys.

mod disk;
mod memory;

use std::fmt;
use std::sync::Arc;

use spiffe_core::BoxFuture;
use spiffe_core::key::{KeyType, Signer};

pub use disk::{DiskKeys, KEYS_FILE, MAX_KEYS_FILE_BYTES};
pub use memory::MemoryKeys;

use crate::error::KeyManagerError;

/// Makes, keeps and destroys private keys by name.
///
/// The names that authorities use are those of [`Slot::key_name`](crate::authority::Slot::key_name).
pub trait KeyManager: fmt::Debug + Send + Sync + 'static {
    /// Makes a key under `name`, replacing and destroying one of the same name; kept when the future is done.
    ///
    /// # Errors
    ///
    /// [`KeyManagerError`]; the key of that name is then as before.
    fn generate<'a>(
        &'a self,
        name: &'a str,
        kind: KeyType,
    ) -> BoxFuture<'a, Result<Arc<dyn Signer>, KeyManagerError>>;

    /// The key under `name`, if there is one.
    ///
    /// # Errors
    ///
    /// [`KeyManagerError`].
    fn signer<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Signer>>, KeyManagerError>>;

    /// The names of all keys, sorted.
    ///
    /// # Errors
    ///
    /// [`KeyManagerError`].
    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, KeyManagerError>>;

    /// Destroys the key under `name`; whether there was one.
    ///
    /// # Errors
    ///
    /// [`KeyManagerError`]; the key is then still there.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, KeyManagerError>>;
}
