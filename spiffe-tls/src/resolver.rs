//! The own identity inside a rustls handshake: current, and never an expired one.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use spiffe_core::Clock;
use spiffe_core::snapshot::Derived;

use crate::asked::{Asked, Authorities};
use crate::material::{Choice, Identity, Ready};
use crate::scene;

/// Presents the identity of whatever revision is current, while it is valid.
#[derive(Debug)]
pub(crate) struct IdentityResolver {
    pub(crate) ready: Derived<Ready>,
    pub(crate) choice: Choice,
    pub(crate) clock: Arc<dyn Clock>,
    /// As in the verifier: whether an acceptor or connector of ours drives the handshake.
    pub(crate) is_ours: bool,
}

impl IdentityResolver {
    fn present(&self, asked: &Asked<'_>) -> Option<Arc<CertifiedKey>> {
        let (_, ready) = self.ready.load();
        let chosen = self.choose(&ready, asked);
        if self.is_ours {
            scene::with(|scene| {
                scene.declined = chosen.is_none();
                scene.own = chosen.cloned();
            });
        }
        Some(chosen?.key.clone())
    }

    fn choose<'r>(&self, ready: &'r Ready, asked: &Asked<'_>) -> Option<&'r Arc<Identity>> {
        // An expired SVID is not presented: every peer would refuse it, and its holder shall notice here.
        let now = self.clock.now();
        let mut valid = ready
            .identities
            .iter()
            .filter(|identity| identity.is_valid_at(now));
        match &self.choice {
            Choice::First | Choice::Hint(_) => valid.next(),
            Choice::Pick(pick) => {
                let svids: Vec<_> = valid.clone().map(|held| held.svid.clone()).collect();
                let picked = pick(&svids, asked)?;
                valid.find(|held| Arc::ptr_eq(&held.svid, picked))
            }
        }
    }
}

impl ResolvesServerCert for IdentityResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.present(&Asked {
            server_name: hello.server_name(),
            authorities: Authorities::OfClient(hello.certificate_authorities().unwrap_or_default()),
        })
    }
}

impl ResolvesClientCert for IdentityResolver {
    fn resolve(&self, authorities: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.present(&Asked {
            server_name: None,
            authorities: Authorities::OfServer(authorities),
        })
    }

    fn has_certs(&self) -> bool {
        true
    }
}
