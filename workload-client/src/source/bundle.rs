//! The bundle source: for programs that verify others and need no identity of their own.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use spiffe_core::crypto::CryptoProvider;
use spiffe_core::snapshot::{Published, Rejection};
use spiffe_core::verify::X509Verifier;
use spiffe_core::{BoxFuture, Bundle, BundleSet, Publisher, Source, Timestamp};
use spiffe_proto::workload::X509BundlesResponse;

use super::builder::{Common, common_settings};
use super::cache::LastGood;
use super::follow::Following;
use super::stream::{self, Applied, Consumer, Reader, Settings};
use super::survival::{Readiness, Survival};
use super::{SourceStatus, StartError};
use crate::client::{Responses, WorkloadApiClient};
use crate::error::{ClientError, ResponseError};
use crate::update::{JwtBundleReader, JwtBundles, X509BundleReader, X509Bundles};

/// Follows FetchX509Bundles and FetchJWTBundles and publishes both as one: each trust domain's bundle with its X.509 and
/// its JWT authorities. Clones are handles to the same tasks.
///
/// It holds no SVID: what is built on it verifies others and presents nothing. Loss, withdrawal, bad updates and refusals
/// are treated as [`X509Source`](super::X509Source) treats them, for each of the two profiles by itself: a server that
/// offers one of them is followed for that.
#[derive(Clone)]
pub struct BundleSource {
    publisher: Publisher,
    following: Arc<Profiles>,
}

/// What is followed: one profile, or both.
struct Profiles {
    first: Following,
    second: Option<Following>,
}

impl Profiles {
    fn iter(&self) -> impl Iterator<Item = &Following> {
        std::iter::once(&self.first).chain(&self.second)
    }
}

impl BundleSource {
    /// Starts with defaults: the endpoint that `SPIFFE_ENDPOINT_SOCKET` names, waiting up to
    /// [`DEFAULT_START_TIMEOUT`](super::DEFAULT_START_TIMEOUT) for the first bundles of both profiles.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    #[cfg(feature = "aws-lc-rs")]
    pub async fn new() -> Result<Self, StartError> {
        Self::builder().build().await
    }

    /// Settings to change.
    pub fn builder() -> BundleSourceBuilder {
        BundleSourceBuilder::default()
    }

    /// Waits, up to `within`, until first bundles of each profile have been published.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn ready(&self, within: Duration) -> Result<(), StartError> {
        let each = self.following.iter().map(|one| one.ready(within));
        futures_util::future::try_join_all(each).await.map(drop)
    }

    /// How the source fares. What is said of the endpoint is that of the profile that fares worse, errors before none.
    pub fn status(&self) -> SourceStatus {
        let status = |one| super::status(one, &self.publisher, Readiness::of_bundles);
        let mut joined = status(&self.following.first);
        if let Some(other) = self.following.second.as_ref().map(status) {
            if joined.last_error.is_none() {
                joined.endpoint = other.endpoint;
                joined.last_error = other.last_error;
            }
            joined.last_update = joined.last_update.max(other.last_update);
            joined.notices.extend(other.notices);
            joined.withdrawn |= other.withdrawn;
        }
        joined
    }

    /// Until when the bundles serve if no further update comes, and which ends first; `None` while there is none. Atomic
    /// loads only.
    pub fn survives_until(&self) -> Option<Arc<Survival>> {
        let each = self.following.iter().filter_map(Following::survival);
        each.min_by_key(|one| one.until())
    }

    /// Stops following and returns once nothing runs any more. What is published stays as it is.
    pub async fn shutdown(&self) {
        for one in self.following.iter() {
            one.shutdown().await;
        }
    }
}

impl Source for BundleSource {
    fn publisher(&self) -> &Publisher {
        &self.publisher
    }
}

impl fmt::Debug for BundleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleSource")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Settings of a [`BundleSource`].
#[derive(Debug, Default)]
#[must_use]
pub struct BundleSourceBuilder {
    common: Common,
    only: Option<Profile>,
}

impl BundleSourceBuilder {
    common_settings!();

    /// Where the last good state is kept on disk, sealed, so that a restart while the endpoint is away comes up with it;
    /// nowhere otherwise. Each profile has a file of its own: the path with `.x509` and with `.jwt` behind it. They are
    /// written while an update is applied.
    pub fn last_good(mut self, last_good: LastGood) -> Self {
        self.common.last_good = Some(last_good);
        self
    }

    /// Only the authorities of X509-SVIDs.
    pub fn only_x509(mut self) -> Self {
        self.only = Some(Profile::X509);
        self
    }

    /// Only the authorities of JWT-SVIDs.
    pub fn only_jwt(mut self) -> Self {
        self.only = Some(Profile::Jwt);
        self
    }

    /// Starts and waits for the first bundles of each profile.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the source is then stopped.
    pub async fn build(self) -> Result<BundleSource, StartError> {
        let timeout = self.common.timeout;
        let source = self.start()?;
        source.ready(timeout).await?;
        Ok(source)
    }

