//! The X.509 source: a workload's SVIDs and bundles, always the latest.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use spiffe_core::crypto::CryptoProvider;
use spiffe_core::snapshot::{Published, Rejection, Revision, SourceError};
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{BoxFuture, BundleSet, Publisher, Source, Timestamp, X509Svid};
use spiffe_proto::workload::X509svidResponse;

use super::builder::{Common, common_settings, last_good_setting};
use super::follow::Following;
use super::stream::{self, Applied, Consumer, Reader};
use super::survival::{Readiness, Survival};
use super::{SourceStatus, StartError};
use crate::client::{Responses, WorkloadApiClient};
use crate::error::{ClientError, ResponseError};
use crate::update::{X509Context, X509Reader};

/// Follows FetchX509SVID and publishes every update; clones are handles to the same task.
///
/// - The connection is lost: what is published stays and is asked for again, at once and then with back-off.
/// - The Workload API has nothing for the workload (PERMISSION_DENIED): SVIDs and bundles are withdrawn, at once or
///   after a grace (Workload API §5.2.1), and asked for again with back-off.
/// - An update breaks a rule of the Workload API: it is discarded and reported in [`status`](Self::status), the last
///   good one stays.
/// - An update's SVIDs have expired, do not verify with the bundle that came with them, or cannot be used by a step
///   that derives from them: the last good ones stay, the bundles are used.
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
    /// [`DEFAULT_START_TIMEOUT`](super::DEFAULT_START_TIMEOUT) for the first good update.
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
        super::status(&self.following, &self.publisher, Readiness::of_svid)
    }

    /// Until when the source serves if no further update comes, and what ends first; `None` while it holds nothing.
    /// One atomic load.
    pub fn survives_until(&self) -> Option<Arc<Survival>> {
        self.following.survival()
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
pub(super) type Picker = Box<dyn Fn(&[Arc<X509Svid>]) -> Result<usize, SourceError> + Send + Sync>;

/// Settings of an [`X509Source`].
#[derive(Default)]
#[must_use]
pub struct X509SourceBuilder {
    common: Common,
    picker: Option<Picker>,
}

impl X509SourceBuilder {
    common_settings!();
    last_good_setting!();

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

    /// Starts and waits for the first good update.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the source is then stopped.
    pub async fn build(self) -> Result<X509Source, StartError> {
        let timeout = self.common.timeout;
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
        let settings = self.common.settings()?;
        let publisher = Publisher::new();
        let verifier = settings.client.verifier().clone();
        let feed = X509Feed::new(verifier, publisher.clone(), self.picker);
        let following = stream::follow::<X509Reader>(feed, settings, Arc::default())?;
        Ok(X509Source {
            publisher,
            following: Arc::new(following),
        })
    }
}

impl fmt::Debug for X509SourceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509SourceBuilder")
            .field("common", &self.common)
            .finish_non_exhaustive()
    }
}

pub(super) struct X509Feed {
    verifier: X509Verifier,
    publisher: Publisher,
    picker: Option<Picker>,
}

impl X509Feed {
    pub(super) fn new(
        verifier: X509Verifier,
        publisher: Publisher,
        picker: Option<Picker>,
    ) -> Self {
        Self {
            verifier,
            publisher,
            picker,
        }
    }

    /// The SVIDs in the order that they are published in.
    fn ordered(&self, svids: &[Arc<X509Svid>]) -> Result<Vec<Arc<X509Svid>>, SourceError> {
        let mut svids = svids.to_vec();
        let at = self.picker.as_ref().map_or(Ok(0), |pick| pick(&svids))?;
        svids[..=at].rotate_right(1);
        Ok(svids)
    }
}

impl Reader for X509Reader {
    type Response = X509svidResponse;
    type Update = X509Context;

    const STREAM: &'static str = "x509";

    fn new(crypto: Arc<dyn CryptoProvider>) -> Self {
        Self::new(crypto)
    }

    fn open(
        client: &WorkloadApiClient,
    ) -> BoxFuture<'_, Result<Responses<X509svidResponse>, ClientError>> {
        Box::pin(client.open_x509())
    }

    fn read(&mut self, response: X509svidResponse) -> Result<X509Context, ResponseError> {
        self.read(response)
    }

    fn forget(&mut self) {
        self.forget();
    }
}

