//! What a configuration is made of: what this side shows, and who the peer is.
//!
//! Both are types, so that a combination that makes no sense does not compile, and none comes about by leaving something
//! out. The combinations that do make sense have names: [`Mtls`](crate::Mtls), [`TlsClient`](crate::TlsClient),
//! [`TlsServer`](crate::TlsServer), [`MtlsWebClient`](crate::MtlsWebClient), [`MtlsWebServer`](crate::MtlsWebServer).
//!
//! ```compile_fail,E0599
//! # let source = spiffe_tls::Publisher::new();
//! // Nobody is verified, so there is nobody to hold a lease on.
//! let acceptor = spiffe_tls::TlsServer::new(&source).acceptor();
//! ```

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use spiffe_core::Publisher;
use spiffe_core::key::PrivateKey;
use spiffe_core::verify::X509Limits;

use crate::lease::LeaseRules;
use crate::making::Own;
use crate::material::Svids;
use crate::terms::Terms;

/// This side shows an X509-SVID of its source.
#[derive(Clone, Debug)]
pub struct ShowsSvid {
    pub(crate) publisher: Publisher,
    pub(crate) svids: Svids,
}

/// This side, a client, shows nothing.
#[derive(Clone, Copy, Debug)]
pub struct ShowsNothing {
    pub(crate) _private: (),
}

/// This side, a server, shows a Web PKI certificate.
#[derive(Clone, Debug)]
pub struct ShowsWebCertificate {
    pub(crate) certificate: WebCertificate,
}

/// The peer proves a SPIFFE ID, and the terms allow it.
#[derive(Clone, Debug)]
pub struct SpiffePeer {
    pub(crate) publisher: Publisher,
    pub(crate) terms: Terms,
    pub(crate) limits: X509Limits,
    pub(crate) lease_rules: LeaseRules,
    pub(crate) hints: bool,
}

/// The peer, a server, proves a DNS name or an address by a Web PKI certificate.
#[derive(Clone, Debug)]
pub struct WebPeer {
    pub(crate) roots: Arc<RootCertStore>,
}

/// The peer, a client, proves nothing and is asked for nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoPeer {
    pub(crate) _private: (),
}

/// What a client can show to a server with a SPIFFE ID: an X509-SVID, or nothing.
pub trait ClientShows: Into<Shown> {}

/// What a server can show to a client with a SPIFFE ID: an X509-SVID, or a Web PKI certificate.
pub trait ServerShows: Into<Shown> {}

impl ClientShows for ShowsSvid {}
impl ClientShows for ShowsNothing {}
impl ServerShows for ShowsSvid {}
impl ServerShows for ShowsWebCertificate {}

/// What one side shows, whichever it is.
#[derive(Debug)]
pub struct Shown(pub(crate) Own);

impl From<ShowsSvid> for Shown {
    fn from(own: ShowsSvid) -> Self {
        Self(Own::Svid(own))
    }
}

impl From<ShowsNothing> for Shown {
    fn from(_: ShowsNothing) -> Self {
        Self(Own::Nothing)
    }
}

impl From<ShowsWebCertificate> for Shown {
    fn from(own: ShowsWebCertificate) -> Self {
        Self(Own::Web(own.certificate))
    }
}

/// A certificate by which a server is known to clients of the Web PKI.
#[derive(Clone, Debug)]
pub struct WebCertificate(Web);

#[derive(Clone, Debug)]
enum Web {
    Fixed(Vec<CertificateDer<'static>>, Arc<PrivateKey>),
    Resolver(Arc<dyn ResolvesServerCert>),
}

impl WebCertificate {
    /// A chain in DER, leaf first, and the leaf's key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKey) -> Self {
        Self(Web::Fixed(chain, Arc::new(key)))
    }

    /// Whatever `resolver` has to show: certificates that are renewed, or several names.
    pub fn from_resolver(resolver: Arc<dyn ResolvesServerCert>) -> Self {
        Self(Web::Resolver(resolver))
    }

    pub(crate) fn resolver(
        &self,
        provider: &CryptoProvider,
    ) -> Result<Arc<dyn ResolvesServerCert>, rustls::Error> {
        match &self.0 {
            Web::Resolver(resolver) => Ok(resolver.clone()),
            Web::Fixed(chain, key) => {
                let key = key.secret_der().clone_key();
                let certified = CertifiedKey::from_der(chain.clone(), key.into(), provider)?;
                Ok(Arc::new(Fixed(Arc::new(certified))))
            }
        }
    }
}

/// Always shows the same.
#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
