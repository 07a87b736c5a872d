//! Keys in a PKCS#11 token, an HSM or SoftHSM: made there, used there, destroyed there.
//!
//! A key pair carries its name as label (`CKA_LABEL`) and a random `CKA_ID` of its own, so that a new pair under an old
//! name is never mistaken for the one before. Private keys are made sensitive and not extractable.

mod pool;
mod uri;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{
    Attribute, AttributeType, KeyType as TokenKeyType, ObjectClass, ObjectHandle,
};
use cryptoki::session::Session;
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::key::{KeyType, SignError, SignatureAlgorithm, Signer};
use spiffe_core::pki_types::SubjectPublicKeyInfoDer;
use spiffe_core::{BoxFuture, Random};

pub use pool::TOKEN_SESSIONS;
pub use uri::{MAX_TOKEN_URI_BYTES, TokenUri};

use self::pool::{Failure, Pool};
use super::KeyManager;
use crate::der::{OCTET_STRING, Reader, bit_string, sequence, unsigned};
use crate::error::KeyManagerError;
use crate::public_key::{ED25519, P256, P384, P521, PublicKey, PublicKeyKind, RSA};

/// The bytes of a `CKA_ID`: random, so that no two keys of a token share one.
const ID_BYTES: usize = 16;

/// Keys in a PKCS#11 token.
///
/// Calls run on [`TOKEN_SESSIONS`] threads of its own, one session each, so that no async task waits in a module. A
/// session that the token has ended is opened anew, once a call. A wrong PIN is tried once.
pub struct Pkcs11Keys {
    uri: TokenUri,
    crypto: Arc<dyn CryptoProvider>,
    random: Arc<dyn Random>,
    pool: Arc<Pool>,
}

impl Pkcs11Keys {
    /// Opens the token and logs in.
    ///
    /// # Errors
    ///
    /// [`KeyManagerError::Token`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future has opened nothing.
    pub async fn open(
        uri: TokenUri,
        crypto: Arc<dyn CryptoProvider>,
        random: Arc<dyn Random>,
    ) -> Result<Self, KeyManagerError> {
        let failed = |reason| token_error(&uri, "be opened", reason);
        let pool = Pool::start(uri.clone()).map_err(|error| failed(error.to_string()))?;
        pool.run(|_| Ok(())).await.map_err(failed)?;
        Ok(Self {
            uri,
            crypto,
            random,
            pool: Arc::new(pool),
        })
    }

    async fn run<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl Fn(&Session) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, KeyManagerError> {
        let outcome = self.pool.run(work).await;
        outcome.map_err(|reason| token_error(&self.uri, action, reason))
    }

    fn token_signer(&self, found: Found) -> Arc<dyn Signer> {
        Arc::new(TokenSigner {
            uri: self.uri.clone(),
            crypto: self.crypto.clone(),
            pool: self.pool.clone(),
            public: found.public,
            algorithm: found.algorithm,
            id: found.id,
            handle: Arc::default(),
        })
    }
}

