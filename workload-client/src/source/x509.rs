//! The X.509 source: a workload's SVIDs and bundles, always the latest.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use spiffe_core::crypto::CryptoProvider;
use spiffe_core::snapshot::{Rejection, SourceError};
use spiffe_core::{BoxFuture, BundleSet, Clock, Publisher, Random, Source, Timestamp, X509Svid};
use spiffe_proto::workload::X509svidResponse;

use super::backoff::Jitter;
use super::follow::{Applied, Feed, Following, Refused, Settings};
use super::{DEFAULT_START_TIMEOUT, SourceStatus, StartError};
use crate::client::{Responses, WorkloadApiClient};
use crate::endpoint::Endpoint;
use crate::error::{ClientError, ResponseError};
use crate::update::X509Reader;

/// Follows FetchX509SVID and publishes every update; clones are handles to the same task.
///
/// - The connection is lost: what is published stays and is asked for again, at once and then with back-off.
/// - The Workload API has nothing for the workload (PERMISSION_DENIED): SVIDs and bundles are withdrawn, at once or
///   after a grace (Workload API §5.2.1), and asked for again with back-off.
/// - An update cannot be used: it is discarded and reported in [`status`](Self::status), the last good one stays.
/// - The request is refused as such (INVALID_ARGUMENT, UNIMPLEMENTED): nothing is asked again.
///
/// The task ends with [`shutdown`](Self::shutdown) or when the last handle is dropped; what it published stays
/// readable through [`Publisher`] handles.
#[derive(Clone)]
pub struct X509Source {
    publisher: Publisher,
    following: Arc<Following>,
}

impl X509Source {
    /// Starts with defaults: the endpoint that `SPIFFE_ENDPOINT_SOCKET` names, waiting up to
    /// [`DEFAULT_START_TIMEOUT`] for the first good update.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    #[cfg(feature = "aws-lc-rs")]
    pub async fn new() -> Result<Self, StartError> {
        Self::builder().build().await
    }

    /// Settings to change.
    pub fn builder() -> X509SourceBuilder {
        X509SourceBuilder::default()
    }

    /// Waits, up to `within`, until a first good update has been published.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn ready(&self, within: Duration) -> Result<(), StartError> {
        self.following.ready(within).await
    }

    /// How the source fares.
    pub fn status(&self) -> SourceStatus {
        let state = self.following.state();
        let current = self.publisher.load();
        SourceStatus {
            revision: current.revision(),
            endpoint: state.endpoint,
            last_error: state.last_error,
            last_update: state.last_update,
            notices: state.notices,
            expires_at: current.svids().iter().map(|svid| svid.not_after()).min(),
            withdrawn: state.withdrawn,
        }
    }

    /// Stops following and returns once nothing runs any more. What is published stays as it is.
    pub async fn shutdown(&self) {
        self.following.shutdown().await;
    }
}

impl Source for X509Source {
    fn publisher(&self) -> &Publisher {
        &self.publisher
    }
}

impl fmt::Debug for X509Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Source")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Picks the default identity among the delivered ones by its position.
type Picker = Box<dyn Fn(&[Arc<X509Svid>]) -> Result<usize, SourceError> + Send + Sync>;

/// Settings of an [`X509Source`].
#[must_use]
pub struct X509SourceBuilder {
    client: Option<WorkloadApiClient>,
    endpoint: Option<Endpoint>,
    clock: Option<Arc<dyn Clock>>,
    crypto: Option<Arc<dyn CryptoProvider>>,
    random: Arc<dyn Random>,
    picker: Option<Picker>,
    timeout: Duration,
    withdrawal_grace: Duration,
}

impl X509SourceBuilder {
    /// The client to follow the stream with, and with it endpoint, clock and cryptography.
    pub fn client(mut self, client: WorkloadApiClient) -> Self {
        self.client = Some(client);
        self
    }

