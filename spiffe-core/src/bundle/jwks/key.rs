//! Public keys as SubjectPublicKeyInfo and as JWK members: RFC 5280 §4.1.2.7, RFC 7518 §6, RFC 8037 §2.
//!
//! Only shapes are judged: widths, minimal integers, sizes. Whether a point lies on its curve is the cryptography
//! provider's to say, which refuses every signature of one that does not.

use base64ct::{Base64UrlUnpadded, Encoding};
use rustls_pki_types::{AlgorithmIdentifier, SubjectPublicKeyInfoDer, alg_id};

use crate::Rule;
use crate::base64;
use crate::bundle::check::ParsedForms;
use crate::json::{Object, Value, push_string, shortened};
use crate::x509::der::{BIT_STRING, INTEGER, NotDer, Reader, SEQUENCE};

/// RSA keys shorter than this are refused: RFC 7518 §3.3.
const MIN_RSA_BITS: usize = 2048;

/// RSA keys longer than this are refused; a signature check grows with the square of the length, and the
/// cryptography libraries draw the line here.
const MAX_RSA_BITS: usize = 8192;

/// The most bytes of an RSA exponent; honest ones have three.
const MAX_RSA_EXPONENT_BYTES: usize = 4;

/// The kinds of keys that authorities have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    EcP256,
    EcP384,
    EcP521,
    Ed25519,
    Rsa,
}

impl KeyKind {
    pub(crate) const ALL: [Self; 5] = [
        Self::EcP256,
        Self::EcP384,
        Self::EcP521,
        Self::Ed25519,
        Self::Rsa,
    ];

    /// The content of the AlgorithmIdentifier.
    pub(crate) const fn identifier(self) -> AlgorithmIdentifier {
        match self {
            Self::EcP256 => alg_id::ECDSA_P256,
            Self::EcP384 => alg_id::ECDSA_P384,
            Self::EcP521 => alg_id::ECDSA_P521,
            Self::Ed25519 => alg_id::ED25519,
            Self::Rsa => alg_id::RSA_ENCRYPTION,
        }
    }

    /// `kty` and `crv` of a JWK.
    const fn jwk_names(self) -> (&'static str, &'static str) {
        match self {
            Self::EcP256 => ("EC", "P-256"),
            Self::EcP384 => ("EC", "P-384"),
            Self::EcP521 => ("EC", "P-521"),
            Self::Ed25519 => ("OKP", "Ed25519"),
            Self::Rsa => ("RSA", ""),
        }
    }

    /// The bytes of one coordinate.
    const fn width(self) -> usize {
        match self {
            Self::EcP256 | Self::Ed25519 => 32,
            Self::EcP384 => 48,
            Self::EcP521 => 66,
            Self::Rsa => 0,
        }
    }
}

/// Whether RFC 7518 and RFC 8037 know the key type and this library can hold such keys.
pub(super) fn is_known_type(kty: &str) -> bool {
    KeyKind::ALL.iter().any(|kind| kind.jwk_names().0 == kty)
}

/// One public key whose numbers are borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublicKey<'a> {
    kind: KeyKind,
    /// The subjectPublicKey: an uncompressed point, an Ed25519 key, an RSAPublicKey.
    bits: &'a [u8],
    /// Where an authority keeps it in parsed form.
    forms: Option<&'a ParsedForms>,
}

/// A key is its numbers, whoever holds it.
impl PartialEq for PublicKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.bits == other.bits
    }
}

impl Eq for PublicKey<'_> {}

impl<'a> PublicKey<'a> {
    /// Reads the content of a SubjectPublicKeyInfo, without its outer tag; `None` for what is no key of these kinds.
    pub(crate) fn from_spki_content(content: &'a [u8]) -> Option<Self> {
        let mut fields = Reader::new(content);
        let algorithm = fields.value(SEQUENCE).ok()?;
        let (unused, bits) = fields.only(BIT_STRING).ok()?.split_first()?;
        let kind = KeyKind::ALL
            .into_iter()
            .find(|kind| kind.identifier().as_ref() == algorithm)?;
        if *unused != 0 || !is_well_formed(kind, bits) {
            return None;
        }
        Some(Self::trusted(kind, bits))
    }

    /// As [`Self::from_spki_content`], of the whole structure.
    pub(crate) fn from_spki(der: &'a [u8]) -> Option<Self> {
        Self::from_spki_content(Reader::new(der).only(SEQUENCE).ok()?)
    }

