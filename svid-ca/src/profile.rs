//! How certificates are written: RFC 5280 §4.1 and the profile of X509-SVID §2–§4.
//!
//! Names and public keys go in as the bytes they came as; nothing is re-encoded. What SPIFFE leaves open is settled
//! by [`Profile`].

use spiffe_core::pki_types::CertificateDer;
use spiffe_core::{SpiffeIdRef, Timestamp};

use crate::der::{
    self, OBJECT_IDENTIFIER, OCTET_STRING, bit_string, context, context_constructed, element,
    sequence, unsigned,
};
use crate::name::{DistinguishedName, MAX_NAME_ATTRIBUTE_CHARS};
use crate::params::DnsName;

/// What SPIFFE leaves open in a leaf: subject and key usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    subject: DistinguishedName,
    common_name_from_dns: bool,
    key_usage: u8,
}

impl Profile {
    /// An empty subject with critical names, and digitalSignature alone: the least that TLS 1.3 and 1.2 with forward
    /// secrecy need.
    pub fn new() -> Self {
        Self {
            subject: DistinguishedName::new(),
            common_name_from_dns: false,
            key_usage: DIGITAL_SIGNATURE,
        }
    }

    /// As SPIRE writes leaves: subject `C=US,O=SPIRE`, with the first DNS name as common name, and digitalSignature,
    /// keyEncipherment and keyAgreement. A first name of more than 64 bytes, RFC 5280's bound, gives no common name.
    pub fn spire() -> Self {
        Self {
            subject: DistinguishedName::spire(),
            common_name_from_dns: true,
            key_usage: DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | KEY_AGREEMENT,
        }
    }

    /// The same profile with this subject.
    #[must_use]
    pub fn with_subject(mut self, subject: DistinguishedName) -> Self {
        self.subject = subject;
        self
    }

    fn subject_for(&self, dns_names: &[DnsName]) -> DistinguishedName {
        let subject = self.subject.clone();
        match dns_names.first() {
            Some(name)
                if self.common_name_from_dns && name.as_str().len() <= MAX_NAME_ATTRIBUTE_CHARS =>
            {
                subject
                    .clone()
                    .with_common_name(name.as_str())
                    .unwrap_or(subject)
            }
            _ => subject,
        }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::new()
    }
}

/// What is signed, but for the extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    /// Big-endian; encoded as a positive number.
    pub(crate) serial: &'a [u8],
    /// The AlgorithmIdentifier of the signature, whole.
    pub(crate) algorithm: &'a [u8],
    /// The issuer's Name, whole, exactly as in its certificate.
    pub(crate) issuer: &'a [u8],
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// The SubjectPublicKeyInfo, whole, exactly as it came.
    pub(crate) spki: &'a [u8],
    pub(crate) subject_key_id: &'a [u8; 20],
}

impl Fields<'_> {
    /// The TBSCertificate of a leaf.
    pub(crate) fn leaf(
        &self,
        profile: &Profile,
        id: SpiffeIdRef<'_>,
        dns_names: &[DnsName],
        authority_key_id: &[u8],
    ) -> Vec<u8> {
        let subject = profile.subject_for(dns_names);
        let names: Vec<Vec<u8>> = dns_names
            .iter()
            .map(|name| element(context(2), &[name.as_str().as_bytes()]))
            .chain([uri(id)])
            .collect();
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        self.tbs(
            &subject.to_der(),
            &[
                // X509-SVID §4.3: present and critical.
                &key_usage_extension(profile.key_usage),
                // X509-SVID §4.4: both, so that the workload may be server and client.
                SERVER_AND_CLIENT,
                // X509-SVID §4.1: cA is FALSE, which DER leaves out.
                NO_AUTHORITY,
                &self.subject_key_id_extension(),
                &authority_key_id_extension(authority_key_id),
                // X509-SVID §3.1, RFC 5280 §4.2.1.6: critical where the subject is empty.
                &extension(ALTERNATIVE_NAMES, subject.is_empty(), &sequence(&names)),
            ],
        )
    }

    /// The TBSCertificate of an authority whose SPIFFE ID is `id`, its trust domain's own.
    pub(crate) fn authority(
        &self,
        subject: &[u8],
        id: SpiffeIdRef<'_>,
        reach: &Reach<'_>,
    ) -> Vec<u8> {
        let path_length = reach
            .path_length
            .map(|length| unsigned(&[length]))
            .unwrap_or_default();
        let mut extensions = vec![
            key_usage_extension(KEY_CERT_SIGN | CRL_SIGN).to_vec(),
            // X509-SVID §4.1: cA is TRUE.
            extension(
                BASIC_CONSTRAINTS,
                true,
                &sequence(&[&[1, 1, 0xff], &path_length]),
            ),
            self.subject_key_id_extension().to_vec(),
        ];
        if let Some(key_id) = reach.authority_key_id {
            extensions.push(authority_key_id_extension(key_id));
        }
        extensions.push(extension(ALTERNATIVE_NAMES, false, &sequence(&[&uri(id)])));
        if let Some(host) = reach.permitted_host {
            // RFC 5280 §4.2.1.10: critical; without a leading dot, this host alone.
            let subtree = sequence(&[&element(context(6), &[host.as_bytes()])]);
            extensions.push(extension(
                NAME_CONSTRAINTS,
                true,
                &sequence(&[&element(context_constructed(0), &[&subtree])]),
            ));
        }
        let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
        self.tbs(subject, &extensions)
    }

    fn subject_key_id_extension(&self) -> [u8; 31] {
        let mut whole = [0; 31];
        whole[..11].copy_from_slice(SUBJECT_KEY_ID);
        whole[11..].copy_from_slice(self.subject_key_id);
        whole
    }

    fn tbs(&self, subject: &[u8], extensions: &[&[u8]]) -> Vec<u8> {
        sequence(&[
            VERSION_3,
            &unsigned(self.serial),
            self.algorithm,
            self.issuer,
            &sequence(&[&der::time(self.not_before), &der::time(self.not_after)]),
            subject,
            self.spki,
            &element(context_constructed(3), &[&sequence(extensions)]),
        ])
    }
}

