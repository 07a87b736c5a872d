//! Private keys and the signers that hold them.

use std::fmt;
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use zeroize::Zeroizing;

use crate::time::BoxFuture;

/// The most bytes of a PEM text that a key is looked for in: a key and its chain fit many times.
pub const MAX_KEY_DOCUMENT_BYTES: usize = 1024 * 1024;

/// A private key as PKCS#8 DER, wiped on drop and never printed.
///
/// Not `Clone`: copies of a secret are made by [`clone_key`](Self::clone_key), where a reader can see them.
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
}

impl PrivateKey {
    /// Takes the bytes of one unencrypted PKCS#8 structure; what they hold is judged when the key is loaded.
    pub fn from_pkcs8_der(der: impl Into<Zeroizing<Vec<u8>>>) -> Self {
        Self { pkcs8: der.into() }
    }

    /// Takes the first unencrypted PKCS#8 key of a PEM text of at most [`MAX_KEY_DOCUMENT_BYTES`].
    ///
    /// # Errors
    ///
    /// [`KeyError::Malformed`] where there is none.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        if pem.len() > MAX_KEY_DOCUMENT_BYTES {
            return Err(KeyError::Malformed);
        }
        let key =
            PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::Malformed)?;
        Ok(Self::from_pkcs8_der(key.secret_pkcs8_der().to_vec()))
    }

    /// The PKCS#8 DER.
    pub fn secret_pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The same bytes, typed, borrowed.
    pub fn secret_der(&self) -> PrivatePkcs8KeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.pkcs8.as_slice())
    }

    /// As PEM: one unencrypted `PRIVATE KEY` block in lines of 64 characters (RFC 7468 §10), wiped on drop.
    pub fn secret_pkcs8_pem(&self) -> Zeroizing<String> {
        let text = Zeroizing::new(Base64::encode_string(&self.pkcs8));
        // Of its final size at once, so that no copy of the secret is left behind.
        let mut pem = Zeroizing::new(String::with_capacity(text.len() + text.len() / 32 + 64));
        pem.push_str("-----BEGIN PRIVATE KEY-----\n");
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, behind) = rest.split_at(rest.len().min(64));
            pem.push_str(line);
            pem.push('\n');
            rest = behind;
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        pem
    }

    /// A copy of the secret.
    pub fn clone_key(&self) -> Self {
        Self {
            pkcs8: self.pkcs8.clone(),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey([secret key elided])")
    }
}

/// The kinds of keys that can be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KeyType {
    /// ECDSA on NIST P-256, the default.
    #[default]
    EcP256,
    /// ECDSA on NIST P-384.
    EcP384,
    /// ECDSA on NIST P-521.
    EcP521,
    /// Ed25519; no JWT-SVID algorithm uses it.
    Ed25519,
    /// RSA with a modulus of 2048 bits.
    Rsa2048,
    /// RSA with a modulus of 4096 bits.
    Rsa4096,
}

/// How a signer signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SignatureAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    EcdsaP256Sha256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaP384Sha384,
    /// ECDSA on P-521 with SHA-512.
    EcdsaP521Sha512,
    /// Ed25519.
    Ed25519,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RsaPkcs1Sha256,
}

impl SignatureAlgorithm {
    /// The AlgorithmIdentifier of a certificate signed this way: the whole SEQUENCE in DER.
    pub const fn x509_identifier(self) -> &'static [u8] {
        match self {
            Self::EcdsaP256Sha256 => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02",
            Self::EcdsaP384Sha384 => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03",
            Self::EcdsaP521Sha512 => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04",
            Self::Ed25519 => b"\x30\x05\x06\x03\x2b\x65\x70",
            Self::RsaPkcs1Sha256 => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00",
        }
    }

    /// The name a JWS header gives it: RFC 7518 §3.1. `None` where JWT-SVID §2.1 has no such algorithm.
    pub const fn jws_name(self) -> Option<&'static str> {
        match self {
            Self::EcdsaP256Sha256 => Some("ES256"),
            Self::EcdsaP384Sha384 => Some("ES384"),
            Self::EcdsaP521Sha512 => Some("ES512"),
            Self::RsaPkcs1Sha256 => Some("RS256"),
            Self::Ed25519 => None,
        }
    }

    /// Whether signatures are pairs of integers, which X.509 and JWS encode differently.
    pub const fn is_ecdsa(self) -> bool {
        matches!(
            self,
            Self::EcdsaP256Sha256 | Self::EcdsaP384Sha384 | Self::EcdsaP521Sha512
        )
    }
}

