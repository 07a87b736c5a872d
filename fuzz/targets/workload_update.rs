//! Messages of the Workload API to a source that serves already: whatever comes, what is served is whole and rests on
//! what came, a message that is refused changes nothing, the same one again changes nothing either, and the good one that
//! follows is served as before.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use spiffe_core::bundle::X509Authorities;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::key::{PrivateKey, SvidKey};
use spiffe_core::snapshot::Published;
use spiffe_core::svid::X509Chain;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{SpiffeId, TrustDomainRef, X509Svid};
use spiffe_fuzz::{AUDIENCE, NOW, World, domain, jwt_bundles, x509_bundles, x509_message};
use spiffe_workload_client::source::fuzzing::{BundleMessages, X509Messages, tokens};
use spiffe_workload_client::{MAX_HINT_BYTES, MAX_SVIDS};

static WORLD: LazyLock<World> = LazyLock::new(World::new);
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| x509_message(&WORLD, &WORLD.authorities[1]));
static VERIFIER: LazyLock<X509Verifier> = LazyLock::new(|| X509Verifier::new(&*aws_lc_rs()));

fuzz_target!(|data: &[u8]| {
    as_message(data);
    as_foreign_bundle(data);
    as_bundles(data);
    as_tokens(data);
});

fn serving() -> X509Messages {
    let mut messages = X509Messages::new(aws_lc_rs());
    assert_eq!(messages.take(&GOOD, NOW), Ok(Vec::new()));
    messages
}

fn as_message(data: &[u8]) {
    let mut messages = serving();
    let before = messages.published();
    let taken = messages.take(data, NOW);
    let after = messages.published();
    match &taken {
        Ok(told) => {
            // 64 notices and a problem, each a line that names an ID and a reason.
            assert!(told.len() <= 65);
            assert!(
                told.iter()
                    .all(|line| line.len() < 8192 && !line.contains('\n'))
            );
            is_whole(&before, &after);
        }
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "{error}");
            assert_eq!(after.revision(), before.revision());
        }
    }
    assert!(messages.survival(NOW).is_some_and(|it| it.until() >= NOW));

    assert_eq!(messages.take(data, NOW).is_ok(), taken.is_ok());
    assert_eq!(messages.published().revision(), after.revision());

    assert_eq!(messages.take(&GOOD, NOW), Ok(Vec::new()));
    let back = messages.published();
    assert_eq!(back.svids().len(), 1);
    assert_eq!(back.svids()[0].chain(), before.svids()[0].chain());
    assert!(back.bundles().same_authorities(before.bundles()));
}

/// Every SVID that is served is a certificate's identity with its key, valid, and trusted by what came with it or held
/// from before.
fn is_whole(before: &Published, after: &Published) {
    assert!((1..=MAX_SVIDS).contains(&after.svids().len()));
    for svid in after.svids() {
        let chain = X509Chain::new(svid.chain().to_vec()).expect("it was good before");
        assert_eq!(
            (chain.id(), chain.not_after()),
            (svid.id(), svid.not_after())
        );
        assert!(svid.hint().is_none_or(|hint| hint.len() <= MAX_HINT_BYTES));
        assert!(svid.not_after() >= NOW);
        let SvidKey::Local(key) = svid.key() else {
            panic!("a message brings the key itself");
        };
        let key = PrivateKey::from_pkcs8_der(key.secret_pkcs8_der().to_vec());
        X509Svid::from_concatenated_der(&svid.to_concatenated_der(), key, &*aws_lc_rs())
            .expect("the key is the leaf's");
        if before.svids().iter().any(|held| Arc::ptr_eq(held, svid)) {
            continue;
        }
        let own = after
            .bundles()
            .get(svid.trust_domain())
            .expect("its bundle came with it");
        let at = NOW.max(svid.not_before());
        let verified = VERIFIER.verify(svid.chain(), after.bundles(), at, PeerRole::Unspecified);
        assert!(own.x509_authorities().is_empty() || verified.is_ok());
    }
}

/// A foreign trust domain's bundle holds up nothing of one's own.
fn as_foreign_bundle(data: &[u8]) {
    let mut messages = serving();
    let before = messages.published();
    let told = messages.take(&x509_message(&WORLD, data), NOW);
    let told = told.expect("a foreign bundle is its trust domain's affair");
    let after = messages.published();
    let bundle = |published: &Published, name| {
        let name = TrustDomainRef::parse(name).expect("a good name");
        published.bundles().get(name).expect("there is one").clone()
    };
    assert!(Arc::ptr_eq(&before.svids()[0], &after.svids()[0]));
    assert!(Arc::ptr_eq(&bundle(&before, "a"), &bundle(&after, "a")));
    let foreign = bundle(&after, "b");
    match X509Authorities::from_concatenated_der(data) {
        Ok(read) if data.is_empty() || !read.is_empty() => {
            assert_eq!(foreign.x509_authorities().len(), read.len());
        }
        _ => {
            assert!(!told.is_empty());
            assert!(Arc::ptr_eq(&foreign, &bundle(&before, "b")));
        }
    }
}

fn as_bundles(data: &[u8]) {
    for (mut messages, good) in [
        (BundleMessages::x509(aws_lc_rs()), x509_bundles(&WORLD)),
        (BundleMessages::jwt(aws_lc_rs()), jwt_bundles()),
    ] {
        if let Ok(first) = messages.take(data) {
            assert!(!first.is_empty());
            // The same bundles again are the same set, so nobody is told of a change.
            let again = messages.take(data).expect("it was good before");
            assert!(Arc::ptr_eq(&first, &again));
        }
        let good = messages.take(&good).expect("it is good");
        assert!(good.get(domain().as_ref()).is_some());
    }
}

/// A token is for whom it was asked for.
fn as_tokens(data: &[u8]) {
    let id = SpiffeId::parse("spiffe://a/x").expect("a good ID");
    for asked in [None, Some(&id)] {
        let Ok(tokens) = tokens(data, AUDIENCE, asked) else {
            continue;
        };
        assert!((1..=MAX_SVIDS).contains(&tokens.len()));
        for token in tokens {
            assert!(asked.is_none_or(|asked| asked == token.id()));
            assert!(token.audience().iter().any(|one| one == AUDIENCE));
            assert!(token.hint().is_none_or(|hint| hint.len() <= MAX_HINT_BYTES));
        }
    }
}
