//! One certificate, taken apart strictly: RFC 5280 §4.1 and the extensions that SPIFFE judges.
//!
//! Nothing is verified here and nothing is copied. What a field means for a leaf or an issuer is said elsewhere.

use super::der::{
    BIT_STRING, GENERALIZED_TIME, INTEGER, NotDer, OBJECT_IDENTIFIER, OCTET_STRING, Reader,
    SEQUENCE, UTC_TIME, context, context_constructed,
};
use super::names;
use crate::time::Timestamp;

/// The most extensions a certificate may have; honest ones have about ten, and each is compared with those
/// before it.
pub(crate) const MAX_EXTENSIONS: usize = 64;

/// Why bytes are no certificate that this library reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Not the strict DER of a version 3 certificate.
    #[error("the certificate is not well-formed: {part}")]
    Malformed {
        /// The part that could not be read.
        part: &'static str,
    },
    /// An extension occurs twice.
    #[error("the certificate has the extension {oid} twice")]
    DuplicateExtension {
        /// The extension's object identifier, dotted.
        oid: String,
    },
}

impl CertificateError {
    /// The rule that was broken.
    pub const fn rule(&self) -> crate::Rule {
        match self {
            Self::Malformed { .. } => crate::Rule::CertMalformed,
            Self::DuplicateExtension { .. } => crate::Rule::CertDuplicateExtension,
        }
    }
}

/// A parsed certificate that borrows its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Cert<'a> {
    pub(crate) signed: Signed<'a>,
    pub(crate) serial: &'a [u8],
    /// The content of the issuer's name, without tag and length, as anchors hold theirs.
    pub(crate) issuer: &'a [u8],
    pub(crate) subject: &'a [u8],
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// The whole SubjectPublicKeyInfo.
    pub(crate) spki: &'a [u8],
    pub(crate) basic_constraints: Option<BasicConstraints>,
    pub(crate) key_usage: Option<KeyUsage>,
    pub(crate) extended_key_usage: Option<&'a [u8]>,
    pub(crate) alternative_names: AlternativeNames<'a>,
    pub(crate) subject_key_id: Option<&'a [u8]>,
    pub(crate) authority_key_id: Option<&'a [u8]>,
    pub(crate) name_constraints: Option<&'a [u8]>,
    /// The first critical extension that nothing here understands, as the bytes of its identifier.
    pub(crate) unknown_critical: Option<&'a [u8]>,
}

/// A signature with what it covers: RFC 5280 §4.1.1, and the same shape for lists of revoked certificates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    /// The whole of what is signed, as signed.
    pub(crate) message: &'a [u8],
    /// The content of the AlgorithmIdentifier.
    pub(crate) algorithm: &'a [u8],
    pub(crate) signature: &'a [u8],
}

impl<'a> Signed<'a> {
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, NotDer> {
        let mut fields = Reader::new(Reader::new(der).only(SEQUENCE)?);
        let message = fields.whole(SEQUENCE)?;
        let algorithm = fields.value(SEQUENCE)?;
        match fields.only(BIT_STRING)? {
            [0, signature @ ..] => Ok(Self {
                message,
                algorithm,
                signature,
            }),
            _ => Err(NotDer),
        }
    }
}

/// RFC 5280 §4.2.1.9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BasicConstraints {
    pub(crate) ca: bool,
    pub(crate) path_length: Option<u32>,
}

/// RFC 5280 §4.2.1.3: bit 0 of the standard is the value's highest bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyUsage {
    bits: u16,
    pub(crate) critical: bool,
}

impl KeyUsage {
    pub(crate) const fn digital_signature(self) -> bool {
        self.bit(0)
    }

    pub(crate) const fn key_cert_sign(self) -> bool {
        self.bit(5)
    }

    pub(crate) const fn crl_sign(self) -> bool {
        self.bit(6)
    }

    const fn bit(self, number: u8) -> bool {
        self.bits & (0x8000 >> number) != 0
    }
}

