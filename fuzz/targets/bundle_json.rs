//! Bundle documents and bundle maps: what is written is read back as the same, with nothing left to ignore.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_core::{Bundle, BundleSet};
use spiffe_fuzz::domain;

fuzz_target!(|data: &[u8]| {
    if let Ok(bundle) = Bundle::from_spiffe_json(domain(), data) {
        let written = bundle.to_spiffe_json();
        let read = Bundle::from_spiffe_json(domain(), &written).expect("ours is good");
        assert!(read.same_authorities(&bundle));
        assert!(bundle.diff(&read).is_empty());
        assert!(
            read.x509_authorities()
                .iter()
                .eq(bundle.x509_authorities().iter())
        );
        assert!(
            read.jwt_authorities()
                .iter()
                .eq(bundle.jwt_authorities().iter())
        );
        assert_eq!(read.sequence(), bundle.sequence());
        assert_eq!(read.refresh_hint(), bundle.refresh_hint());
        assert_eq!(read.ignored().count(), 0);
        assert_eq!(read.to_spiffe_json(), written);
    }
    if let Ok(set) = BundleSet::from_bundle_map_json(data) {
        let written = set.to_bundle_map_json();
        let read = BundleSet::from_bundle_map_json(&written).expect("ours is good");
        assert!(read.same_authorities(&set));
        assert_eq!(read.to_bundle_map_json(), written);
    }
});
