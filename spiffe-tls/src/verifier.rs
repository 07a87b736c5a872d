//! Verification and authorisation of a peer inside a rustls handshake, in either role.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use spiffe_core::verify::X509Error;

use crate::error::RefusalReason;
use crate::judge::Judge;
use crate::scene;

/// The peer verifier of one configuration.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    pub(crate) judge: Arc<Judge>,
    /// Whether an acceptor or connector of ours drives the handshake. A plain configuration may be at work inside the
    /// transport of one, on the same thread, and its verdict is about another peer.
    pub(crate) is_ours: bool,
    /// The names of authorities that clients are told. They tell every caller which trust domains are known here, so there
    /// are some only where that is asked for.
    pub(crate) hints: Vec<DistinguishedName>,
}

impl PeerVerifier {
    pub(crate) fn new(judge: Arc<Judge>, is_ours: bool) -> Self {
        Self {
            judge,
            is_ours,
            hints: Vec::new(),
        }
    }

    /// Verifies, then authorises, and leaves the verdict for our acceptor or connector if that drives the handshake.
    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        let verdict = self.judge.judge(end_entity, intermediates);
        let answer = match &verdict {
            Ok(_) => Ok(()),
            Err(refusal) => {
                refusal.log();
                let told = alert_for(refusal.reason());
                Err(rustls::Error::InvalidCertificate(told))
            }
        };
        if self.is_ours {
            scene::with(|scene| scene.verdict = Some(verdict));
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
