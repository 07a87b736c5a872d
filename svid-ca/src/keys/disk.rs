//! Keys in a file, in the form of SPIRE's disk key manager: `{"keys": {"<name>": "<base64 of the PKCS#8 DER>"}}`.
//!
//! The file is read once, when the manager is opened, and replaced as a whole at every change. A file that cannot be
//! read is an error and stays as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};
use spiffe_core::BoxFuture;
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::key::{KeyType, PrivateKey, Signer};
use zeroize::{Zeroize, Zeroizing};

use super::KeyManager;
use crate::error::KeyManagerError;
use crate::storage::{Storage, replace, told};

/// The file's name in its directory.
pub const KEYS_FILE: &str = "keys.json";

/// The most bytes of a file of keys: room for two hundred of RSA with 4096 bits.
pub const MAX_KEYS_FILE_BYTES: usize = 1024 * 1024;

/// Keys in `keys.json`, readable by its owner alone.
pub struct DiskKeys {
    crypto: Arc<dyn CryptoProvider>,
    storage: Arc<dyn Storage>,
    keys: Mutex<BTreeMap<String, Stored>>,
}

struct Stored {
    key: PrivateKey,
    signer: Arc<dyn Signer>,
}

/// The file; the base64 texts are wiped with it.
#[derive(Serialize, Deserialize)]
struct File {
    keys: BTreeMap<String, String>,
}

impl Drop for File {
    fn drop(&mut self) {
        self.keys.values_mut().for_each(Zeroize::zeroize);
    }
}

impl DiskKeys {
    /// Reads the keys of a directory; a directory without `keys.json` has none.
    ///
    /// # Errors
    ///
    /// [`KeyManagerError::Damaged`], [`KeyManagerError::Readable`] and [`KeyManagerError::Storage`].
    pub fn open(
        storage: Arc<dyn Storage>,
        crypto: Arc<dyn CryptoProvider>,
    ) -> Result<Self, KeyManagerError> {
        let path = storage.path(KEYS_FILE);
        let read = storage
            .read(KEYS_FILE, MAX_KEYS_FILE_BYTES)
            .map_err(|error| KeyManagerError::Storage {
                path: path.clone(),
                action: "read",
                reason: told(&error),
            })?;
        let mut keys = BTreeMap::new();
        if let Some(read) = read {
            if read.mode & 0o077 != 0 {
                return Err(KeyManagerError::Readable {
                    path,
                    mode: read.mode,
                });
            }
            let damaged = |reason: String| KeyManagerError::Damaged {
                path: path.clone(),
                reason,
            };
            let contents = Zeroizing::new(read.contents);
            let file: File = serde_json::from_slice(&contents).map_err(|error| {
                // The message of a wrong type quotes the value, which may be a secret.
                damaged(format!(
                    "line {} is not what JSON of that form has there",
                    error.line()
                ))
            })?;
            for (name, text) in &file.keys {
                let der = Base64::decode_vec(text)
                    .map_err(|_| damaged(format!("the key {name:?} is not base64")))?;
                let key = PrivateKey::from_pkcs8_der(der);
                let signer = crypto.load_key(&key).map_err(|error| {
                    damaged(format!("the key {name:?} cannot be used: {error}"))
                })?;
                keys.insert(name.clone(), Stored { key, signer });
            }
        }
        Ok(Self {
            crypto,
            storage,
            keys: Mutex::new(keys),
        })
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<String, Stored>> {
        // Every change is one call, so a panic elsewhere leaves the map whole.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn generate_now(&self, name: &str, kind: KeyType) -> Result<Arc<dyn Signer>, KeyManagerError> {
        let key = self.crypto.generate_key(kind)?;
        let signer = self.crypto.load_key(&key)?;
        let mut keys = self.keys();
        let new = Stored {
            key,
            signer: signer.clone(),
        };
        let before = keys.insert(name.into(), new);
        if let Err(error) = self.write(&keys) {
            match before {
                Some(before) => keys.insert(name.into(), before),
                None => keys.remove(name),
            };
            return Err(error);
        }
        Ok(signer)
    }

    fn remove_now(&self, name: &str) -> Result<bool, KeyManagerError> {
        let mut keys = self.keys();
        let Some(before) = keys.remove(name) else {
            return Ok(false);
        };
        if let Err(error) = self.write(&keys) {
            keys.insert(name.into(), before);
            return Err(error);
        }
        Ok(true)
    }

    fn write(&self, keys: &BTreeMap<String, Stored>) -> Result<(), KeyManagerError> {
        let file = File {
            keys: keys
                .iter()
                .map(|(name, stored)| {
                    let text = Base64::encode_string(stored.key.secret_pkcs8_der());
                    (name.clone(), text)
                })
                .collect(),
        };
        let failed = |reason: String| KeyManagerError::Storage {
            path: self.storage.path(KEYS_FILE),
            action: "written",
            reason,
        };
        let contents = serde_json::to_vec_pretty(&file)
            .map(Zeroizing::new)
            .map_err(|error| failed(error.to_string()))?;
        replace(&*self.storage, KEYS_FILE, &contents).map_err(|error| failed(told(&error)))
    }
}

impl KeyManager for DiskKeys {
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
        Box::pin(async move { Ok(self.keys().get(name).map(|stored| stored.signer.clone())) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, KeyManagerError>> {
        Box::pin(async move { Ok(self.keys().keys().cloned().collect()) })
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, KeyManagerError>> {
        Box::pin(async move { self.remove_now(name) })
    }
}

impl fmt::Debug for DiskKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskKeys")
            .field("storage", &self.storage)
            .field("keys", &self.keys().keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
