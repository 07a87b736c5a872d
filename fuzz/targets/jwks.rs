//! Workload API JWKS: what is written is read back as the same, and a bundle document's keys are among them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_core::Bundle;
use spiffe_core::bundle::JwtAuthorities;
use spiffe_fuzz::domain;

fuzz_target!(|data: &[u8]| {
    let Ok(keys) = JwtAuthorities::from_workload_api_jwks(data) else {
        assert!(
            Bundle::from_spiffe_json(domain(), data).is_err(),
            "the two formats are as strict as each other"
        );
        return;
    };
    let read = JwtAuthorities::from_workload_api_jwks(keys.to_workload_api_jwks());
    let read = read.expect("ours is good");
    assert!(read.ignored().is_empty());
    assert!(keys.iter().eq(read.iter()));
    for key in keys.iter() {
        assert_eq!(keys.find(key.key_id()), Some(key));
        assert!(!key.key_id().is_empty());
    }
});
