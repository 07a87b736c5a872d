//! Verification and authorisation of a peer inside a rustls handshake, in either role.

use std::sync::Arc;
#[cfg(feature = "quinn")]
use std::sync::{Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use spiffe_core::verify::X509Error;

#[cfg(feature = "quinn")]
use crate::error::Refusal;
use crate::error::RefusalReason;
use crate::judge::{Judge, Judged};
use crate::scene;

/// The peer verifier of one configuration.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    pub(crate) judge: Arc<Judge>,
    pub(crate) told: Told,
    /// The names of authorities that clients are told. They tell every caller which trust domains are known here, so there
    /// are some only where that is asked for.
    pub(crate) hints: Vec<DistinguishedName>,
}

/// Who is told the verdict besides rustls, which carries no more of it than the alert.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// Nobody: of a plain configuration. It may be at work inside the transport of an acceptor or connector of ours, on the
    /// same thread, and its verdict is about another peer.
    Nobody,
    /// The scene: an acceptor or connector of ours drives the handshake.
    Handshake,
    /// The scene, of a refusal: a request of ours drives whatever handshakes it needs.
    #[cfg(feature = "reqwest")]
    Request,
    /// Whoever waits for this one handshake, which another task drives.
    #[cfg(feature = "quinn")]
    Waiting(Arc<Refused>),
}

/// The refusal that ended a handshake, if one did.
#[cfg(feature = "quinn")]
#[derive(Debug, Default)]
pub(crate) struct Refused(Mutex<Option<Box<Refusal>>>);

#[cfg(feature = "quinn")]
impl Refused {
    pub(crate) fn note(&self, refusal: Box<Refusal>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }

    pub(crate) fn take(&self) -> Option<Box<Refusal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl PeerVerifier {
    pub(crate) fn new(judge: Arc<Judge>, told: Told) -> Self {
        Self {
            judge,
            told,
            hints: Vec::new(),
        }
    }

    /// Verifies, then authorises, and tells the verdict to who is to know it.
    pub(crate) fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Judged, rustls::Error> {
        let verdict = self.judge.judge(end_entity, intermediates);
        let answer = match &verdict {
            Ok(judged) => Ok(judged.clone()),
            Err(refusal) => {
                refusal.log();
                let alert = alert_for(refusal.reason());
                Err(rustls::Error::InvalidCertificate(alert))
            }
        };
        match &self.told {
            Told::Nobody => {}
            Told::Handshake => {
                scene::with(|scene| scene.verdict = Some(verdict));
            }
            #[cfg(feature = "reqwest")]
            Told::Request => {
                scene::with(|scene| scene.refused_server = verdict.err());
            }
            #[cfg(feature = "quinn")]
            Told::Waiting(refused) => {
                if let Err(refusal) = verdict {
                    refused.note(refusal);
                }
            }
        }
        answer
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.judge
            .provider
            .signature_verification_algorithms
            .supported_schemes()
    }

    fn tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.judge.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.judge.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }
}

/// What the peer learns: the alert that fits, and nothing more.
fn alert_for(reason: &RefusalReason) -> CertificateError {
    match reason {
        RefusalReason::NotAuthorized(_) => CertificateError::ApplicationVerificationFailure,
        RefusalReason::NotVerified(error) => match error {
            X509Error::Expired { .. } => CertificateError::Expired,
            X509Error::NotYetValid { .. } => CertificateError::NotValidYet,
            // RFC 8446 §6.2: bad_certificate also stands for a signature that is wrong.
            X509Error::Certificate(_) | X509Error::BadSignature => CertificateError::BadEncoding,
            X509Error::ExtendedKeyUsage | X509Error::IssuerExtendedKeyUsage => {
                CertificateError::InvalidPurpose
            }
            X509Error::Revoked => CertificateError::Revoked,
            X509Error::TrustDomainUnknown { .. }
            | X509Error::NoAuthorities { .. }
            | X509Error::Untrusted { .. } => CertificateError::UnknownIssuer,
            // The text of a bare rustls error is its debug form; this is the one that carries ours.
            other => CertificateError::Other(OtherError(Arc::new(other.clone()))),
        },
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        // A SPIFFE peer is known by its ID; the name that was dialled means nothing.
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
