//! How long a source can go on without its endpoint, and whether it is fit to serve.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use spiffe_core::snapshot::Snapshot;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{SpiffeId, Timestamp, TrustDomain, TrustDomainRef, X509Svid};

/// Until when what a source holds can be used if nothing else ever comes, and what ends first.
///
/// For X.509 it counts what the workload's own identities rest on: each SVID up to the last instant at which its whole
/// path, authority included, is valid, and the last authority of each own trust domain's bundle. Federated bundles end
/// on their own and take nothing but their own trust domain's workloads with them. For tokens it counts those that are
/// held. An instant in the past says when it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survival {
    until: Timestamp,
    ends: Ends,
}

/// What ends first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ends {
    /// The bundle of a trust domain: its last authority expires, or the one that vouches for an own SVID.
    Bundle {
        /// The trust domain.
        trust_domain: TrustDomain,
    },
    /// Nothing that is held ends by itself: authorities for tokens carry no time.
    Nothing,
    /// An X509-SVID, by its own time or by that of a certificate beside it.
    Svid {
        /// Its SPIFFE ID.
        id: SpiffeId,
    },
    /// A JWT-SVID.
    Token {
        /// Its SPIFFE ID.
        id: SpiffeId,
    },
    /// The grace after a withdrawal by the Workload API.
    Withdrawal,
}

impl Survival {
    /// What X.509 identities and bundles are good for, judged at `now`; `None` when there is neither.
    ///
    /// Without an SVID it is the bundle that ends first. A bundle without authorities, or whose authorities have all
    /// expired by `now`, trusts nobody already and does not count.
    pub fn of(snapshot: &Snapshot, verifier: &X509Verifier, now: Timestamp) -> Option<Self> {
        let svids = snapshot.svids().iter();
        let svids = svids.map(|svid| Self::of_svid(snapshot, svid, verifier, now));
        let is_own = |trust_domain: TrustDomainRef<'_>| {
            let mut svids = snapshot.svids().iter();
            snapshot.svids().is_empty() || svids.any(|svid| svid.trust_domain() == trust_domain)
        };
        let bundles = snapshot.bundles().iter();
        let bundles = bundles
            .filter(|bundle| is_own(bundle.trust_domain().as_ref()))
            .filter_map(|bundle| {
                let authorities = bundle.x509_authorities().iter();
                let until = authorities.map(|authority| authority.not_after()).max()?;
                Some(Self::bundle(until, bundle.trust_domain().clone()))
            })
            .filter(|bundle| bundle.until >= now);
        let first = svids.chain(bundles).min_by_key(|one| one.until);
        first.or_else(|| (!snapshot.bundles().is_empty()).then(Self::nothing_ends))
    }

    fn of_svid(
        snapshot: &Snapshot,
        svid: &X509Svid,
        verifier: &X509Verifier,
        now: Timestamp,
    ) -> Self {
        let at = now.max(svid.not_before()).min(svid.not_after());
        let bundles = snapshot.bundles();
        let verified = verifier.verify(svid.chain(), bundles, at, PeerRole::Unspecified);
        let not_after = svid.not_after();
        let trust_domain = svid.trust_domain();
        let path_ends = verified.ok().map(|path| path.not_after);
        // Without a path now there may have been one at first, which is over. Else the SVID's own time is all that is known.
        let over = || {
            let first = svid.not_before();
            let verified = verifier.verify(svid.chain(), bundles, first, PeerRole::Unspecified);
            verified
                .ok()
                .map(|path| path.not_after)
                .filter(|end| *end < at)
        };
        let until = path_ends.or_else(over).unwrap_or(not_after).min(not_after);
        let ends_with_authority = until < not_after
            && bundles.get(trust_domain).is_some_and(|own| {
                let mut authorities = own.x509_authorities().iter();
                authorities.any(|authority| authority.not_after() == until)
            });
        if ends_with_authority {
            return Self::bundle(until, trust_domain.to_owned());
        }
        let id = svid.id().clone();
        Self {
            until,
            ends: Ends::Svid { id },
        }
    }

    fn bundle(until: Timestamp, trust_domain: TrustDomain) -> Self {
        Self {
            until,
            ends: Ends::Bundle { trust_domain },
        }
    }

    pub(super) const fn nothing_ends() -> Self {
        Self {
            until: Timestamp::MAX,
            ends: Ends::Nothing,
        }
    }

    pub(super) const fn token(until: Timestamp, id: SpiffeId) -> Self {
        Self {
            until,
            ends: Ends::Token { id },
        }
    }

    /// The last instant at which everything that counts can be used; [`Timestamp::MAX`] with [`Ends::Nothing`].
    pub const fn until(&self) -> Timestamp {
        self.until
    }

    /// What ends then.
    pub const fn ends(&self) -> &Ends {
        &self.ends
    }
}

