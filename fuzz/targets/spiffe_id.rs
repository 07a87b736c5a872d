//! SPIFFE IDs: every way to parse one agrees, and what is parsed is written back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_core::{MAX_ID_BYTES, SpiffeId, SpiffeIdRef, TrustDomain, TrustDomainRef};

fuzz_target!(|data: &[u8]| {
    let borrowed = SpiffeIdRef::parse_bytes(data);
    let Ok(text) = std::str::from_utf8(data) else {
        assert!(borrowed.is_err(), "an ID is ASCII");
        return;
    };
    assert_eq!(SpiffeIdRef::parse(text), borrowed);
    let owned = SpiffeId::parse(text);
    assert_eq!(
        owned.as_ref().map(SpiffeId::as_ref),
        borrowed.as_ref().copied()
    );
    let name = TrustDomain::parse(text);
    assert_eq!(name.is_ok(), TrustDomainRef::parse(text).is_ok());
    if let Ok(name) = name {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(id) = owned {
        assert_eq!(id.to_string(), text);
        assert!(text.len() <= MAX_ID_BYTES);
        let again = SpiffeId::from_segments(id.trust_domain(), id.segments());
        assert_eq!(again.as_ref(), Ok(&id), "its parts make it");
        assert_eq!(SpiffeId::parse_normalizing(text).as_ref(), Ok(&id));
        assert_eq!(
            id.trust_domain().as_str().len() + id.path().len() + 9,
            text.len()
        );
    } else if let Ok(id) = SpiffeId::parse_normalizing(text) {
        assert_eq!(SpiffeId::parse(id.as_str()).as_ref(), Ok(&id));
        assert!(id.as_str().eq_ignore_ascii_case(text));
    }
    // Whatever is joined stays below and is one segment.
    let base = SpiffeIdRef::literal("spiffe://a/base").to_owned();
    if let Ok(below) = base.join([text]) {
        assert_eq!(below.as_str(), format!("spiffe://a/base/{text}"));
        assert_eq!(below.segments().count(), 2);
    }
});
