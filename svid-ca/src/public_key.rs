//! Which public keys are certified.
//!
//! Keys are recognised by their exact DER, since the bytes of a request go into the certificate unchanged: every
//! accepted form has one spelling, and a key that merely looks like one of them is refused.

use std::fmt;
use std::ops::RangeInclusive;

use spiffe_core::crypto::CryptoProvider;
use spiffe_core::pki_types::SubjectPublicKeyInfoDer;

use crate::der::{NotDer, OBJECT_IDENTIFIER, Reader, SEQUENCE};
use crate::error::PublicKeyError;

/// The kind and size of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PublicKeyKind {
    /// On NIST P-256.
    EcP256,
    /// On NIST P-384.
    EcP384,
    /// On NIST P-521.
    EcP521,
    /// Ed25519.
    Ed25519,
    /// RSA.
    Rsa {
        /// The modulus's length in bits.
        bits: usize,
    },
}

impl fmt::Display for PublicKeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcP256 => f.write_str("EC P-256"),
            Self::EcP384 => f.write_str("EC P-384"),
            Self::EcP521 => f.write_str("EC P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Rsa { bits } => write!(f, "RSA-{bits}"),
        }
    }
}

/// The public keys that an issuer certifies. By default: EC on P-256, P-384 and P-521, Ed25519, and RSA of 2048 to
/// 4096 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyPolicy {
    /// EC keys on P-256.
    pub ec_p256: bool,
    /// EC keys on P-384.
    pub ec_p384: bool,
    /// EC keys on P-521.
    pub ec_p521: bool,
    /// Ed25519 keys.
    pub ed25519: bool,
    /// RSA keys with a modulus of so many bits; `None` for no RSA at all. Longer keys cost every peer at every
    /// handshake, shorter ones are broken.
    pub rsa_bits: Option<RangeInclusive<usize>>,
}

impl Default for KeyPolicy {
    fn default() -> Self {
        Self {
            ec_p256: true,
            ec_p384: true,
            ec_p521: true,
            ed25519: true,
            rsa_bits: Some(2048..=4096),
        }
    }
}

impl KeyPolicy {
    /// The kind of an allowed key, given as SubjectPublicKeyInfo in DER.
    ///
    /// Whether an EC point lies on its curve takes cryptography: issuers ask their provider.
    ///
    /// # Errors
    ///
    /// [`PublicKeyError::Malformed`], [`PublicKeyError::Refused`], [`PublicKeyError::RsaExponent`] and
    /// [`PublicKeyError::Unsupported`].
    pub fn judge(
        &self,
        key: &SubjectPublicKeyInfoDer<'_>,
    ) -> Result<PublicKeyKind, PublicKeyError> {
        self.judge_parsed(&PublicKey::parse(key)?)
    }

    /// As [`Self::judge`], and an EC key is a point of its curve.
    pub(crate) fn judge_whole(
        &self,
        key: &SubjectPublicKeyInfoDer<'_>,
        parsed: &PublicKey<'_>,
        crypto: &dyn CryptoProvider,
    ) -> Result<(), PublicKeyError> {
        match self.judge_parsed(parsed)? {
            PublicKeyKind::EcP256 | PublicKeyKind::EcP384 | PublicKeyKind::EcP521
                if !crypto.is_on_curve(key) =>
            {
                Err(PublicKeyError::NotOnCurve)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn judge_parsed(
        &self,
        key: &PublicKey<'_>,
    ) -> Result<PublicKeyKind, PublicKeyError> {
        let allowed = match key.kind {
            PublicKeyKind::EcP256 => self.ec_p256,
            PublicKeyKind::EcP384 => self.ec_p384,
            PublicKeyKind::EcP521 => self.ec_p521,
            PublicKeyKind::Ed25519 => self.ed25519,
            PublicKeyKind::Rsa { bits } => self
                .rsa_bits
                .as_ref()
                .is_some_and(|range| range.contains(&bits)),
        };
        if !allowed {
            return Err(PublicKeyError::Refused { kind: key.kind });
        }
        Ok(key.kind)
    }
}

/// A SubjectPublicKeyInfo taken apart: RFC 5280 §4.1.2.7.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublicKey<'a> {
    pub(crate) kind: PublicKeyKind,
    /// The content of the AlgorithmIdentifier.
    pub(crate) algorithm: &'a [u8],
    /// The bytes of the subjectPublicKey.
    pub(crate) bytes: &'a [u8],
}

impl<'a> PublicKey<'a> {
    pub(crate) fn parse(spki: &'a [u8]) -> Result<Self, PublicKeyError> {
        let (algorithm, bytes) = Self::split(spki).map_err(|NotDer| PublicKeyError::Malformed)?;
        let kind = match (algorithm, bytes) {
            (P256, [4, point @ ..]) if point.len() == 2 * 32 => PublicKeyKind::EcP256,
            (P384, [4, point @ ..]) if point.len() == 2 * 48 => PublicKeyKind::EcP384,
            (P521, [4, point @ ..]) if point.len() == 2 * 66 => PublicKeyKind::EcP521,
            (ED25519, key) if key.len() == 32 => PublicKeyKind::Ed25519,
            (RSA, key) => rsa_kind(key)?,
            (P256 | P384 | P521 | ED25519, _) => return Err(PublicKeyError::Malformed),
            _ => return Err(PublicKeyError::Unsupported),
        };
        Ok(Self {
            kind,
            algorithm,
            bytes,
        })
    }

    fn split(spki: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), NotDer> {
        let mut fields = Reader::new(Reader::new(spki).only(SEQUENCE)?);
        let algorithm = fields.value(SEQUENCE)?;
        Reader::new(algorithm).value(OBJECT_IDENTIFIER)?;
        let bytes = fields.bytes_of_bit_string()?;
        fields.end()?;
        Ok((algorithm, bytes))
    }
}

/// RFC 8017 §A.1.1, with the exponents that TLS libraries verify: odd, from 65537 to 33 bits.
fn rsa_kind(key: &[u8]) -> Result<PublicKeyKind, PublicKeyError> {
    let numbers = || -> Result<_, NotDer> {
        let mut fields = Reader::new(Reader::new(key).only(SEQUENCE)?);
        let numbers = (fields.positive()?, fields.positive()?);
        fields.end()?;
        Ok(numbers)
    };
    let (modulus, exponent) = numbers().map_err(|NotDer| PublicKeyError::Malformed)?;
    let bits = modulus.len() * 8
        - modulus
            .first()
            .map_or(0, |byte| byte.leading_zeros() as usize);
    if modulus.last().is_none_or(|byte| byte & 1 == 0) {
        return Err(PublicKeyError::Malformed);
    }
    let value = exponent
        .iter()
        .take(9)
        .fold(0_u128, |value, byte| value << 8 | u128::from(*byte));
    if value & 1 == 0 || !(65_537..1 << 33).contains(&value) {
        return Err(PublicKeyError::RsaExponent);
    }
    Ok(PublicKeyKind::Rsa { bits })
}

// The contents of the AlgorithmIdentifiers: RFC 5480 §2.1.1, RFC 8410 §3, RFC 3279 §2.3.1.
pub(crate) const P256: &[u8] =
    b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
pub(crate) const P384: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";
pub(crate) const P521: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23";
pub(crate) const ED25519: &[u8] = b"\x06\x03\x2b\x65\x70";
pub(crate) const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";

#[cfg(test)]
#[cfg(feature = "aws-lc-rs")]
mod tests {
    use spiffe_core::crypto::aws_lc_rs;
    use spiffe_core::key::KeyType;

    use super::*;
    use crate::der::{bit_string, sequence, unsigned};

    fn generated(kind: KeyType) -> SubjectPublicKeyInfoDer<'static> {
        let crypto = aws_lc_rs();
        let key = crypto.generate_key(kind).unwrap();
        crypto.load_key(&key).unwrap().public_key().clone()
    }

    fn rsa(modulus_bytes: usize, exponent: &[u8]) -> SubjectPublicKeyInfoDer<'static> {
        let modulus = vec![0xff; modulus_bytes];
        let key = sequence(&[&unsigned(&modulus), &unsigned(exponent)]);
        sequence(&[&sequence(&[RSA]), &bit_string(&key)]).into()
    }

