//! A trust domain's CA in a directory, run by hand: what `spiffe ca` does, one call a verb.
//!
//! Nobody lets time pass between two calls, so authorities live long here, and each change lets those follow each
//! other whose time has come. Looking changes nothing and needs no lock.

mod files;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spiffe_core::crypto::{aws_lc_rs, system_random};
use spiffe_core::key::KeyType;
use spiffe_core::{Bundle, Timestamp, TrustDomain};
use spiffe_svid_ca::authority::{Evidence, Kind, State, Status};
use spiffe_svid_ca::error::{
    CaError, IssueError, LifecycleError, LogError, StateError, TokenUriError,
};
use spiffe_svid_ca::keys::{DiskKeys, KeyManager, Pkcs11Keys, RehearsedKeys, TokenUri};
use spiffe_svid_ca::log::{LOG_FILE, Record, Verified, verify};
use spiffe_svid_ca::storage::{Directory, Rehearsal};
use spiffe_svid_ca::{StateDir, TrustDomainCa, TrustDomainCaBuilder};

pub use files::{Delivery, FileError, PRIVATE, PUBLIC};
pub use report::{AuthorityReport, StatusReport};

/// How long authorities live that nobody renews by a running program: a year.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// How often consumers are asked to fetch the bundle.
const REFRESH_HINT: Duration = Duration::from_secs(300);

/// A CA in a directory.
#[derive(Clone, Debug)]
pub struct CaDirectory {
    path: PathBuf,
    rehearsal: bool,
    longest_stop: Duration,
    keys: Option<TokenUri>,
}

