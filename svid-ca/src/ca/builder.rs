//! Building a CA: its settings, their checks, and what the state directory holds.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use spiffe_core::crypto::CryptoProvider;
use spiffe_core::key::KeyType;
use spiffe_core::schedule::REISSUE_OVER;
use spiffe_core::{Bundle, BundleSet, Publisher, Random, Timestamp, TrustDomain};

use super::{AuthoritySettings, Inner, Live, MIN_AUTHORITY_LIFETIME, TrustDomainCa};
use crate::authority::{Evidence, Kind, Rollover, Slot, State, Status};
use crate::error::{CaError, IssuerError, StateError};
use crate::issuer::IssuerSettings;
use crate::jwt::is_own;
use crate::keys::{DiskKeys, KeyManager, MemoryKeys};
use crate::log::{IssuanceLog, LogLimits};
use crate::name::DistinguishedName;
use crate::profile::Profile;
use crate::public_key::KeyPolicy;
use crate::state::StateDir;
use crate::upstream::UpstreamAuthority;

/// Builds a [`TrustDomainCa`]: every setting has a default.
///
/// ```
/// # use futures_util::FutureExt;
/// # async {
/// use std::time::Duration;
/// use spiffe_core::{Timestamp, TrustDomain};
/// use spiffe_svid_ca::{Profile, StateDir, TrustDomainCa};
///
/// # let directory = tempfile::tempdir()?;
/// # let (path, now) = (directory.path(), Timestamp::from_unix_seconds(1_800_000_000));
/// let trust_domain = TrustDomain::parse("example.org")?;
/// let ca = TrustDomainCa::builder(trust_domain.clone())
///     .state_dir(StateDir::open(path, &trust_domain)?)
///     .profile(Profile::spire())
///     .authority_lifetime(Duration::from_secs(7 * 86_400))
///     .x509_svid_ttl(Duration::from_secs(1800))
///     .build(now)
///     .await?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }.now_or_never().transpose()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct TrustDomainCaBuilder {
    trust_domain: TrustDomain,
    settings: IssuerSettings,
    authorities: AuthoritySettings,
    keys: Option<Arc<dyn KeyManager>>,
    state_dir: Option<StateDir>,
    upstream: Option<Arc<dyn UpstreamAuthority>>,
    longest_stop: Duration,
}

impl TrustDomainCaBuilder {
    pub(super) fn new(
        trust_domain: TrustDomain,
        crypto: Arc<dyn CryptoProvider>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self {
            trust_domain,
            settings: IssuerSettings::new(crypto, random),
            authorities: AuthoritySettings {
                lifetime: Duration::from_secs(24 * 3600),
                subject: DistinguishedName::spiffe(),
                x509_key: KeyType::EcP256,
                jwt_key: KeyType::EcP256,
                rollover: Rollover::default(),
                reissue_over: REISSUE_OVER,
                refresh_hint: Duration::from_secs(300),
            },
            keys: None,
            state_dir: None,
            upstream: None,
            longest_stop: DEFAULT_LONGEST_STOP,
        }
    }

    /// The cryptography.
    pub fn crypto(mut self, crypto: Arc<dyn CryptoProvider>) -> Self {
        self.settings.crypto = crypto;
        self
    }

    /// The randomness.
    pub fn random(mut self, random: Arc<dyn Random>) -> Self {
        self.settings.random = random;
        self
    }

    /// Where the authorities' keys lie. By default in the state directory's `keys.json`, or in memory without one.
    pub fn keys(mut self, keys: Arc<dyn KeyManager>) -> Self {
        self.keys = Some(keys);
        self
    }

    /// What survives a restart goes there, and the issuance log.
    pub fn state_dir(mut self, directory: StateDir) -> Self {
        self.state_dir = Some(directory);
        self
    }

    /// Who certifies the X.509 authorities; without one each is its own root.
    pub fn upstream(mut self, upstream: Arc<dyn UpstreamAuthority>) -> Self {
        self.upstream = Some(upstream);
        self
    }

    /// How leaves are written: [`Profile::new`].
    pub fn profile(mut self, profile: Profile) -> Self {
        self.settings.profile = profile;
        self
    }

