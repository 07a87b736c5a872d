//! A trust domain's signing side as one handle: issue, hold the bundle, let authorities follow each other.
//!
//! Issuing takes the active authority under a lock that is held for no longer than a look, and signs without it.
//! Changes of authorities follow each other one at a time; each is in the journal before anybody sees it.

mod builder;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use spiffe_core::bundle::{JwtAuthority, X509Authority};
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::key::{KeyType, Signer};
use spiffe_core::pki_types::SubjectPublicKeyInfoDer;
use spiffe_core::schedule;
use spiffe_core::svid::Backing;
use spiffe_core::{Bundle, BundleSet, Publisher, Random, Source, Timestamp, TrustDomain, X509Svid};

use crate::authority::{
    Action, Authority, Command, Evidence, Input, Kind, MAX_SHARED_KEYS, PublicHalf, Rollover, Slot,
    State, Status,
};
use crate::csr::authority_request;
use crate::error::{CaError, IssueError, IssuerError, UpstreamError};
use crate::issuer::{
    IssuedIntermediate, IssuedX509, IssuerSettings, Validity, X509Issuer, hex,
    self_signed_authority,
};
use crate::jwt::{IssuedJwt, JwtIssuer};
use crate::keys::KeyManager;
use crate::log::{Entry, IssuanceLog, What};

use crate::name::DistinguishedName;
use crate::params::{IntermediateParams, JwtSvidParams, X509SvidParams};
use crate::public_key::KeyPolicy;
use crate::state::StateDir;
use crate::upstream::{MAX_UPSTREAM_CERTIFICATES, MintRequest, UpstreamAuthority, prove};

pub use builder::{DEFAULT_LONGEST_STOP, MAX_STEP_BACK, TrustDomainCaBuilder};

/// The shortest life of an authority: below it, preparing, waiting and activating have no room between whole seconds.
pub const MIN_AUTHORITY_LIFETIME: Duration = Duration::from_secs(2);

/// The certification authority of one trust domain. A handle: clones are the same CA.
///
/// It is a [`Source`] whose bundle set holds the trust domain's own bundle and that has no SVID: its
/// [`Watch::changed`](spiffe_core::Watch::changed) tells of every change of the bundle.
///
/// Whoever owns it must do one thing: **call [`tick`](Self::tick) regularly**, at least ten times in a sixth of an
/// authority's life. Without it authorities expire and nothing is issued.
#[derive(Clone)]
pub struct TrustDomainCa {
    inner: Arc<Inner>,
}

struct Inner {
    trust_domain: TrustDomain,
    settings: Arc<IssuerSettings>,
    authorities: AuthoritySettings,
    keys: Arc<dyn KeyManager>,
    state_dir: Option<StateDir>,
    upstream: Option<Arc<dyn UpstreamAuthority>>,
    log: Option<IssuanceLog>,
    publisher: Publisher,
    live: Mutex<Live>,
    /// Held by whoever changes authorities, also while a key is made; never by those who issue.
    maintenance: futures_util::lock::Mutex<()>,
}

struct Live {
    state: State,
    bundle: Arc<Bundle>,
    /// Of the active and the prepared authority, by ID.
    x509: BTreeMap<String, Arc<X509Issuer>>,
    jwt: BTreeMap<String, Arc<JwtIssuer>>,
    /// When an authority or a root was tainted, by ID, since this CA runs.
    tainted_at: BTreeMap<String, Timestamp>,
}

#[derive(Clone, Debug)]
struct AuthoritySettings {
    lifetime: Duration,
    subject: DistinguishedName,
    x509_key: KeyType,
    jwt_key: KeyType,
    rollover: Rollover,
    reissue_over: Duration,
    refresh_hint: Duration,
}

/// Something that happened to an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Which kind of authority.
    pub kind: Kind,
    /// What happened.
    pub action: Action,
}

