//! What a handshake needs, made ready from a snapshot before the snapshot becomes visible.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SigningKey};
use spiffe_core::key::SvidKey;
use spiffe_core::snapshot::{Rejection, Snapshot};
use spiffe_core::{Rule, Timestamp, X509Svid};

use crate::asked::Asked;
use crate::digest::Digest;

/// One revision, ready for handshakes.
#[derive(Debug)]
pub(crate) struct Ready {
    /// What may be presented. All keys are loaded, so that whichever is picked can be used.
    pub(crate) identities: Vec<Arc<Identity>>,
    /// The revision's part of what sessions are bound to where none is presented.
    pub(crate) anonymous: Digest,
}

/// One SVID in the form in which rustls presents it.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) svid: Arc<X509Svid>,
    pub(crate) key: Arc<CertifiedKey>,
    /// The revision's part of what sessions are bound to where this is presented.
    pub(crate) namespace: Digest,
}

impl Identity {
    /// Whether the leaf can still be presented.
    pub(crate) fn is_valid_at(&self, now: Timestamp) -> bool {
        now <= self.svid.not_after()
    }
}

/// Which SVIDs of a source a configuration presents, and who signs for those whose keys lie elsewhere.
#[derive(Clone, Default)]
pub(crate) struct Svids {
    pub(crate) choice: Choice,
    pub(crate) signers: Option<Arc<SignerOf>>,
}

/// Which SVID is presented.
#[derive(Clone, Default)]
pub(crate) enum Choice {
    #[default]
    First,
    Hint(String),
    Pick(Arc<Pick>),
}

/// Chooses among the SVIDs of a revision by what the peer has asked for.
pub(crate) type Pick =
    dyn for<'s> Fn(&'s [Arc<X509Svid>], &Asked<'_>) -> Option<&'s Arc<X509Svid>> + Send + Sync;

/// Who signs synchronously for an SVID whose key is remote.
pub(crate) type SignerOf = dyn Fn(&X509Svid) -> Option<Arc<dyn SigningKey>> + Send + Sync;

impl Svids {
    /// Loads what may be presented; `namespace` tells what sessions are bound to where an SVID is.
    pub(crate) fn load(
        &self,
        snapshot: &Snapshot,
        provider: &CryptoProvider,
        namespace: impl Fn(&X509Svid) -> Digest,
    ) -> Result<Vec<Arc<Identity>>, Rejection> {
        let svids: Vec<_> = match &self.choice {
            Choice::First => snapshot.svids().first().into_iter().collect(),
            Choice::Hint(hint) => snapshot.svid_by_hint(hint).into_iter().collect(),
            Choice::Pick(_) => snapshot.svids().iter().collect(),
        };
        let load = |svid: &Arc<X509Svid>| {
            Ok(Arc::new(Identity {
                svid: svid.clone(),
                key: Arc::new(self.certified(svid, provider)?),
                namespace: namespace(svid),
            }))
        };
        svids.into_iter().map(load).collect()
    }

    /// Loads one key; core has matched a local one with the leaf when the SVID was made.
    pub(crate) fn certified(
        &self,
        svid: &Arc<X509Svid>,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, Rejection> {
        let unusable = |reason: String| Rejection::new(Rule::KeyMalformed, reason);
        let SvidKey::Local(key) = svid.key() else {
            return self.with_signer(svid).map_err(unusable);
        };
        let signer = provider
            .key_provider
            .load_private_key(key.secret_der().clone_key().into())
            .map_err(|error| {
                unusable(format!(
                    "the key of {} cannot be used for TLS: {error}",
                    svid.id()
                ))
            })?;
        Ok(CertifiedKey::new(svid.chain().to_vec(), signer))
    }

    fn with_signer(&self, svid: &X509Svid) -> Result<CertifiedKey, String> {
        let id = svid.id();
        let signer = self.signers.as_ref().and_then(|signers| signers(svid));
        let signer = signer.ok_or_else(|| {
            format!(
                "the key of {id} lies in a remote signer, and TLS signs synchronously: give this source an SVID with a \
                 local key, or a synchronous signer to `Mtls::synchronous_signer`"
            )
        })?;
        let key = CertifiedKey::new(svid.chain().to_vec(), signer);
        // A signer of another key would be noticed by the first peer only.
        key.keys_match().map_err(|error| {
            format!(
                "the synchronous signer of {id} is not shown to hold its key: {error}; its `public_key` must give the \
                 SubjectPublicKeyInfo of the leaf"
            )
        })?;
        Ok(key)
    }
}

impl fmt::Debug for Svids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svids")
            .field("choice", &self.choice)
            .field("signers", &self.signers.is_some())
            .finish()
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("First"),
            Self::Hint(hint) => f.debug_tuple("Hint").field(hint).finish(),
            Self::Pick(_) => f.write_str("Pick"),
        }
    }
}
