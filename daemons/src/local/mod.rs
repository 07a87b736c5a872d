//! One trust domain in this process: its authority, its entries, and the Workload API on a socket.
//!
//! The adapter between the issuing side and the agent, which otherwise meet only over the wire. `spiffe up` runs one,
//! the quickstart three.

mod api;
mod command;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use spiffe_agent::{AuthorityError, AuthorityState, Deliveries, Delivery, SvidAuthority};
use spiffe_core::crypto::{CryptoProvider, aws_lc_rs, system_random};
use spiffe_core::key::Signer;
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::schedule::REISSUE_OVER;
use spiffe_core::{
    BoxFuture, Bundle, BundleSet, Clock, Random, SpiffeId, SystemClock, TrustDomain,
    TrustDomainRef, Watch,
};
use spiffe_registration::{Entry, EntryError, EntrySet, EntrySetError};
use spiffe_svid_ca::authority::{Consumer, Evidence, Grade, Kind, Status};
use spiffe_svid_ca::error::{CaError, IssueError, StateError};
use spiffe_svid_ca::{
    DEFAULT_LONGEST_STOP, DnsName, Event, JwtSvidParams, StateDir, TrustDomainCa, X509SvidParams,
};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

pub use api::LocalApi;
pub use command::{Answer, Command, CommandError, Commands, MAX_COMMAND_BYTES};

/// How often the authorities' life goes on; twenty times in the shortest span that a default life cycle plans with.
const TICK: Duration = Duration::from_secs(10);

/// A running trust domain; clones are handles to the same one. Its tasks end with the last handle.
#[derive(Clone)]
pub struct LocalTrustDomain {
    shared: Arc<Shared>,
    tasks: Arc<Mutex<Tasks>>,
}

/// What runs for as long as there is a handle.
#[derive(Debug, Default)]
struct Tasks {
    /// Follow the authority's bundle, its life, and the trust domains federated with.
    running: JoinSet<()>,
    /// The foreign trust domains that are followed.
    federated: HashMap<TrustDomain, Followed>,
}

/// A foreign trust domain whose bundle is followed.
#[derive(Debug)]
struct Followed {
    task: AbortHandle,
    foreign: Weak<Shared>,
}

#[derive(Debug)]
struct Shared {
    ca: TrustDomainCa,
    crypto: Arc<dyn CryptoProvider>,
    clock: Arc<dyn Clock>,
    state: watch::Sender<AuthorityState>,
    /// What was delivered to the workloads here.
    deliveries: Deliveries,
    reissue_over: Duration,
    /// The same of the trust domains that follow this one: their workloads verify with its bundle too.
    followers: Mutex<HashMap<TrustDomain, Deliveries>>,
}

impl LocalTrustDomain {
    /// A trust domain to be configured.
    pub fn builder(trust_domain: TrustDomain) -> LocalTrustDomainBuilder {
        LocalTrustDomainBuilder {
            trust_domain,
            entries: Vec::new(),
            state: None,
            authority_lifetime: None,
            longest_stop: DEFAULT_LONGEST_STOP,
            reissue_over: REISSUE_OVER,
            clock: Arc::new(SystemClock::new()),
            crypto: aws_lc_rs(),
            random: system_random(),
        }
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.shared.ca.trust_domain()
    }

    /// The authority behind it.
    pub fn ca(&self) -> &TrustDomainCa {
        &self.shared.ca
    }

    /// The entries in force.
    pub fn entries(&self) -> Arc<EntrySet> {
        self.shared.state.borrow().entries.clone()
    }

    /// Hands the bundle of `other` to the workloads whose entries federate with it, now and whenever it changes.
    pub fn federate(&self, other: &Self) {
        let (own, foreign) = (self.shared.clone(), other.shared.ca.clone());
        let mut tasks = lock(&self.tasks);
        own.put_bundle(foreign.bundle());
        let weak = Arc::downgrade(&self.tasks);
        let name = foreign.trust_domain().clone();
        let following = tasks.running.spawn(follow(foreign, move |bundle| {
            let Some(tasks) = weak.upgrade() else { return };
            // Held meanwhile: `put_away` may come while this runs, and nothing may come in behind it.
            let tasks = lock(&tasks);
            if tasks.federated.contains_key(bundle.trust_domain()) {
                own.put_bundle(bundle);
            }
        }));
        let followed = Followed {
            task: following,
            foreign: Arc::downgrade(&other.shared),
        };
        if let Some(before) = tasks.federated.insert(name, followed) {
            before.task.abort();
        }
        let name = self.trust_domain().clone();
        let deliveries = self.shared.deliveries.clone();
        lock(&other.shared.followers).insert(name, deliveries);
    }