    /// The endpoint; the one that `SPIFFE_ENDPOINT_SOCKET` names otherwise.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoint = Some(endpoint);
        self
    }

    /// The clock; the system's otherwise.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The cryptography that reads keys; AWS-LC otherwise, by the feature `aws-lc-rs`.
    pub fn crypto(mut self, crypto: Arc<dyn CryptoProvider>) -> Self {
        self.crypto = Some(crypto);
        self
    }

    /// The randomness that spreads reconnections.
    pub fn random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    /// The default identity is the first SVID that carries `hint`, instead of the first of all.
    ///
    /// When no SVID carries it the source holds no identity: there is no silent default (Workload API §8).
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        self.picker = Some(Box::new(move |svids| {
            svids
                .iter()
                .position(|svid| svid.hint() == Some(&hint))
                .ok_or_else(|| SourceError::NoSuchHint { hint: hint.clone() })
        }));
        self
    }

    /// The default identity is the SVID whose position `pick` returns, instead of the first.
    ///
    /// When it returns `None`, or no SVID's position, the source holds no identity.
    pub fn picker(
        mut self,
        pick: impl Fn(&[Arc<X509Svid>]) -> Option<usize> + Send + Sync + 'static,
    ) -> Self {
        self.picker = Some(Box::new(move |svids| {
            pick(svids)
                .filter(|at| *at < svids.len())
                .ok_or(SourceError::NoIdentity)
        }));
        self
    }

    /// How long [`build`](Self::build) waits for the first good update; [`DEFAULT_START_TIMEOUT`] otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long SVIDs and bundles stay in use after PERMISSION_DENIED; not at all otherwise, as the standard says
    /// (Workload API §5.2.1).
    pub fn withdrawal_grace(mut self, grace: Duration) -> Self {
        self.withdrawal_grace = grace;
        self
    }

    /// Starts and waits for the first good update.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the source is then stopped.
    pub async fn build(self) -> Result<X509Source, StartError> {
        let timeout = self.timeout;
        let source = self.start()?;
        source.ready(timeout).await?;
        Ok(source)
    }

    /// Starts without waiting: the source is empty until its first update.
    ///
    /// # Errors
    ///
    /// What is wrong with the settings, or [`StartError::NoRuntime`].
    pub fn start(self) -> Result<X509Source, StartError> {
        let client = match self.client {
            Some(client) => client,
            None => super::client(self.endpoint, self.clock, self.crypto)?,
        };
        let publisher = Publisher::new();
        let feed = X509Feed {
            reader: X509Reader::new(client.crypto().clone()),
            publisher: publisher.clone(),
            picker: self.picker,
        };
        let settings = Settings {
            client,
            random: self.random,
            grace: self.withdrawal_grace,
        };
        Ok(X509Source {
            publisher,
            following: Arc::new(Following::start(feed, settings)?),
        })
    }
}

impl Default for X509SourceBuilder {
    fn default() -> Self {
        Self {
            client: None,
            endpoint: None,
            clock: None,
            crypto: None,
            random: Arc::new(Jitter),
            picker: None,
            timeout: DEFAULT_START_TIMEOUT,
            withdrawal_grace: Duration::ZERO,
        }
    }
}

impl fmt::Debug for X509SourceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509SourceBuilder")
            .field("client", &self.client)
            .field("endpoint", &self.endpoint)
            .field("timeout", &self.timeout)
            .field("withdrawal_grace", &self.withdrawal_grace)
            .finish_non_exhaustive()
    }
}

struct X509Feed {
    reader: X509Reader,
    publisher: Publisher,
    picker: Option<Picker>,
}

impl Feed for X509Feed {
    type Response = X509svidResponse;

    const NAME: &'static str = "x509";

    fn open(
        client: &WorkloadApiClient,
    ) -> BoxFuture<'_, Result<Responses<X509svidResponse>, ClientError>> {
        Box::pin(client.open_x509())
    }

    fn apply(&mut self, response: X509svidResponse, now: Timestamp) -> Result<Applied, Refused> {
        let context = self.reader.read(response)?;
        if let Some(expired) = context.svids().iter().find(|svid| svid.not_after() < now) {
            return Err(Refused::Response(ResponseError::Expired {
                id: expired.id().clone(),
                not_after: expired.not_after(),
            }));
        }
        let mut svids = context.svids().to_vec();
        let mut lacks = None;
        match self.picker.as_ref().map_or(Ok(0), |pick| pick(&svids)) {
            Ok(at) => svids[..=at].rotate_right(1),
            Err(error) => {
                svids.clear();
                lacks = Some(error.to_string());
            }
        }
        let current = self.publisher.load();
        let is_known = svids.len() == current.svids().len()
            && svids
                .iter()
                .zip(current.svids())
                .all(|(a, b)| Arc::ptr_eq(a, b))
            && Arc::ptr_eq(context.bundles(), current.bundles());
        if !is_known {
            self.publisher.publish(svids, context.bundles().clone())?;
        }
        Ok(Applied {
            notices: context.notices().to_vec(),
            lacks,
        })
    }

    fn withdraw(&mut self) -> Result<(), Rejection> {
        self.reader.forget();
        let current = self.publisher.load();
        if current.svids().is_empty() && current.bundles().is_empty() {
            return Ok(());
        }
        self.publisher.publish([], BundleSet::new())?;
        Ok(())
    }
}
