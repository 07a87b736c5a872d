//! The own identity inside a rustls handshake: current, and never an expired one.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use spiffe_core::Clock;
use spiffe_core::snapshot::Derived;

use crate::material::Identity;

/// Where the identity comes from.
#[derive(Debug)]
pub(crate) enum Own {
    /// That of one revision.
    Pinned(Option<Arc<Identity>>),
    /// That of whatever revision is current.
    Live(Derived<Option<Arc<Identity>>>),
}

/// Presents an identity while it is valid.
#[derive(Debug)]
pub(crate) struct IdentityResolver {
    pub(crate) own: Own,
    pub(crate) clock: Arc<dyn Clock>,
}

impl IdentityResolver {
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        let identity = match &self.own {
            Own::Pinned(identity) => identity.clone(),
            Own::Live(derived) => derived.load().1.as_ref().clone(),
        };
        // An expired SVID is not presented: every peer would refuse it, and its holder shall notice here.
        identity
            .filter(|identity| identity.is_valid_at(self.clock.now()))
            .map(|identity| identity.key.clone())
    }
}

impl ResolvesServerCert for IdentityResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for IdentityResolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