/// What of RFC 5280 §4.2.1.6 matters: how many URI names there are, what the first says, and all names as they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AlternativeNames<'a> {
    pub(crate) present: bool,
    pub(crate) uris: usize,
    pub(crate) first_uri: &'a [u8],
    /// The content of the list.
    pub(crate) all: &'a [u8],
}

impl<'a> Cert<'a> {
    /// Takes a whole certificate apart; bytes behind it are an error.
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, CertificateError> {
        let (signed, fields) = part("outer structure", || {
            let signed = Signed::parse(der)?;
            Ok((signed, Reader::new(signed.message).only(SEQUENCE)?))
        })?;
        let mut tbs = Reader::new(fields);
        part("version", || {
            // Only version 3, which is encoded as 2, has extensions and so can hold a SPIFFE ID.
            match Reader::new(tbs.value(context_constructed(0))?).only(INTEGER)? {
                [2] => Ok(()),
                _ => Err(NotDer),
            }
        })?;
        let serial = part("serial number", || tbs.value(INTEGER))?;
        // RFC 5280 §4.1.1.2: the algorithm outside, which nothing signs, is the one inside.
        part("signature algorithm", || match tbs.value(SEQUENCE)? {
            inside if inside == signed.algorithm => Ok(()),
            _ => Err(NotDer),
        })?;
        let issuer = part("issuer", || tbs.value(SEQUENCE))?;
        let (not_before, not_after) = part("validity", || {
            let mut validity = Reader::new(tbs.value(SEQUENCE)?);
            let window = (time(&mut validity)?, time(&mut validity)?);
            if validity.is_at_end() {
                Ok(window)
            } else {
                Err(NotDer)
            }
        })?;
        let subject = part("subject", || tbs.value(SEQUENCE))?;
        let spki = part("public key", || tbs.whole(SEQUENCE))?;
        let extensions = part("unique identifiers", || {
            tbs.optional(context(1))?;
            tbs.optional(context(2))?;
            let extensions = tbs.optional(context_constructed(3))?;
            if tbs.is_at_end() {
                Ok(extensions)
            } else {
                Err(NotDer)
            }
        })?;
        let mut cert = Self {
            signed,
            serial,
            issuer,
            subject,
            not_before,
            not_after,
            spki,
            basic_constraints: None,
            key_usage: None,
            extended_key_usage: None,
            alternative_names: AlternativeNames::default(),
            subject_key_id: None,
            authority_key_id: None,
            name_constraints: None,
            unknown_critical: None,
        };
        if let Some(extensions) = extensions {
            cert.read_extensions(extensions)?;
        }
        Ok(cert)
    }

