//! Certificate signing requests: RFC 2986.
//!
//! A request proves that its sender holds a private key, and that is all it is asked for: names, attributes and
//! requested extensions are not even parsed. The signature is checked with the provider's algorithms over the exact
//! bytes received.

use spiffe_core::TrustDomain;
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::key::Signer;
use spiffe_core::pki_types::SubjectPublicKeyInfoDer;

use crate::der::{
    NotDer, OBJECT_IDENTIFIER, Reader, SEQUENCE, SET, bit_string, context_constructed, element,
    sequence, unsigned,
};
use crate::error::{CsrError, IssueError};
use crate::issuer::sign_x509;
use crate::name::DistinguishedName;
use crate::profile::alternative_name;
use crate::public_key::{KeyPolicy, PublicKey, PublicKeyKind};

/// The most bytes of a request: one with an RSA key of 4096 bits and a page of names has about 4 KiB.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// A request whose signature is good: its sender holds the private key.
#[derive(Clone, Debug)]
pub struct Csr {
    public_key: SubjectPublicKeyInfoDer<'static>,
    kind: PublicKeyKind,
}

impl Csr {
    /// Reads a request in DER, judges its key and checks its signature, in this order: no work is spent on a key
    /// that would be refused.
    ///
    /// # Errors
    ///
    /// [`CsrError`].
    pub fn from_der(
        der: &[u8],
        policy: &KeyPolicy,
        crypto: &dyn CryptoProvider,
    ) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR_BYTES {
            return Err(CsrError::TooLarge);
        }
        let request = Request::parse(der).map_err(|NotDer| CsrError::Malformed)?;
        let key = PublicKey::parse(request.spki)?;
        let kind = policy.judge_parsed(&key)?;
        check_signature(
            crypto,
            &key,
            request.signature_algorithm,
            request.signed,
            request.signature,
        )?;
        Ok(Self {
            public_key: request.spki.to_vec().into(),
            kind,
        })
    }

    /// The public key, exactly as the request encodes it.
    pub fn public_key(&self) -> &SubjectPublicKeyInfoDer<'static> {
        &self.public_key
    }

    /// Its kind.
    pub fn key_kind(&self) -> PublicKeyKind {
        self.kind
    }
}

/// A request for the certificate of an authority of `trust_domain`: its own SPIFFE ID is the one name asked for.
///
/// # Errors
///
/// [`IssueError::Signer`].
pub async fn authority_request(
    trust_domain: &TrustDomain,
    subject: &DistinguishedName,
    signer: &dyn Signer,
) -> Result<Vec<u8>, IssueError> {
    let id = trust_domain.id();
    let extensions = sequence(&[&alternative_name(id.as_ref())]);
    // RFC 2985 §5.4.2: the extensions asked for are an attribute.
    let attribute = sequence(&[
        &element(OBJECT_IDENTIFIER, &[EXTENSION_REQUEST]),
        &element(SET, &[&extensions]),
    ]);
    let info = sequence(&[
        &unsigned(&[]),
        &subject.to_der(),
        signer.public_key(),
        &element(context_constructed(0), &[&attribute]),
    ]);
    let signature = sign_x509(signer, &info).await?;
    let algorithm = signer.algorithm().x509_identifier();
    Ok(sequence(&[&info, algorithm, &bit_string(&signature)]))
}

/// Checks a signature in X.509's form by `key` over `signed`, with whatever algorithm of the provider fits the key
/// and `algorithm`, the content of an AlgorithmIdentifier.
pub(crate) fn check_signature(
    crypto: &dyn CryptoProvider,
    key: &PublicKey<'_>,
    algorithm: &[u8],
    signed: &[u8],
    signature: &[u8],
) -> Result<(), CsrError> {
    let mut error = CsrError::UnsupportedSignature;
    for known in crypto.signature_algorithms() {
        if known.public_key_alg_id().as_ref() != key.algorithm
            || known.signature_alg_id().as_ref() != algorithm
        {
            continue;
        }
        match known.verify_signature(key.bytes, signed, signature) {
            Ok(()) => return Ok(()),
            Err(_) => error = CsrError::BadSignature,
        }
    }
    Err(error)
}