/// A private key that signs where it lies: in memory, in a token, in a remote service.
///
/// Signatures are raw: ECDSA as `r || s`, both of the curve's full width, as JWS carries it (RFC 7518 §3.4);
/// [`ecdsa_to_der`] gives X.509's form. The whole message goes in; hashing is the signer's.
pub trait Signer: fmt::Debug + Send + Sync {
    /// The public half.
    fn public_key(&self) -> &SubjectPublicKeyInfoDer<'static>;

    /// How it signs.
    fn algorithm(&self) -> SignatureAlgorithm;

    /// Signs `message`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the signature and nothing else.
    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignError>>;
}

/// A signer did not sign.
#[derive(Debug, thiserror::Error)]
#[error("signing failed: {reason}")]
#[non_exhaustive]
pub struct SignError {
    /// What the signer says, without secrets.
    pub reason: String,
}

impl SignError {
    /// An error with its reason, for implementors of [`Signer`].
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

/// Why a private key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The provider could not make a key.
    #[error("generating a key failed")]
    Generation,
    /// Not one unencrypted PKCS#8 structure in DER.
    #[error("the private key is not an unencrypted PKCS#8 structure in DER")]
    Malformed,
    /// A kind of key that the provider cannot use or generate.
    #[error("the cryptography provider does not support this kind of key")]
    Unsupported,
}

impl KeyError {
    /// The rule that was broken.
    pub const fn rule(&self) -> crate::Rule {
        crate::Rule::KeyMalformed
    }
}

/// How an SVID holds its private key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SvidKey {
    /// In memory, as PKCS#8.
    Local(Arc<PrivateKey>),
    /// Somewhere else.
    Remote(Arc<dyn Signer>),
}

/// Turns a raw ECDSA signature, `r || s`, into the DER form of X.509: RFC 3279 §2.2.3.
pub fn ecdsa_to_der(raw: &[u8]) -> Vec<u8> {
    let (r, s) = raw.split_at(raw.len() / 2);
    let mut body = Vec::with_capacity(raw.len() + 8);
    for integer in [r, s] {
        push_integer(&mut body, integer);
    }
    let mut der = vec![0x30];
    push_length(&mut der, body.len());
    der.extend_from_slice(&body);
    der
}

fn push_integer(out: &mut Vec<u8>, bytes: &[u8]) {
    let first = bytes
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or_else(|| bytes.len().saturating_sub(1));
    let digits = &bytes[first..];
    let sign = digits.first().is_none_or(|byte| byte & 0x80 != 0);
    out.push(0x02);
    push_length(out, digits.len() + usize::from(sign));
    if sign {
        out.push(0);
    }
    out.extend_from_slice(digits);
}

fn push_length(out: &mut Vec<u8>, length: usize) {
    // A P-521 signature has at most 139 bytes of content, so two forms suffice.
    if length >= 0x80 {
        out.push(0x81);
    }
    out.push(length as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecdsa_integers_become_minimal_and_positive() {
        assert_eq!(
            ecdsa_to_der(&[0, 1, 0x80, 0]),
            [0x30, 8, 2, 1, 1, 2, 3, 0, 0x80, 0]
        );
        assert_eq!(ecdsa_to_der(&[0, 0, 0, 5]), [0x30, 6, 2, 1, 0, 2, 1, 5]);
        assert_eq!(ecdsa_to_der(&[0xff; 132])[..6], [0x30, 0x81, 138, 2, 67, 0]);
    }

    #[test]
    fn keys_come_back_from_their_pem() {
        for length in [1, 47, 48, 49, 200] {
            let key = PrivateKey::from_pkcs8_der(vec![7; length]);
            let pem = key.secret_pkcs8_pem();
            assert!(pem.lines().all(|line| line.len() <= 64), "{length}");
            let again = PrivateKey::from_pem(&pem).unwrap();
            assert_eq!(again.secret_pkcs8_der(), key.secret_pkcs8_der());
        }
    }

    #[test]
    fn keys_are_not_printed() {
        let key = PrivateKey::from_pkcs8_der(vec![1, 2, 3]);
        assert_eq!(format!("{key:?}"), "PrivateKey([secret key elided])");
    }
}
