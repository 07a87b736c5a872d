//! Keys in a token, by SoftHSM2: made, found again, replaced and destroyed there; and a CA whose keys lie in it.
//!
//! Not among the tests that are run by default, since it needs a foreign program: `cargo xtask interop softhsm` makes a
//! token and names it in `SPIFFE_TEST_TOKEN`, a PKCS#11 URI with module and PIN. Each test has labels of its own.
#![cfg(all(feature = "aws-lc-rs", feature = "pkcs11"))]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::sync::Arc;

use common::{NOW, crypto, trust_domain, web};
use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::UserType;
use futures_util::FutureExt;
use spiffe_core::BundleSet;
use spiffe_core::crypto::system_random;
use spiffe_core::key::{KeyType, Signer};
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_svid_ca::authority::{Evidence, Kind};
use spiffe_svid_ca::error::{CaError, KeyManagerError, StateError};
use spiffe_svid_ca::keys::{KeyManager, Pkcs11Keys, RehearsedKeys, TokenUri};
use spiffe_svid_ca::{StateDir, TrustDomainCa};

const KINDS: [KeyType; 6] = [
    KeyType::EcP256,
    KeyType::EcP384,
    KeyType::EcP521,
    KeyType::Ed25519,
    KeyType::Rsa2048,
    KeyType::Rsa4096,
];

fn given() -> String {
    std::env::var("SPIFFE_TEST_TOKEN")
        .expect("SPIFFE_TEST_TOKEN names a token; run: cargo xtask interop softhsm")
}

fn uri(object: &str) -> TokenUri {
    given().parse::<TokenUri>().unwrap().or_object(object)
}

async fn try_open(uri: TokenUri) -> Result<Pkcs11Keys, KeyManagerError> {
    Pkcs11Keys::open(uri, crypto(), system_random()).await
}

async fn open(object: &str) -> Pkcs11Keys {
    try_open(uri(object)).await.unwrap()
}

/// Whether a CA under this key issues what our own verifier accepts: its signatures are good, in X.509's form.
async fn issues(keys: Arc<dyn KeyManager>, kind: KeyType) {
    let ca = TrustDomainCa::builder(trust_domain())
        .x509_key_type(kind)
        .jwt_key_type(match kind {
            KeyType::Ed25519 => KeyType::EcP256,
            other => other,
        })
        .keys(keys)
        .build(NOW)
        .await
        .unwrap();
    let svid = ca
        .issue_x509_svid(&web(), KeyType::EcP256, NOW)
        .await
        .unwrap();
    let bundles: BundleSet = [ca.bundle()].into_iter().collect();
    let verdict =
        X509Verifier::new(&*crypto()).verify(svid.chain(), &bundles, NOW, PeerRole::Client);
    assert!(verdict.is_ok(), "{kind:?}: {verdict:?}");
}

#[tokio::test]
async fn keys_of_every_kind_are_made_found_used_and_destroyed() {
    for kind in KINDS {
        let object = format!("kind-{kind:?}");
        let keys = Arc::new(open(&object).await);
        assert!(keys.list().await.unwrap().is_empty());
        assert!(keys.signer("x509-CA-A").await.unwrap().is_none());
        issues(keys.clone(), kind).await;
        let names = ["JWT-Signer-A", "x509-CA-A"];
        assert_eq!(keys.list().await.unwrap(), names);
        // Another manager, as after a restart, finds the same key.
        let public = keys.signer("x509-CA-A").await.unwrap().unwrap();
        let again = open(&object)
            .await
            .signer("x509-CA-A")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(public.public_key(), again.public_key());
        assert_eq!(public.algorithm(), again.algorithm());
        for name in names {
            assert!(keys.remove(name).await.unwrap());
            assert!(!keys.remove(name).await.unwrap());
        }
        assert!(keys.list().await.unwrap().is_empty());
        let error = public.sign(b"message").await.unwrap_err().to_string();
        assert!(error.contains("no longer there"), "{error}");
    }
}

#[tokio::test]
async fn a_new_key_under_an_old_name_is_another_one_and_the_old_is_gone() {
    let keys = open("rotation").await;
    let old = keys.generate("a", KeyType::EcP256).await.unwrap();
    let beside = keys.generate("b", KeyType::EcP256).await.unwrap();
    old.sign(b"message").await.unwrap();
    let new = keys.generate("a", KeyType::EcP384).await.unwrap();
    assert_ne!(old.public_key(), new.public_key());
    assert!(old.sign(b"message").await.is_err());
    assert_eq!(new.sign(b"message").await.unwrap().len(), 96);
    assert_eq!(beside.sign(b"message").await.unwrap().len(), 64);
    let found = keys.signer("a").await.unwrap().unwrap();
    assert_eq!(found.public_key(), new.public_key());
    assert_eq!(keys.list().await.unwrap(), ["a", "b"]);
    for name in ["a", "b"] {
        keys.remove(name).await.unwrap();
    }
}

