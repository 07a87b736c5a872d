//! Who calls, and what it is entitled to.

use std::sync::Arc;

use spiffe_core::Timestamp;
use spiffe_registration::{Entry, EntrySet, Selector};
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
    pub(super) entry: Entry,
    /// Empty for none; no two grants of a caller have the same otherwise.
    pub(super) hint: String,
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
                entry: found.entry().clone(),
                hint: found.hint().unwrap_or_default().to_owned(),
            })
            .collect();
        if grants.is_empty() {
            let why = entries.why_not(&self.selectors, now);
            tracing::warn!(caller = %self.caller, %why, "{NO_IDENTITY}");
            return Err(Status::permission_denied(NO_IDENTITY));
        }
        Ok(grants)
    }

    /// The process that calls.
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
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

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::sync::Mutex;
    use std::sync::mpsc;

    use futures_util::FutureExt;
    use tonic::Code;

    use super::*;
    use crate::support::{START, TestAttestor, entry};

    /// Another process, alive until it is ended, and our hold on it.
    fn child() -> (Child, Caller) {
        let child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let caller = Caller::with_open_process(1, 1, child.id()).unwrap();
        (child, caller)
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    async fn attest(
        caller: &Caller,
        attestor: Arc<dyn WorkloadAttestor>,
    ) -> Result<Identity, Status> {
        Identity::attest(caller.clone(), attestor, &Semaphore::new(1)).await
    }

    #[derive(Debug)]
    struct Failing;

    impl WorkloadAttestor for Failing {
        fn attest(&self, caller: &Caller) -> Result<Vec<Selector>, AttestError> {
            Err(AttestError::CredentialsChanged {
                connected: (caller.uid(), caller.gid()),
                now: (0, 0),
            })
        }
    }

    #[derive(Debug)]
    struct Panicking;

    impl WorkloadAttestor for Panicking {
        fn attest(&self, _: &Caller) -> Result<Vec<Selector>, AttestError> {
            panic!("a defect of an attestor")
        }
    }

    /// Says that it was asked, and answers when told to.
    #[derive(Debug)]
    struct Waiting {
        asked: mpsc::Sender<()>,
        answer: Mutex<mpsc::Receiver<()>>,
    }

    impl WorkloadAttestor for Waiting {
        fn attest(&self, _: &Caller) -> Result<Vec<Selector>, AttestError> {
            self.asked.send(()).unwrap();
            self.answer.lock().unwrap().recv().unwrap();
            Ok(Vec::new())
        }
    }

    #[tokio::test]
    async fn caller_that_ended_has_nothing_any_more() {
        let (child, caller) = child();
        let identity = attest(&caller, TestAttestor::new("a:1")).await.unwrap();
        assert!(identity.require_alive().is_ok());
        end(child);
        let status = identity.require_alive().unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        let status = attest(&caller, TestAttestor::new("a:1")).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
    }

    #[tokio::test]
    async fn caller_with_other_credentials_is_told_to_connect_again() {
        let (child, caller) = child();
        let status = attest(&caller, Arc::new(Failing)).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains("connect again"), "{status}");
        end(child);
    }

    #[tokio::test]
    async fn defect_of_an_attestor_is_not_the_servers_end() {
        let (child, caller) = child();
        let status = attest(&caller, Arc::new(Panicking)).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, FAILED)
        );
        end(child);
    }

    #[tokio::test]
    async fn attestations_wait_their_turn() {
        let (child, caller) = child();
        let (asked, was_asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let attestor = Arc::new(Waiting {
            asked,
            answer: Mutex::new(answers),
        });
        let turns = Semaphore::new(1);
        let attest = || Identity::attest(caller.clone(), attestor.clone(), &turns).boxed();
        let (mut first, mut second) = (attest(), attest());
        assert!((&mut first).now_or_never().is_none());
        was_asked.recv().unwrap();
        assert!((&mut second).now_or_never().is_none());
        assert!(was_asked.try_recv().is_err());
        answer.send(()).unwrap();
        assert!(first.await.is_ok());
        answer.send(()).unwrap();
        assert!(second.await.is_ok());
        was_asked.recv().unwrap();
        end(child);
    }

    #[tokio::test]
    async fn entries_for_svid_stores_are_not_granted() {
        let (child, caller) = child();
        let identity = attest(&caller, TestAttestor::new("a:1")).await.unwrap();
        let stored = crate::support::entry_with("stored", "a:1", |params| params.store_svid = true);
        let grants = |entries| identity.grants(&EntrySet::new(entries).unwrap(), START);
        let both = grants(vec![stored.clone(), entry("web", "a:1")]).unwrap();
        assert_eq!(both.len(), 1);
        assert_eq!(both[0].entry.id(), "web");
        let status = grants(vec![stored]).unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        end(child);
    }
}
