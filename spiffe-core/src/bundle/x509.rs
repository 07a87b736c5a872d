//! X.509 authorities: the certificates that X509-SVIDs of one trust domain chain to.
//!
//! Answers to X509-SVID §3.2, §6.2. What is no signing certificate is left out and reported: it verifies nothing.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use super::check::ParsedForms;
use super::jwks::PublicKey;
use super::{BundleError, Ignored};
use crate::x509::cert::{Cert, split_concatenated};
use crate::x509::profile::Roles;
use crate::{Rule, Timestamp};

/// The most bytes of a PEM or DER document of certificates: far above 200 trust domains' worth.
pub const MAX_CERTIFICATES_DOCUMENT_BYTES: usize = 16 * 1024 * 1024;

/// The most certificates of one such document.
pub const MAX_AUTHORITIES: usize = 8192;

/// One authority's certificate, parsed once.
#[derive(Clone)]
pub struct X509Authority {
    certificate: Arc<CertificateDer<'static>>,
    anchor: TrustAnchor<'static>,
    not_before: Timestamp,
    not_after: Timestamp,
    subject_key_id: Option<Vec<u8>>,
    path_length: Option<u32>,
    name_constraints: Option<Arc<[u8]>>,
    roles: Roles,
    signs_revocations: bool,
    tainted: bool,
    forms: ParsedForms,
}

impl fmt::Debug for X509Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Authority")
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .field("tainted", &self.tainted)
            .finish_non_exhaustive()
    }
}

impl X509Authority {
    /// Takes one certificate in DER.
    ///
    /// # Errors
    ///
    /// A certificate that cannot be read ([`Rule::CertMalformed`]), that is no CA or whose key usage lacks
    /// keyCertSign ([`Rule::AuthorityNotCa`]).
    pub fn from_der(certificate: CertificateDer<'static>) -> Result<Self, BundleError> {
        let cert = Cert::parse(&certificate)
            .map_err(|error| BundleError::new(error.rule(), error.to_string()))?;
        if !cert.is_signing() {
            return Err(BundleError::new(
                Rule::AuthorityNotCa,
                "the certificate is no CA that may sign certificates, so it is no authority",
            ));
        }
        // What verifies nothing is no authority, and a bundle document could not hold it.
        if PublicKey::from_spki(cert.spki).is_none() {
            return Err(BundleError::new(
                Rule::CertAlgorithm,
                "the certificate's key is none of P-256, P-384, P-521, Ed25519 and RSA of 2048 to 8192 bits",
            ));
        }
        let anchor = webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|error| {
                BundleError::new(
                    Rule::CertMalformed,
                    format!("the certificate cannot be an anchor: {error}"),
                )
            })?
            .to_owned();
        Ok(Self {
            not_before: cert.not_before,
            not_after: cert.not_after,
            subject_key_id: cert.subject_key_id.map(<[u8]>::to_vec),
            path_length: cert.basic_constraints.and_then(|basic| basic.path_length),
            name_constraints: cert.name_constraints.map(Arc::from),
            roles: cert.roles(),
            signs_revocations: cert.signs_revocations(),
            tainted: false,
            forms: ParsedForms::default(),
            anchor,
            certificate: Arc::new(certificate),
        })
    }

    /// The same authority, marked as no longer to be used for new SVIDs.
    #[must_use]
    pub fn into_tainted(mut self) -> Self {
        self.tainted = true;
        self
    }

    /// The certificate in DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The first instant of its validity.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last instant of its validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Its name: the DER of its subject without tag and length, as [`X509Svid::issuer_names`] gives those of issuers (RFC
    /// 5280 §4.1.2.6). Several authorities may share one.
    ///
    /// [`X509Svid::issuer_names`]: crate::X509Svid::issuer_names
    pub fn subject(&self) -> &[u8] {
        &self.anchor.subject
    }

    /// Its subject key identifier: RFC 5280 §4.2.1.2.
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        self.subject_key_id.as_deref()
    }

    /// Whether what it signed is to be replaced.
    pub fn is_tainted(&self) -> bool {
        self.tainted
    }

    /// The anchor as path building takes it.
    pub(crate) fn anchor(&self) -> &TrustAnchor<'static> {
        &self.anchor
    }

    /// The certificate, for whoever keeps it beyond the bundle.
    pub(crate) fn shared_certificate(&self) -> &Arc<CertificateDer<'static>> {
        &self.certificate
    }

    /// The public key, taken apart.
    pub(crate) fn public_key(&self) -> PublicKey<'_> {
        PublicKey::from_spki_content(&self.anchor.subject_public_key_info)
            // It was read when the authority was made.
            .expect("an authority has a key of a known kind")
            .with_forms(&self.forms)
    }

    /// How many intermediates may stand between it and a leaf.
    pub(crate) fn path_length(&self) -> Option<u32> {
        self.path_length
    }

    /// The value of its name constraints.
    pub(crate) fn name_constraints(&self) -> Option<&Arc<[u8]>> {
        self.name_constraints.as_ref()
    }

    /// The roles that its extended key usage allows to everything below it.
    pub(crate) fn roles(&self) -> Roles {
        self.roles
    }

    /// Whether it may sign lists of revoked certificates.
    pub(crate) fn signs_revocations(&self) -> bool {
        self.signs_revocations
    }
}

