//! The issuing side of a SPIFFE trust domain: authorities and their life, X.509- and JWT-SVID issuance, keys and journal.
#![forbid(unsafe_code)]
