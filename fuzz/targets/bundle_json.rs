//! Bundle documents and bundle maps: what is written is read back as the same, with nothing left to ignore.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_core::{Bundle, BundleSet};
use spiffe_fuzz::domain;

fuzz_target!(|data: &[u8]| {
    if let Ok(bundle) = Bundle::from_spiffe_json(domain(), data) {
        let written = bundle.to_spiffe_json();
        let read = Bundle::from_spiffe_json(domain(), &written).expect("ours is good");
        // Documents do not say which algorithm alone a key is for; everything else comes back.
        let free = |bundle: &Bundle| {
            bundle
                .jwt_authorities()
                .iter()
                .all(|key| key.algorithm().is_none())
        };
        assert!(free(&read));
        if free(&bundle) {
            assert!(read.same_authorities(&bundle));
            assert!(bundle.diff(&read).is_empty());
        }
        assert!(
            read.x509_authorities()
                .iter()
                .eq(bundle.x509_authorities().iter())
        );
        assert!(keys(&read).eq(keys(&bundle)));
        assert_eq!(read.sequence(), bundle.sequence());
        assert_eq!(read.refresh_hint(), bundle.refresh_hint());
        assert_eq!(read.ignored().count(), 0);
        assert_eq!(read.to_spiffe_json(), written);
    }
    if let Ok(set) = BundleSet::from_bundle_map_json(data) {
        let written = set.to_bundle_map_json();
        let read = BundleSet::from_bundle_map_json(&written).expect("ours is good");
        assert_eq!(read.len(), set.len());
        for (read, bundle) in read.iter().zip(set.iter()) {
            assert_eq!(read.trust_domain(), bundle.trust_domain());
            assert!(keys(read).eq(keys(bundle)));
        }
        assert_eq!(read.to_bundle_map_json(), written);
    }
});

fn keys(bundle: &Bundle) -> impl Iterator<Item = (&str, &[u8])> {
    let keys = bundle.jwt_authorities().iter();
    keys.map(|key| (key.key_id(), key.public_key().as_ref()))
}
