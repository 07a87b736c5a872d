//! An authority that an operator keeps in files: SPIRE's upstream authority `disk`.
//!
//! The files are looked at whenever the upstream is asked for something. New ones that cannot be used are reported
//! and the last good ones serve on. They are few and small, so they are read in place.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spiffe_core::bundle::{X509Authorities, X509Authority, certificates_from_pem};
use spiffe_core::key::PrivateKey;
use spiffe_core::{BoxFuture, Timestamp, TrustDomain};
use zeroize::Zeroizing;

use super::{MintRequest, MintedAuthority, UpstreamAuthority, prove};
use crate::certificate::Certificate;
use crate::csr::Csr;
use crate::error::UpstreamError;
use crate::issuer::{IssuerSettings, X509Issuer};
use crate::params::IntermediateParams;

/// The most bytes of each of the files.
pub const MAX_UPSTREAM_FILE_BYTES: usize = 1024 * 1024;

/// Where the authority lies: SPIRE's `cert_file_path`, `key_file_path` and `bundle_file_path`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskFiles {
    /// PEM: the authority's certificate and, with a bundle, those above it, nearest first.
    pub certificate: PathBuf,
    /// PEM: its key as unencrypted PKCS#8.
    pub key: PathBuf,
    /// PEM: the roots. Without it the certificate is one, self-signed, and the root itself.
    pub bundle: Option<PathBuf>,
}

impl DiskFiles {
    /// A self-signed authority.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
            bundle: None,
        }
    }

    /// An authority below the roots of this file.
    #[must_use]
    pub fn with_bundle(mut self, bundle: impl Into<PathBuf>) -> Self {
        self.bundle = Some(bundle.into());
        self
    }
}

/// An authority in files.
pub struct DiskUpstream {
    trust_domain: TrustDomain,
    files: DiskFiles,
    settings: Arc<IssuerSettings>,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    good: Arc<Good>,
    /// Of the contents that were looked at last, good or bad.
    digest: Option<[u8; 32]>,
    /// Why those were bad.
    rejected: Option<UpstreamError>,
}

struct Good {
    issuer: X509Issuer,
    roots: Vec<X509Authority>,
}

impl DiskUpstream {
    /// Loads the files and shows that what their authority signs verifies under their roots.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub async fn open(
        trust_domain: TrustDomain,
        files: DiskFiles,
        settings: IssuerSettings,
        now: Timestamp,
    ) -> Result<Self, UpstreamError> {
        let settings = Arc::new(settings);
        let contents = Contents::read(&files)?;
        let digest = contents.digest(&settings);
        let good = contents.load(&trust_domain, &files, &settings, now).await?;
        Ok(Self {
            trust_domain,
            files,
            settings,
            loaded: Mutex::new(Loaded {
                good: Arc::new(good),
                digest: Some(digest),
                rejected: None,
            }),
        })
    }

    /// Why the files as they are now are not used, and earlier ones are; `None` when all is well.
    pub fn rejected(&self) -> Option<UpstreamError> {
        self.loaded().rejected.clone()
    }

    /// What is good now: the files' new contents if they have changed for the better.
    async fn refreshed(&self, now: Timestamp) -> Arc<Good> {
        let read = match Contents::read(&self.files) {
            Err(error) => Err((None, error)),
            Ok(contents) => {
                let digest = contents.digest(&self.settings);
                if let Some(good) = self.unchanged(digest) {
                    return good;
                }
                contents
                    .load(&self.trust_domain, &self.files, &self.settings, now)
                    .await
                    .map(|good| (digest, good))
                    .map_err(|error| (Some(digest), error))
            }
        };
        let mut loaded = self.loaded();
        match read {
            Ok((digest, good)) => {
                tracing::info!(trust_domain = %self.trust_domain, authority = good.issuer.id(), "upstream authority loaded");
                *loaded = Loaded {
                    good: Arc::new(good),
                    digest: Some(digest),
                    rejected: None,
                };
            }
            Err((digest, error)) => {
                let message = error.to_string();
                let known = loaded.rejected.as_ref().map(ToString::to_string);
                if known != Some(message) {
                    tracing::error!(trust_domain = %self.trust_domain, %error, "new files of the upstream authority are not used");
                }
                loaded.digest = digest;
                loaded.rejected = Some(error);
            }
        }
        loaded.good.clone()
    }

    fn unchanged(&self, digest: [u8; 32]) -> Option<Arc<Good>> {
        let loaded = self.loaded();
        (loaded.digest == Some(digest)).then(|| loaded.good.clone())
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        // It is replaced as a whole, so a panic elsewhere leaves it whole.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UpstreamAuthority for DiskUpstream {
    fn mint<'a>(
        &'a self,
        request: &'a MintRequest,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<MintedAuthority, UpstreamError>> {
        Box::pin(async move {
            let good = self.refreshed(now).await;
            let (policy, crypto) = (&self.settings.key_policy, &*self.settings.crypto);
            let csr = Csr::from_der(&request.csr, policy, crypto)?;
            let params = IntermediateParams::new().with_ttl(request.ttl);
            let issued = good
                .issuer
                .issue_intermediate(&params, csr.public_key(), now)
                .await?;
            Ok(MintedAuthority::new(issued.chain, good.roots.clone()))
        })
    }

    fn roots(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<X509Authority>, UpstreamError>> {
        Box::pin(async move { Ok(self.refreshed(now).await.roots.clone()) })
    }
}

