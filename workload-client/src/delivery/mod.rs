//! SVIDs, bundles and tokens as files, for programs that know nothing of SPIFFE.
//!
//! [`Delivery`] keeps a directory as its sources say and runs a command or sends a signal after each change:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use spiffe_workload_client::delivery::{Delivery, DeliveryDirectory, SendSignal};
//! use spiffe_workload_client::{X509Source, spiffe_core::SystemClock};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let delivery = Delivery::builder(DeliveryDirectory::new("/run/nginx/svid"), X509Source::new().await?)
//!     .notifier(SendSignal::parse("/run/nginx.pid:HUP")?)
//!     .start(Arc::new(SystemClock::new()))?;
//! # delivery.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! A [`DeliveryDirectory`] holds one directory per revision and a link, `current`, that a rename switches from one to the
//! next. SPIRE's flat names are links through it:
//!
//! ```text
//! DIR/current               -> .delivery/7
//! DIR/svid.0.pem            -> current/svid.0.pem             the chain, leaf first
//! DIR/svid.0.key            -> current/svid.0.key             its key, PKCS#8, mode 0600
//! DIR/credential_bundle.0.pem -> current/…                    key and chain in one file
//! DIR/bundle.0.pem          -> current/bundle.0.pem           the authorities of its trust domain
//! DIR/federated_bundle.0.0.pem -> current/…                   those of a federated one
//! DIR/bundles               -> current/bundles                TRUST_DOMAIN.pem and TRUST_DOMAIN.json, never pooled
//! DIR/jwt.0.token           -> current/jwt.0.token            a JWT-SVID, mode 0600
//! DIR/.delivery/7/…                                           the revision itself
//! ```
//!
//! Whoever opens `current` as a directory once and reads inside of it, or reads the one file `credential_bundle.0.pem`, has
//! files of one revision. Whoever opens two flat names one after the other may catch a switch between the two:
//! [`read_flat`] notices and reads again. A program that uses this crate reads it all with
//! [`Files::delivered`](crate::Files::delivered).
//!
//! A revision is written, synced and only then switched to, so that a crash at any moment leaves the old revision or the new
//! one; what it left half done is removed at the next start. Files of others in the directory are never touched: where one
//! has a name that is needed, the delivery is refused.

mod deliver;
mod directory;
mod disk;
mod error;
mod files;
mod notify;
mod read;
#[cfg(test)]
mod task_tests;
#[cfg(test)]
mod tests;

pub use deliver::{Delivery, DeliveryBuilder, DeliveryStatus, RECHECK, TokenRequest};
pub use directory::{DeliveryDirectory, Modes, Written};
pub use error::DeliveryError;
pub use files::{FileSet, Material};
pub use notify::{
    DEFAULT_COMMAND_TIMEOUT, Notifier, RunCommand, SendSignal, SendSignalError, environment,
};
pub use read::{OpenRevision, read_flat};

/// The link to the revision that counts.
pub const CURRENT: &str = crate::source::file::CURRENT;

/// The directory of all that is the writer's own.
const PRIVATE: &str = ".delivery";