    /// The public key as anchors hold theirs: the content of its SubjectPublicKeyInfo.
    pub(crate) fn spki_content(&self) -> &'a [u8] {
        // It was read with this tag.
        Reader::new(self.spki).only(SEQUENCE).unwrap_or_default()
    }

    fn read_extensions(&mut self, content: &'a [u8]) -> Result<(), CertificateError> {
        let mut list = Reader::new(part("extensions", || Reader::new(content).only(SEQUENCE))?);
        let mut number = 0;
        // Nearly all are of the standard's own arc, a bit for each; the others are few.
        let (mut seen, mut seen_elsewhere) = (0_u64, Vec::new());
        while !list.is_at_end() {
            let (oid, critical, value) = part("extensions", || {
                let mut extension = Reader::new(list.value(SEQUENCE)?);
                let oid = extension.value(OBJECT_IDENTIFIER)?;
                let critical = extension.boolean_default_false()?;
                Ok((oid, critical, extension.only(OCTET_STRING)?))
            })?;
            let repeated = match oid {
                [0x55, 0x1d, last @ 0..64] => {
                    let bit = 1 << last;
                    let repeated = seen & bit != 0;
                    seen |= bit;
                    repeated
                }
                _ => {
                    let repeated = seen_elsewhere.contains(&oid);
                    seen_elsewhere.push(oid);
                    repeated
                }
            };
            if repeated {
                return Err(CertificateError::DuplicateExtension { oid: dotted(oid) });
            }
            if number == MAX_EXTENSIONS {
                return Err(CertificateError::Malformed {
                    part: "more than 64 extensions",
                });
            }
            number += 1;
            self.read_extension(oid, critical, value)?;
        }
        Ok(())
    }

    fn read_extension(
        &mut self,
        oid: &'a [u8],
        critical: bool,
        value: &'a [u8],
    ) -> Result<(), CertificateError> {
        match oid {
            SUBJECT_KEY_ID => {
                self.subject_key_id = Some(part("subject key identifier", || {
                    Reader::new(value).only(OCTET_STRING)
                })?);
            }
            KEY_USAGE => {
                let bits = part("key usage", || key_usage_bits(value))?;
                self.key_usage = Some(KeyUsage { bits, critical });
            }
            ALTERNATIVE_NAMES => {
                self.alternative_names =
                    part("subject alternative names", || alternative_names(value))?;
            }
            BASIC_CONSTRAINTS => {
                self.basic_constraints =
                    Some(part("basic constraints", || basic_constraints(value))?);
            }
            NAME_CONSTRAINTS => {
                self.name_constraints = Some(part("name constraints", || {
                    if names::is_well_formed(value) {
                        Ok(value)
                    } else {
                        Err(NotDer)
                    }
                })?);
            }
            AUTHORITY_KEY_ID => {
                self.authority_key_id = part("authority key identifier", || {
                    Reader::new(Reader::new(value).only(SEQUENCE)?).optional(context(0))
                })?;
            }
            EXTENDED_KEY_USAGE => {
                self.extended_key_usage = Some(part("extended key usage", || purposes(value))?);
            }
            _ if critical && self.unknown_critical.is_none() => self.unknown_critical = Some(oid),
            _ => {}
        }
        Ok(())
    }
}

/// Splits certificates that follow each other without a separator, as the Workload API sends them; the pieces are
/// whole elements, not yet judged. `None` when the bytes do not divide so.
pub(crate) fn split_concatenated(mut der: &[u8]) -> Option<Vec<&[u8]>> {
    let mut pieces = Vec::new();
    while !der.is_empty() {
        let mut reader = Reader::new(der);
        let piece = reader.whole(SEQUENCE).ok()?;
        pieces.push(piece);
        der = &der[piece.len()..];
    }
    Some(pieces)
}

/// Names the part of the certificate in which something was not DER.
fn part<T>(
    part: &'static str,
    read: impl FnOnce() -> Result<T, NotDer>,
) -> Result<T, CertificateError> {
    read().map_err(|NotDer| CertificateError::Malformed { part })
}

/// RFC 5280 §4.1.2.5: `YYMMDDHHMMSSZ` up to 2049, `YYYYMMDDHHMMSSZ` from 2050, nothing else.
fn time(reader: &mut Reader<'_>) -> Result<Timestamp, NotDer> {
    let (tag, text, _) = reader.element()?;
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 13) => {
            let year = two_digits(text, 0)?;
            (
                if year < 50 { 2000 + year } else { 1900 + year },
                &text[2..],
            )
        }
        (GENERALIZED_TIME, 15) => {
            let year = two_digits(text, 0)? * 100 + two_digits(text, 2)?;
            if (1950..2050).contains(&year) {
                return Err(NotDer);
            }
            (year, &text[4..])
        }
        _ => return Err(NotDer),
    };
    if rest[10] != b'Z' {
        return Err(NotDer);
    }
    let field = |at| two_digits(rest, at).map(|value| value as u8);
    Timestamp::from_civil(year, field(0)?, field(2)?, field(4)?, field(6)?, field(8)?).ok_or(NotDer)
}

fn two_digits(text: &[u8], at: usize) -> Result<u16, NotDer> {
    match (text[at], text[at + 1]) {
        (tens @ b'0'..=b'9', ones @ b'0'..=b'9') => {
            Ok(u16::from(tens - b'0') * 10 + u16::from(ones - b'0'))
        }
        _ => Err(NotDer),
    }
}