    /// A key whose shape was judged before.
    pub(in crate::bundle) const fn trusted(kind: KeyKind, bits: &'a [u8]) -> Self {
        Self {
            kind,
            bits,
            forms: None,
        }
    }

    /// The same key, whose authority keeps these forms of it.
    pub(in crate::bundle) const fn with_forms(mut self, forms: &'a ParsedForms) -> Self {
        self.forms = Some(forms);
        self
    }

    /// The forms that its authority keeps of it.
    #[cfg(feature = "aws-lc-rs")]
    pub(in crate::bundle) const fn forms(self) -> Option<&'a ParsedForms> {
        self.forms
    }

    pub(crate) const fn kind(self) -> KeyKind {
        self.kind
    }

    /// The subjectPublicKey, as signature algorithms take it.
    pub(crate) const fn bits(self) -> &'a [u8] {
        self.bits
    }

    /// The members of a JWK that hold numbers, by name.
    fn numbers(self) -> [(&'static str, &'a [u8]); 2] {
        match self.kind {
            KeyKind::Ed25519 => [("x", self.bits), ("", &[])],
            KeyKind::Rsa => {
                let (modulus, exponent) = rsa_numbers(self.bits).unwrap_or_default();
                [("n", modulus), ("e", exponent)]
            }
            _ => {
                let (x, y) = self.bits[1..].split_at(self.kind.width());
                [("x", x), ("y", y)]
            }
        }
    }

    /// Whether the key members that a JWK has are this key's; members it lacks say nothing.
    ///
    /// # Errors
    ///
    /// The first member that differs, by name.
    pub(super) fn agrees_with(self, jwk: &Object<'_>) -> Result<(), &'static str> {
        let (kty, crv) = self.kind.jwk_names();
        for (name, expected) in [("kty", kty), ("crv", crv)] {
            let differs = |value: &Value<'_>| value.as_str() != Some(expected);
            if !expected.is_empty() && jwk.get(name).is_some_and(differs) {
                return Err(name);
            }
        }
        for (name, expected) in self.numbers() {
            let Some(value) = jwk.get(name).filter(|_| !name.is_empty()) else {
                continue;
            };
            let found = value.as_str().and_then(base64::decode_url);
            if found.as_deref() != Some(expected) {
                return Err(name);
            }
        }
        Ok(())
    }

    /// Appends `"kty":…` and the key members, without braces.
    pub(super) fn push_jwk_members(self, out: &mut String) {
        let (kty, crv) = self.kind.jwk_names();
        out.push_str("\"kty\":");
        push_string(out, kty);
        if !crv.is_empty() {
            out.push_str(",\"crv\":");
            push_string(out, crv);
        }
        for (name, number) in self.numbers() {
            if !name.is_empty() {
                out.push_str(",\"");
                out.push_str(name);
                out.push_str("\":\"");
                out.push_str(&Base64UrlUnpadded::encode_string(number));
                out.push('"');
            }
        }
    }
}

/// Reads the key members of a JWK whose `kty` is known.
///
/// # Errors
///
/// The rule that was broken and what was found.
pub(super) fn from_jwk(
    kty: &str,
    jwk: &Object<'_>,
) -> Result<SubjectPublicKeyInfoDer<'static>, (Rule, String)> {
    let unusable = |reason: &str| (Rule::JwkAlgorithm, reason.to_owned());
    if kty == "RSA" {
        let (modulus, exponent) = (number(jwk, "n")?, number(jwk, "e")?);
        if modulus.first() == Some(&0) || exponent.first() == Some(&0) {
            return Err((
                Rule::JwkKey,
                "the members n and e must not have leading zero bytes".to_owned(),
            ));
        }
        if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bit_length(&modulus)) {
            return Err(unusable(&format!(
                "the RSA key has {} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are allowed",
                bit_length(&modulus)
            )));
        }
        if !is_exponent(&exponent) {
            return Err((
                Rule::JwkKey,
                "the RSA exponent must be odd, greater than 1 and have at most 32 bits".to_owned(),
            ));
        }
        let mut bits = Vec::with_capacity(modulus.len() + exponent.len() + 16);
        push_element(
            &mut bits,
            SEQUENCE,
            &[&integer(&modulus), &integer(&exponent)],
        );
        return Ok(spki(KeyKind::Rsa, &bits));
    }
    let crv = match jwk.get("crv") {
        Some(Value::String(crv)) => crv.as_ref(),
        Some(other) => {
            return Err((
                Rule::JwkKey,
                format!("the member crv is {}, not a string", other.kind()),
            ));
        }
        None => return Err((Rule::JwkKey, "the member crv is missing".to_owned())),
    };
    let Some(kind) = KeyKind::ALL
        .into_iter()
        .find(|kind| kind.jwk_names() == (kty, crv))
    else {
        return Err(unusable(&format!(
            "keys of type {kty} on the curve {:?} are not supported",
            shortened(crv)
        )));
    };
    let mut bits = Vec::with_capacity(1 + 2 * kind.width());
    if kind != KeyKind::Ed25519 {
        bits.push(UNCOMPRESSED);
    }
    let members: &[&str] = if kind == KeyKind::Ed25519 {
        &["x"]
    } else {
        &["x", "y"]
    };
    for name in members {
        let coordinate = number(jwk, name)?;
        if coordinate.len() != kind.width() {
            return Err((
                Rule::JwkKey,
                format!(
                    "the member {name} has {} bytes; {crv} has {}",
                    coordinate.len(),
                    kind.width()
                ),
            ));
        }
        bits.extend_from_slice(&coordinate);
    }
    Ok(spki(kind, &bits))
}

