//! What messages with keys or tokens must not do: print them, or leave private keys behind in freed memory.
//!
//! The generator skips `Debug` for these messages. Private keys are wiped on drop; tokens are not, for they live minutes
//! and are copied into headers anyway.

use std::fmt;
use std::mem;

use zeroize::{Zeroize, Zeroizing};

use crate::workload::{Jwtsvid, ValidateJwtsvidRequest, Witsvid, X509svid};

impl X509svid {
    /// Moves the private key (PKCS#8, DER) out, leaving it empty here. The result is wiped on drop.
    ///
    /// A message that wipes its key cannot be taken apart by moving fields: use this for the key and
    /// [`mem::take`] for the rest.
    pub fn take_key(&mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(mem::take(&mut self.x509_svid_key))
    }
}

impl Drop for X509svid {
    fn drop(&mut self) {
        self.x509_svid_key.zeroize();
    }
}

impl fmt::Debug for X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("x509_svid", &self.x509_svid)
            .field("x509_svid_key", &KEY)
            .field("bundle", &self.bundle)
            .field("hint", &self.hint)
            .finish()
    }
}

impl fmt::Debug for Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwtsvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("svid", &TOKEN)
            .field("hint", &self.hint)
            .finish()
    }
}

impl fmt::Debug for ValidateJwtsvidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateJwtsvidRequest")
            .field("audience", &self.audience)
            .field("svid", &TOKEN)
            .finish()
    }
}

impl Witsvid {
    /// Moves the private key (a JWK) out, leaving it empty here. The result is wiped on drop.
    pub fn take_key(&mut self) -> Zeroizing<String> {
        Zeroizing::new(mem::take(&mut self.wit_svid_key))
    }
}

impl Drop for Witsvid {
    fn drop(&mut self) {
        self.wit_svid_key.zeroize();
    }
}

impl fmt::Debug for Witsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witsvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("wit_svid", &TOKEN)
            .field("wit_svid_key", &KEY)
            .field("hint", &self.hint)
            .finish()
    }
}

const KEY: &str = "[secret key elided]";
const TOKEN: &str = "[token elided]";

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    /// The text of a secret must be absent and that of an ordinary field present.
    #[track_caller]
    fn check(message: &dyn fmt::Debug) {
        for text in [format!("{message:?}"), format!("{message:#?}")] {
            assert!(text.contains("spiffe://example.org/public"), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
            // `s3cret` as a list of bytes.
            let bytes = text.split_whitespace().collect::<String>();
            assert!(!bytes.contains("115,51,99"), "{text}");
        }
    }

    fn x509svid() -> X509svid {
        X509svid {
            spiffe_id: "spiffe://example.org/public".into(),
            x509_svid: vec![1],
            x509_svid_key: b"s3cret".to_vec(),
            bundle: vec![2],
            hint: "h".into(),
        }
    }

    #[test]
    fn debug_elides_keys_and_tokens() {
        check(&x509svid());
        check(&Jwtsvid {
            spiffe_id: "spiffe://example.org/public".into(),
            svid: "s3cret".into(),
            hint: String::new(),
        });
        check(&ValidateJwtsvidRequest {
            audience: "spiffe://example.org/public".into(),
            svid: "s3cret".into(),
        });
        check(&Witsvid {
            spiffe_id: "spiffe://example.org/public".into(),
            wit_svid: "s3cret".into(),
            wit_svid_key: "s3cret".into(),
            hint: String::new(),
        });
    }

    #[test]
    fn take_key_leaves_the_message_without_it() {
        let mut svid = x509svid();
        assert_eq!(*svid.take_key(), b"s3cret");
        assert!(svid.x509_svid_key.is_empty());
    }

    /// Field numbers are the contract with every other implementation.
    #[test]
    fn x509svid_has_the_standards_field_numbers() {
        assert_eq!(
            x509svid().encode_to_vec(),
            b"\x0a\x1bspiffe://example.org/public\x12\x01\x01\x1a\x06s3cret\x22\x01\x02\x2a\x01h"
        );
    }
}
