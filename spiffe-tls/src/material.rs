//! What a handshake needs, made ready from a snapshot before the snapshot becomes visible.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use spiffe_core::key::SvidKey;
use spiffe_core::snapshot::{Rejection, Snapshot};
use spiffe_core::{Rule, Timestamp, X509Svid};

/// One SVID in the form in which rustls presents it.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) svid: Arc<X509Svid>,
    pub(crate) key: Arc<CertifiedKey>,
}

impl Identity {
    /// Loads the key; core has matched it with the leaf when the SVID was made.
    pub(crate) fn load(svid: &Arc<X509Svid>, provider: &CryptoProvider) -> Result<Self, Rejection> {
        let SvidKey::Local(key) = svid.key() else {
            return Err(Rejection::new(
                Rule::KeyMalformed,
                format!(
                    "the key of {} lies in a remote signer, and TLS signs synchronously: give this source an SVID \
                     with a local key",
                    svid.id()
                ),
            ));
        };
        let signer = provider
            .key_provider
            .load_private_key(key.secret_der().clone_key().into())
            .map_err(|error| {
                Rejection::new(
                    Rule::KeyMalformed,
                    format!("the key of {} cannot be used for TLS: {error}", svid.id()),
                )
            })?;
        Ok(Self {
            svid: svid.clone(),
            key: Arc::new(CertifiedKey::new(svid.chain().to_vec(), signer)),
        })
    }

    /// Whether the leaf can still be presented.
    pub(crate) fn is_valid_at(&self, now: Timestamp) -> bool {
        now <= self.svid.not_after()
    }
}

/// Picks the SVID that a configuration presents.
pub(crate) fn pick(
    snapshot: &Snapshot,
    hint: Option<&str>,
    provider: &CryptoProvider,
) -> Result<Option<Identity>, Rejection> {
    let chosen = match hint {
        None => snapshot.svids().first(),
        Some(hint) => snapshot.svid_by_hint(hint).ok(),
    };
    chosen
        .map(|svid| Identity::load(svid, provider))
        .transpose()
}