    /// Takes a foreign trust domain's bundle away from all workloads, and follows it no more.
    pub fn put_away(&self, trust_domain: TrustDomainRef<'_>) {
        let mut tasks = lock(&self.tasks);
        if let Some(followed) = tasks.federated.remove(&trust_domain.to_owned()) {
            followed.task.abort();
            if let Some(foreign) = followed.foreign.upgrade() {
                lock(&foreign.followers).remove(self.trust_domain());
            }
        }
        self.shared.change(|state| {
            let mut bundles = (*state.bundles).clone();
            bundles.remove(trust_domain);
            state.bundles = Arc::new(bundles);
        });
    }

    /// Replaces every SVID before its time.
    pub fn reissue(&self) {
        self.shared.change(|state| state.generation += 1);
    }

    /// Takes all entries with this SPIFFE ID away, and says how many there were: from now on nobody is given it.
    pub fn withdraw(&self, id: &SpiffeId) -> usize {
        let mut gone = 0;
        self.shared.change(|state| {
            let before = state.entries.entries();
            let left = before.iter().filter(|entry| entry.spiffe_id() != id);
            let left = EntrySet::new(left.cloned().collect());
            let left = left.expect("entries that do not contradict each other do not when some go");
            gone = before.len() - left.entries().len();
            state.entries = Arc::new(left);
        });
        gone
    }

    /// What is known of who has which bundle, and whose SVIDs were signed by which authority: every open stream of the
    /// Workload API, here and in the trust domains that federate with this one, with what was written to it. Rollovers
    /// wait for it.
    pub fn evidence(&self) -> Evidence {
        self.shared.evidence()
    }

    /// Makes the next X.509 authority and publishes it; it signs once it is activated.
    ///
    /// # Errors
    ///
    /// As [`TrustDomainCa::prepare`].
    pub async fn prepare_x509_authority(&self) -> Result<Vec<Event>, CaError> {
        self.ca().prepare(Kind::X509, self.shared.clock.now()).await
    }

    /// Lets the prepared X.509 authority sign, on the evidence that its consumers know it.
    ///
    /// # Errors
    ///
    /// As [`TrustDomainCa::activate`], which names the laggards.
    pub async fn activate_x509_authority(
        &self,
        evidence: &Evidence,
    ) -> Result<Vec<Event>, CaError> {
        let now = self.shared.clock.now();
        self.ca().activate(Kind::X509, evidence, false, now).await
    }

    /// Takes the old X.509 authority out of the bundle, whether or not something it signed is still valid: for when
    /// everything has been re-issued and no handshake that presents what it signed is under way. The authority's own
    /// life waits for that by itself.
    ///
    /// # Errors
    ///
    /// As [`TrustDomainCa::retire`].
    pub async fn retire_x509_authority(&self) -> Result<Vec<Event>, CaError> {
        let state = self.ca().state();
        let old = state
            .slots(Kind::X509)
            .iter()
            .find(|authority| authority.status() == Status::Old)
            .map(|authority| authority.id().to_owned())
            .unwrap_or_default();
        let now = self.shared.clock.now();
        self.ca()
            .retire(Kind::X509, &old, &self.evidence(), true, now)
            .await
    }

    /// Marks the old X.509 authority with this ID: what it signed is replaced within
    /// [`reissue_over`](LocalTrustDomainBuilder::reissue_over), each SVID in a slot of its own.
    ///
    /// # Errors
    ///
    /// As [`TrustDomainCa::taint`].
    pub async fn taint_x509_authority(&self, id: &str) -> Result<Vec<Event>, CaError> {
        let now = self.shared.clock.now();
        self.ca().taint(Kind::X509, id, now).await
    }

    /// Takes a tainted X.509 authority out of the bundle once no workload presents what it signed; at once, if forced.
    ///
    /// # Errors
    ///
    /// As [`TrustDomainCa::revoke`], which names the workloads.
    pub async fn revoke_x509_authority(
        &self,
        id: &str,
        force: bool,
    ) -> Result<Vec<Event>, CaError> {
        let (now, evidence) = (self.shared.clock.now(), self.evidence());
        self.ca()
            .revoke(Kind::X509, id, &evidence, force, now)
            .await
    }
}

impl fmt::Debug for LocalTrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalTrustDomain")
            .field("trust_domain", self.trust_domain())
            .finish_non_exhaustive()
    }
}

