//! Keys in memory: gone when the manager is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spiffe_core::BoxFuture;
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::key::{KeyType, Signer};

use super::KeyManager;
use crate::error::KeyManagerError;

/// Keys in memory.
pub struct MemoryKeys {
    crypto: Arc<dyn CryptoProvider>,
    keys: Mutex<BTreeMap<String, Arc<dyn Signer>>>,
}

impl MemoryKeys {
    /// A manager without keys.
    pub fn new(crypto: Arc<dyn CryptoProvider>) -> Self {
        Self {
            crypto,
            keys: Mutex::default(),
        }
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<String, Arc<dyn Signer>>> {
        // Every change is one call, so a panic elsewhere leaves the map whole.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn generate_now(&self, name: &str, kind: KeyType) -> Result<Arc<dyn Signer>, KeyManagerError> {
        let key = self.crypto.generate_key(kind)?;
        let signer = self.crypto.load_key(&key)?;
        self.keys().insert(name.into(), signer.clone());
        Ok(signer)
    }
}

impl KeyManager for MemoryKeys {
    fn generate<'a>(
        &'a self,
        name: &'a str,
        kind: KeyType,
    ) -> BoxFuture<'a, Result<Arc<dyn Signer>, KeyManagerError>> {
        Box::pin(async move { self.generate_now(name, kind) })
    }

    fn signer<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Signer>>, KeyManagerError>> {
        Box::pin(async move { Ok(self.keys().get(name).cloned()) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, KeyManagerError>> {
        Box::pin(async move { Ok(self.keys().keys().cloned().collect()) })
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, KeyManagerError>> {
        Box::pin(async move { Ok(self.keys().remove(name).is_some()) })
    }
}

impl fmt::Debug for MemoryKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryKeys")
            .field("keys", &self.keys().keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