    /// Which public keys are certified: [`KeyPolicy::default`].
    pub fn key_policy(mut self, policy: KeyPolicy) -> Self {
        self.settings.key_policy = policy;
        self
    }

    /// The lifetime of X.509-SVIDs that ask for none: an hour.
    pub fn x509_svid_ttl(mut self, ttl: Duration) -> Self {
        self.settings.x509_svid_ttl = ttl;
        self
    }

    /// The lifetime of JWT-SVIDs that ask for none: five minutes.
    pub fn jwt_svid_ttl(mut self, ttl: Duration) -> Self {
        self.settings.jwt_svid_ttl = ttl;
        self
    }

    /// Lets JWT-SVIDs carry these claims when they are asked for, such as `iss` for OpenID Connect; none by default. The
    /// issuer's own, `sub`, `aud`, `exp`, `iat`, `nbf` and `jti`, cannot be among them.
    pub fn jwt_claims(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.settings.jwt_claims = names.into_iter().map(Into::into).collect();
        self
    }

    /// How far before now certificates become valid: ten seconds.
    pub fn backdate(mut self, span: Duration) -> Self {
        self.settings.backdate = span;
        self
    }

    /// The lifetime of authorities of both kinds: 24 hours.
    pub fn authority_lifetime(mut self, lifetime: Duration) -> Self {
        self.authorities.lifetime = lifetime;
        self
    }

    /// The subject of X.509 authorities, to which each adds its serial number: `C=US,O=SPIFFE`.
    pub fn authority_subject(mut self, subject: DistinguishedName) -> Self {
        self.authorities.subject = subject;
        self
    }

    /// The keys of X.509 authorities: EC on P-256.
    pub fn x509_key_type(mut self, kind: KeyType) -> Self {
        self.authorities.x509_key = kind;
        self
    }

    /// The keys of JWT authorities: EC on P-256. Ed25519 signs no JWT-SVID.
    pub fn jwt_key_type(mut self, kind: KeyType) -> Self {
        self.authorities.jwt_key = kind;
        self
    }

    /// When authorities follow each other: [`Rollover::default`].
    pub fn rollover(mut self, rollover: Rollover) -> Self {
        self.authorities.rollover = rollover;
        self
    }

    /// Over how long the replacement of what a tainted authority signed is spread: [`REISSUE_OVER`].
    pub fn reissue_over(mut self, span: Duration) -> Self {
        self.authorities.reissue_over = span;
        self
    }

    /// How often consumers are asked to fetch the bundle, in whole seconds on the wire: five minutes.
    pub fn refresh_hint(mut self, hint: Duration) -> Self {
        self.authorities.refresh_hint = hint;
        self
    }

    /// How long ago the last authority may have expired when the CA starts again: [`DEFAULT_LONGEST_STOP`]. A clock that
    /// says more is taken to be wrong, as is one that stands more than [`MAX_STEP_BACK`] before what was recorded last,
    /// and nothing is changed by it; [`Duration::MAX`] believes any clock.
    pub fn longest_stop(mut self, span: Duration) -> Self {
        self.longest_stop = span;
        self
    }