#[tokio::test]
async fn a_private_key_never_leaves_the_token() {
    let keys = open("secret").await;
    keys.generate("a", KeyType::EcP256).await.unwrap();
    // The module is initialised and the program logged in: looked at with nothing of ours in between.
    let module = Pkcs11::new(std::env::var("SPIFFE_TEST_MODULE").unwrap()).unwrap();
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    let session = module.open_ro_session(slot).unwrap();
    let template = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Label(b"secret/a".to_vec()),
    ];
    let found = session.find_objects(&template).unwrap();
    let asked = [AttributeType::Sensitive, AttributeType::Extractable];
    assert_eq!(
        session.get_attributes(found[0], &asked).unwrap(),
        [Attribute::Sensitive(true), Attribute::Extractable(false)]
    );
    let secret = session.get_attributes(found[0], &[AttributeType::Value]);
    assert!(secret.is_err() || secret.unwrap().is_empty());
    keys.remove("a").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_sign_at_once_and_those_that_leave_disturb_nobody() {
    let keys = open("many").await;
    let signer = keys.generate("a", KeyType::EcP256).await.unwrap();
    let tasks: Vec<_> = (0..64)
        .map(|number| {
            let signer: Arc<dyn Signer> = signer.clone();
            tokio::spawn(async move {
                let message = [number; 100];
                if number % 4 == 0 {
                    // Asked for, and not waited for.
                    let _ = signer.sign(&message).now_or_never();
                    return;
                }
                for _ in 0..10 {
                    assert_eq!(signer.sign(&message).await.unwrap().len(), 64);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    keys.remove("a").await.unwrap();
}

#[tokio::test]
async fn a_session_that_the_token_ended_is_opened_again() {
    let keys = open("sessions").await;
    let signer = keys.generate("a", KeyType::EcP256).await.unwrap();
    signer.sign(b"message").await.unwrap();
    let module = Pkcs11::new(std::env::var("SPIFFE_TEST_MODULE").unwrap()).unwrap();
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    // Logging out ends every session's rights and the handles of private keys with them.
    module.open_ro_session(slot).unwrap().logout().unwrap();
    signer.sign(b"message").await.unwrap();
    keys.remove("a").await.unwrap();
}

#[tokio::test]
async fn a_wrong_pin_is_tried_once_and_told_to_nobody() {
    // Whoever is logged in already is not asked again, so log out first.
    let module = Pkcs11::new(std::env::var("SPIFFE_TEST_MODULE").unwrap()).unwrap();
    drop(open("pin").await);
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    let session = module.open_ro_session(slot).unwrap();
    let _ = session.logout();
    let text = given();
    let (right, _) = text.split_once("&pin-source").unwrap();
    let wrong: TokenUri = format!("{right}&pin-value=wr0ng").parse().unwrap();
    let error = try_open(wrong.clone()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("refuses the PIN"), "{text}");
    assert!(!text.contains('\n') && !text.contains("wr0ng"), "{text}");
    assert!(!format!("{error:?}{wrong:?}").contains("wr0ng"));
    // The right one is not locked out by it.
    open("pin").await;
    drop(session.login(UserType::User, None));
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_in_one_line() {
    for (from, to, told) in [
        ("token=", "token=other-", "no such token"),
        ("module-path=", "module-path=/nowhere", "module-path"),
        (
            "pin-source=",
            "pin-source=/nowhere",
            "the PIN cannot be read",
        ),
    ] {
        let uri: TokenUri = given().replace(from, to).parse().unwrap();
        let module = Pkcs11::new(std::env::var("SPIFFE_TEST_MODULE").unwrap()).unwrap();
        if let Ok(slots) = module.get_slots_with_initialized_token() {
            let _ = module.open_ro_session(slots[0]).unwrap().logout();
        }
        let error = try_open(uri).await.unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[tokio::test]
async fn a_cas_keys_are_found_again_and_taken_by_no_other() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("state");
    let state = || StateDir::open(&path, &trust_domain()).unwrap();
    let builder = || TrustDomainCa::builder(trust_domain()).state_dir(state());
    let keys = Arc::new(open("ca").await);
    let ca = builder().keys(keys.clone()).build(NOW).await.unwrap();
    ca.prepare(Kind::X509, NOW).await.unwrap();
    ca.activate(Kind::X509, &Evidence::unknown(), true, NOW)
        .await
        .unwrap();
    let names = ["JWT-Signer-A", "x509-CA-A", "x509-CA-B"];
    assert_eq!(keys.list().await.unwrap(), names);
    assert!(!path.join("keys.json").exists());
    let journal = std::fs::read_to_string(path.join("journal.json")).unwrap();
    assert!(journal.contains("pkcs11:token="), "{journal}");
    let bundle = ca.bundle();
    drop(ca);

    let again = builder().keys(keys.clone()).build(NOW).await.unwrap();
    assert_eq!(again.bundle().to_spiffe_json(), bundle.to_spiffe_json());
    again
        .issue_x509_svid(&web(), KeyType::EcP256, NOW)
        .await
        .unwrap();
    drop(again);

    let elsewhere = builder().build(NOW).await.unwrap_err();
    assert!(matches!(
        elsewhere,
        CaError::State(StateError::KeysElsewhere { .. })
    ));

    let other = tempfile::tempdir().unwrap();
    let other = StateDir::open(other.path().join("state"), &trust_domain()).unwrap();
    let taken = TrustDomainCa::builder(trust_domain())
        .state_dir(other)
        .keys(keys.clone());
    let error = taken.build(NOW).await.unwrap_err();
    assert!(
        matches!(error, CaError::State(StateError::KeysTaken { .. })),
        "{error}"
    );
    assert_eq!(keys.list().await.unwrap(), names);

    // A rehearsal makes its keys elsewhere.
    let rehearsed = RehearsedKeys::new(keys.clone(), crypto());
    let before = keys.signer("x509-CA-A").await.unwrap().unwrap();
    rehearsed
        .generate("x509-CA-A", KeyType::EcP256)
        .await
        .unwrap();
    rehearsed.remove("x509-CA-B").await.unwrap();
    assert_eq!(rehearsed.list().await.unwrap(), &names[..2]);
    assert_eq!(keys.list().await.unwrap(), names);
    let after = keys.signer("x509-CA-A").await.unwrap().unwrap();
    assert_eq!(before.public_key(), after.public_key());
    for name in names {
        keys.remove(name).await.unwrap();
    }
}
