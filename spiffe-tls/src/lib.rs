//! rustls configurations that rotate by themselves, from any SPIFFE source.
#![forbid(unsafe_code)]
