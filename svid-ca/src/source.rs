//! The in-process source: one workload's SVID, straight from a CA in the same program.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spiffe_core::key::KeyType;
use spiffe_core::snapshot::Revision;
use spiffe_core::{Bundle, BundleSet, Publisher, Source, Timestamp, TrustDomainRef, X509Svid};

use crate::authority::{Consumer, Grade};
use crate::ca::TrustDomainCa;
use crate::error::CaError;
use crate::issuer::hex;
use crate::params::X509SvidParams;

/// A [`Source`] that holds an SVID issued by a [`TrustDomainCa`] of the same program. A handle: clones are the same
/// source.
///
/// It rotates when told to: call [`rotate`](Self::rotate) at [`renew_at`](Self::renew_at), and
/// [`refresh`](Self::refresh) when the CA's bundle has changed.
#[derive(Clone)]
pub struct InProcessSource {
    inner: Arc<Inner>,
}

struct Inner {
    ca: TrustDomainCa,
    params: X509SvidParams,
    key: KeyType,
    publisher: Publisher,
    parts: Mutex<Parts>,
}

/// What the next revision is made of; held while it is published, so that revisions follow each other.
#[derive(Default)]
struct Parts {
    svid: Option<Arc<X509Svid>>,
    federated: BundleSet,
}

impl InProcessSource {
    /// Issues the first SVID, with a key on P-256.
    ///
    /// # Errors
    ///
    /// [`CaError`].
    pub async fn new(
        ca: TrustDomainCa,
        params: X509SvidParams,
        now: Timestamp,
    ) -> Result<Self, CaError> {
        Self::with_key_type(ca, params, KeyType::EcP256, now).await
    }

    /// Issues the first SVID, with a key of this kind.
    ///
    /// # Errors
    ///
    /// [`CaError`].
    pub async fn with_key_type(
        ca: TrustDomainCa,
        params: X509SvidParams,
        key: KeyType,
        now: Timestamp,
    ) -> Result<Self, CaError> {
        let source = Self {
            inner: Arc::new(Inner {
                ca,
                params,
                key,
                publisher: Publisher::new(),
                parts: Mutex::default(),
            }),
        };
        source.rotate(now).await?;
        Ok(source)
    }

    /// Issues a new SVID for a new key and publishes it with the current bundles.
    ///
    /// # Errors
    ///
    /// [`CaError`]; the SVID that is held serves on.
    ///
    /// # Cancel safety
    ///
    /// A dropped future has changed nothing.
    pub async fn rotate(&self, now: Timestamp) -> Result<Revision, CaError> {
        let inner = &*self.inner;
        let svid = inner
            .ca
            .issue_x509_svid(&inner.params, inner.key, now)
            .await?;
        self.publish(|parts| parts.svid = Some(Arc::new(svid)))
    }

    /// Publishes the SVID that is held with the CA's current bundle.
    ///
    /// # Errors
    ///
    /// [`CaError::Rejected`]; the bundles that were published serve on.
    pub fn refresh(&self) -> Result<Revision, CaError> {
        self.publish(|_| ())
    }

    /// Trusts another trust domain by its bundle, or replaces that bundle. The CA's own trust domain is not to be
    /// replaced: a bundle of it is ignored.
    ///
    /// # Errors
    ///
    /// [`CaError::Rejected`]; the bundles that were published serve on.
    pub fn federate(&self, bundle: impl Into<Arc<Bundle>>) -> Result<Revision, CaError> {
        let bundle = bundle.into();
        self.publish(|parts| parts.federated.insert(bundle))
    }

    /// Trusts another trust domain no more.
    ///
    /// # Errors
    ///
    /// [`CaError::Rejected`]; the bundles that were published serve on.
    pub fn unfederate(&self, trust_domain: TrustDomainRef<'_>) -> Result<Revision, CaError> {
        self.publish(|parts| {
            parts.federated.remove(trust_domain);
        })
    }

    /// When the SVID that is held is to be renewed, as [`TrustDomainCa::renew_at`] says; `None` before there is one.
    pub fn renew_at(&self) -> Option<Timestamp> {
        let current = self.current();
        Some(self.inner.ca.renew_at(current.svid().ok()?))
    }

    /// The acknowledgement of the bundle that this source's readers verify with, as evidence for the CA.
    pub fn acknowledgement(&self) -> Consumer {
        let trust_domain = self.inner.ca.trust_domain();
        let current = self.current();
        let sequence = current
            .bundle(trust_domain.as_ref())
            .ok()
            .and_then(|bundle| bundle.sequence());
        let signer = current
            .svid()
            .ok()
            .and_then(|svid| svid.authority_key_id().map(hex));
        Consumer::new(
            self.inner.params.id.as_str(),
            sequence.unwrap_or(0),
            Grade::Applied,
        )
        .presenting(signer)
    }

    fn publish(&self, change: impl FnOnce(&mut Parts)) -> Result<Revision, CaError> {
        let mut parts = self.parts();
        let mut next = Parts {
            svid: parts.svid.clone(),
            federated: parts.federated.clone(),
        };
        change(&mut next);
        let mut bundles = next.federated.clone();
        // Last, so that nothing stands in for the CA's own bundle.
        bundles.insert(self.inner.ca.bundle());
        let revision = self.inner.publisher.publish(next.svid.clone(), bundles)?;
        *parts = next;
        Ok(revision)
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        // The parts are replaced as a whole, so a panic elsewhere leaves them whole.
        self.inner
            .parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for InProcessSource {
    fn publisher(&self) -> &Publisher {
        &self.inner.publisher
    }
}

impl fmt::Debug for InProcessSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcessSource")
            .field("id", &self.inner.params.id)
            .field("current", &self.inner.publisher.load())
            .finish_non_exhaustive()
    }
}