    /// Loads the authorities of the state directory, or makes the first ones.
    ///
    /// # Errors
    ///
    /// [`CaError`].
    pub async fn build(mut self, now: Timestamp) -> Result<TrustDomainCa, CaError> {
        self.check()?;
        self.settings.intermediate_ttl = self.authorities.lifetime;
        let keys: Arc<dyn KeyManager> = match (self.keys.take(), &self.state_dir) {
            (Some(keys), _) => keys,
            (None, Some(directory)) => Arc::new(DiskKeys::open(
                directory.storage().clone(),
                self.settings.crypto.clone(),
            )?),
            (None, None) => Arc::new(MemoryKeys::new(self.settings.crypto.clone())),
        };
        let location = keys.location();
        let loaded = match &self.state_dir {
            Some(directory) => directory.load()?,
            None => None,
        };
        let mut state = match loaded {
            Some(state) => {
                self.check_keys(state.keys(), location.as_deref())?;
                self.check_clock(&state, now)?;
                state
            }
            None => {
                if let Some(location) = &location {
                    check_free(&*keys, location).await?;
                }
                State::new()
            }
        };
        if let Some(directory) = &self.state_dir {
            let known = state.keys == location;
            state.keys = location;
            // A new journal before the first key, so that keys without a journal are never ours.
            if !known || state.sequence() == 0 {
                directory.store(&state)?;
            }
            if state.sequence() > 0 {
                state.restarted(now + CLOCK_SETTLES);
            }
        }
        let log = match &self.state_dir {
            Some(directory) => Some(IssuanceLog::open(
                directory.storage().clone(),
                self.settings.crypto.clone(),
                LogLimits::default(),
            )?),
            None => None,
        };
        if let (Some(log), Some(mark)) = (&log, state.log()) {
            log.continues(mark)?;
        }
        if let Some(recorded) = log.as_ref().and_then(IssuanceLog::last_time) {
            self.check_not_before(recorded, now)?;
        }
        let inner = Inner {
            live: Mutex::new(Live {
                bundle: Arc::new(Bundle::new(self.trust_domain.clone())),
                state: State::new(),
                x509: BTreeMap::new(),
                jwt: BTreeMap::new(),
                tainted_at: BTreeMap::new(),
            }),
            trust_domain: self.trust_domain,
            settings: Arc::new(self.settings),
            authorities: self.authorities,
            keys,
            state_dir: self.state_dir,
            upstream: self.upstream,
            log,
            publisher: Publisher::new(),
            maintenance: futures_util::lock::Mutex::new(()),
        };
        let live = load(&inner, state).await?;
        let ca = TrustDomainCa {
            inner: Arc::new(inner),
        };
        *ca.live() = live;
        ca.tick(now, &Evidence::unknown()).await?;
        Ok(ca)
    }

    /// Keys are looked for where the journal says they are; the way there may have changed.
    fn check_keys(&self, recorded: Option<&str>, given: Option<&str>) -> Result<(), StateError> {
        let place = |location: Option<&str>| {
            let place = location.unwrap_or("its key file").split('?').next();
            place.unwrap_or_default().to_owned()
        };
        let (recorded, given) = (place(recorded), place(given));
        if recorded == given {
            return Ok(());
        }
        let directory = self.state_dir.as_ref();
        Err(StateError::KeysElsewhere {
            path: directory
                .map(|directory| directory.path().into())
                .unwrap_or_default(),
            recorded,
            given,
        })
    }

    /// With a clock far ahead every authority would seem to be over, and their successors would not be valid once it is
    /// set right.
    fn check_clock(&self, state: &State, now: Timestamp) -> Result<(), CaError> {
        let all = || {
            [Kind::X509, Kind::Jwt]
                .into_iter()
                .flat_map(move |kind| state.slots(kind).iter())
        };
        if let Some(last) = all().max_by_key(|authority| authority.not_after())
            && now.saturating_since(last.not_after()) > self.longest_stop
        {
            return Err(CaError::ClockAhead {
                now: now.truncated(),
                authority: last.id().into(),
                not_after: last.not_after(),
            });
        }
        match all().map(|authority| authority.published_at()).max() {
            Some(recorded) => self.check_not_before(recorded, now),
            None => Ok(()),
        }
    }

    /// Time does not run backwards by more than a clock that is set right.
    fn check_not_before(&self, recorded: Timestamp, now: Timestamp) -> Result<(), CaError> {
        if self.longest_stop == Duration::MAX || recorded.saturating_since(now) <= MAX_STEP_BACK {
            return Ok(());
        }
        let now = now.truncated();
        Err(CaError::ClockBehind { now, recorded })
    }