/// The parts of a request, as slices of it.
struct Request<'a> {
    signed: &'a [u8],
    spki: &'a [u8],
    /// The content of the AlgorithmIdentifier.
    signature_algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Request<'a> {
    fn parse(der: &'a [u8]) -> Result<Self, NotDer> {
        let mut outer = Reader::new(Reader::new(der).only(SEQUENCE)?);
        let (info, signed) = outer.element(SEQUENCE)?;
        let signature_algorithm = outer.value(SEQUENCE)?;
        Reader::new(signature_algorithm).value(OBJECT_IDENTIFIER)?;
        let signature = outer.bytes_of_bit_string()?;
        outer.end()?;

        let mut info = Reader::new(info);
        // RFC 2986 §4.1: the only version is 0.
        if info.value(crate::der::INTEGER)? != [0] {
            return Err(NotDer);
        }
        info.value(SEQUENCE)?;
        let (_, spki) = info.element(SEQUENCE)?;
        info.value(context_constructed(0))?;
        info.end()?;
        Ok(Self {
            signed,
            spki,
            signature_algorithm,
            signature,
        })
    }
}

// 1.2.840.113549.1.9.14.
const EXTENSION_REQUEST: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e";

#[cfg(test)]
#[cfg(feature = "aws-lc-rs")]
mod tests {
    use spiffe_core::crypto::aws_lc_rs;

    use super::*;
    use crate::error::PublicKeyError;

    fn request(key: &rcgen::KeyPair) -> Vec<u8> {
        let params = rcgen::CertificateParams::new(vec!["asked.example".into()]).unwrap();
        params.serialize_request(key).unwrap().der().to_vec()
    }

    fn read(der: &[u8]) -> Result<Csr, CsrError> {
        Csr::from_der(der, &KeyPolicy::default(), &*aws_lc_rs())
    }

    #[test]
    fn requests_of_every_kind_of_key_are_read() {
        use rcgen::PublicKeyData;
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ECDSA_P521_SHA512,
            &rcgen::PKCS_ED25519,
            &rcgen::PKCS_RSA_SHA256,
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let csr = read(&request(&key)).unwrap();
            assert_eq!(csr.public_key().as_ref(), key.subject_public_key_info());
        }
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let key = rcgen::KeyPair::generate().unwrap();
        let good = request(&key);
        assert!(read(&good).is_ok());
        let mut bad = good.clone();
        let last = bad.len() - 1;
        bad[last] ^= 1;
        assert_eq!(read(&bad).unwrap_err(), CsrError::BadSignature);
        // A changed key is no longer the one that signed.
        let mut swapped = good.clone();
        let other = rcgen::KeyPair::generate().unwrap();
        let at = good
            .windows(65)
            .position(|window| window == key.public_key_raw())
            .unwrap();
        swapped[at..at + 65].copy_from_slice(other.public_key_raw());
        assert_eq!(read(&swapped).unwrap_err(), CsrError::BadSignature);
    }

    #[test]
    fn refused_keys_are_named_before_any_signature_is_checked() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut bad = request(&key);
        let last = bad.len() - 1;
        bad[last] ^= 1;
        let policy = KeyPolicy {
            ed25519: false,
            ..KeyPolicy::default()
        };
        let kind = PublicKeyKind::Ed25519;
        assert_eq!(
            Csr::from_der(&bad, &policy, &*aws_lc_rs()).unwrap_err(),
            CsrError::Key(PublicKeyError::Refused { kind })
        );
    }

    #[test]
    fn damaged_requests_are_refused() {
        let good = request(&rcgen::KeyPair::generate().unwrap());
        for length in 0..good.len() {
            assert!(read(&good[..length]).is_err(), "{length}");
        }
        assert_eq!(
            read(&[&good[..], &[0]].concat()).unwrap_err(),
            CsrError::Malformed
        );
        assert_eq!(
            read(&vec![0x30; MAX_CSR_BYTES + 1]).unwrap_err(),
            CsrError::TooLarge
        );
    }

    #[test]
    fn a_signature_of_an_unknown_kind_is_named() {
        let good = request(&rcgen::KeyPair::generate().unwrap());
        let sha256 = b"\x2a\x86\x48\xce\x3d\x04\x03\x02";
        let at = good
            .windows(8)
            .rposition(|window| window == sha256)
            .unwrap();
        let mut sha1 = good;
        // ecdsa-with-SHA224, which no provider offers.
        sha1[at + 7] = 1;
        assert_eq!(read(&sha1).unwrap_err(), CsrError::UnsupportedSignature);
    }
}