impl fmt::Display for Survival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = self.until;
        match &self.ends {
            Ends::Bundle { trust_domain } => {
                write!(f, "until {until}, when the bundle of {trust_domain} ends")
            }
            Ends::Nothing => f.write_str("for good: nothing that is held ends by itself"),
            Ends::Svid { id } => write!(f, "until {until}, when the SVID of {id} ends"),
            Ends::Token { id } => write!(f, "until {until}, when a token of {id} ends"),
            Ends::Withdrawal => write!(f, "until {until}, when it is withdrawn"),
        }
    }
}

/// Whether a source is fit to serve: what a readiness probe should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readiness {
    /// Nothing is held: nothing has come yet, or it was withdrawn.
    Empty,
    /// The default SVID, or the authority it rests on, has expired.
    Expired {
        /// Since when.
        since: Timestamp,
    },
    /// The default SVID has passed two thirds of its life, counted from when it became valid or from when it came,
    /// whichever is later, and no update has replaced it, though it is renewed at 45 to 60 %: what should have come has
    /// not. It still serves.
    ///
    /// Issuers date SVIDs back, by a minute say, for the sake of slow clocks. Counted from there, an SVID of a few seconds
    /// would be overdue as it arrives. What an earlier run of the program has left is counted from when it became valid.
    Overdue {
        /// Since when.
        since: Timestamp,
    },
    /// It serves.
    Ready,
}

impl Readiness {
    /// [`Self::Ready`], and nothing else.
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Of bundles without an identity.
    pub(super) fn of_bundles(
        snapshot: &Snapshot,
        _: Option<Timestamp>,
        _: Option<&Survival>,
        _: Timestamp,
    ) -> Self {
        if snapshot.bundles().is_empty() {
            Self::Empty
        } else {
            Self::Ready
        }
    }

    /// Of X.509 identities.
    pub(super) fn of_svid(
        snapshot: &Snapshot,
        received: Option<Timestamp>,
        survival: Option<&Survival>,
        now: Timestamp,
    ) -> Self {
        let Ok(svid) = snapshot.svid() else {
            return Self::Empty;
        };
        let (window_closes, end) = ages(svid, received, survival);
        if end < now {
            Self::Expired { since: end }
        } else if window_closes <= now {
            Self::Overdue {
                since: window_closes,
            }
        } else {
            Self::Ready
        }
    }
}

/// When the window for the renewal of an SVID closes that came at `received`, and the last instant at which it serves.
pub(super) fn ages(
    svid: &X509Svid,
    received: Option<Timestamp>,
    survival: Option<&Survival>,
) -> (Timestamp, Timestamp) {
    let (valid, to) = (svid.not_before(), svid.not_after());
    let from = received.map_or(valid, |received| received.max(valid));
    let end = survival.map_or(to, |survival| survival.until().min(to));
    (from + to.saturating_since(from) * 2 / 3, end)
}

/// The survival that readers load: what is held and, over it, the end of a grace.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    current: ArcSwapOption<Survival>,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    held: Option<Arc<Survival>>,
    tokens: Option<Arc<Survival>>,
    withdrawn_at: Option<Timestamp>,
}

impl Outlook {
    pub(super) fn load(&self) -> Option<Arc<Survival>> {
        self.current.load_full()
    }

    /// What is held has changed.
    pub(super) fn holds(&self, held: Option<Survival>) {
        self.change(|parts| parts.held = held.map(Arc::new));
    }

    /// The tokens that are held have changed; they end before bundles do.
    pub(super) fn tokens(&self, tokens: Option<Survival>) {
        self.change(|parts| parts.tokens = tokens.map(Arc::new));
    }

    /// What is held goes at this time, whatever its own end.
    pub(super) fn goes_at(&self, at: Option<Timestamp>) {
        self.change(|parts| parts.withdrawn_at = at);
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.lock();
        change(&mut parts);
        let held = parts.tokens.as_ref().or(parts.held.as_ref());
        let current = match (held, parts.withdrawn_at) {
            (Some(held), Some(at)) if at < held.until => Some(Arc::new(Survival {
                until: at,
                ends: Ends::Withdrawal,
            })),
            (held, _) => held.cloned(),
        };
        self.current.store(current);
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