impl Consumer<X509Context> for X509Feed {
    /// SVIDs that cannot be used do not replace those that can, but their bundles count all the same: an authority that
    /// is gone must not stay trusted for the sake of an SVID that it issued.
    fn apply(&mut self, context: &X509Context, now: Timestamp) -> Result<Applied, Rejection> {
        let bundles = context.bundles();
        let current = self.publisher.load();
        let (usable, unusable) = usable(
            &self.verifier,
            context.svids(),
            current.svids(),
            bundles,
            now,
        );
        let (svids, mut problem) = match usable.as_deref().map(|svids| self.ordered(svids)) {
            None => (current.svids().to_vec(), unusable),
            Some(Ok(svids)) => (svids, unusable),
            Some(Err(missing)) => (Vec::new(), Some(missing.to_string())),
        };
        let mut is_enough = !svids.is_empty();
        let is_known = svids.len() == current.svids().len()
            && svids
                .iter()
                .zip(current.svids())
                .all(|(a, b)| Arc::ptr_eq(a, b))
            && Arc::ptr_eq(bundles, current.bundles());
        if !is_known && let Err(rejection) = self.publisher.publish(svids, bundles.clone()) {
            if Arc::ptr_eq(bundles, current.bundles()) {
                return Err(rejection);
            }
            let held = current.svids().to_vec();
            is_enough = !held.is_empty();
            self.publisher.publish(held, bundles.clone())?;
            problem = Some(format!("the SVIDs cannot be used: {rejection}"));
        }
        Ok(Applied {
            notices: context.notices().to_vec(),
            problem,
            is_enough,
        })
    }

    fn withdraw(&mut self) -> Result<bool, Rejection> {
        let current = self.publisher.load();
        let held = !(current.svids().is_empty() && current.bundles().is_empty());
        // Also as the first word: what an earlier process has left, on disk say, is withdrawn with it.
        if held || current.revision() == Revision::default() {
            self.publisher.publish([], BundleSet::new())?;
        }
        Ok(held)
    }

    fn survival(&self, now: Timestamp) -> Option<Survival> {
        Survival::of(&self.publisher.load(), &self.verifier, now)
    }

    fn published(&self) -> Arc<Published> {
        self.publisher.load()
    }
}

/// What of an update can be used, so that one bad SVID does not keep the others from rotating: the held one of the same
/// identity stands in for it, or it is left out. `None` when that would make another identity the default one; the first
/// problem is reported either way.
pub(super) fn usable(
    verifier: &X509Verifier,
    offered: &[Arc<X509Svid>],
    held: &[Arc<X509Svid>],
    bundles: &BundleSet,
    now: Timestamp,
) -> (Option<Vec<Arc<X509Svid>>>, Option<String>) {
    let mut usable = Vec::with_capacity(offered.len());
    let mut first_problem = None;
    for (position, svid) in offered.iter().enumerate() {
        let Err(problem) = check(verifier, svid, bundles, now) else {
            usable.push(svid.clone());
            continue;
        };
        first_problem.get_or_insert(problem);
        let same = |one: &&Arc<X509Svid>| one.id() == svid.id() && one.hint() == svid.hint();
        match held.iter().find(same) {
            Some(stand_in) => usable.push(stand_in.clone()),
            None if position == 0 => return (None, first_problem),
            None => {}
        }
    }
    (Some(usable), first_problem)
}

/// Whether an SVID can be used with the bundle that came with it.
pub(super) fn check(
    verifier: &X509Verifier,
    svid: &X509Svid,
    bundles: &BundleSet,
    now: Timestamp,
) -> Result<(), String> {
    let not_after = svid.not_after();
    if not_after < now {
        return Err(format!(
            "the SVID of {} expired at {not_after}, and it is {} here: check this machine's clock",
            svid.id(),
            now.truncated()
        ));
    }
    let own = bundles.get(svid.trust_domain());
    if own.is_none_or(|own| own.x509_authorities().is_empty()) {
        // A trust domain that trusts nobody has nothing to measure the SVID by.
        return Ok(());
    }
    // A workload's clock may be behind its authority's: the SVID is about to be valid for everybody else.
    let at = now.max(svid.not_before());
    verifier
        .verify(svid.chain(), bundles, at, PeerRole::Unspecified)
        .map(drop)
        .map_err(|error| format!("the SVID of {} does not verify: {error}", svid.id()))
}
