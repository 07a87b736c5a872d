//! Own SVIDs: DER, PEM and single certificates lead to the same, and what is loaded keeps the rules.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spiffe_core::X509Svid;
use spiffe_core::bundle::{certificates_from_concatenated_der, certificates_to_pem};
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::svid::X509Chain;
use spiffe_fuzz::World;

static WORLD: LazyLock<World> = LazyLock::new(World::new);

fuzz_target!(|data: &[u8]| {
    let crypto = aws_lc_rs();
    let chain = X509Chain::from_concatenated_der(data);
    let svid = X509Svid::from_concatenated_der(data, WORLD.key(), &*crypto);
    let Ok(pieces) = certificates_from_concatenated_der(data) else {
        assert!(chain.is_err() && svid.is_err());
        return;
    };
    let chain = match chain {
        Ok(chain) => chain,
        Err(error) => {
            assert_eq!(svid.map(|_| ()), Err(error));
            return;
        }
    };
    assert_eq!(X509Chain::new(pieces.clone()).as_ref(), Ok(&chain));
    assert_eq!(
        X509Chain::from_pem(&certificates_to_pem(&pieces)).as_ref(),
        Ok(&chain)
    );
    assert_eq!(chain.certificates(), pieces);
    assert!(!chain.id().path().is_empty());
    assert!(!chain.serial().is_empty());
    if let Ok(svid) = svid {
        assert_eq!(svid.id(), chain.id());
        assert_eq!(svid.to_concatenated_der(), data);
        assert_eq!(
            (svid.not_before(), svid.not_after()),
            (chain.not_before(), chain.not_after())
        );
        // The key of the world's leaves, wherever else the certificate was changed.
        let own = X509Chain::new(WORLD.chain[..1].to_vec()).expect("good");
        assert_eq!(chain.public_key(), own.public_key());
    }
});