/// A trust domain before it runs.
#[derive(Debug)]
pub struct LocalTrustDomainBuilder {
    trust_domain: TrustDomain,
    entries: Vec<Entry>,
    state: Option<PathBuf>,
    authority_lifetime: Option<Duration>,
    longest_stop: Duration,
    reissue_over: Duration,
    clock: Arc<dyn Clock>,
    crypto: Arc<dyn CryptoProvider>,
    random: Arc<dyn Random>,
}

impl LocalTrustDomainBuilder {
    /// Who gets which identity; the first that matches a caller is its default.
    #[must_use]
    pub fn entries(mut self, entries: impl IntoIterator<Item = Entry>) -> Self {
        self.entries.extend(entries);
        self
    }

    /// Keeps keys and authorities in this directory across restarts; without it they end with the process.
    #[must_use]
    pub fn state(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state = Some(directory.into());
        self
    }

    /// How long authorities live: 24 hours unless set.
    #[must_use]
    pub fn authority_lifetime(mut self, lifetime: Duration) -> Self {
        self.authority_lifetime = Some(lifetime);
        self
    }

    /// How long ago the last authority kept in [`state`](Self::state) may have expired: [`DEFAULT_LONGEST_STOP`] unless set.
    /// [`Duration::MAX`] believes any clock, one before what was recorded last too.
    #[must_use]
    pub fn longest_stop(mut self, span: Duration) -> Self {
        self.longest_stop = span;
        self
    }

    /// Over how long the replacement of what a tainted authority signed is spread: [`REISSUE_OVER`] unless set.
    #[must_use]
    pub fn reissue_over(mut self, span: Duration) -> Self {
        self.reissue_over = span;
        self
    }

    /// Takes time from this clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Draws serial numbers and key IDs from here.
    #[must_use]
    pub fn random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    /// Starts the trust domain: loads or makes its authorities. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`LocalError`]; a state directory that cannot be used is left as it is.
    pub async fn build(self) -> Result<LocalTrustDomain, LocalError> {
        for entry in &self.entries {
            entry.require_member_of(self.trust_domain.as_ref())?;
            // Judged now, so that a name that cannot be certified is known before somebody asks for it.
            x509_params(entry)?;
        }
        let entries = Arc::new(EntrySet::new(self.entries)?);
        let mut ca = TrustDomainCa::builder_with(
            self.trust_domain.clone(),
            self.crypto.clone(),
            self.random,
        )
        .longest_stop(self.longest_stop)
        .reissue_over(self.reissue_over);
        if let Some(directory) = &self.state {
            ca = ca.state_dir(StateDir::open(directory, &self.trust_domain)?);
        }
        if let Some(lifetime) = self.authority_lifetime {
            ca = ca.authority_lifetime(lifetime);
        }
        let ca = ca.build(self.clock.now()).await?;
        let bundles: BundleSet = [ca.bundle()].into_iter().collect();
        let (state, _) = watch::channel(AuthorityState::new(0, 0, entries, Arc::new(bundles)));
        let shared = Arc::new(Shared {
            ca,
            crypto: self.crypto,
            clock: self.clock,
            state,
            deliveries: Deliveries::new(),
            followers: Mutex::default(),
            reissue_over: self.reissue_over,
        });
        let mut tasks = Tasks::default();
        let own = shared.clone();
        tasks
            .running
            .spawn(follow(shared.ca.clone(), move |bundle| {
                own.put_bundle(bundle);
            }));
        tasks.running.spawn(live(shared.clone()));
        Ok(LocalTrustDomain {
            shared,
            tasks: Arc::new(Mutex::new(tasks)),
        })
    }
}

/// A panic elsewhere leaves what is behind them whole.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reports every bundle of `ca` as it changes.
async fn follow(ca: TrustDomainCa, report: impl Fn(Arc<Bundle>)) {
    let mut seen = spiffe_core::snapshot::Revision::default();
    loop {
        seen = ca.changed(seen).await;
        report(ca.bundle());
    }
}

/// Lets the authorities' life go on.
async fn live(shared: Arc<Shared>) {
    let (ca, clock) = (&shared.ca, &shared.clock);
    loop {
        clock.sleep_until(clock.monotonic() + TICK).await;
        match ca.tick(clock.now(), &shared.evidence()).await {
            Ok(events) => {
                for event in events {
                    tracing::info!(trust_domain = %ca.trust_domain(), ?event, "authority");
                }
            }
            Err(error) => {
                tracing::error!(trust_domain = %ca.trust_domain(), %error, "authorities do not go on");
            }
        }
    }
}

