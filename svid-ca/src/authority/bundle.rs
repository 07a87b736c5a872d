//! The bundle that a state stands for.

use std::time::Duration;

use spiffe_core::bundle::{JwtAuthorities, JwtAuthority, X509Authorities, X509Authority};
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::{Bundle, TrustDomain};

use super::{PublicHalf, State, Status};

impl State {
    /// The trust domain's bundle: its authorities, its upstream's roots and the JWT keys of its other servers, the
    /// tainted ones marked.
    pub fn bundle(&self, trust_domain: &TrustDomain, refresh_hint: Duration) -> Bundle {
        let own = self
            .x509
            .iter()
            .filter_map(|authority| match authority.public() {
                PublicHalf::Certificate(certificate) if authority.upstream().is_none() => {
                    x509(certificate, authority.status() == Status::Tainted)
                }
                // What an upstream signed is known by its root.
                PublicHalf::Certificate(_) | PublicHalf::Key(_) => None,
            });
        let roots = self
            .roots()
            .iter()
            .filter_map(|root| x509(root.certificate(), root.is_tainted()));
        let x509: X509Authorities = own.chain(roots).collect();
        let jwt: JwtAuthorities = self
            .jwt
            .iter()
            .filter_map(|authority| match authority.public() {
                PublicHalf::Key(key) => {
                    let known = JwtAuthority::new(authority.id(), key.clone())?;
                    Some(if authority.status() == Status::Tainted {
                        known.into_tainted()
                    } else {
                        known
                    })
                }
                PublicHalf::Certificate(_) => None,
            })
            .chain(self.shared_jwt_authorities().cloned())
            .collect();
        Bundle::new(trust_domain.clone())
            .with_x509_authorities(x509)
            .with_jwt_authorities(jwt)
            .with_sequence(Some(self.sequence()))
            .with_refresh_hint(Some(refresh_hint))
    }
}

fn x509(certificate: &CertificateDer<'static>, tainted: bool) -> Option<X509Authority> {
    let parsed = X509Authority::from_der(certificate.clone()).ok()?;
    Some(if tainted {
        parsed.into_tainted()
    } else {
        parsed
    })
}
