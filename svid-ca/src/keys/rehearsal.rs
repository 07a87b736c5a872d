//! Keys that another manager holds, and changes that it never hears of: for a rehearsal that changes nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use spiffe_core::BoxFuture;
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::key::{KeyType, Signer};

use super::{KeyManager, MemoryKeys};
use crate::error::KeyManagerError;

/// Another manager's keys, with new ones made in memory.
#[derive(Debug)]
pub struct RehearsedKeys {
    held: Arc<dyn KeyManager>,
    made: MemoryKeys,
    removed: Mutex<BTreeSet<String>>,
}

impl RehearsedKeys {
    /// A rehearsal over these keys.
    pub fn new(held: Arc<dyn KeyManager>, crypto: Arc<dyn CryptoProvider>) -> Self {
        Self {
            held,
            made: MemoryKeys::new(crypto),
            removed: Mutex::default(),
        }
    }

    fn is_removed(&self, name: &str) -> bool {
        let removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        removed.contains(name)
    }
}

impl KeyManager for RehearsedKeys {
    fn generate<'a>(
        &'a self,
        name: &'a str,
        kind: KeyType,
    ) -> BoxFuture<'a, Result<Arc<dyn Signer>, KeyManagerError>> {
        self.made.generate(name, kind)
    }

    fn signer<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Signer>>, KeyManagerError>> {
        Box::pin(async move {
            match self.made.signer(name).await? {
                None if !self.is_removed(name) => self.held.signer(name).await,
                made => Ok(made),
            }
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, KeyManagerError>> {
        Box::pin(async move {
            let mut names = self.held.list().await?;
            names.retain(|name| !self.is_removed(name));
            names.extend(self.made.list().await?);
            names.sort();
            names.dedup();
            Ok(names)
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, KeyManagerError>> {
        Box::pin(async move {
            let there = self.signer(name).await?.is_some();
            self.made.remove(name).await?;
            let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
            removed.insert(name.into());
            Ok(there)
        })
    }

    fn location(&self) -> Option<String> {
        self.held.location()
    }
}