impl Shared {
    fn evidence(&self) -> Evidence {
        let name = self.trust_domain();
        let consumer =
            |stream: Delivery, sequence| Consumer::new(stream.consumer, sequence, Grade::Delivered);
        let own = self.deliveries.streams().into_iter().map(|mut stream| {
            let sequence = stream.sequences.remove(name).unwrap_or(0);
            let signers: Vec<_> = stream.signers.iter().map(|id| hex(id)).collect();
            consumer(stream, sequence).presenting(signers)
        });
        let followers = lock(&self.followers);
        let foreign = followers
            .values()
            .flat_map(Deliveries::streams)
            // Workloads whose entries do not federate with this trust domain are given nothing of it.
            .filter_map(|mut stream| {
                let sequence = stream.sequences.remove(name)?;
                Some(consumer(stream, sequence))
            });
        Evidence::complete(own.chain(foreign))
    }

    /// Makes the next state and tells the agent.
    fn change(&self, change: impl FnOnce(&mut AuthorityState)) {
        self.state.send_modify(|state| {
            change(state);
            state.revision += 1;
        });
    }

    fn put_bundle(&self, bundle: Arc<Bundle>) {
        let known = self.state.borrow().bundles.clone();
        let before = known.get(bundle.trust_domain().as_ref());
        if before.is_some_and(|before| Arc::ptr_eq(before, &bundle)) {
            return;
        }
        self.change(|state| {
            let mut bundles = (*state.bundles).clone();
            bundles.insert(bundle);
            state.bundles = Arc::new(bundles);
        });
    }
}

impl SvidAuthority for Shared {
    fn trust_domain(&self) -> &TrustDomain {
        self.ca.trust_domain()
    }

    fn state(&self) -> AuthorityState {
        self.state.borrow().clone()
    }

    fn changed(&self, seen: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // The sender is part of this value, so it outlives the receiver.
            let _ = self
                .state
                .subscribe()
                .wait_for(|state| state.revision != seen)
                .await;
        })
    }

    fn issue_x509<'a>(
        &'a self,
        entry: &'a Entry,
        key: &'a dyn Signer,
    ) -> BoxFuture<'a, Result<Vec<CertificateDer<'static>>, AuthorityError>> {
        Box::pin(async move {
            let params =
                x509_params(entry).map_err(|error| AuthorityError::refused(error.to_string()))?;
            let now = self.clock.now();
            let issued = self.ca.issue_x509(&params, key.public_key(), now).await;
            issued.map(|issued| issued.chain).map_err(refusal)
        })
    }

    fn issue_jwt<'a>(
        &'a self,
        entry: &'a Entry,
        audience: &'a [String],
    ) -> BoxFuture<'a, Result<String, AuthorityError>> {
        Box::pin(async move {
            let own = entry.params();
            let mut params = JwtSvidParams::new(entry.spiffe_id().clone(), "")
                .with_audiences(audience)
                .with_ttl(own.jwt_svid_ttl)
                .with_reason(format!("entry {}", entry.id()));
            if own.jwt_svid_include_jti {
                params = params.with_token_id();
            }
            let issued = self.ca.issue_jwt(&params, self.clock.now()).await;
            issued.map(|issued| issued.token).map_err(refusal)
        })
    }
}

/// What an entry asks to have certified.
fn x509_params(entry: &Entry) -> Result<X509SvidParams, LocalError> {
    let own = entry.params();
    let names = own
        .dns_names
        .iter()
        .map(|name| DnsName::parse(name))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| LocalError::DnsName(error.to_string()))?;
    Ok(X509SvidParams::new(entry.spiffe_id().clone())
        .with_dns_names(names)
        .with_ttl(own.x509_svid_ttl)
        .with_reason(format!("entry {}", entry.id())))
}

fn refusal(error: IssueError) -> AuthorityError {
    match error {
        IssueError::AuthorityExpired { .. }
        | IssueError::AuthorityNotYetValid { .. }
        | IssueError::Log(_)
        | IssueError::NoAuthority
        | IssueError::Random(_)
        | IssueError::Signer { .. } => AuthorityError::unavailable(error.to_string()),
        other => AuthorityError::refused(other.to_string()),
    }
}

/// Lower-case hexadecimal, as authorities' IDs are.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a trust domain does not come up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The authority cannot be made or loaded.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A DNS name of an entry cannot be certified.
    #[error("{0}")]
    DnsName(String),
    /// An entry is not of this trust domain.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The entries contradict each other.
    #[error(transparent)]
    Entries(#[from] EntrySetError),
    /// The state directory cannot be used; it was left as it is.
    #[error(transparent)]
    State(#[from] StateError),
}

#[cfg(test)]
mod tests;
