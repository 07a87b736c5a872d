//! What a TLS session is bound to: it is resumed only while all of it is the same.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::{CryptoProvider, GetRandomFailed};
use spiffe_core::snapshot::Snapshot;
use spiffe_core::{BundleSet, X509Svid};

use crate::digest::{Digest, Sha256};
use crate::terms::{InForce, Terms};

/// What sessions are bound to at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// Bundles, own SPIFFE ID and the own issuer.
    pub(crate) revision: Digest,
    pub(crate) terms: Digest,
}

/// Computes the namespaces of one configuration.
pub(crate) struct Namespaces {
    terms: Terms,
    sha256: Sha256,
    /// Stands for terms that have no text, so that no other process shares them.
    process: Digest,
    /// Bundles are many, and one's own rotation leaves them as they are.
    last_bundles: Mutex<Option<(Arc<BundleSet>, Digest)>>,
    last_terms: Mutex<Option<(u64, Digest)>>,
}

impl fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespaces")
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

impl Namespaces {
    /// # Errors
    ///
    /// When the provider has no randomness to give.
    pub(crate) fn new(
        terms: Terms,
        sha256: Sha256,
        provider: &CryptoProvider,
    ) -> Result<Self, GetRandomFailed> {
        let mut process = [0; 32];
        provider.secure_random.fill(&mut process)?;
        Ok(Self {
            terms,
            sha256,
            process,
            last_bundles: Mutex::default(),
            last_terms: Mutex::default(),
        })
    }

    /// The part that a revision contributes where this SVID is shown: everybody's authorities, taints included, the own
    /// ID, and who issued the SVID.
    ///
    /// A session remembers the SVIDs that were shown at first. Were it to outlive their re-issue under another
    /// authority, it would still rest on the old one when that is taken out of the bundle, and the handshakes that are
    /// under way then would be refused, although nobody holds anything of the old authority any more.
    pub(crate) fn of_svid(&self, snapshot: &Snapshot, own: &X509Svid) -> Digest {
        let id = own.id().as_str().as_bytes();
        let issuer = own.authority_key_id().unwrap_or_default();
        let above = own.intermediates().iter().map(AsRef::as_ref);
        self.of_revision(snapshot, [id, issuer].into_iter().chain(above))
    }

    /// The same where none is shown; `kind` tells why.
    pub(crate) fn of_nobody(&self, snapshot: &Snapshot, kind: &'static str) -> Digest {
        self.of_revision(snapshot, [kind.as_bytes()])
    }

    fn of_revision<'p>(
        &self,
        snapshot: &Snapshot,
        own: impl IntoIterator<Item = &'p [u8]>,
    ) -> Digest {
        let own = self.sha256.of_parts(own);
        let bundles = self.of_bundles(snapshot.bundles());
        self.sha256.of_parts([&bundles[..], &own])
    }

    /// The namespace of now: the part of the current revision with the terms that are in force.
    pub(crate) fn with_terms(&self, revision: &Digest) -> Namespace {
        Namespace {
            revision: *revision,
            terms: self.of_terms(&self.terms.in_force()),
        }
    }

    fn of_bundles(&self, bundles: &Arc<BundleSet>) -> Digest {
        let mut last = self
            .last_bundles
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((known, digest)) = &*last
            && (Arc::ptr_eq(known, bundles) || known.same_authorities(bundles))
        {
            return *digest;
        }
        let mut parts = Vec::new();
        for bundle in bundles.iter() {
            let authorities = bundle.x509_authorities().iter().map(|authority| {
                let taint: &[u8] = if authority.is_tainted() { b"t" } else { b"" };
                self.sha256
                    .of_parts([authority.certificate().as_ref(), taint])
            });
            let authorities = self.of_set(authorities);
            let name = bundle.trust_domain().as_str().as_bytes();
            parts.push(self.sha256.of_parts([name, &authorities]));
        }
        let digest = self.sha256.of_parts(parts.iter().map(<[u8; 32]>::as_slice));
        *last = Some((bundles.clone(), digest));
        digest
    }

    /// The same for the same digests in whatever order: who hands out bundles and lists promises none.
    fn of_set(&self, digests: impl Iterator<Item = Digest>) -> Digest {
        let mut digests: Vec<_> = digests.collect();
        digests.sort_unstable();
        self.sha256
            .of_parts(digests.iter().map(<[u8; 32]>::as_slice))
    }

    fn of_terms(&self, terms: &InForce) -> Digest {
        let mut last = self
            .last_terms
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((number, digest)) = *last
            && number == terms.number
        {
            return digest;
        }
        let text = terms.authorizer.canonical_text();
        let number = terms.number.to_be_bytes();
        let policy: [&[u8]; 2] = match &text {
            Some(text) => [b"policy", text.as_bytes()],
            None => [&self.process, &number],
        };
        let taint: &[u8] = if terms.refuse_tainted { b"t" } else { b"" };
        let lists = terms.revocations.lists();
        let lists = self.of_set(lists.map(|list| self.sha256.of_parts([list.as_ref()])));
        let parts = policy.into_iter().chain([taint, &lists]);
        let digest = self.sha256.of_parts(parts);
        *last = Some((terms.number, digest));
        digest
    }
}