    fn check(&self) -> Result<(), CaError> {
        let setting = |what, value: &dyn fmt::Debug, reason| {
            Err(CaError::Setting {
                what,
                value: format!("{value:?}"),
                reason,
            })
        };
        if let Some(directory) = &self.state_dir
            && *directory.trust_domain() != self.trust_domain
        {
            return Err(CaError::State(StateError::ForeignTrustDomain {
                path: directory.path().into(),
                found: directory.trust_domain().to_string(),
                expected: self.trust_domain.clone(),
            }));
        }
        if self.authorities.jwt_key == KeyType::Ed25519 {
            return Err(IssuerError::JwtAlgorithm.into());
        }
        if let Some(own) = self.settings.jwt_claims.iter().find(|name| is_own(name)) {
            return setting(
                "an allowed claim",
                own,
                "the issuer writes it itself, and nobody else may",
            );
        }
        if self.authorities.lifetime < MIN_AUTHORITY_LIFETIME {
            return setting(
                "the lifetime of authorities",
                &self.authorities.lifetime,
                "certificates count in whole seconds, so two seconds is the least",
            );
        }
        let life = self.authorities.lifetime;
        let rollover = &self.authorities.rollover;
        let (prepare, activate) = (rollover.prepare.of(life), rollover.activate.of(life));
        if prepare >= life || activate >= prepare {
            return setting(
                "the rollover of authorities",
                rollover,
                "the next one is prepared during the life of the active one, and activated after that",
            );
        }
        for ttl in [self.settings.x509_svid_ttl, self.settings.jwt_svid_ttl] {
            if ttl < Duration::from_secs(1) {
                return setting(
                    "the lifetime of SVIDs",
                    &ttl,
                    "a lifetime below one second cannot be encoded",
                );
            }
        }
        Ok(())
    }
}

/// A week: a laptop's holiday, but less than a clock that is off by a month.
pub const DEFAULT_LONGEST_STOP: Duration = Duration::from_secs(7 * 86_400);

/// How far before the newest thing recorded the clock may stand when a CA starts: a clock is set right by no more while
/// the machine runs.
pub const MAX_STEP_BACK: Duration = Duration::from_secs(10 * 60);

/// After a start old authorities stay for so long at least: within it, a machine that just booted has set its clock.
const CLOCK_SETTLES: Duration = Duration::from_secs(10 * 60);

/// A new CA makes its keys in place of any of the same names; where others may keep theirs, none must be there.
async fn check_free(keys: &dyn KeyManager, location: &str) -> Result<(), CaError> {
    let mut taken = keys.list().await?;
    let is_ours = |name: &String| {
        [Kind::X509, Kind::Jwt].into_iter().any(|kind| {
            [Slot::A, Slot::B]
                .map(|slot| slot.key_name(kind))
                .contains(&name.as_str())
        })
    };
    taken.retain(is_ours);
    if taken.is_empty() {
        return Ok(());
    }
    Err(CaError::State(StateError::KeysTaken {
        location: location.into(),
        keys: taken.join(", "),
    }))
}

/// Readies the journal's authorities, with their keys, and publishes its bundle.
async fn load(inner: &Inner, state: State) -> Result<Live, CaError> {
    let mut live = Live {
        bundle: Arc::new(inner.bundle_of(&state)),
        state,
        x509: BTreeMap::new(),
        jwt: BTreeMap::new(),
        tainted_at: BTreeMap::new(),
    };
    for kind in [Kind::X509, Kind::Jwt] {
        for authority in live.state.slots(kind).clone().iter() {
            let Some(slot) = authority.slot() else {
                continue;
            };
            // The key of an old authority may already have given way to the next one's.
            if !matches!(authority.status(), Status::Active | Status::Prepared) {
                continue;
            }
            let lost = |what| StateError::KeyLost {
                path: inner
                    .state_dir
                    .as_ref()
                    .map(|directory| directory.path().into())
                    .unwrap_or_default(),
                key: slot.key_name(kind),
                authority: authority.id().into(),
                what,
            };
            let signer = inner
                .keys
                .signer(slot.key_name(kind))
                .await?
                .ok_or_else(|| lost("missing"))?;
            match live.load_issuer(inner, kind, authority, signer) {
                Err(IssuerError::KeyMismatch) => return Err(lost("another one").into()),
                loaded => loaded?,
            }
        }
    }
    if live.state.sequence() > 0 {
        let bundles: BundleSet = [live.bundle.clone()].into_iter().collect();
        inner.publisher.publish([], bundles)?;
    }
    Ok(live)
}
