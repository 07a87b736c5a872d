//! Key managers: where authorities' private keys are made and stay.
//!
//! A manager hands out signers, never keys.

mod disk;
mod memory;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod rehearsal;

use std::fmt;
use std::sync::Arc;

use spiffe_core::BoxFuture;
use spiffe_core::key::{KeyType, Signer};

pub use disk::{DiskKeys, KEYS_FILE, MAX_KEYS_FILE_BYTES};
pub use memory::MemoryKeys;
#[cfg(feature = "pkcs11")]
pub use pkcs11::{MAX_TOKEN_URI_BYTES, Pkcs11Keys, TOKEN_SESSIONS, TokenUri};
pub use rehearsal::RehearsedKeys;

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

    /// Where the keys lie, in one line without secrets: the journal keeps it, so that a restart looks for them in the
    /// same place. What follows a `?` is how to get there, and may change. `None`, the default, for a manager that
    /// belongs to the state directory or to nothing that outlives the process.
    fn location(&self) -> Option<String> {
        None
    }
}
