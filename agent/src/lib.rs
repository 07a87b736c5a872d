//! The node side of SPIFFE as a library: Workload API server and caller attestation.
#![forbid(unsafe_code)]