impl TrustDomainCa {
    /// A CA for `trust_domain` on the default cryptography and the system's randomness.
    ///
    /// Without [`state_dir`](TrustDomainCaBuilder::state_dir) it is ephemeral: its authorities end with the last
    /// handle.
    #[cfg(feature = "aws-lc-rs")]
    pub fn builder(trust_domain: TrustDomain) -> TrustDomainCaBuilder {
        Self::builder_with(
            trust_domain,
            spiffe_core::crypto::aws_lc_rs(),
            spiffe_core::crypto::system_random(),
        )
    }

    /// A CA for `trust_domain` on this cryptography and randomness.
    pub fn builder_with(
        trust_domain: TrustDomain,
        crypto: Arc<dyn CryptoProvider>,
        random: Arc<dyn Random>,
    ) -> TrustDomainCaBuilder {
        TrustDomainCaBuilder::new(trust_domain, crypto, random)
    }

    /// The trust domain it signs for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.inner.trust_domain
    }

    /// The current bundle: X.509 and JWT authorities, sequence number and refresh hint.
    pub fn bundle(&self) -> Arc<Bundle> {
        self.live().bundle.clone()
    }

    /// The authorities as they are now.
    pub fn state(&self) -> State {
        self.live().state.clone()
    }

    /// When an SVID of this trust domain is to be renewed: in its own slot, or, once its authority is tainted, in its slot
    /// of [`reissue_over`](TrustDomainCaBuilder::reissue_over). One whose authority has left the bundle is due since it
    /// was issued.
    pub fn renew_at(&self, svid: &X509Svid) -> Timestamp {
        let (id, serial) = (svid.id().as_ref(), svid.serial());
        let (from, to) = (svid.not_before(), svid.not_after());
        let live = self.live();
        match svid.backing(live.bundle.x509_authorities()) {
            Backing::Trusted => schedule::renew_at(id, serial, from, to),
            Backing::Withdrawn => from,
            Backing::Tainted => {
                let root = svid.root_key_id().map(hex).unwrap_or_default();
                // What is issued below a tainted root has its slot from then on.
                let since = live.tainted_at.get(&root).map_or(from, |at| from.max(*at));
                schedule::reissue_at(
                    id,
                    serial,
                    from,
                    to,
                    since,
                    self.inner.authorities.reissue_over,
                )
            }
        }
    }

    /// Which public keys it certifies, for whoever reads signing requests.
    pub fn key_policy(&self) -> &KeyPolicy {
        &self.inner.settings.key_policy
    }

    /// The cryptography it computes with.
    pub fn crypto(&self) -> &Arc<dyn CryptoProvider> {
        &self.inner.settings.crypto
    }

    /// Issues an X.509-SVID for a public key that its owner holds: SubjectPublicKeyInfo in DER, alone or from a
    /// [`Csr`](crate::Csr).
    ///
    /// # Errors
    ///
    /// [`IssueError`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future has issued nothing.
    pub async fn issue_x509(
        &self,
        params: &X509SvidParams,
        public_key: &SubjectPublicKeyInfoDer<'_>,
        now: Timestamp,
    ) -> Result<IssuedX509, IssueError> {
        let (issuer, validity) = self.x509_issuer(|issuer| issuer.validity(params, now))?;
        let issued = issuer.issue_for(params, public_key, validity).await?;
        say_if_capped(issued.capped, issued.id.as_str(), issued.not_after);
        self.record(
            &Entry {
                what: What::X509,
                id: issued.id.as_str(),
                reason: params.reason.as_deref(),
                authority: &issued.authority,
                expires: issued.not_after,
                serial: Some(&issued.serial),
                signed: issued.chain.first().map_or(&[], |leaf| leaf),
            },
            now,
        )?;
        Ok(issued)
    }

    /// Into the log before it is released.
    fn record(&self, entry: &Entry<'_>, now: Timestamp) -> Result<(), IssueError> {
        if let Some(log) = &self.inner.log {
            log.append(entry, now)?;
        }
        Ok(())
    }

    /// The issuance log, where there is a state directory to hold it.
    pub fn issuance_log(&self) -> Option<&IssuanceLog> {
        self.inner.log.as_ref()
    }

    /// Who signs now, and from when to when; noted before it is signed, so that the authority cannot be retired in
    /// between.
    fn x509_issuer(
        &self,
        validity: impl FnOnce(&X509Issuer) -> Result<Validity, IssueError>,
    ) -> Result<(Arc<X509Issuer>, Validity), IssueError> {
        let mut live = self.live();
        let active = live.state.x509.active().ok_or(IssueError::NoAuthority)?;
        let issuer = live
            .x509
            .get(active.id())
            .cloned()
            .ok_or(IssueError::NoAuthority)?;
        let validity = validity(&issuer)?;
        live.state.note_signed(Kind::X509, validity.not_after);
        Ok((issuer, validity))
    }

    /// Issues the certificate of an intermediate authority, for a downstream server of this trust domain: a public key
    /// alone or from a [`Csr`](crate::Csr). The active authority stays in the bundle until it has expired.
    ///
    /// # Errors
    ///
    /// [`IssueError`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future has issued nothing.
    pub async fn issue_intermediate(
        &self,
        params: &IntermediateParams,
        public_key: &SubjectPublicKeyInfoDer<'_>,
        now: Timestamp,
    ) -> Result<IssuedIntermediate, IssueError> {
        let (issuer, validity) =
            self.x509_issuer(|issuer| issuer.intermediate_validity(params, now))?;
        let issued = issuer
            .issue_intermediate_for(params, public_key, validity)
            .await?;
        self.record(
            &Entry {
                what: What::Intermediate,
                id: self.trust_domain().id().as_str(),
                reason: params.reason.as_deref(),
                authority: &issued.authority,
                expires: issued.not_after,
                serial: Some(&issued.serial),
                signed: issued.chain.first().map_or(&[], |own| own),
            },
            now,
        )?;
        Ok(issued)
    }

    /// Makes a key and issues an X.509-SVID for it.
    ///
    /// # Errors
    ///
    /// [`CaError::Issue`], [`CaError::Keys`] and [`CaError::Svid`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future has issued nothing.
    pub async fn issue_x509_svid(
        &self,
        params: &X509SvidParams,
        key: KeyType,
        now: Timestamp,
    ) -> Result<X509Svid, CaError> {
        let crypto = &*self.inner.settings.crypto;
        let key = crypto
            .generate_key(key)
            .map_err(crate::error::KeyManagerError::Key)?;
        let signer = crypto
            .load_key(&key)
            .map_err(crate::error::KeyManagerError::Key)?;
        let issued = self.issue_x509(params, signer.public_key(), now).await?;
        Ok(X509Svid::new(issued.chain, key, crypto)?.with_hint(issued.hint))
    }

    /// Issues a JWT-SVID.
    ///
    /// # Errors
    ///
    /// [`IssueError`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future has issued nothing.
    pub async fn issue_jwt(
        &self,
        params: &JwtSvidParams,
        now: Timestamp,
    ) -> Result<IssuedJwt, IssueError> {
        let (issuer, validity) = {
            let mut live = self.live();
            let active = live.state.jwt.active().ok_or(IssueError::NoAuthority)?;
            let issuer = live
                .jwt
                .get(active.id())
                .cloned()
                .ok_or(IssueError::NoAuthority)?;
            let validity = issuer.validity(params, now)?;
            live.state.note_signed(Kind::Jwt, validity.not_after);
            (issuer, validity)
        };
        let issued = issuer.issue_for(params, validity).await?;
        say_if_capped(issued.capped, issued.id.as_str(), issued.expires_at);
        self.record(
            &Entry {
                what: What::Jwt,
                id: issued.id.as_str(),
                reason: params.reason.as_deref(),
                authority: &issued.authority,
                expires: issued.expires_at,
                serial: None,
                signed: issued.token.as_bytes(),
            },
            now,
        )?;
        Ok(issued)
    }

    /// Lets time pass: prepares authorities when theirs is due, activates them when the evidence suffices or the
    /// deadline has come, and takes out those that nothing valid depends on. Returns what happened, the reasons for
    /// waiting included.
    ///
    /// # Errors
    ///
    /// [`CaError`]; what had happened until then stays.
    ///
    /// # Cancel safety
    ///
    /// A dropped future has made each change whole or not at all; the next tick goes on.
    pub async fn tick(&self, now: Timestamp, evidence: &Evidence) -> Result<Vec<Event>, CaError> {
        let _one_at_a_time = self.inner.maintenance.lock().await;
        let mut events = Vec::new();
        self.follow_roots(now, &mut events).await?;
        self.follow_jwt_keys(now, &mut events).await?;
        // An upstream that fails hinders no JWT authorities.
        let x509 = self.settle(Kind::X509, now, evidence, &mut events).await;
        let jwt = self.settle(Kind::Jwt, now, evidence, &mut events).await;
        if let Some(log) = &self.inner.log {
            log.sync()?;
        }
        x509.and(jwt).map(|()| events)
    }

    /// Publishes the JWT key of a server below this one in the bundle of the whole trust domain: here, and at the upstream
    /// first. It leaves when it has expired.
    ///
    /// # Errors
    ///
    /// [`CaError::Lifecycle`] for a key ID that another key has, or one key too many; [`CaError::Upstream`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future may have published the key further up alone; it leaves there when it has expired.
    pub async fn share_jwt_key(
        &self,
        key: &JwtAuthority,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Event>, CaError> {
        let _one_at_a_time = self.inner.maintenance.lock().await;
        if let Some(upstream) = &self.inner.upstream {
            upstream.publish_jwt_key(key, until, now).await?;
        }
        self.shared(Input::Share(key, until), now)
    }

    /// Takes the JWT key of a server below out of the bundle before it has expired, here and at the upstream.
    ///
    /// # Errors
    ///
    /// [`CaError`].
    pub async fn unshare_jwt_key(
        &self,
        key_id: &str,
        now: Timestamp,
    ) -> Result<Vec<Event>, CaError> {
        let _one_at_a_time = self.inner.maintenance.lock().await;
        let events = self.shared(Input::Unshare(key_id), now)?;
        if let Some(upstream) = &self.inner.upstream {
            upstream.withdraw_jwt_key(key_id, now).await?;
        }
        Ok(events)
    }

    fn shared(&self, input: Input<'_>, now: Timestamp) -> Result<Vec<Event>, CaError> {
        let kind = Kind::Jwt;
        let actions = self.commit(kind, now, input)?;
        Ok(actions
            .into_iter()
            .map(|action| Event { kind, action })
            .collect())
    }

    /// Ticks until nothing changes any more.
    async fn settle(
        &self,
        kind: Kind,
        now: Timestamp,
        evidence: &Evidence,
        events: &mut Vec<Event>,
    ) -> Result<(), CaError> {
        loop {
            let actions = self.commit(kind, now, Input::Tick(evidence))?;
            let settled = actions
                .iter()
                .all(|action| matches!(action, Action::Awaiting { .. }));
            self.perform(kind, now, actions, events).await?;
            if settled {
                return Ok(());
            }
        }
    }

    /// Takes the upstream's roots as they are now; those known before stay where it cannot be asked.
    async fn follow_roots(&self, now: Timestamp, events: &mut Vec<Event>) -> Result<(), CaError> {
        let roots = match &self.inner.upstream {
            Some(upstream) => upstream.roots(now).await,
            // None any more: they leave with the last authority below them.
            None => Ok(Vec::new()),
        };
        match roots {
            Ok(roots) => self.take_roots(now, &roots, events),
            Err(error) => {
                tracing::warn!(trust_domain = %self.inner.trust_domain, %error, "the upstream's roots cannot be followed");
                Ok(())
            }
        }
    }

    /// Takes the JWT keys that the upstream knows now; those known before stay where it cannot be asked.
    async fn follow_jwt_keys(
        &self,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) -> Result<(), CaError> {
        let keys = match &self.inner.upstream {
            Some(upstream) => upstream.jwt_keys(now).await,
            None => Ok(Vec::new()),
        };
        match keys {
            Ok(keys) if keys.len() > MAX_SHARED_KEYS => Err(too_many("JWT keys").into()),
            Ok(keys) => {
                events.extend(self.shared(Input::UpstreamKeys(&keys), now)?);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(trust_domain = %self.inner.trust_domain, %error, "the upstream's JWT keys cannot be followed");
                Ok(())
            }
        }
    }

    fn take_roots(
        &self,
        now: Timestamp,
        roots: &[X509Authority],
        events: &mut Vec<Event>,
    ) -> Result<(), CaError> {
        if roots.len() > MAX_UPSTREAM_CERTIFICATES {
            return Err(too_many("roots").into());
        }
        let kind = Kind::X509;
        let actions = self.commit(kind, now, Input::Roots(roots))?;
        events.extend(actions.into_iter().map(|action| Event { kind, action }));
        Ok(())
    }

    /// Makes the next authority of a kind and publishes it in the bundle; [`Self::activate`] or a tick lets it sign.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::AlreadyPrepared`](crate::error::LifecycleError::AlreadyPrepared) and what making it can
    /// fail with.
    pub async fn prepare(&self, kind: Kind, now: Timestamp) -> Result<Vec<Event>, CaError> {
        self.command(kind, Command::Prepare, &Evidence::unknown(), now)
            .await
    }

    /// Lets the prepared authority sign.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::Laggards`](crate::error::LifecycleError::Laggards) while the evidence does not show that
    /// every consumer knows it, unless forced; and
    /// [`LifecycleError::NothingPrepared`](crate::error::LifecycleError::NothingPrepared).
    pub async fn activate(
        &self,
        kind: Kind,
        evidence: &Evidence,
        force: bool,
        now: Timestamp,
    ) -> Result<Vec<Event>, CaError> {
        self.command(kind, Command::Activate { force }, evidence, now)
            .await
    }

    /// Takes an old authority out of the bundle.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::StillInUse`](crate::error::LifecycleError::StillInUse) while something it signed is valid
    /// or, by the evidence, presented, unless forced; and when there is no such authority or it is not old.
    pub async fn retire(
        &self,
        kind: Kind,
        id: &str,
        evidence: &Evidence,
        force: bool,
        now: Timestamp,
    ) -> Result<Vec<Event>, CaError> {
        let id = id.into();
        self.command(kind, Command::Retire { id, force }, evidence, now)
            .await
    }

    /// Marks an old authority in the bundle: consumers replace what it signed.
    ///
    /// # Errors
    ///
    /// When there is no such authority or it is not old.
    pub async fn taint(&self, kind: Kind, id: &str, now: Timestamp) -> Result<Vec<Event>, CaError> {
        let id = id.into();
        self.command(kind, Command::Taint { id }, &Evidence::unknown(), now)
            .await
    }

    /// Takes a tainted authority out of the bundle, once the evidence shows that nobody presents what it signed; or at
    /// once, if forced.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::StillInUse`](crate::error::LifecycleError::StillInUse), which names the holders, unless
    /// forced; and when there is no such authority or it is not tainted.
    pub async fn revoke(
        &self,
        kind: Kind,
        id: &str,
        evidence: &Evidence,
        force: bool,
        now: Timestamp,
    ) -> Result<Vec<Event>, CaError> {
        let id = id.into();
        self.command(kind, Command::Revoke { id, force }, evidence, now)
            .await
    }

    async fn command(
        &self,
        kind: Kind,
        command: Command,
        evidence: &Evidence,
        now: Timestamp,
    ) -> Result<Vec<Event>, CaError> {
        let _one_at_a_time = self.inner.maintenance.lock().await;
        let actions = self.commit(kind, now, Input::Command(command, evidence))?;
        let mut events = Vec::new();
        self.perform(kind, now, actions, &mut events).await?;
        Ok(events)
    }

    /// Does what is to do and notes the rest.
    async fn perform(
        &self,
        kind: Kind,
        now: Timestamp,
        actions: Vec<Action>,
        events: &mut Vec<Event>,
    ) -> Result<(), CaError> {
        for action in actions {
            let Action::Generate { slot } = action else {
                self.tell_upstream(kind, &action, now).await;
                events.push(Event { kind, action });
                continue;
            };
            let authority = match (kind, &self.inner.upstream) {
                (Kind::X509, Some(upstream)) => self.mint(&**upstream, slot, now, events).await?,
                _ => self.generate(kind, slot, now).await?,
            };
            if let (PublicHalf::Key(key), Some(upstream)) =
                (authority.public(), &self.inner.upstream)
                && let Some(key) = JwtAuthority::new(authority.id(), key.clone())
            {
                upstream
                    .publish_jwt_key(&key, authority.not_after(), now)
                    .await?;
            }
            let published = self.commit(kind, now, Input::Publish(authority))?;
            events.extend(published.into_iter().map(|action| Event { kind, action }));
        }
        Ok(())
    }

    /// A JWT authority that left the bundle, retired or revoked, leaves the upstream's too. Where that fails, it leaves
    /// there when it has expired.
    async fn tell_upstream(&self, kind: Kind, action: &Action, now: Timestamp) {
        if let (Kind::Jwt, Action::Removed { id, .. }, Some(upstream)) =
            (kind, action, &self.inner.upstream)
            && let Err(error) = upstream.withdraw_jwt_key(id, now).await
        {
            tracing::warn!(trust_domain = %self.inner.trust_domain, authority = id, %error, "the JWT key stays at the upstream until it expires");
        }
    }

    /// Makes a key in `slot` and the authority's public half.
    async fn generate(&self, kind: Kind, slot: Slot, now: Timestamp) -> Result<Authority, CaError> {
        let inner = &*self.inner;
        let own = &inner.authorities;
        let not_before = (now - inner.settings.backdate).truncated();
        let not_after = (now + own.lifetime).truncated();
        let key_type = match kind {
            Kind::Jwt => own.jwt_key,
            Kind::X509 => own.x509_key,
        };
        let signer = inner.keys.generate(slot.key_name(kind), key_type).await?;
        let (id, public) = match kind {
            Kind::X509 => {
                let certificate = self_signed_authority(
                    &inner.trust_domain,
                    &own.subject,
                    &*signer,
                    not_before,
                    not_after,
                    &inner.settings,
                )
                .await?;
                let authority = X509Authority::from_der(certificate.clone()).map_err(|error| {
                    IssuerError::NotAuthority {
                        reason: error.to_string(),
                    }
                })?;
                let id = hex(authority.subject_key_id().unwrap_or_default());
                self.record(
                    &Entry {
                        what: What::Authority,
                        id: inner.trust_domain.id().as_str(),
                        reason: None,
                        authority: &id,
                        expires: not_after,
                        serial: None,
                        signed: &certificate,
                    },
                    now,
                )?;
                (id, PublicHalf::Certificate(certificate))
            }
            Kind::Jwt => {
                let mut id = [0; 16];
                inner
                    .settings
                    .random
                    .fill(&mut id)
                    .map_err(IssueError::from)?;
                (hex(&id), PublicHalf::Key(signer.public_key().clone()))
            }
        };
        let authority = Authority::prepared(id, slot, not_before, not_after, public);
        self.live().load_issuer(inner, kind, &authority, signer)?;
        Ok(authority)
    }

    /// Makes a key in `slot` and has the upstream certify it; the upstream's roots go into the bundle first.
    async fn mint(
        &self,
        upstream: &dyn UpstreamAuthority,
        slot: Slot,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) -> Result<Authority, CaError> {
        let inner = &*self.inner;
        let own = &inner.authorities;
        let name = slot.key_name(Kind::X509);
        let signer = inner.keys.generate(name, own.x509_key).await?;
        let csr = authority_request(&inner.trust_domain, &own.subject, &*signer).await?;
        let minted = upstream
            .mint(&MintRequest::new(csr, own.lifetime), now)
            .await?;
        if minted.chain.len() > MAX_UPSTREAM_CERTIFICATES {
            return Err(too_many("certificates above it").into());
        }
        let mut chain = minted.chain.into_iter();
        let certificate = chain.next().ok_or_else(|| UpstreamError::Unusable {
            reason: "the chain is empty".into(),
        })?;
        let chain: Vec<_> = chain.collect();
        let issuer = X509Issuer::new(
            inner.trust_domain.clone(),
            certificate.clone(),
            chain.clone(),
            signer,
            inner.settings.clone(),
        )?;
        prove(&issuer, &minted.roots, now).await?;
        self.take_roots(now, &minted.roots, events)?;
        let (not_before, not_after) = {
            let authority = issuer.authority();
            (authority.not_before(), authority.not_after())
        };
        let public = PublicHalf::Certificate(certificate);
        let authority = Authority::prepared(issuer.id(), slot, not_before, not_after, public)
            .with_upstream(chain);
        self.live()
            .x509
            .insert(issuer.id().to_owned(), Arc::new(issuer));
        Ok(authority)
    }

    /// Takes one step: journal first, then the bundle, then who signs.
    fn commit(&self, kind: Kind, now: Timestamp, input: Input<'_>) -> Result<Vec<Action>, CaError> {
        let inner = &*self.inner;
        let mut live = self.live();
        let (mut next, actions) = live
            .state
            .step(kind, now, input, &inner.authorities.rollover)?;
        if next == live.state {
            return Ok(actions);
        }
        if let Some(directory) = &inner.state_dir {
            // Synced first: the journal must know no record that a loss of power can take.
            if let Some(log) = &inner.log {
                next.log = Some(log.synced_mark()?);
            }
            directory.store(&next)?;
        }
        let changed = next.sequence != live.state.sequence;
        live.state = next;
        live.forget_unused_issuers();
        for action in &actions {
            match action {
                Action::Tainted { id } | Action::RootTainted { id } => {
                    live.tainted_at.insert(id.clone(), now);
                }
                Action::Removed { id, .. } | Action::RootRemoved { id } => {
                    live.tainted_at.remove(id);
                }
                _ => {}
            }
        }
        if changed {
            live.bundle = Arc::new(inner.bundle_of(&live.state));
            let bundles: BundleSet = [live.bundle.clone()].into_iter().collect();
            if let Err(rejection) = inner.publisher.publish([], bundles) {
                tracing::error!(trust_domain = %inner.trust_domain, %rejection, "a consumer in this process cannot use the new bundle");
            }
        }
        drop(live);
        for action in &actions {
            inner.log(kind, action);
        }
        Ok(actions)
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        // Steps are computed aside and put in as a whole, so a panic elsewhere leaves the state whole.
        self.inner
            .live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn bundle_of(&self, state: &State) -> Bundle {
        state.bundle(&self.trust_domain, self.authorities.refresh_hint)
    }

    fn log(&self, kind: Kind, action: &Action) {
        let trust_domain = &self.trust_domain;
        match action {
            Action::Activated { id, laggards } if laggards.is_empty() => {
                tracing::info!(%trust_domain, %kind, authority = id, "authority activated");
            }
            Action::Activated { id, laggards } => {
                tracing::warn!(%trust_domain, %kind, authority = id, ?laggards, "authority activated before everybody knew it");
            }
            Action::Published { id } => {
                tracing::info!(%trust_domain, %kind, authority = id, "authority published");
            }
            Action::Removed { id, holders } if !holders.is_empty() => {
                tracing::warn!(%trust_domain, %kind, authority = id, ?holders, "authority removed before everybody had replaced what it signed");
            }
            Action::Removed { id, .. } => {
                tracing::info!(%trust_domain, %kind, authority = id, "authority removed");
            }
            Action::KeyShared { id } => {
                tracing::info!(%trust_domain, key = id, "JWT key of another server published");
            }
            Action::KeyUnshared { id } => {
                tracing::info!(%trust_domain, key = id, "JWT key of another server removed");
            }
            Action::RootPublished { id } => {
                tracing::info!(%trust_domain, root = id, "upstream root published");
            }
            Action::RootRemoved { id } => {
                tracing::info!(%trust_domain, root = id, "upstream root removed");
            }
            Action::RootTainted { id } => {
                tracing::warn!(%trust_domain, root = id, "upstream root tainted");
            }
            Action::Tainted { id } => {
                tracing::warn!(%trust_domain, %kind, authority = id, "authority tainted");
            }
            Action::Awaiting { .. } | Action::Generate { .. } => {}
        }
    }
}

impl Live {
    /// Makes an authority ready to sign, so that activating it is a swap.
    fn load_issuer(
        &mut self,
        inner: &Inner,
        kind: Kind,
        authority: &Authority,
        signer: Arc<dyn Signer>,
    ) -> Result<(), IssuerError> {
        let id = authority.id().to_owned();
        let (trust_domain, settings) = (inner.trust_domain.clone(), inner.settings.clone());
        match (kind, authority.public()) {
            (Kind::X509, PublicHalf::Certificate(certificate)) => {
                let issuer = X509Issuer::new(
                    trust_domain,
                    certificate.clone(),
                    authority.upstream().unwrap_or_default().to_vec(),
                    signer,
                    settings,
                )?;
                self.x509.insert(id, Arc::new(issuer));
            }
            (Kind::Jwt, PublicHalf::Key(key)) => {
                if key != signer.public_key() {
                    return Err(IssuerError::KeyMismatch);
                }
                let issuer = JwtIssuer::new(
                    trust_domain,
                    &id,
                    signer,
                    authority.not_before(),
                    authority.not_after(),
                    settings,
                )?;
                self.jwt.insert(id, Arc::new(issuer));
            }
            _ => return Err(IssuerError::KeyMismatch),
        }
        Ok(())
    }

    fn forget_unused_issuers(&mut self) {
        let needed = |slots: &crate::authority::Slots, id: &str| {
            slots.find(id).is_some_and(|authority| {
                matches!(authority.status(), Status::Active | Status::Prepared)
            })
        };
        let state = &self.state;
        self.x509.retain(|id, _| needed(&state.x509, id));
        self.jwt.retain(|id, _| needed(&state.jwt, id));
    }
}

fn say_if_capped(capped: bool, spiffe_id: &str, not_after: Timestamp) {
    if capped {
        tracing::info!(spiffe_id, %not_after, "the lifetime asked for was cut to the authority's");
    }
}

fn too_many(what: &str) -> UpstreamError {
    UpstreamError::Unusable {
        reason: format!("more than {MAX_UPSTREAM_CERTIFICATES} {what}"),
    }
}

impl Source for TrustDomainCa {
    fn publisher(&self) -> &Publisher {
        &self.inner.publisher
    }
}

impl fmt::Debug for TrustDomainCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustDomainCa")
            .field("trust_domain", &self.inner.trust_domain)
            .field("sequence", &self.live().state.sequence())
            .finish_non_exhaustive()
    }
}
