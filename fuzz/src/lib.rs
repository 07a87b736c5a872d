//! The world of the targets: authorities, SVIDs and bundles that are the same in every run, and the seeds made of them.
//!
//! Keys are fixed, so what one process signs another one verifies, and a corpus stays good from run to run.
#![forbid(unsafe_code)]

mod certificates;
mod frames;
mod messages;
mod seeds;
mod tokens;

use spiffe_core::pki_types::CertificateDer;
use spiffe_core::{Bundle, BundleSet, Timestamp, TrustDomain};

pub use certificates::World;
pub use frames::{answer, frames, preface};
pub use messages::{jwt_bundles, x509_bundles, x509_message};
pub use seeds::{Seed, seeds};
pub use tokens::{AUDIENCE, CLAIMS, signed, token_bundle};

/// The one instant of every verification.
pub const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_000_000);

/// Trust domain `a`, whose documents are read.
pub fn domain() -> TrustDomain {
    TrustDomain::parse("a").expect("a good name")
}

fn set(bundles: impl IntoIterator<Item = Bundle>) -> BundleSet {
    bundles.into_iter().collect()
}

fn joined(chain: &[CertificateDer<'_>]) -> Vec<u8> {
    chain.iter().flat_map(|one| one.iter().copied()).collect()
}