impl KeyManager for Pkcs11Keys {
    fn generate<'a>(
        &'a self,
        name: &'a str,
        kind: KeyType,
    ) -> BoxFuture<'a, Result<Arc<dyn Signer>, KeyManagerError>> {
        Box::pin(async move {
            let action = "make a key";
            let mut id = [0; ID_BYTES];
            self.random
                .fill(&mut id)
                .map_err(|error| token_error(&self.uri, action, error.to_string()))?;
            let (label, crypto) = (self.uri.label(name), self.crypto.clone());
            let made = self.run(action, move |session| {
                let before = labelled(session, &label)?;
                let made = make(session, &label, &id, kind);
                let (public, private) = made?;
                let ready = read_public(session, public, &*crypto).and_then(|found| {
                    destroy(session, &before)?;
                    Ok(found)
                });
                if ready.is_err() {
                    // The name keeps the key it had.
                    let _ = destroy(session, &[private, public]);
                }
                ready
            });
            Ok(self.token_signer(made.await?))
        })
    }

    fn signer<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Signer>>, KeyManagerError>> {
        Box::pin(async move {
            let (label, crypto) = (self.uri.label(name), self.crypto.clone());
            let found = self.run("look for a key", move |session| {
                let private = session.find_objects(&[
                    Attribute::Token(true),
                    Attribute::Class(ObjectClass::PRIVATE_KEY),
                    Attribute::Label(label.clone().into()),
                ])?;
                let [private] = private[..] else {
                    return match private.len() {
                        0 => Ok(None),
                        count => Err(Failure::new(format!(
                            "{count} private keys are labelled {label}; destroy those that are not in use"
                        ))),
                    };
                };
                let id = bytes_of(session, private, AttributeType::Id)?;
                let public = session.find_objects(&[
                    Attribute::Token(true),
                    Attribute::Class(ObjectClass::PUBLIC_KEY),
                    Attribute::Label(label.clone().into()),
                    Attribute::Id(id),
                ])?;
                let [public] = public[..] else {
                    return Err(Failure::new(format!(
                        "the key labelled {label} has no public half beside it"
                    )));
                };
                read_public(session, public, &*crypto).map(Some)
            });
            Ok(found.await?.map(|found| self.token_signer(found)))
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, KeyManagerError>> {
        Box::pin(async move {
            let labels = self.run("list its keys", |session| {
                let template = [
                    Attribute::Token(true),
                    Attribute::Class(ObjectClass::PRIVATE_KEY),
                ];
                let handles = session.find_objects(&template)?;
                let label = |handle| bytes_of(session, handle, AttributeType::Label);
                handles
                    .into_iter()
                    .map(label)
                    .collect::<Result<Vec<_>, _>>()
            });
            let mut names: Vec<String> = labels
                .await?
                .iter()
                .filter_map(|label| std::str::from_utf8(label).ok())
                .filter_map(|label| self.uri.name(label))
                .map(str::to_owned)
                .collect();
            names.sort();
            names.dedup();
            Ok(names)
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, KeyManagerError>> {
        Box::pin(async move {
            let label = self.uri.label(name);
            self.run("destroy a key", move |session| {
                let objects = labelled(session, &label)?;
                destroy(session, &objects)?;
                Ok(!objects.is_empty())
            })
            .await
        })
    }

    fn location(&self) -> Option<String> {
        Some(self.uri.to_string())
    }
}

impl fmt::Debug for Pkcs11Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pkcs11Keys")
            .field("uri", &self.uri)
            .finish_non_exhaustive()
    }
}

/// A key pair as it lies in the token.
struct Found {
    public: SubjectPublicKeyInfoDer<'static>,
    algorithm: SignatureAlgorithm,
    id: Vec<u8>,
}

struct TokenSigner {
    uri: TokenUri,
    crypto: Arc<dyn CryptoProvider>,
    pool: Arc<Pool>,
    public: SubjectPublicKeyInfoDer<'static>,
    algorithm: SignatureAlgorithm,
    id: Vec<u8>,
    /// Where it was found last; looked up anew when it is no longer good.
    handle: Arc<Mutex<Option<ObjectHandle>>>,
}

impl Signer for TokenSigner {
    fn public_key(&self) -> &SubjectPublicKeyInfoDer<'static> {
        &self.public
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignError>> {
        Box::pin(async move {
            let (id, handle, algorithm) = (self.id.clone(), self.handle.clone(), self.algorithm);
            // Hashed here where the provider can: a digest is less to carry than a message.
            let message = match algorithm {
                SignatureAlgorithm::EcdsaP256Sha256 => self.crypto.sha256(message).to_vec(),
                _ => message.to_vec(),
            };
            let signed = self.pool.run(move |session| {
                let known = *handle.lock().unwrap_or_else(PoisonError::into_inner);
                let key = known.map_or_else(|| private_key(session, &id), Ok)?;
                let signature = sign(session, key, algorithm, &message);
                let good = signature.is_ok().then_some(key);
                *handle.lock().unwrap_or_else(PoisonError::into_inner) = good;
                signature
            });
            let signed = signed.await;
            signed.map_err(|reason| SignError::new(format!("the token {}: {reason}", self.uri)))
        })
    }
}

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSigner")
            .field("uri", &self.uri)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

fn token_error(uri: &TokenUri, action: &'static str, reason: String) -> KeyManagerError {
    KeyManagerError::Token {
        token: uri.to_string(),
        action,
        reason,
    }
}

/// All objects of this label, private keys first, so that a failure in between leaves no private key alone.
fn labelled(session: &Session, label: &str) -> Result<Vec<ObjectHandle>, Failure> {
    let mut objects = Vec::new();
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        objects.extend(session.find_objects(&[
            Attribute::Token(true),
            Attribute::Class(class),
            Attribute::Label(label.into()),
        ])?);
    }
    Ok(objects)
}

fn destroy(session: &Session, objects: &[ObjectHandle]) -> Result<(), Failure> {
    for object in objects {
        session.destroy_object(*object)?;
    }
    Ok(())
}

/// Makes a pair: public half, private half.
fn make(
    session: &Session,
    label: &str,
    id: &[u8],
    kind: KeyType,
) -> Result<(ObjectHandle, ObjectHandle), Failure> {
    let own = |parameters: &[Attribute]| {
        [
            &[
                Attribute::Token(true),
                Attribute::Label(label.into()),
                Attribute::Id(id.into()),
            ],
            parameters,
        ]
        .concat()
    };
    let curve = |oid: &[u8]| vec![Attribute::EcParams(oid.into()), Attribute::Verify(true)];
    let rsa = |bits: u64| {
        vec![
            Attribute::ModulusBits(bits.into()),
            Attribute::PublicExponent(vec![1, 0, 1]),
            Attribute::Verify(true),
        ]
    };
    let (mechanism, parameters) = match kind {
        KeyType::EcP256 => (Mechanism::EccKeyPairGen, curve(named_curve(P256))),
        KeyType::EcP384 => (Mechanism::EccKeyPairGen, curve(named_curve(P384))),
        KeyType::EcP521 => (Mechanism::EccKeyPairGen, curve(named_curve(P521))),
        KeyType::Ed25519 => (Mechanism::EccEdwardsKeyPairGen, curve(EDWARDS25519)),
        KeyType::Rsa2048 => (Mechanism::RsaPkcsKeyPairGen, rsa(2048)),
        KeyType::Rsa4096 => (Mechanism::RsaPkcsKeyPairGen, rsa(4096)),
        other => return Err(Failure::new(format!("{other:?} keys are unknown to it"))),
    };
    let secret = own(&[
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ]);
    Ok(session.generate_key_pair(&mechanism, &own(&parameters), &secret)?)
}

/// The public half as SubjectPublicKeyInfo, and how its private half signs.
fn read_public(
    session: &Session,
    public: ObjectHandle,
    crypto: &dyn CryptoProvider,
) -> Result<Found, Failure> {
    let kind = session
        .get_attributes(public, &[AttributeType::KeyType])?
        .into_iter()
        .find_map(|attribute| match attribute {
            Attribute::KeyType(kind) => Some(kind),
            _ => None,
        });
    let spki: SubjectPublicKeyInfoDer<'static> = match kind {
        Some(TokenKeyType::RSA) => {
            let modulus = bytes_of(session, public, AttributeType::Modulus)?;
            let exponent = bytes_of(session, public, AttributeType::PublicExponent)?;
            let key = sequence(&[&unsigned(&modulus), &unsigned(&exponent)]);
            sequence(&[&sequence(&[RSA]), &bit_string(&key)]).into()
        }
        Some(TokenKeyType::EC) => {
            let curve = bytes_of(session, public, AttributeType::EcParams)?;
            let algorithm = [P256, P384, P521]
                .into_iter()
                .find(|algorithm| named_curve(algorithm) == curve)
                .ok_or_else(|| Failure::new("a key of it is on an unknown curve"))?;
            let point = unwrapped(bytes_of(session, public, AttributeType::EcPoint)?);
            sequence(&[&sequence(&[algorithm]), &bit_string(&point)]).into()
        }
        Some(TokenKeyType::EC_EDWARDS) => {
            let point = unwrapped(bytes_of(session, public, AttributeType::EcPoint)?);
            sequence(&[&sequence(&[ED25519]), &bit_string(&point)]).into()
        }
        _ => return Err(Failure::new("a key of it is of an unknown kind")),
    };
    let kind = PublicKey::parse(&spki)
        .map_err(|error| Failure::new(error.to_string()))?
        .kind;
    let algorithm = match kind {
        PublicKeyKind::EcP256 => SignatureAlgorithm::EcdsaP256Sha256,
        PublicKeyKind::EcP384 => SignatureAlgorithm::EcdsaP384Sha384,
        PublicKeyKind::EcP521 => SignatureAlgorithm::EcdsaP521Sha512,
        PublicKeyKind::Ed25519 => SignatureAlgorithm::Ed25519,
        PublicKeyKind::Rsa { .. } => SignatureAlgorithm::RsaPkcs1Sha256,
    };
    if algorithm.is_ecdsa() && !crypto.is_on_curve(&spki) {
        return Err(Failure::new("a key of it is no point of its curve"));
    }
    Ok(Found {
        public: spki,
        algorithm,
        id: bytes_of(session, public, AttributeType::Id)?,
    })
}

fn private_key(session: &Session, id: &[u8]) -> Result<ObjectHandle, Failure> {
    let found = session.find_objects(&[
        Attribute::Token(true),
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Id(id.into()),
    ])?;
    match found[..] {
        [key] => Ok(key),
        [] => Err(Failure::new("the key is no longer there")),
        _ => Err(Failure::new("two keys of it share an ID")),
    }
}

fn sign(
    session: &Session,
    key: ObjectHandle,
    algorithm: SignatureAlgorithm,
    message: &[u8],
) -> Result<Vec<u8>, Failure> {
    // Many tokens sign digests only with EC keys.
    let ecdsa = |digest: &[u8], length: usize| {
        let signature = session.sign(&Mechanism::Ecdsa, key, digest)?;
        if signature.len() == length {
            Ok(signature)
        } else {
            Err(Failure::new("its signature has a wrong length"))
        }
    };
    match algorithm {
        SignatureAlgorithm::EcdsaP256Sha256 => ecdsa(message, 64),
        SignatureAlgorithm::EcdsaP384Sha384 => {
            ecdsa(&session.digest(&Mechanism::Sha384, message)?, 96)
        }
        SignatureAlgorithm::EcdsaP521Sha512 => {
            ecdsa(&session.digest(&Mechanism::Sha512, message)?, 132)
        }
        SignatureAlgorithm::Ed25519 => {
            let pure = EddsaParams::new(EddsaSignatureScheme::Ed25519);
            Ok(session.sign(&Mechanism::Eddsa(pure), key, message)?)
        }
        SignatureAlgorithm::RsaPkcs1Sha256 => {
            Ok(session.sign(&Mechanism::Sha256RsaPkcs, key, message)?)
        }
        other => Err(Failure::new(format!("{other:?} is unknown to it"))),
    }
}

/// An attribute whose value is bytes.
fn bytes_of(
    session: &Session,
    object: ObjectHandle,
    wanted: AttributeType,
) -> Result<Vec<u8>, Failure> {
    let found = session.get_attributes(object, &[wanted])?;
    found
        .into_iter()
        .find_map(|attribute| match attribute {
            Attribute::EcParams(bytes)
            | Attribute::EcPoint(bytes)
            | Attribute::Id(bytes)
            | Attribute::Label(bytes)
            | Attribute::Modulus(bytes)
            | Attribute::PublicExponent(bytes) => Some(bytes),
            _ => None,
        })
        .ok_or_else(|| Failure::new(format!("a key of it has no {wanted}")))
}

/// The point of a key: PKCS#11 wants it in an OCTET STRING, and some tokens give it bare.
fn unwrapped(point: Vec<u8>) -> Vec<u8> {
    match Reader::new(&point).only(OCTET_STRING) {
        Ok(inner) => inner.to_vec(),
        Err(crate::der::NotDer) => point,
    }
}

/// The curve's OBJECT IDENTIFIER, the second half of its AlgorithmIdentifier: after that of EC keys, of nine bytes.
fn named_curve(algorithm: &'static [u8]) -> &'static [u8] {
    &algorithm[9..]
}

/// The curve of Ed25519 by its name, a PrintableString: PKCS#11 v3.0 §2.3.5.
const EDWARDS25519: &[u8] = b"\x13\x0cedwards25519";