/// How far an authority's certificate reaches, and under whom.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reach<'a> {
    /// The signing authority's key identifier; `None` where it signs itself.
    pub(crate) authority_key_id: Option<&'a [u8]>,
    /// How many authorities may follow below it.
    pub(crate) path_length: Option<u8>,
    /// The trust domain to which URI name constraints confine it.
    pub(crate) permitted_host: Option<&'a str>,
}

/// A certificate from what was signed, how, and the signature in X.509's form.
pub(crate) fn assemble(tbs: &[u8], algorithm: &[u8], signature: &[u8]) -> CertificateDer<'static> {
    sequence(&[tbs, algorithm, &bit_string(signature)]).into()
}

/// The extension with one URI name, for a request.
pub(crate) fn alternative_name(id: SpiffeIdRef<'_>) -> Vec<u8> {
    extension(ALTERNATIVE_NAMES, false, &sequence(&[&uri(id)]))
}

fn uri(id: SpiffeIdRef<'_>) -> Vec<u8> {
    element(context(6), &[id.as_str().as_bytes()])
}

fn authority_key_id_extension(key_id: &[u8]) -> Vec<u8> {
    extension(
        AUTHORITY_KEY_ID,
        false,
        &sequence(&[&element(context(0), &[key_id])]),
    )
}

/// Critical; `bits` are the usages, of which there is at least one. X.690 §11.2.2: the first byte counts unused bits.
fn key_usage_extension(bits: u8) -> [u8; 16] {
    let mut whole = *KEY_USAGE;
    whole[14..].copy_from_slice(&[bits.trailing_zeros() as u8, bits]);
    whole
}

fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    sequence(&[
        &element(OBJECT_IDENTIFIER, &[oid]),
        critical,
        &element(OCTET_STRING, &[value]),
    ])
}

// Bits of the key usage, the first highest: RFC 5280 §4.2.1.3.
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_ENCIPHERMENT: u8 = 0x20;
const KEY_AGREEMENT: u8 = 0x08;
const KEY_CERT_SIGN: u8 = 0x04;
const CRL_SIGN: u8 = 0x02;

// Object identifiers without tag and length: RFC 5280 §4.2.1.
const ALTERNATIVE_NAMES: &[u8] = b"\x55\x1d\x11";
const BASIC_CONSTRAINTS: &[u8] = b"\x55\x1d\x13";
const NAME_CONSTRAINTS: &[u8] = b"\x55\x1d\x1e";
const AUTHORITY_KEY_ID: &[u8] = b"\x55\x1d\x23";

// What every leaf has alike, whole: building it anew for each costs a score of allocations.

/// Key usage, critical, up to its two last bytes: RFC 5280 §4.2.1.3.
const KEY_USAGE: &[u8; 16] = b"\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x00\x00";
/// The subject key identifier up to its 20 bytes: RFC 5280 §4.2.1.2.
const SUBJECT_KEY_ID: &[u8] = b"\x30\x1d\x06\x03\x55\x1d\x0e\x04\x16\x04\x14";
/// The extended key usage serverAuth and clientAuth: RFC 5280 §4.2.1.12.
const SERVER_AND_CLIENT: &[u8] = b"\x30\x1d\x06\x03\x55\x1d\x25\x04\x16\x30\x14\
    \x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02";
/// Basic constraints, critical, of no authority: RFC 5280 §4.2.1.9.
const NO_AUTHORITY: &[u8] = b"\x30\x0c\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x02\x30\x00";
/// Version 3, which is encoded as 2.
const VERSION_3: &[u8] = b"\xa0\x03\x02\x01\x02";
