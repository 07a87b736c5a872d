//! PEM: what is written is read back, and PEM and DER lead to the same authorities and chains.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_core::bundle::{X509Authorities, certificates_from_pem, certificates_to_pem};
use spiffe_core::key::PrivateKey;
use spiffe_core::svid::X509Chain;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(key) = PrivateKey::from_pem(text) {
        assert!(!format!("{key:?}").contains("BEGIN"));
    }
    let Ok(certificates) = certificates_from_pem(text) else {
        assert!(X509Authorities::from_pem(text).is_err());
        assert!(X509Chain::from_pem(text).is_err());
        return;
    };
    let written = certificates_to_pem(&certificates);
    assert_eq!(certificates_from_pem(&written).as_ref(), Ok(&certificates));
    let by_pem = X509Authorities::from_pem(text).expect("the text is good");
    let by_der = X509Authorities::from_certificates(certificates.iter().cloned());
    assert!(by_pem.iter().eq(by_der.iter()));
    assert_eq!(by_pem.ignored(), by_der.ignored());
    assert_eq!(X509Chain::from_pem(text), X509Chain::new(certificates));
});
