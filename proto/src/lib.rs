//! Wire definitions of SPIFFE's gRPC APIs with committed generated code.
#![forbid(unsafe_code)]