impl CaDirectory {
    /// The CA in this directory, whether or not it is there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            rehearsal: false,
            longest_stop: Duration::ZERO,
            keys: None,
        }
    }

    /// The same, with its keys in a token; by default where the journal says, and beside the journal in a new one.
    #[must_use]
    pub fn keys(mut self, keys: Option<TokenUri>) -> Self {
        self.keys = keys;
        self
    }

    /// The same, believing any clock: one past the end of every authority, since a CA run by hand may have rested for so
    /// long, and one before what was recorded last. Otherwise nothing is done by either.
    #[must_use]
    pub fn believe_clock(mut self, believe: bool) -> Self {
        self.longest_stop = if believe {
            Duration::MAX
        } else {
            Duration::ZERO
        };
        self
    }

    /// The same, leaving every file as it is whatever is done.
    #[must_use]
    pub fn rehearsal(mut self, rehearsal: bool) -> Self {
        self.rehearsal = rehearsal;
        self
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a trust domain's first authorities.
    ///
    /// # Errors
    ///
    /// [`CaDirectoryError::Exists`] where there is a trust domain already, and what making it can fail with.
    pub async fn init(
        &self,
        trust_domain: &TrustDomain,
        lifetime: Duration,
        key: KeyType,
        now: Timestamp,
    ) -> Result<StatusReport, CaDirectoryError> {
        // One that was interrupted before its first authority is begun again.
        if let Some((found, state)) = StateDir::look(&self.path)?
            && state.sequence() > 0
        {
            return Err(CaDirectoryError::Exists {
                path: self.path.clone(),
                trust_domain: found,
            });
        }
        let builder = TrustDomainCa::builder(trust_domain.clone())
            .authority_lifetime(lifetime)
            .x509_key_type(key)
            .jwt_key_type(match key {
                KeyType::Ed25519 => KeyType::EcP256,
                other => other,
            });
        let builder = match &self.keys {
            Some(uri) => builder.keys(self.open_keys(uri.clone(), trust_domain).await?),
            None => builder,
        };
        // Where there is no directory yet, a rehearsal makes none.
        let ca = if self.rehearsal && !self.path.exists() {
            builder.build(now).await?
        } else {
            builder
                .state_dir(self.open_state(trust_domain)?)
                .build(now)
                .await?
        };
        Ok(StatusReport::new(trust_domain, &ca.state(), now))
    }

    /// Whose CA it is, and its authorities.
    ///
    /// # Errors
    ///
    /// [`CaDirectoryError::Missing`] and what reading the journal can fail with.
    pub fn look(&self) -> Result<(TrustDomain, State), CaDirectoryError> {
        StateDir::look(&self.path)?.ok_or_else(|| CaDirectoryError::Missing {
            path: self.path.clone(),
        })
    }

    /// Its authorities, described, with what is there of the keys that they sign with; those in a token are not looked for.
    ///
    /// # Errors
    ///
    /// As [`Self::look`], and what reading the keys can fail with.
    pub async fn status(&self, now: Timestamp) -> Result<StatusReport, CaDirectoryError> {
        let (trust_domain, state) = self.look()?;
        let report = StatusReport::new(&trust_domain, &state, now);
        if state.keys().is_some() {
            return Ok(report);
        }
        let storage = Arc::new(Directory::new(&self.path));
        let keys = DiskKeys::open(storage, aws_lc_rs()).map_err(CaError::from)?;
        report.with_keys(&state, &keys).await
    }

    /// Its bundle.
    ///
    /// # Errors
    ///
    /// As [`Self::look`].
    pub fn bundle(&self) -> Result<Bundle, CaDirectoryError> {
        let (trust_domain, state) = self.look()?;
        Ok(state.bundle(&trust_domain, REFRESH_HINT))
    }

    /// The CA, ready to issue. Authorities to come live as long as the one that signs.
    ///
    /// # Errors
    ///
    /// [`CaDirectoryError::Upstream`] for a CA below another, which only the program that runs it can keep there.
    pub async fn open(
        &self,
        configure: impl FnOnce(TrustDomainCaBuilder) -> TrustDomainCaBuilder,
        now: Timestamp,
    ) -> Result<TrustDomainCa, CaDirectoryError> {
        let (trust_domain, state) = self.look()?;
        if !state.roots().is_empty() {
            return Err(CaDirectoryError::Upstream {
                path: self.path.clone(),
            });
        }
        let lifetime = state
            .slots(Kind::X509)
            .active()
            .map_or(AUTHORITY_LIFETIME, |active| {
                active.not_after().saturating_since(active.published_at())
            });
        let builder = TrustDomainCa::builder(trust_domain.clone())
            .longest_stop(self.longest_stop)
            .authority_lifetime(lifetime.max(spiffe_svid_ca::MIN_AUTHORITY_LIFETIME))
            .refresh_hint(REFRESH_HINT)
            .state_dir(self.open_state(&trust_domain)?);
        let builder = match self.keys_of(&state)? {
            Some(uri) => builder.keys(self.open_keys(uri, &trust_domain).await?),
            None => builder,
        };
        Ok(configure(builder).build(now).await?)
    }

    /// Lets the next authority of each kind follow: prepares it where none is prepared, and activates it where one is.
    /// `acknowledged` says that every consumer has the bundle that contains it; `force` does both at once and breaks
    /// those who have not. Old authorities that nothing valid depends on any more leave the bundle here, and only here:
    /// whoever rotates by hand has looked at the clock.
    ///
    /// # Errors
    ///
    /// [`CaDirectoryError::Unacknowledged`] for a prepared authority that nobody vouches for.
    pub async fn rotate(
        &self,
        kinds: &[Kind],
        acknowledged: bool,
        force: bool,
        now: Timestamp,
    ) -> Result<StatusReport, CaDirectoryError> {
        let ca = self.open(|builder| builder, now).await?;
        let evidence = if acknowledged {
            Evidence::complete([])
        } else {
            Evidence::unknown()
        };
        for kind in kinds {
            for authority in ca.state().slots(*kind).iter() {
                if matches!(authority.status(), Status::Old | Status::Tainted) {
                    match ca
                        .retire(*kind, authority.id(), &evidence, false, now)
                        .await
                    {
                        Err(CaError::Lifecycle(LifecycleError::StillInUse { .. })) => {}
                        retired => drop(retired?),
                    }
                }
            }
        }
        for kind in kinds {
            let prepared = ca.state().slots(*kind).prepared().is_some();
            if !prepared {
                ca.prepare(*kind, now).await?;
            }
            if prepared || force {
                match ca.activate(*kind, &evidence, force, now).await {
                    Err(CaError::Lifecycle(LifecycleError::Laggards { id, .. })) => {
                        return Err(CaDirectoryError::Unacknowledged { id });
                    }
                    activated => drop(activated?),
                }
            }
        }
        Ok(StatusReport::new(ca.trust_domain(), &ca.state(), now))
    }

    /// Marks an old authority, so that consumers replace what it signed; with `revoke` it is taken out of the bundle.
    ///
    /// # Errors
    ///
    /// When there is no such authority, or it still signs.
    pub async fn taint(
        &self,
        id: &str,
        revoke: bool,
        now: Timestamp,
    ) -> Result<StatusReport, CaDirectoryError> {
        let ca = self.open(|builder| builder, now).await?;
        let state = ca.state();
        let found = [Kind::X509, Kind::Jwt]
            .into_iter()
            .find_map(|kind| Some((kind, state.slots(kind).find(id)?)));
        let (kind, authority) = found.ok_or_else(|| LifecycleError::Unknown { id: id.into() })?;
        if !(revoke && authority.status() == Status::Tainted) {
            ca.taint(kind, id, now).await?;
        }
        if revoke {
            ca.revoke(kind, id, &Evidence::unknown(), true, now).await?;
        }
        Ok(StatusReport::new(ca.trust_domain(), &ca.state(), now))
    }

    /// Verifies the issuance log from its first record to its last, handing each to `look`; and that it has come as far as
    /// the journal knows.
    ///
    /// # Errors
    ///
    /// [`LogError::Broken`] where it does not hold together, [`LogError::Behind`] where it is not the journal's.
    pub fn verify_log(&self, mut look: impl FnMut(&Record)) -> Result<Verified, CaDirectoryError> {
        let (_, state) = self.look()?;
        let storage = Directory::new(&self.path);
        let mark = state.log();
        // The hash of the record that the journal knows, as the one behind it says.
        let mut found = None;
        let verified = verify(&storage, &*aws_lc_rs(), |record| {
            if mark.is_some_and(|mark| record.number.checked_sub(1) == Some(mark.records)) {
                found = Some(record.previous.clone());
            }
            look(record);
        })?;
        let records = verified
            .first
            .saturating_add(verified.records)
            .saturating_sub(1);
        if let Some(mark) = mark {
            if records == mark.records {
                found = Some(verified.head.clone());
            }
            // Files from before the mark may have been deleted, to bound the log.
            let is_deleted = verified.first > mark.records.saturating_add(1);
            if !is_deleted && found.as_ref() != Some(&mark.head) {
                return Err(CaDirectoryError::Log(LogError::Behind {
                    path: storage.as_path().join(LOG_FILE),
                    records,
                    mark: mark.clone(),
                }));
            }
        }
        Ok(verified)
    }

    /// The token that holds the keys: the one that is named, else the journal's.
    fn keys_of(&self, state: &State) -> Result<Option<TokenUri>, CaDirectoryError> {
        let recorded = state.keys().map(str::parse).transpose()?;
        Ok(self.keys.clone().or(recorded))
    }

    /// A trust domain's keys in a token, under its name, so that a token can hold several.
    async fn open_keys(
        &self,
        uri: TokenUri,
        trust_domain: &TrustDomain,
    ) -> Result<Arc<dyn KeyManager>, CaDirectoryError> {
        let uri = uri.or_object(trust_domain.as_str());
        let keys = Pkcs11Keys::open(uri, aws_lc_rs(), system_random()).await;
        let keys = Arc::new(keys.map_err(CaError::from)?);
        Ok(if self.rehearsal {
            Arc::new(RehearsedKeys::new(keys, aws_lc_rs()))
        } else {
            keys
        })
    }

    fn open_state(&self, trust_domain: &TrustDomain) -> Result<StateDir, StateError> {
        if self.rehearsal {
            let storage = Arc::new(Rehearsal::new(Directory::new(&self.path)));
            StateDir::open_with(&self.path, trust_domain, storage)
        } else {
            StateDir::open(&self.path, trust_domain)
        }
    }
}

/// Why a CA in a directory did not do as asked. Nothing was released.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaDirectoryError {
    /// The CA refused, or its directory cannot be used.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// There is a trust domain already.
    #[error(
        "{path} holds the trust domain {trust_domain} already; choose another directory with --state, or use it"
    )]
    Exists {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        trust_domain: TrustDomain,
    },
    /// Nothing was issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The authorities' life does not allow it.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// The issuance log does not hold together.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is no trust domain.
    #[error(
        "{path} holds no trust domain; make one with: spiffe ca init TRUST_DOMAIN --state {path}"
    )]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// The directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The prepared authority is not known to be everywhere. Time alone does not tell.
    #[error(
        "the prepared authority {id} signs once every consumer has the bundle that contains it: hand out what 'spiffe ca bundle' writes, then run 'spiffe ca rotate --acknowledged'; --force breaks those who do not have it"
    )]
    Unacknowledged {
        /// Its ID.
        id: String,
    },
    /// The journal says that the keys are where this program cannot look.
    #[error(transparent)]
    Token(#[from] TokenUriError),
    /// The CA lies below another.
    #[error(
        "the authorities in {path} are below an upstream; only the program that runs them can change them"
    )]
    Upstream {
        /// The directory.
        path: PathBuf,
    },
}
