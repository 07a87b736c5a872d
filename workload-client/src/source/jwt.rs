//! The JWT source: the workload's own tokens, and the bundles that verify those of others.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use spiffe_core::crypto::CryptoProvider;
use spiffe_core::snapshot::{Published, Rejection, Revision};
use spiffe_core::svid::JwtError;
use spiffe_core::{
    BoxFuture, BundleSet, JwtSvid, JwtVerifier, Publisher, Source, SpiffeId, Timestamp,
};
use spiffe_proto::workload::JwtBundlesResponse;

use super::builder::{Common, common_settings, last_good_setting};
use super::follow::Following;
use super::stream::{self, Applied, Consumer, Reader};
use super::survival::{Outlook, Readiness, Survival};
use super::tokens::{Held, Tokens};
use super::{SourceStatus, StartError};
use crate::client::{Responses, WorkloadApiClient};
use crate::error::{ClientError, ResponseError};
use crate::update::{JwtBundleReader, JwtBundles};

/// Follows FetchJWTBundles and publishes every update, and keeps the workload's own tokens; clones are handles to the
/// same task and the same tokens.
///
/// Loss, withdrawal, bad updates and refusals are treated as [`X509Source`](super::X509Source) treats them; with the
/// bundles the tokens are withdrawn.
#[derive(Clone)]
pub struct JwtSource {
    publisher: Publisher,
    following: Arc<Following>,
    tokens: Tokens,
    client: WorkloadApiClient,
    verifier: JwtVerifier,
}

impl JwtSource {
    /// Starts with defaults: the endpoint that `SPIFFE_ENDPOINT_SOCKET` names, waiting up to
    /// [`DEFAULT_START_TIMEOUT`](super::DEFAULT_START_TIMEOUT) for the first bundles.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    #[cfg(feature = "aws-lc-rs")]
    pub async fn new() -> Result<Self, StartError> {
        Self::builder().build().await
    }

    /// Settings to change.
    pub fn builder() -> JwtSourceBuilder {
        JwtSourceBuilder::default()
    }

    /// A token of the default identity for `audiences`, from the cache until half of its life has passed.
    ///
    /// A token that cannot be renewed is handed out for as long as it is valid, unless the Workload API says that it
    /// is not to be had any more (PERMISSION_DENIED).
    ///
    /// Without a token to hand out each call is one request, and whoever calls decides how often: nothing is tried again
    /// by itself. Errors for which [`ClientError::is_retryable`] is false, as INVALID_ARGUMENT and UNIMPLEMENTED, would
    /// be met again. A renewal that failed is tried again 5 seconds later, by whoever asks then.
    ///
    /// # Errors
    ///
    /// [`ClientError`], when there is no valid token to hand out.
    pub async fn fetch<A: Into<String>>(
        &self,
        audiences: impl IntoIterator<Item = A>,
    ) -> Result<Arc<JwtSvid>, ClientError> {
        Ok(self.held(audiences, None).await?.token)
    }

    /// As [`fetch`](Self::fetch), of one of the workload's identities.
    ///
    /// # Errors
    ///
    /// As [`fetch`](Self::fetch).
    pub async fn fetch_as<A: Into<String>>(
        &self,
        id: &SpiffeId,
        audiences: impl IntoIterator<Item = A>,
    ) -> Result<Arc<JwtSvid>, ClientError> {
        Ok(self.held(audiences, Some(id.clone())).await?.token)
    }

    /// A token as it is held; of the default identity without an `id`.
    pub(crate) async fn held<A: Into<String>>(
        &self,
        audiences: impl IntoIterator<Item = A>,
        id: Option<SpiffeId>,
    ) -> Result<Held, ClientError> {
        let audiences = audiences.into_iter().map(Into::into).collect();
        self.tokens.get(&self.client, (audiences, id)).await
    }

    /// Verifies a token for `audience`, the name this workload goes by, with the bundle of the token's trust domain.
    ///
    /// # Errors
    ///
    /// The first rule broken.
    pub fn verify(&self, token: &str, audience: &str) -> Result<JwtSvid, JwtError> {
        let current = self.publisher.load();
        let now = self.client.clock().now();
        self.verifier
            .verify(token, audience, current.bundles(), now)
    }

    /// Waits, up to `within`, until first bundles have been published.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn ready(&self, within: Duration) -> Result<(), StartError> {
        self.following.ready(within).await
    }

    /// How the source fares.
    pub fn status(&self) -> SourceStatus {
        super::status(&self.following, &self.publisher, Readiness::of_bundles)
    }

    /// Until when the tokens that are held last if no further one comes, the first to end counting, and bundles with
    /// them; `None` while the source holds nothing. One atomic load.
    pub fn survives_until(&self) -> Option<Arc<Survival>> {
        self.following.survival()
    }

    /// Stops following and returns once nothing runs any more. What is published stays as it is.
    pub async fn shutdown(&self) {
        self.following.shutdown().await;
        self.tokens.shutdown().await;
    }
}

