//! The public half of an X509-SVID: a chain that names a workload, judged without a bundle.
//!
//! Answers to X509-SVID §2–§5 as far as neither time nor bundle nor key is needed. It proves nothing about a peer:
//! that is [`X509Verifier`](crate::verify::X509Verifier)'s.

use rustls_pki_types::CertificateDer;

use super::x509::{MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES, SvidError};
use crate::bundle::{certificates_from_concatenated_der, certificates_from_pem};
use crate::verify::Leaf;
use crate::x509::cert::Cert;
use crate::{SpiffeId, Timestamp};

/// Certificates, leaf first, each issued by the next: what an X509-SVID says in public.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Chain {
    pub(super) id: SpiffeId,
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    pub(super) serial: Vec<u8>,
}

impl X509Chain {
    /// Takes certificates, leaf first.
    ///
    /// # Errors
    ///
    /// [`SvidError`] names the certificate and the rule; never about a key.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, SvidError> {
        Self::judge(certificates, |_| Ok(()))
    }

    /// As [`Self::new`], and has the leaf's SubjectPublicKeyInfo judged at the end, while it is at hand.
    pub(super) fn judge(
        certificates: Vec<CertificateDer<'static>>,
        public_key: impl FnOnce(&[u8]) -> Result<(), SvidError>,
    ) -> Result<Self, SvidError> {
        if certificates.len() > MAX_CHAIN_CERTIFICATES {
            return Err(SvidError::TooLarge);
        }
        let (first, issuers) = certificates.split_first().ok_or(SvidError::Empty)?;
        let cert = Cert::parse(first).map_err(|source| SvidError::Certificate { at: 0, source })?;
        let leaf = Leaf::judge(&cert)?;
        let mut issuer_name = cert.issuer;
        for (above, der) in issuers.iter().enumerate() {
            let at = above + 1;
            let issuer =
                Cert::parse(der).map_err(|source| SvidError::Certificate { at, source })?;
            if !issuer.is_signing() {
                return Err(SvidError::NotSigning { at });
            }
            if issuer.subject != issuer_name {
                return Err(SvidError::NotLinked { at });
            }
            issuer_name = issuer.issuer;
        }
        public_key(cert.spki)?;
        Ok(Self {
            id: leaf.id,
            not_before: cert.not_before,
            not_after: cert.not_after,
            serial: cert.serial.to_vec(),
            certificates,
        })
    }

    /// Takes certificates in DER one behind the other, leaf first: the Workload API's form.
    ///
    /// # Errors
    ///
    /// As [`Self::new`], and [`SvidError::NotConcatenated`].
    pub fn from_concatenated_der(chain: &[u8]) -> Result<Self, SvidError> {
        check_size(chain.len())?;
        Self::new(
            certificates_from_concatenated_der(chain).map_err(|_| SvidError::NotConcatenated)?,
        )
    }

    /// Parses PEM: every certificate of the text, leaf first; keys in it are skipped.
    ///
    /// # Errors
    ///
    /// As [`Self::new`], and [`SvidError::Pem`].
    pub fn from_pem(chain: &str) -> Result<Self, SvidError> {
        check_size(chain.len())?;
        Self::new(certificates_from_pem(chain)?)
    }

    /// The SPIFFE ID that the leaf names.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The certificates, leaf first, without the authority.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The first instant of the leaf's validity.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last instant of the leaf's validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The leaf's serial number: big-endian, as the certificate encodes it.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// The leaf's key as SubjectPublicKeyInfo in DER.
    pub fn public_key(&self) -> &[u8] {
        // The leaf was read when the chain was made.
        Cert::parse(&self.certificates[0]).map_or(&[], |leaf| leaf.spki)
    }
}

fn check_size(bytes: usize) -> Result<(), SvidError> {
    if bytes > MAX_CHAIN_BYTES {
        return Err(SvidError::TooLarge);
    }
    Ok(())
}