fn number(jwk: &Object<'_>, name: &str) -> Result<Vec<u8>, (Rule, String)> {
    let reason = match jwk.get(name) {
        Some(Value::String(text)) => match base64::decode_url(text) {
            Some(bytes) if bytes.is_empty() => format!("the member {name} is empty"),
            Some(bytes) => return Ok(bytes),
            None => format!("the member {name} is not base64url without padding"),
        },
        Some(other) => format!("the member {name} is {}, not a string", other.kind()),
        None => format!("the member {name} is missing"),
    };
    Err((Rule::JwkKey, reason))
}

fn is_well_formed(kind: KeyKind, bits: &[u8]) -> bool {
    match kind {
        KeyKind::Ed25519 => bits.len() == kind.width(),
        KeyKind::Rsa => rsa_numbers(bits).is_ok_and(|(modulus, exponent)| {
            (MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bit_length(modulus)) && is_exponent(exponent)
        }),
        _ => bits.len() == 1 + 2 * kind.width() && bits[0] == UNCOMPRESSED,
    }
}

fn is_exponent(digits: &[u8]) -> bool {
    digits.len() <= MAX_RSA_EXPONENT_BYTES
        && digits.last().is_some_and(|low| low & 1 == 1)
        && digits != [1]
}

/// Modulus and exponent of an RSAPublicKey (RFC 8017 §A.1.1) without sign bytes.
fn rsa_numbers(bits: &[u8]) -> Result<(&[u8], &[u8]), NotDer> {
    let mut fields = Reader::new(Reader::new(bits).only(SEQUENCE)?);
    let modulus = positive(fields.value(INTEGER)?)?;
    Ok((modulus, positive(fields.only(INTEGER)?)?))
}

fn positive(content: &[u8]) -> Result<&[u8], NotDer> {
    match content {
        [0, digits @ ..] if digits.first().is_some_and(|high| high & 0x80 != 0) => Ok(digits),
        [1..=0x7f, ..] => Ok(content),
        _ => Err(NotDer),
    }
}

/// The bits of a number without leading zero bytes.
fn bit_length(digits: &[u8]) -> usize {
    let leading = digits.first().map_or(0, |first| first.leading_zeros());
    (digits.len() * 8).saturating_sub(leading as usize)
}

fn spki(kind: KeyKind, bits: &[u8]) -> SubjectPublicKeyInfoDer<'static> {
    let mut content = Vec::with_capacity(bits.len() + 64);
    push_element(&mut content, SEQUENCE, &[kind.identifier().as_ref()]);
    push_element(&mut content, BIT_STRING, &[&[0], bits]);
    let mut der = Vec::with_capacity(content.len() + 4);
    push_element(&mut der, SEQUENCE, &[&content]);
    SubjectPublicKeyInfoDer::from(der)
}

fn integer(digits: &[u8]) -> Vec<u8> {
    let mut der = Vec::with_capacity(digits.len() + 5);
    let sign: &[u8] = if digits.first().is_some_and(|first| first & 0x80 != 0) {
        &[0]
    } else {
        &[]
    };
    push_element(&mut der, INTEGER, &[sign, digits]);
    der
}

/// Appends one element of DER whose content is these parts; keys stay below 64 kB.
fn push_element(out: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(tag);
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x100 => out.extend_from_slice(&[0x81, length as u8]),
        _ => out.extend_from_slice(&[0x82, (length >> 8) as u8, length as u8]),
    }
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// SEC 1 §2.3.3: the first byte of a point that is not compressed.
const UNCOMPRESSED: u8 = 4;