impl fmt::Debug for DiskUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskUpstream")
            .field("trust_domain", &self.trust_domain)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// What the files hold.
struct Contents {
    certificate: String,
    key: Zeroizing<String>,
    bundle: Option<String>,
}

impl Contents {
    fn read(files: &DiskFiles) -> Result<Self, UpstreamError> {
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: Zeroizing::new(read(&files.key)?),
            bundle: files.bundle.as_deref().map(read).transpose()?,
        })
    }

    /// Tells contents apart without keeping the key.
    fn digest(&self, settings: &IssuerSettings) -> [u8; 32] {
        let part = |text: &str| settings.crypto.sha256(text.as_bytes());
        let bundle = self.bundle.as_deref().map(part).unwrap_or_default();
        let parts = [part(&self.certificate), part(&self.key), bundle];
        settings.crypto.sha256(parts.as_flattened())
    }

    async fn load(
        &self,
        trust_domain: &TrustDomain,
        files: &DiskFiles,
        settings: &Arc<IssuerSettings>,
        now: Timestamp,
    ) -> Result<Good, UpstreamError> {
        let invalid = |path: &Path, reason: &dyn fmt::Display| UpstreamError::File {
            path: path.into(),
            reason: reason.to_string(),
        };
        let key = PrivateKey::from_pem(&self.key)
            .and_then(|key| settings.crypto.load_key(&key))
            .map_err(|error| {
                invalid(
                    &files.key,
                    &format_args!("{error}; it takes unencrypted PKCS#8, which `openssl pkcs8 -topk8 -nocrypt` makes"),
                )
            })?;
        let chain = certificates_from_pem(&self.certificate)
            .map_err(|error| invalid(&files.certificate, &error))?;
        let (own, above) = chain
            .split_first()
            .ok_or_else(|| invalid(&files.certificate, &"it holds no certificate"))?;
        let self_issued =
            |der| Certificate::parse(der).is_ok_and(|certificate| certificate.is_self_issued());
        let roots: Vec<X509Authority> = match (&self.bundle, &files.bundle) {
            (Some(bundle), Some(path)) => {
                let roots =
                    X509Authorities::from_pem(bundle).map_err(|error| invalid(path, &error))?;
                roots.iter().cloned().collect()
            }
            _ if above.is_empty() && self_issued(own) => {
                let root = X509Authority::from_der(own.clone())
                    .map_err(|error| invalid(&files.certificate, &error))?;
                vec![root]
            }
            _ => {
                return Err(invalid(
                    &files.certificate,
                    &"without a bundle file it must hold exactly one certificate, self-signed",
                ));
            }
        };
        let above = above.iter().filter(|der| !self_issued(der)).cloned();
        let issuer = X509Issuer::new(
            trust_domain.clone(),
            own.clone(),
            above.collect(),
            key,
            settings.clone(),
        )
        .map_err(|error| invalid(&files.certificate, &error))?;
        prove(&issuer, &roots, now).await?;
        Ok(Good { issuer, roots })
    }
}

fn read(path: &Path) -> Result<String, UpstreamError> {
    let failed = |reason: String| UpstreamError::File {
        path: path.into(),
        reason,
    };
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut text = String::new();
    file.take(MAX_UPSTREAM_FILE_BYTES as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    if text.len() > MAX_UPSTREAM_FILE_BYTES {
        return Err(failed(format!(
            "it has more than {MAX_UPSTREAM_FILE_BYTES} bytes"
        )));
    }
    Ok(text)
}
