//! Attestation of workloads: from a caller of the Workload API to the selectors that are true of it.

mod unix;

use std::fmt;
use std::io;
use std::path::PathBuf;

use spiffe_registration::Selector;

pub use unix::{DEFAULT_SIZE_LIMIT, UnixAttestor};

use crate::caller::{Caller, CallerError};

/// Finds out about a caller.
///
/// A selector that cannot be established is left out: it can only have made more entries match.
pub trait WorkloadAttestor: fmt::Debug + Send + Sync {
    /// The selectors that are true of `caller`. May block, on files and name services.
    ///
    /// # Errors
    ///
    /// [`AttestError`] when nothing may be said about the caller; it then gets no identity.
    fn attest(&self, caller: &Caller) -> Result<Vec<Selector>, AttestError>;
}

/// Why a caller could not be attested.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// It ended, or cannot be seen.
    #[error(transparent)]
    Caller(#[from] CallerError),

    /// It has other credentials than when it connected, by running another program or giving up privileges.
    #[error(
        "caller connected as uid {} gid {} and now has uid {} gid {}: let it connect again",
        connected.0, connected.1, now.0, now.1
    )]
    CredentialsChanged {
        /// Effective user and group ID at the time of connecting.
        connected: (u32, u32),
        /// Effective user and group ID now.
        now: (u32, u32),
    },

    /// A file about it could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },

    /// `/proc/PID/status` does not have the form the kernel documents.
    #[error("{} has no usable {field} line", path.display())]
    Status {
        /// The file.
        path: PathBuf,
        /// The line that is missing or odd.
        field: &'static str,
    },
}