    /// Starts without waiting: nobody is trusted until the first update.
    ///
    /// # Errors
    ///
    /// What is wrong with the settings, or [`StartError::NoRuntime`].
    pub fn start(self) -> Result<BundleSource, StartError> {
        let settings = self.common.settings()?;
        let publisher = Publisher::new();
        let half = Half {
            profile: Profile::X509,
            verifier: settings.client.verifier().clone(),
            halves: Arc::default(),
            publisher: publisher.clone(),
        };
        let jwt = half.of(Profile::Jwt);
        let settings = |part| Settings {
            last_good: settings.last_good.as_ref().map(|whole| whole.part(part)),
            ..settings.clone()
        };
        let x509 = || {
            let settings = settings("x509");
            stream::follow::<X509BundleReader>(half, settings, Arc::default())
        };
        let jwt = || {
            let settings = settings("jwt");
            stream::follow::<JwtBundleReader>(jwt, settings, Arc::default())
        };
        let (first, second) = match self.only {
            Some(Profile::Jwt) => (jwt()?, None),
            Some(Profile::X509) => (x509()?, None),
            None => (x509()?, Some(jwt()?)),
        };
        Ok(BundleSource {
            publisher,
            following: Arc::new(Profiles { first, second }),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    Jwt,
    X509,
}

/// The last good bundles of both profiles, joined by trust domain.
#[derive(Clone, Default)]
struct Halves {
    x509: Arc<BundleSet>,
    jwt: Arc<BundleSet>,
}

impl Halves {
    /// Changes one half and publishes the whole; says what the half was. What cannot be published is not remembered
    /// either.
    fn change(
        halves: &Mutex<Self>,
        publisher: &Publisher,
        profile: Profile,
        to: &Arc<BundleSet>,
    ) -> Result<Arc<BundleSet>, Rejection> {
        let mut halves = halves.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = halves.clone();
        let half = match profile {
            Profile::Jwt => &mut next.jwt,
            Profile::X509 => &mut next.x509,
        };
        if Arc::ptr_eq(half, to) {
            return Ok(to.clone());
        }
        let before = std::mem::replace(half, to.clone());
        publisher.publish([], next.joined())?;
        *halves = next;
        Ok(before)
    }

    fn joined(&self) -> BundleSet {
        let mut joined: BundleSet = self.jwt.iter().cloned().collect();
        for x509 in self.x509.iter() {
            let bundle = match joined.get(x509.trust_domain().as_ref()) {
                Some(jwt) => Arc::new(
                    Bundle::new(x509.trust_domain().clone())
                        .with_x509_authorities(x509.x509_authorities().clone())
                        .with_jwt_authorities(jwt.jwt_authorities().clone()),
                ),
                None => x509.clone(),
            };
            joined.insert(bundle);
        }
        joined
    }
}

impl Reader for X509BundleReader {
    type Response = X509BundlesResponse;
    type Update = X509Bundles;

    const STREAM: &'static str = "x509_bundles";

    fn new(crypto: Arc<dyn CryptoProvider>) -> Self {
        Self::new(crypto)
    }

    fn open(
        client: &WorkloadApiClient,
    ) -> BoxFuture<'_, Result<Responses<X509BundlesResponse>, ClientError>> {
        Box::pin(client.open_x509_bundles())
    }

    fn read(&mut self, response: X509BundlesResponse) -> Result<X509Bundles, ResponseError> {
        self.read(response)
    }

    fn forget(&mut self) {
        self.forget();
    }
}

/// What both halves publish to.
#[derive(Clone)]
struct Half {
    profile: Profile,
    verifier: X509Verifier,
    halves: Arc<Mutex<Halves>>,
    publisher: Publisher,
}

impl Half {
    fn change(&self, to: &Arc<BundleSet>) -> Result<Arc<BundleSet>, Rejection> {
        Halves::change(&self.halves, &self.publisher, self.profile, to)
    }

    fn of(&self, profile: Profile) -> Self {
        Self {
            profile,
            ..self.clone()
        }
    }
}

impl Consumer<X509Bundles> for Half {
    fn apply(&mut self, update: &X509Bundles, _: Timestamp) -> Result<Applied, Rejection> {
        self.change(update.bundles())?;
        Ok(Applied::whole(update.notices()))
    }

    fn withdraw(&mut self) -> Result<bool, Rejection> {
        Ok(!self.change(&Arc::default())?.is_empty())
    }

    fn survival(&self, now: Timestamp) -> Option<Survival> {
        Survival::of(&self.publisher.load(), &self.verifier, now)
    }

    fn published(&self) -> Arc<Published> {
        self.publisher.load()
    }
}

impl Consumer<JwtBundles> for Half {
    fn apply(&mut self, update: &JwtBundles, _: Timestamp) -> Result<Applied, Rejection> {
        self.change(update.bundles())?;
        Ok(Applied::whole(update.notices()))
    }

    fn withdraw(&mut self) -> Result<bool, Rejection> {
        Ok(!self.change(&Arc::default())?.is_empty())
    }

    fn survival(&self, _: Timestamp) -> Option<Survival> {
        let bundles = self.publisher.load();
        (!bundles.bundles().is_empty()).then(Survival::nothing_ends)
    }

    fn published(&self) -> Arc<Published> {
        self.publisher.load()
    }
}
