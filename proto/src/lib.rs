//! Wire definitions of SPIFFE's gRPC APIs with committed generated code.
//!
//! The definitions are in `proto/`, the Rust made from them beside this file; nothing is generated at build time and no
//! `protoc` is needed. Messages are plain data as they travel: nothing in them is checked, so whoever receives one parses it
//! into the types of `spiffe-core` first. Treat this crate as an implementation detail: its types follow the versions of
//! prost and tonic.
//!
//! Messages that carry keys or tokens elide them in `Debug`, and those with private keys wipe them on drop; take a key
//! out with [`X509svid::take_key`](workload::X509svid::take_key).
//!
//! ```
//! use prost::Message;
//! use spiffe_proto::workload::{X509svid, X509svidResponse};
//!
//! let wire = X509svidResponse {
//!     svids: vec![X509svid {
//!         spiffe_id: "spiffe://example.org/web".into(),
//!         x509_svid: vec![0x30, 0x00],
//!         x509_svid_key: vec![0x30, 0x00],
//!         bundle: vec![0x30, 0x00],
//!         hint: String::new(),
//!     }],
//!     ..X509svidResponse::default()
//! }
//! .encode_to_vec();
//! let mut response = X509svidResponse::decode(wire.as_slice())?;
//! let key = response.svids[0].take_key();
//! assert_eq!(*key, [0x30, 0x00]);
//! # Ok::<(), prost::DecodeError>(())
//! ```
//!
//! # Features
//!
//! Messages are always there; neither feature brings a transport.
//!
//! - `workload-client`: [`workload`]'s client, generic over a `tonic::client::GrpcService`.
//! - `workload-server`: [`workload`]'s server, a `tower::Service` around an implementation of its trait.
#![forbid(unsafe_code)]

#[allow(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    clippy::or_fun_call,
    clippy::use_self,
    reason = "generated code follows its generator's style"
)]
#[rustfmt::skip]
pub mod workload;

pub mod codec;
mod secrets;
