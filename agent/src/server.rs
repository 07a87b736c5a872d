//! The server: one cache and one service on a listener, until told to stop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use spiffe_core::crypto::CryptoProvider;
use spiffe_core::key::KeyType;
use spiffe_core::schedule::REISSUE_OVER;
use spiffe_core::{Clock, JwtVerifier, SystemClock};
use spiffe_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use crate::attest::WorkloadAttestor;
use crate::cache::{CacheConfig, SvidCache};
use crate::deliveries::Deliveries;
use crate::error::ServeError;
use crate::limits::{Limits, MAX_HEADER_BYTES};
use crate::listener::WorkloadListener;
use crate::svid_authority::SvidAuthority;
use crate::workload_api::{WorkloadApi, require_security_header};

/// A Workload API server, to be given its knobs and then [served](Self::serve).
#[derive(Clone, Debug)]
pub struct WorkloadApiServer {
    cache: CacheConfig,
    attestor: Arc<dyn WorkloadAttestor>,
    limits: Limits,
    deliveries: Deliveries,
}

impl WorkloadApiServer {
    /// A server of what `authority` issues, to the callers that `attestor` knows, with keys made by `crypto`.
    pub fn new(
        authority: Arc<dyn SvidAuthority>,
        attestor: Arc<dyn WorkloadAttestor>,
        crypto: Arc<dyn CryptoProvider>,
    ) -> Self {
        Self {
            cache: CacheConfig {
                authority,
                crypto,
                clock: Arc::new(SystemClock::new()),
                key_type: KeyType::default(),
                prefetch: false,
                reissue_over: REISSUE_OVER,
            },
            deliveries: Deliveries::new(),
            attestor,
            limits: Limits::new(),
        }
    }

    /// Where time comes from: [`SystemClock`] unless set.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.cache.clock = clock;
        self
    }

    /// The kind of the workloads' keys: P-256 unless set.
    #[must_use]
    pub fn key_type(mut self, key_type: KeyType) -> Self {
        self.cache.key_type = key_type;
        self
    }

    /// Whether X509-SVIDs are issued before anybody asks, but for entries that forbid it. Off unless set: then the first to
    /// ask waits for one issuance.
    #[must_use]
    pub fn prefetch(mut self, prefetch: bool) -> Self {
        self.cache.prefetch = prefetch;
        self
    }

    /// Over how long the replacement of X509-SVIDs is spread once their authority is tainted, each in a stable slot:
    /// [`REISSUE_OVER`] unless set. Those whose authority has left the bundle are replaced at once.
    #[must_use]
    pub fn reissue_over(mut self, span: Duration) -> Self {
        self.cache.reissue_over = span;
        self
    }

    /// Where it notes what was delivered to its streams; several servers may share one.
    #[must_use]
    pub fn deliveries(mut self, deliveries: Deliveries) -> Self {
        self.deliveries = deliveries;
        self
    }

    /// What callers may use of it: [`Limits::new`] unless set.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Serves on `listener` until `shutdown` resolves, then drains: the socket file is removed, streams end without an error, answers
    /// under way are completed, and connections that do not close within [`DRAIN_TIMEOUT`] are left behind.
    ///
    /// # Errors
    ///
    /// [`ServeError`] when the transport fails as a whole; single connections never fail it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops accepting and issuing at once; what is open is not drained.
    pub async fn serve(
        self,
        listener: WorkloadListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let clock = Arc::clone(&self.cache.clock);
        let (close, closing) = watch::channel(false);
        let (cache, driver) = SvidCache::new(self.cache.clone());
        // Aborted when dropped: connections that were left behind would keep it alive.
        let mut tasks = JoinSet::new();
        tasks.spawn(driver);

        let api = WorkloadApi::new(
            self.cache.authority,
            self.attestor,
            cache,
            Arc::clone(&clock),
            JwtVerifier::new(&*self.cache.crypto),
            closing.clone(),
            &self.limits,
            self.deliveries,
        );
        let service = InterceptedService::new(
            SpiffeWorkloadApiServer::new(api).max_decoding_message_size(self.limits.request_bytes),
            require_security_header,
        );
        let path = listener.path().to_owned();
        tracing::info!(path = %path.display(), "serving the Workload API");
        let stopped = async move {
            shutdown.await;
            tracing::info!(path = %path.display(), "draining the Workload API");
            close.send_replace(true);
        };
        let serving = Server::builder()
            .max_concurrent_streams(self.limits.requests_per_connection.max(1))
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .serve_with_incoming_shutdown(service, listener.incoming(), stopped);
        tokio::select! {
            served = serving => served.map_err(ServeError::new),
            // Without its cache the server could only tell everybody to come back, for ever.
            Some(Err(error)) = tasks.join_next() => Err(ServeError::new(error)),
            () = drained_too_long(closing, &*clock) => {
                tracing::warn!("connections did not close in time: leaving them behind");
                Ok(())
            }
        }
    }
}

async fn drained_too_long(mut closing: watch::Receiver<bool>, clock: &dyn Clock) {
    // The sender goes away only with the server, which ends the waiting in another way.
    if closing.wait_for(|closing| *closing).await.is_err() {
        return std::future::pending().await;
    }
    clock.sleep_until(clock.monotonic() + DRAIN_TIMEOUT).await;
}

/// How long connections may take to close when the server stops: enough for every answer under way, short enough for a
/// service manager's patience.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
