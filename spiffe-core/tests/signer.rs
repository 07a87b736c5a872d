//! Keys that lie elsewhere: a signer that takes its time, as a trait object, stands behind an SVID and is asked by whoever
//! holds it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use spiffe_core::key::{PrivateKey, SignError, SignatureAlgorithm, Signer, SvidKey, ecdsa_to_der};
use spiffe_core::pki_types::{SubjectPublicKeyInfoDer, alg_id};
use spiffe_core::svid::SvidError;
use spiffe_core::{BoxFuture, X509Svid};
use support::*;

/// A token of hardware: it answers at the second poll, and not at all once it is pulled out.
#[derive(Debug)]
struct Token {
    inner: Arc<dyn Signer>,
    pulled: bool,
}

impl Signer for Token {
    fn public_key(&self) -> &SubjectPublicKeyInfoDer<'static> {
        self.inner.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.inner.algorithm()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignError>> {
        Box::pin(async move {
            let mut asked = false;
            std::future::poll_fn(|_| {
                if std::mem::replace(&mut asked, true) {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            if self.pulled {
                return Err(SignError::new("the token was pulled out"));
            }
            self.inner.sign(message).await
        })
    }
}

/// Polls until it is done; nothing here waits for anything.
fn finish<T>(mut future: BoxFuture<'_, T>) -> (T, usize) {
    let mut context = Context::from_waker(Waker::noop());
    for polls in 1.. {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return (value, polls);
        }
    }
    unreachable!("polls go on without end");
}

#[test]
fn a_key_that_lies_elsewhere_signs_for_its_svid() {
    let top = root(ca_params("root"));
    let pair = key();
    let leaf = leaf_params("spiffe://a/x").signed_by(&pair, &top).unwrap();
    let private = PrivateKey::from_pkcs8_der(pair.serialize_der());
    let token = |pulled| {
        let inner = crypto().load_key(&private).unwrap();
        Arc::new(Token { inner, pulled })
    };
    let chain = vec![leaf.der().clone()];
    let svid = X509Svid::with_signer(chain.clone(), token(false)).unwrap();
    let SvidKey::Remote(signer) = svid.key() else {
        panic!("the key stays where it is");
    };
    let (signature, polls) = finish(signer.sign(b"message"));
    assert_eq!(polls, 2);
    let p256 = crypto()
        .signature_algorithms()
        .iter()
        .find(|one| {
            one.public_key_alg_id() == alg_id::ECDSA_P256
                && one.signature_alg_id() == alg_id::ECDSA_SHA256
        })
        .copied()
        .unwrap();
    let der = ecdsa_to_der(&signature.unwrap());
    // The point is the last 65 bytes of a P-256 SubjectPublicKeyInfo.
    let spki = signer.public_key();
    let point = &spki[spki.len() - 65..];
    assert!(p256.verify_signature(point, b"message", &der).is_ok());
    assert!(p256.verify_signature(point, b"massage", &der).is_err());

    let pulled = X509Svid::with_signer(chain.clone(), token(true)).unwrap();
    let SvidKey::Remote(signer) = pulled.key() else {
        panic!("the key stays where it is");
    };
    let error = finish(signer.sign(b"message")).0.unwrap_err();
    assert_eq!(
        error.to_string(),
        "signing failed: the token was pulled out"
    );

    let stranger = PrivateKey::from_pkcs8_der(key().serialize_der());
    let inner = crypto().load_key(&stranger).unwrap();
    let refused = X509Svid::with_signer(chain, inner).unwrap_err();
    assert_eq!(refused, SvidError::KeyMismatch);
}
