//! SPIFFE IDs, bundles, SVIDs, verification, authorisation and explanations: values and rules, no I/O.
#![forbid(unsafe_code)]