impl PartialEq for X509Authority {
    fn eq(&self, other: &Self) -> bool {
        self.certificate == other.certificate && self.tainted == other.tainted
    }
}

impl Eq for X509Authority {}

/// The X.509 authorities of one trust domain.
#[derive(Clone, Debug, Default)]
pub struct X509Authorities {
    authorities: Vec<X509Authority>,
    ignored: Vec<Ignored>,
}

impl X509Authorities {
    /// Takes certificates; what is no authority is left out and reported, and the same certificate twice counts once.
    pub fn from_certificates(
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Self {
        let mut entries = Vec::new();
        let mut ignored = Vec::new();
        for (index, certificate) in certificates.into_iter().enumerate() {
            match X509Authority::from_der(certificate) {
                Ok(authority) => entries.push((index, authority)),
                Err(error) => {
                    let reason = error.to_string();
                    ignored.push(Ignored::new(index, error.rule(), reason));
                }
            }
        }
        Self::from_entries(entries, ignored)
    }

    /// What a document's parser found, by position; the same certificate twice counts once.
    pub(super) fn from_entries(
        entries: Vec<(usize, X509Authority)>,
        mut ignored: Vec<Ignored>,
    ) -> Self {
        let repeated = repeated(&entries);
        let mut authorities = Vec::with_capacity(entries.len());
        for ((index, authority), repeated) in entries.into_iter().zip(repeated) {
            if repeated {
                ignored.push(Ignored::new(
                    index,
                    Rule::AuthorityRepeated,
                    "the same certificate stands earlier in the bundle",
                ));
            } else {
                authorities.push(authority);
            }
        }
        ignored.sort_by_key(|entry| entry.index);
        Self {
            authorities,
            ignored,
        }
    }

    /// Parses certificates in DER that follow each other without a separator: the Workload API's form, §5.2.1 there.
    ///
    /// # Errors
    ///
    /// Bytes that do not divide into DER elements ([`Rule::CertMalformed`]), or more than the limits allow.
    pub fn from_concatenated_der(der: &[u8]) -> Result<Self, BundleError> {
        certificates_from_concatenated_der(der).map(Self::from_certificates)
    }

    /// Parses PEM: text around blocks and blocks of other types are skipped; an empty text has no authorities.
    ///
    /// # Errors
    ///
    /// [`Rule::PemMalformed`], [`Rule::PemNoCertificate`] for a text with other blocks only or none at all, and more
    /// than the limits allow.
    pub fn from_pem(pem: &str) -> Result<Self, BundleError> {
        certificates_from_pem(pem).map(Self::from_certificates)
    }

    /// The authorities, in the document's order.
    pub fn iter(&self) -> std::slice::Iter<'_, X509Authority> {
        self.authorities.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.authorities.len()
    }

    /// Whether there is none: then every X509-SVID of the trust domain is refused.
    pub fn is_empty(&self) -> bool {
        self.authorities.is_empty()
    }

    /// The entries that were left out, and why.
    pub fn ignored(&self) -> &[Ignored] {
        &self.ignored
    }

    /// The certificates one behind the other in DER.
    pub fn to_concatenated_der(&self) -> Vec<u8> {
        self.iter()
            .flat_map(|authority| authority.certificate.iter().copied())
            .collect()
    }

    /// The certificates as PEM, in order; no authorities give an empty text.
    pub fn to_pem(&self) -> String {
        certificates_to_pem(self.iter().map(X509Authority::certificate))
    }

