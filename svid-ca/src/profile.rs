//! How certificates are written: RFC 5280 §4.1 and the profile of X509-SVID §2–§4.
//!
//! Names and public keys go in as the bytes they came as; nothing is re-encoded. What SPIFFE leaves open is settled
//! by [`Profile`].

use spiffe_core::pki_types::CertificateDer;
use spiffe_core::{SpiffeIdRef, Timestamp};

use crate::der::{
    self, OBJECT_IDENTIFIER, OCTET_STRING, bit_string, context, context_constructed, element,
    named_bits, sequence, unsigned,
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
    pub(crate) subject_key_id: &'a [u8],
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
        let purposes = [SERVER_AUTH, CLIENT_AUTH].map(|oid| element(OBJECT_IDENTIFIER, &[oid]));
        self.tbs(
            &subject.to_der(),
            &[
                // X509-SVID §4.3: present and critical.
                extension(KEY_USAGE, true, &named_bits(profile.key_usage)),
                // X509-SVID §4.4: both, so that the workload may be server and client.
                extension(
                    EXTENDED_KEY_USAGE,
                    false,
                    &sequence(&[&purposes[0], &purposes[1]]),
                ),
                // X509-SVID §4.1: cA is FALSE, which DER leaves out.
                extension(BASIC_CONSTRAINTS, true, &sequence(&[])),
                self.subject_key_id_extension(),
                authority_key_id_extension(authority_key_id),
                // X509-SVID §3.1, RFC 5280 §4.2.1.6: critical where the subject is empty.
                extension(ALTERNATIVE_NAMES, subject.is_empty(), &sequence(&names)),
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
            extension(KEY_USAGE, true, &named_bits(KEY_CERT_SIGN | CRL_SIGN)),
            // X509-SVID §4.1: cA is TRUE.
            extension(
                BASIC_CONSTRAINTS,
                true,
                &sequence(&[&[1, 1, 0xff], &path_length]),
            ),
            self.subject_key_id_extension(),
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
        self.tbs(subject, &extensions)
    }

    fn subject_key_id_extension(&self) -> Vec<u8> {
        extension(
            SUBJECT_KEY_ID,
            false,
            &element(OCTET_STRING, &[self.subject_key_id]),
        )
    }

    fn tbs(&self, subject: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
        let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
        sequence(&[
            // Version 3, which is encoded as 2.
            &element(context_constructed(0), &[&unsigned(&[2])]),
            &unsigned(self.serial),
            self.algorithm,
            self.issuer,
            &sequence(&[&der::time(self.not_before), &der::time(self.not_after)]),
            subject,
            self.spki,
            &element(context_constructed(3), &[&sequence(&extensions)]),
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
const SUBJECT_KEY_ID: &[u8] = b"\x55\x1d\x0e";
const KEY_USAGE: &[u8] = b"\x55\x1d\x0f";
const ALTERNATIVE_NAMES: &[u8] = b"\x55\x1d\x11";
const BASIC_CONSTRAINTS: &[u8] = b"\x55\x1d\x13";
const NAME_CONSTRAINTS: &[u8] = b"\x55\x1d\x1e";
const AUTHORITY_KEY_ID: &[u8] = b"\x55\x1d\x23";
const EXTENDED_KEY_USAGE: &[u8] = b"\x55\x1d\x25";
const SERVER_AUTH: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x03\x01";
const CLIENT_AUTH: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x03\x02";
