//! Live sources: they follow the Workload API and publish what it says.

mod aging;
pub(crate) mod backoff;
mod builder;
mod bundle;
mod cache;
mod clocks;
pub(crate) mod file;
mod follow;
#[cfg(fuzzing)]
pub mod fuzzing;
mod jwt;
pub(crate) mod outages;
pub(crate) mod stream;
mod survival;
pub(crate) mod tokens;
mod x509;

use std::sync::Arc;
use std::time::Duration;

pub use aging::NotYetValid;
pub use backoff::{FIRST_DELAY, MAX_DELAY};
pub use bundle::{BundleSource, BundleSourceBuilder};
pub use cache::{LastGood, SealError, SealKey};
pub use file::{DEFAULT_POLL_INTERVAL, FileSource, FileSourceBuilder, Files, MAX_FILE_BYTES};
pub use follow::EndpointState;
use follow::Following;
pub use jwt::{JwtSource, JwtSourceBuilder};
use spiffe_core::snapshot::{Revision, Snapshot};
use spiffe_core::{Publisher, Timestamp};
pub use stream::{CLOCK_CHECK_INTERVAL, MAX_CLOCK_DRIFT};
pub use survival::{Ends, Readiness, Survival};
pub use tokens::MAX_CACHED_TOKENS;
pub use x509::{X509Source, X509SourceBuilder};

use crate::endpoint::EndpointError;
use crate::error::ClientError;
use crate::update::Notice;

/// How long a source waits for its first good update by default.
pub const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a source did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The endpoint is not named, or not in a form that is defined.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// No cryptography was passed and the crate was built without its default.
    #[error("no cryptography: pass a provider, or build with the feature aws-lc-rs")]
    NoCrypto,
    /// Nothing runs the source's task.
    #[error("a source needs a tokio runtime and was started outside of one")]
    NoRuntime,
    /// The Workload API said not to ask again.
    #[error(transparent)]
    Refused(ClientError),
    /// The source was shut down while it started.
    #[error("the source was shut down before its first update")]
    ShutDown,
    /// No good update came in time.
    #[error("no good update within {after:?}: {last_error}")]
    TimedOut {
        /// The time given.
        after: Duration,
        /// What went wrong last.
        last_error: String,
    },
}

/// How a source fares.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SourceStatus {
    /// The revision that is published.
    pub revision: Revision,
    /// What the connection to the endpoint is doing.
    pub endpoint: EndpointState,
    /// What went wrong since the last good update.
    pub last_error: Option<String>,
    /// When the last good update came.
    pub last_update: Option<Timestamp>,
    /// What was passed over in the last good update.
    pub notices: Vec<Notice>,
    /// When the first of the published SVIDs expires; `None` without any.
    pub expires_at: Option<Timestamp>,
    /// Whether the Workload API withdrew what was published and nothing has come since.
    pub withdrawn: bool,
    /// Until when what is published lasts without another update; `None` when nothing is.
    pub survival: Option<Arc<Survival>>,
    /// Whether the source is fit to serve, at the time of asking.
    pub readiness: Readiness,
}

impl SourceStatus {
    /// Whether the source is fit to serve: what a readiness probe should say.
    pub const fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }
}

fn status(
    following: &Following,
    publisher: &Publisher,
    readiness: impl FnOnce(&Snapshot, Option<Timestamp>, Option<&Survival>, Timestamp) -> Readiness,
) -> SourceStatus {
    let state = following.state();
    let current = publisher.load();
    let survival = following.survival();
    let readiness = readiness(
        &current,
        state.received,
        survival.as_deref(),
        following.now(),
    );
    SourceStatus {
        revision: current.revision(),
        endpoint: state.endpoint,
        last_error: state.last_error,
        last_update: state.last_update,
        notices: state.notices,
        expires_at: current.svids().iter().map(|svid| svid.not_after()).min(),
        withdrawn: state.withdrawn,
        readiness,
        survival,
    }
}