    /// Whether both hold the same authorities in whatever order.
    pub(crate) fn same(&self, other: &Self) -> bool {
        // As sets: what was collected by a caller may repeat.
        let key = |authority: &X509Authority| (authority.certificate.clone(), authority.tainted);
        let keys = |all: &Self| all.iter().map(key).collect::<HashSet<_>>();
        keys(self) == keys(other)
    }
}

impl FromIterator<X509Authority> for X509Authorities {
    fn from_iter<T: IntoIterator<Item = X509Authority>>(authorities: T) -> Self {
        Self {
            authorities: authorities.into_iter().collect(),
            ignored: Vec::new(),
        }
    }
}

impl<'a> IntoIterator for &'a X509Authorities {
    type Item = &'a X509Authority;
    type IntoIter = std::slice::Iter<'a, X509Authority>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// For each entry whether its certificate stands before it already.
fn repeated(entries: &[(usize, X509Authority)]) -> Vec<bool> {
    // Few certificates are compared faster than hashed.
    if entries.len() <= 16 {
        return (0..entries.len())
            .map(|at| {
                let (before, from) = entries.split_at(at);
                let twin = |(_, known): &(usize, X509Authority)| {
                    known.certificate == from[0].1.certificate
                };
                before.iter().any(twin)
            })
            .collect();
    }
    let mut seen = HashSet::with_capacity(entries.len());
    entries
        .iter()
        .map(|(_, authority)| !seen.insert(&authority.certificate))
        .collect()
}

/// Every certificate of a PEM text, in order, not yet judged: RFC 7468.
///
/// Text around blocks and blocks of other types are skipped; an empty text has no certificates.
///
/// # Errors
///
/// [`Rule::PemMalformed`], [`Rule::PemNoCertificate`] for a text that is not empty and has none, and
/// [`Rule::DocumentTooLarge`] beyond [`MAX_CERTIFICATES_DOCUMENT_BYTES`] or [`MAX_AUTHORITIES`].
pub fn certificates_from_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    check_size(pem.len())?;
    let mut certificates = Vec::new();
    for block in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let block = block.map_err(|error| {
            BundleError::new(
                Rule::PemMalformed,
                format!("the PEM text cannot be read: {error}"),
            )
        })?;
        certificates.push(block);
        check_number(certificates.len())?;
    }
    if certificates.is_empty() && !pem.trim().is_empty() {
        return Err(BundleError::new(
            Rule::PemNoCertificate,
            "the PEM text holds no certificate",
        ));
    }
    Ok(certificates)
}

/// Certificates in DER that follow each other without a separator, not yet judged.
///
/// # Errors
///
/// Bytes that do not divide into DER elements ([`Rule::CertMalformed`]), and [`Rule::DocumentTooLarge`] as for PEM.
pub fn certificates_from_concatenated_der(
    der: &[u8],
) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    check_size(der.len())?;
    let pieces = split_concatenated(der).ok_or_else(|| {
        BundleError::new(
            Rule::CertMalformed,
            "the bytes are not certificates in DER one behind the other",
        )
    })?;
    check_number(pieces.len())?;
    let owned = |piece: &[u8]| CertificateDer::from(piece.to_vec());
    Ok(pieces.into_iter().map(owned).collect())
}

/// Certificates as PEM, one block each, in lines of 64 characters.
pub fn certificates_to_pem<'a, 'der: 'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'der>>,
) -> String {
    let mut pem = String::new();
    for certificate in certificates {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = Base64::encode_string(certificate);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, behind) = rest.split_at(rest.len().min(64));
            pem.push_str(line);
            pem.push('\n');
            rest = behind;
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

fn check_size(bytes: usize) -> Result<(), BundleError> {
    if bytes > MAX_CERTIFICATES_DOCUMENT_BYTES {
        return Err(BundleError::new(
            Rule::DocumentTooLarge,
            format!(
                "the document has {bytes} bytes; {MAX_CERTIFICATES_DOCUMENT_BYTES} is the limit"
            ),
        ));
    }
    Ok(())
}

fn check_number(certificates: usize) -> Result<(), BundleError> {
    if certificates > MAX_AUTHORITIES {
        return Err(BundleError::new(
            Rule::DocumentTooLarge,
            format!("the document holds more than {MAX_AUTHORITIES} certificates"),
        ));
    }
    Ok(())
}