    #[test]
    fn generated_keys_of_every_kind_are_accepted() {
        for (kind, found) in [
            (KeyType::EcP256, PublicKeyKind::EcP256),
            (KeyType::EcP384, PublicKeyKind::EcP384),
            (KeyType::EcP521, PublicKeyKind::EcP521),
            (KeyType::Ed25519, PublicKeyKind::Ed25519),
            (KeyType::Rsa2048, PublicKeyKind::Rsa { bits: 2048 }),
        ] {
            assert_eq!(KeyPolicy::default().judge(&generated(kind)), Ok(found));
        }
    }

    #[test]
    fn rsa_is_accepted_from_2048_to_4096_bits() {
        let judge = |bytes| KeyPolicy::default().judge(&rsa(bytes, &[1, 0, 1]));
        for bytes in [256, 384, 512] {
            assert_eq!(judge(bytes), Ok(PublicKeyKind::Rsa { bits: bytes * 8 }));
        }
        for bytes in [128, 255, 513, 2048] {
            let kind = PublicKeyKind::Rsa { bits: bytes * 8 };
            assert_eq!(judge(bytes), Err(PublicKeyError::Refused { kind }));
        }
    }

    #[test]
    fn rsa_exponents_are_odd_and_of_a_usual_size() {
        let judge = |exponent: &[u8]| KeyPolicy::default().judge(&rsa(256, exponent));
        assert!(judge(&[1, 0, 1]).is_ok());
        for bad in [&[3][..], &[1, 0, 0, 0], &[2, 0, 0, 0, 1], &[1; 40]] {
            assert_eq!(judge(bad), Err(PublicKeyError::RsaExponent));
        }
    }

    #[test]
    fn a_policy_can_leave_kinds_out() {
        let key = generated(KeyType::Ed25519);
        assert!(KeyPolicy::default().judge(&key).is_ok());
        let policy = KeyPolicy {
            ed25519: false,
            ..KeyPolicy::default()
        };
        let kind = PublicKeyKind::Ed25519;
        assert_eq!(policy.judge(&key), Err(PublicKeyError::Refused { kind }));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let good = generated(KeyType::EcP256).to_vec();
        let judge = |der: Vec<u8>| KeyPolicy::default().judge(&der.into());
        assert!(judge(good.clone()).is_ok());
        assert_eq!(judge(vec![]), Err(PublicKeyError::Malformed));
        assert_eq!(
            judge([&good[..], &[0]].concat()),
            Err(PublicKeyError::Malformed)
        );
        let mut compressed = good.clone();
        compressed[26] = 2;
        assert_eq!(judge(compressed), Err(PublicKeyError::Malformed));
        let x25519 = sequence(&[&sequence(&[b"\x06\x03\x2b\x65\x6e"]), &bit_string(&[9; 32])]);
        assert_eq!(judge(x25519), Err(PublicKeyError::Unsupported));
    }
}
