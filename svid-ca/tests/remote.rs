//! Keys that lie elsewhere: signing takes its time, may be given up, and holds nobody up.
#![cfg(feature = "aws-lc-rs")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use common::{NOW, builder, crypto, id, key, ready, trust_domain, web};
use spiffe_core::BoxFuture;
use spiffe_core::key::{KeyType, SignError, SignatureAlgorithm, Signer};
use spiffe_core::pki_types::SubjectPublicKeyInfoDer;
use spiffe_svid_ca::authority::{Evidence, Kind};
use spiffe_svid_ca::error::KeyManagerError;
use spiffe_svid_ca::keys::{KeyManager, MemoryKeys};
use spiffe_svid_ca::log::verify;
use spiffe_svid_ca::storage::Directory;
use spiffe_svid_ca::{IntermediateParams, JwtSvidParams, StateDir};

/// Keys at the other end of a wire that can be cut: what is asked of them meanwhile is not answered.
#[derive(Debug)]
struct Remote {
    keys: MemoryKeys,
    wire: Arc<Wire>,
}

#[derive(Debug, Default)]
struct Wire {
    cut: AtomicBool,
    asked: AtomicUsize,
}

#[derive(Debug)]
struct RemoteSigner(Arc<dyn Signer>, Arc<Wire>);

impl Signer for RemoteSigner {
    fn public_key(&self) -> &SubjectPublicKeyInfoDer<'static> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignError>> {
        self.1.asked.fetch_add(1, Ordering::Relaxed);
        if self.1.cut.load(Ordering::Relaxed) {
            return Box::pin(std::future::pending());
        }
        self.0.sign(message)
    }
}

impl KeyManager for Remote {
    fn generate<'a>(
        &'a self,
        name: &'a str,
        kind: KeyType,
    ) -> BoxFuture<'a, Result<Arc<dyn Signer>, KeyManagerError>> {
        Box::pin(async move {
            let signer = self.keys.generate(name, kind).await?;
            Ok(Arc::new(RemoteSigner(signer, self.wire.clone())) as Arc<dyn Signer>)
        })
    }

    fn signer<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Signer>>, KeyManagerError>> {
        self.keys.signer(name)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, KeyManagerError>> {
        self.keys.list()
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, KeyManagerError>> {
        self.keys.remove(name)
    }
}

#[test]
fn what_waits_for_a_remote_key_holds_nobody_up_and_is_given_up_without_a_trace() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Arc::new(Wire::default());
    let keys = Arc::new(Remote {
        keys: MemoryKeys::new(crypto()),
        wire: wire.clone(),
    });
    let state = StateDir::open(directory.path(), &trust_domain()).unwrap();
    let ca = ready(builder().keys(keys).state_dir(state).build(NOW)).unwrap();
    let records = || {
        let storage = Directory::new(directory.path());
        verify(&storage, &*crypto(), |_| ()).unwrap().records
    };
    let workload = key(KeyType::EcP256);
    let (web, jwt) = (
        web(),
        JwtSvidParams::new(id("spiffe://example.org/web"), "db"),
    );
    let below = IntermediateParams::new();
    let before = (records(), ca.state().sequence());
    {
        wire.cut.store(true, Ordering::Relaxed);
        let mut context = Context::from_waker(Waker::noop());
        let mut svid = pin!(ca.issue_x509(&web, workload.public_key(), NOW));
        let mut token = pin!(ca.issue_jwt(&jwt, NOW));
        let mut intermediate = pin!(ca.issue_intermediate(&below, workload.public_key(), NOW));
        let mut authority = pin!(ca.prepare(Kind::X509, NOW));
        let asked = wire.asked.load(Ordering::Relaxed);
        assert!(matches!(svid.as_mut().poll(&mut context), Poll::Pending));
        assert!(matches!(token.as_mut().poll(&mut context), Poll::Pending));
        assert!(matches!(
            intermediate.as_mut().poll(&mut context),
            Poll::Pending
        ));
        assert!(matches!(
            authority.as_mut().poll(&mut context),
            Poll::Pending
        ));
        assert_eq!(wire.asked.load(Ordering::Relaxed), asked + 4);
        // The wire is back for others, and they are served while those four still wait.
        wire.cut.store(false, Ordering::Relaxed);
        assert_eq!(ca.bundle().x509_authorities().len(), 1);
        ready(ca.issue_x509(&web, workload.public_key(), NOW)).unwrap();
        ready(ca.issue_jwt(&jwt, NOW)).unwrap();
        assert!(matches!(svid.as_mut().poll(&mut context), Poll::Pending));
    }
    // Given up: neither recorded nor published, and the next attempt succeeds.
    assert_eq!((records(), ca.state().sequence()), (before.0 + 2, before.1));
    assert_eq!(ca.state().slots(Kind::X509).prepared(), None);
    ready(ca.prepare(Kind::X509, NOW)).unwrap();
    ready(ca.activate(Kind::X509, &Evidence::unknown(), true, NOW)).unwrap();
    let issued = ready(ca.issue_x509(&web, workload.public_key(), NOW)).unwrap();
    assert_eq!(
        issued.authority,
        ca.state().slots(Kind::X509).active().unwrap().id()
    );
}
