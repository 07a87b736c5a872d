//! A local trust domain's Workload API on a Unix socket.

use std::path::Path;
use std::sync::Arc;

use spiffe_agent::attest::UnixAttestor;
use spiffe_agent::listener::{ListenError, ListenOptions, WorkloadListener};
use spiffe_agent::{ServeError, WorkloadApiServer};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::LocalTrustDomain;

/// A Workload API that serves until it is stopped or dropped.
#[derive(Debug)]
pub struct LocalApi {
    stop: Option<oneshot::Sender<()>>,
    /// Until its outcome was handed out: a task can be awaited once.
    serving: Option<JoinHandle<Result<(), ServeError>>>,
}

impl LocalTrustDomain {
    /// Serves the Workload API on a Unix socket at `path`, open to every user: who gets what is the entries' affair.
    ///
    /// # Errors
    ///
    /// [`ListenError`]: the path is too long, taken by a live socket or by something else, or not permitted.
    pub fn serve(&self, path: impl AsRef<Path>) -> Result<LocalApi, ListenError> {
        self.serve_with(path, ListenOptions::new())
    }

    /// As [`Self::serve`], with the socket's mode and owner and the bounds on connections given.
    ///
    /// # Errors
    ///
    /// As [`Self::serve`].
    pub fn serve_with(
        &self,
        path: impl AsRef<Path>,
        options: ListenOptions,
    ) -> Result<LocalApi, ListenError> {
        let clock = self.shared.clock.clone();
        let listener = WorkloadListener::bind(path.as_ref(), options, clock.clone())?;
        let crypto = self.shared.crypto.clone();
        let server = WorkloadApiServer::new(self.shared.clone(), Arc::new(self.attestor()), crypto)
            .clock(clock)
            .prefetch(true)
            .reissue_over(self.shared.reissue_over)
            .deliveries(self.shared.deliveries.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        // The tasks of the trust domain live as long as it is served.
        let kept = self.clone();
        let serving = tokio::spawn(async move {
            let shutdown = async move {
                // Dropping the handle stops it too.
                let _ = stopped.await;
            };
            let served = server.serve(listener, shutdown).await;
            drop(kept);
            served
        });
        Ok(LocalApi {
            stop: Some(stop),
            serving: Some(serving),
        })
    }

    /// Reads the caller's program only as far as some entry asks for it: hashing one takes time.
    fn attestor(&self) -> UnixAttestor {
        let asks_for_hash = self
            .entries()
            .entries()
            .iter()
            .flat_map(|entry| entry.selectors())
            .any(|selector| selector.as_str().starts_with("unix:sha256:"));
        if !asks_for_hash {
            return UnixAttestor::new();
        }
        let crypto = self.shared.crypto.clone();
        UnixAttestor::new().with_sha256(move |bytes| crypto.sha256(bytes))
    }
}

impl LocalApi {
    /// Ends streams cleanly, completes answers under way, and removes the socket file.
    ///
    /// # Errors
    ///
    /// [`ServeError`] when serving had failed before.
    pub async fn stop(mut self) -> Result<(), ServeError> {
        if let Some(stop) = self.stop.take() {
            // A server that has failed listens no more; its error comes below.
            let _ = stop.send(());
        }
        self.ended().await
    }

    /// Resolves when serving ends by itself, which means that it failed; at once when its end is known already.
    ///
    /// # Errors
    ///
    /// [`ServeError`], the first time.
    ///
    /// # Panics
    ///
    /// When serving panicked: goes on with that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn ended(&mut self) -> Result<(), ServeError> {
        let Some(serving) = &mut self.serving else {
            return Ok(());
        };
        let ended = serving.await;
        self.serving = None;
        match ended {
            Ok(served) => served,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Nobody but the runtime's end aborts it.
                Err(_) => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(serving: impl Future<Output = ()> + Send + 'static) -> LocalApi {
        LocalApi {
            stop: None,
            serving: Some(tokio::spawn(async {
                serving.await;
                Ok(())
            })),
        }
    }

    #[tokio::test]
    async fn an_end_that_was_seen_can_be_asked_for_again() {
        let mut api = serving(async {});
        for _ in 0..2 {
            api.ended().await.unwrap();
        }
        api.stop().await.unwrap();
    }

    #[tokio::test]
    #[should_panic(expected = "a defect")]
    async fn a_panic_in_serving_is_no_good_end() {
        let _ = serving(async { panic!("a defect") }).ended().await;
    }
}
