//! The own identity inside a rustls handshake: current, and never an expired one.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use spiffe_core::Clock;
use spiffe_core::snapshot::Derived;

use crate::config::Ready;
use crate::scene;

/// Presents the identity of whatever revision is current, while it is valid.
#[derive(Debug)]
pub(crate) struct IdentityResolver {
    pub(crate) ready: Derived<Ready>,
    pub(crate) clock: Arc<dyn Clock>,
    /// As in the verifier: whether an acceptor or connector of ours drives the handshake.
    pub(crate) is_ours: bool,
}

impl IdentityResolver {
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        let (_, ready) = self.ready.load();
        // An expired SVID is not presented: every peer would refuse it, and its holder shall notice here.
        let identity = ready
            .identity
            .as_ref()
            .filter(|identity| identity.is_valid_at(self.clock.now()))?;
        if self.is_ours {
            scene::with(|scene| scene.own = Some(identity.clone()));
        }
        Some(identity.key.clone())
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