impl Source for JwtSource {
    fn publisher(&self) -> &Publisher {
        &self.publisher
    }
}

/// Tokens of the default identity, as [`fetch`](JwtSource::fetch) gives them.
#[cfg(feature = "bearer")]
impl spiffe_tls::bearer::TokenSource for JwtSource {
    fn token<'a>(&'a self, audience: &'a str) -> spiffe_tls::bearer::TokenFuture<'a> {
        Box::pin(async move { Ok(self.fetch([audience]).await?) })
    }
}

impl fmt::Debug for JwtSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSource")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Settings of a [`JwtSource`].
#[derive(Debug, Default)]
#[must_use]
pub struct JwtSourceBuilder {
    common: Common,
    verifier: Option<JwtVerifier>,
}

impl JwtSourceBuilder {
    common_settings!();
    last_good_setting!();

    /// The verifier, with its limits; one with the default limits otherwise.
    pub fn verifier(mut self, verifier: JwtVerifier) -> Self {
        self.verifier = Some(verifier);
        self
    }

    /// Starts and waits for the first bundles.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the source is then stopped.
    pub async fn build(self) -> Result<JwtSource, StartError> {
        let timeout = self.common.timeout;
        let source = self.start()?;
        source.ready(timeout).await?;
        Ok(source)
    }

    /// Starts without waiting: nobody's token is verified until the first update.
    ///
    /// # Errors
    ///
    /// What is wrong with the settings, or [`StartError::NoRuntime`].
    pub fn start(self) -> Result<JwtSource, StartError> {
        let settings = self.common.settings()?;
        let client = settings.client.clone();
        let publisher = Publisher::new();
        let outlook: Arc<Outlook> = Arc::default();
        let observer = settings.observer.named("jwt");
        let tokens = Tokens::new(outlook.clone(), client.outages().clone(), observer);
        let feed = JwtFeed {
            publisher: publisher.clone(),
            tokens: tokens.clone(),
        };
        Ok(JwtSource {
            publisher,
            following: Arc::new(stream::follow::<JwtBundleReader>(feed, settings, outlook)?),
            tokens,
            verifier: self
                .verifier
                .unwrap_or_else(|| JwtVerifier::new(&**client.crypto())),
            client,
        })
    }
}

struct JwtFeed {
    publisher: Publisher,
    tokens: Tokens,
}

impl Reader for JwtBundleReader {
    type Response = JwtBundlesResponse;
    type Update = JwtBundles;

    const STREAM: &'static str = "jwt_bundles";

    fn new(crypto: Arc<dyn CryptoProvider>) -> Self {
        Self::new(crypto)
    }

    fn open(
        client: &WorkloadApiClient,
    ) -> BoxFuture<'_, Result<Responses<JwtBundlesResponse>, ClientError>> {
        Box::pin(client.open_jwt_bundles())
    }

    fn read(&mut self, response: JwtBundlesResponse) -> Result<JwtBundles, ResponseError> {
        self.read(response)
    }

    fn forget(&mut self) {
        self.forget();
    }
}

impl Consumer<JwtBundles> for JwtFeed {
    fn apply(&mut self, update: &JwtBundles, _: Timestamp) -> Result<Applied, Rejection> {
        if !Arc::ptr_eq(update.bundles(), self.publisher.load().bundles()) {
            self.publisher.publish([], update.bundles().clone())?;
        }
        Ok(Applied::whole(update.notices()))
    }

    fn withdraw(&mut self) -> Result<bool, Rejection> {
        let held_tokens = self.tokens.forget();
        let current = self.publisher.load();
        let held_bundles = !current.bundles().is_empty();
        // Also as the first word: what an earlier process has left, on disk say, is withdrawn with it.
        if held_bundles || current.revision() == Revision::default() {
            self.publisher.publish([], BundleSet::new())?;
        }
        Ok(held_tokens || held_bundles)
    }

    fn survival(&self, _: Timestamp) -> Option<Survival> {
        let bundles = self.publisher.load();
        (!bundles.bundles().is_empty()).then(Survival::nothing_ends)
    }

    fn published(&self) -> Arc<Published> {
        self.publisher.load()
    }

    fn clock_stepped(&mut self) {
        self.tokens.renew_all();
    }
}
