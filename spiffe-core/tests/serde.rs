//! Names in other formats: written as their texts, and read by the strict parser.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use spiffe_core::{SpiffeId, SpiffeIdRef, TrustDomain, TrustDomainRef};

#[test]
fn names_are_written_as_their_texts_and_read_back() {
    let id = SpiffeIdRef::literal("spiffe://example.org/web");
    let domain = TrustDomainRef::literal("example.org");
    let text = r#"{"example.org":["spiffe://example.org/web"]}"#;
    let borrowed = BTreeMap::from([(domain, [id])]);
    assert_eq!(serde_json::to_string(&borrowed).unwrap(), text);
    let owned: BTreeMap<TrustDomain, Vec<SpiffeId>> = serde_json::from_str(text).unwrap();
    assert_eq!(
        owned,
        BTreeMap::from([(domain.to_owned(), vec![id.to_owned()])])
    );
    assert_eq!(serde_json::to_string(&owned).unwrap(), text);
}

#[test]
fn other_texts_are_refused_with_the_parsers_reason() {
    for text in [
        "\"SPIFFE://example.org/web\"",
        "\"spiffe://example.org/\"",
        "\"example.org\"",
        "7",
        "null",
    ] {
        assert!(serde_json::from_str::<SpiffeId>(text).is_err(), "{text}");
    }
    for text in ["\"spiffe://example.org\"", "\"A\"", "\"\"", "[]"] {
        assert!(serde_json::from_str::<TrustDomain>(text).is_err(), "{text}");
    }
    let error = serde_json::from_str::<SpiffeId>("\"spiffe://a/b c\"").unwrap_err();
    assert!(error.to_string().contains("byte 0x20 at 12"), "{error}");
}
