//! Who calls, and what it is entitled to.

use std::sync::Arc;

use spiffe_core::{SpiffeId, Timestamp, TrustDomain};
use spiffe_registration::{EntrySet, Selector};
use tokio::sync::Semaphore;
use tonic::Status;

use crate::attest::{AttestError, WorkloadAttestor};
use crate::caller::{Caller, CallerError};

/// An attested caller.
///
/// Attested once per request: a connection may outlive a change of credentials, and a stream's own request is where its
/// facts are established. What those facts entitle to is asked anew at every update.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    caller: Caller,
    selectors: Arc<[Selector]>,
}

/// What one entry gives a caller.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) entry_id: String,
    pub(super) spiffe_id: SpiffeId,
    /// Empty for none; no two grants of a caller have the same.
    pub(super) hint: String,
    pub(super) federates_with: Vec<TrustDomain>,
}

impl Identity {
    /// Attests the caller of a request.
    ///
    /// # Errors
    ///
    /// The status to answer with.
    pub(super) async fn attest(
        caller: Caller,
        attestor: Arc<dyn WorkloadAttestor>,
        turns: &Semaphore,
    ) -> Result<Self, Status> {
        // The semaphore is never closed; if it were, nobody could be attested.
        let _turn = turns.acquire().await.map_err(|_| failed())?;
        let attested = caller.clone();
        let selectors = tokio::task::spawn_blocking(move || attestor.attest(&attested))
            .await
            .map_err(|error| {
                tracing::error!(%caller, %error, "workload attestor failed");
                failed()
            })?
            .map_err(|error| refuse(&caller, &error))?;
        let identity = Self {
            selectors: selectors.into(),
            caller,
        };
        identity.require_alive()?;
        Ok(identity)
    }

    /// What the caller is entitled to at `now`, in the order of the entries; never empty.
    ///
    /// # Errors
    ///
    /// PERMISSION_DENIED when that is nothing.
    pub(super) fn grants(&self, entries: &EntrySet, now: Timestamp) -> Result<Vec<Grant>, Status> {
        let grants: Vec<Grant> = entries
            .matching(&self.selectors, now)
            .into_iter()
            .filter(|found| !found.entry().params().store_svid)
            .map(|found| Grant {
                entry_id: found.entry().id().to_owned(),
                spiffe_id: found.entry().spiffe_id().clone(),
                hint: found.hint().unwrap_or_default().to_owned(),
                federates_with: found.entry().params().federates_with.clone(),
            })
            .collect();
        if grants.is_empty() {
            let why = entries.why_not(&self.selectors, now);
            tracing::warn!(caller = %self.caller, %why, "{NO_IDENTITY}");
            return Err(Status::permission_denied(NO_IDENTITY));
        }
        Ok(grants)
    }

    /// # Errors
    ///
    /// PERMISSION_DENIED when the caller has ended: what it left to others of its connection is not theirs to use.
    pub(super) fn require_alive(&self) -> Result<(), Status> {
        if self.caller.is_alive() {
            return Ok(());
        }
        let pid = self.caller.pid();
        Err(refuse(&self.caller, &CallerError::Gone { pid }.into()))
    }
}

fn refuse(caller: &Caller, error: &AttestError) -> Status {
    tracing::warn!(%caller, error = error as &dyn std::error::Error, "{FAILED}");
    match error {
        // About this caller for good: it has to connect again, which the message says.
        AttestError::Caller(CallerError::Gone { .. }) | AttestError::CredentialsChanged { .. } => {
            Status::permission_denied(error.to_string())
        }
        _ => failed(),
    }
}

fn failed() -> Status {
    Status::unavailable(FAILED)
}

// SPIRE's words, which clients and operators look for.
pub(super) const NO_IDENTITY: &str = "no identity issued";
const FAILED: &str = "workload attestation failed";
