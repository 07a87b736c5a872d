//! JWT-SVIDs: whatever is accepted says what was signed, the explanation agrees with the verdict, and neither tells the token.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::svid::bearer_token;
use spiffe_core::{BundleSet, JwtSvid, JwtVerifier, Outcome};
use spiffe_fuzz::{AUDIENCE, CLAIMS, NOW, token_bundle};

static VERIFIER: LazyLock<(JwtVerifier, BundleSet)> =
    LazyLock::new(|| (JwtVerifier::new(&*aws_lc_rs()), token_bundle()));

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(token) = bearer_token(text) {
        assert!(text.ends_with(token) && !token.contains(' '));
    }
    let (verifier, bundles) = &*VERIFIER;
    let verdict = verifier.verify(text, AUDIENCE, bundles, NOW);
    let (explained, tree) = verifier.explain(text, AUDIENCE, bundles, NOW);
    assert_eq!(tree.outcome == Outcome::Pass, verdict.is_ok());
    match (verdict, explained) {
        (Ok(svid), Ok(explained)) => {
            assert_eq!(svid.claims_json(), explained.claims_json());
            // Two of the seeds are good now: they differ in one claim that has no bearing on the identity.
            assert_eq!(svid.id().as_str(), "spiffe://a/x");
            let good = [CLAIMS.to_owned(), CLAIMS.replace(r#""iat""#, r#""nbf""#)];
            assert!(good.iter().any(|good| good == svid.claims_json()));
            assert!(JwtSvid::parse_insecure(text).is_ok());
        }
        (Err(error), Err(explained)) => {
            assert_eq!(error, explained);
            let failed = tree.first_failure().expect("something failed");
            assert_eq!(failed.rule, error.rule());
            let told = format!("{error} {tree}");
            for part in text.split('.').filter(|part| part.len() > 1000) {
                assert!(!told.contains(part));
            }
        }
        _ => panic!("verdict and explanation differ"),
    }
});