/// The nine named bits, the first highest.
fn key_usage_bits(value: &[u8]) -> Result<u16, NotDer> {
    match Reader::new(value).only(BIT_STRING)? {
        [0] => Ok(0),
        [unused @ 0..=7, first] if trailing_zeros(*first, *unused) => Ok(u16::from(*first) << 8),
        [unused @ 0..=7, first, second] if trailing_zeros(*second, *unused) => {
            Ok(u16::from_be_bytes([*first, *second]))
        }
        _ => Err(NotDer),
    }
}

/// Whether the unused bits of a bit string's last byte are zero.
const fn trailing_zeros(last: u8, unused: u8) -> bool {
    last & ((1 << unused) - 1) == 0
}

fn basic_constraints(value: &[u8]) -> Result<BasicConstraints, NotDer> {
    let mut fields = Reader::new(Reader::new(value).only(SEQUENCE)?);
    let ca = fields.boolean_default_false()?;
    let path_length = fields.optional(INTEGER)?.map(small_unsigned).transpose()?;
    if !fields.is_at_end() || (path_length.is_some() && !ca) {
        return Err(NotDer);
    }
    Ok(BasicConstraints { ca, path_length })
}

/// A non-negative INTEGER; what no `u32` holds is no limit in practice and saturates.
fn small_unsigned(bytes: &[u8]) -> Result<u32, NotDer> {
    match bytes {
        [] | [0x80..=0xff, ..] | [0, 0..=0x7f, ..] => Err(NotDer),
        _ => Ok(bytes.iter().fold(0_u32, |value, byte| {
            value.saturating_mul(256).saturating_add(u32::from(*byte))
        })),
    }
}

fn alternative_names(value: &[u8]) -> Result<AlternativeNames<'_>, NotDer> {
    let all = Reader::new(value).only(SEQUENCE)?;
    let mut list = Reader::new(all);
    let mut names = AlternativeNames {
        present: true,
        all,
        ..AlternativeNames::default()
    };
    while !list.is_at_end() {
        let (tag, content, _) = list.element()?;
        if tag == context(6) {
            if names.uris == 0 {
                names.first_uri = content;
            }
            names.uris += 1;
        }
    }
    Ok(names)
}

/// The content of the list of purposes, after checking that it is one.
fn purposes(value: &[u8]) -> Result<&[u8], NotDer> {
    let content = Reader::new(value).only(SEQUENCE)?;
    let mut list = Reader::new(content);
    if list.is_at_end() {
        return Err(NotDer);
    }
    while !list.is_at_end() {
        list.value(OBJECT_IDENTIFIER)?;
    }
    Ok(content)
}

/// An object identifier's bytes in dotted form, for messages.
pub(crate) fn dotted(oid: &[u8]) -> String {
    let mut arcs = Vec::new();
    let mut value = 0_u64;
    for byte in oid.iter().take(32) {
        value = value
            .saturating_mul(128)
            .saturating_add(u64::from(byte & 0x7f));
        if byte & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (value / 40).min(2);
                arcs.push(first);
                value -= first * 40;
            }
            arcs.push(value);
            value = 0;
        }
    }
    let arcs: Vec<_> = arcs.iter().map(u64::to_string).collect();
    arcs.join(".")
}

// Extension identifiers without tag and length: RFC 5280 §4.2.1.
const SUBJECT_KEY_ID: &[u8] = b"\x55\x1d\x0e";
const KEY_USAGE: &[u8] = b"\x55\x1d\x0f";
const ALTERNATIVE_NAMES: &[u8] = b"\x55\x1d\x11";
const BASIC_CONSTRAINTS: &[u8] = b"\x55\x1d\x13";
const NAME_CONSTRAINTS: &[u8] = b"\x55\x1d\x1e";
const AUTHORITY_KEY_ID: &[u8] = b"\x55\x1d\x23";
const EXTENDED_KEY_USAGE: &[u8] = b"\x55\x1d\x25";
