//! What is said of an identity as it ages: that its renewal is overdue, that it has expired, and that it is fresh again,
//! each once.

use std::sync::Arc;
use std::time::Duration;

use spiffe_core::snapshot::Snapshot;
use spiffe_core::{SpiffeId, Timestamp, X509Svid};

use super::survival::{Readiness, Survival, ages};
use crate::observe::Event;

/// An SVID that is not valid yet by this machine's clock, which is behind that of the issuer. For its peers it is valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the SVID of {id} is valid from {not_before} only, and it is {now} here: check this machine's clock"
)]
#[non_exhaustive]
pub struct NotYetValid {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// The first instant of its validity.
    pub not_before: Timestamp,
    /// What the clock says.
    pub now: Timestamp,
}

impl NotYetValid {
    /// The first SVID that is not valid yet at `now`, if any.
    pub fn of(snapshot: &Snapshot, now: Timestamp) -> Option<Self> {
        let mut svids = snapshot.svids().iter();
        let svid = svids.find(|svid| svid.not_before() > now)?;
        Some(Self {
            id: svid.id().clone(),
            not_before: svid.not_before(),
            now: now.truncated(),
        })
    }
}

/// How far the default identity is in its life, by what has been said of it.
#[derive(Debug, Default)]
pub(super) struct Aging {
    said: Said,
    /// Whether nobody promises when it is renewed.
    renewed_any_time: bool,
    /// The identity.
    held: Option<Arc<X509Svid>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    #[default]
    Nothing,
    Overdue,
    Expired,
}

/// What there is to say.
#[derive(Clone, Debug)]
pub(super) enum News {
    Expired {
        svid: Arc<X509Svid>,
        since: Timestamp,
    },
    Fresh,
    Overdue {
        svid: Arc<X509Svid>,
        since: Timestamp,
    },
}

impl News {
    /// The event of it; there is none of its own for what is fresh again.
    pub(super) fn event<'a>(&'a self, survival: Option<&'a Survival>) -> Option<Event<'a>> {
        match self {
            Self::Expired { svid, since } => Some(Event::Expired {
                svid,
                since: *since,
            }),
            Self::Fresh => None,
            Self::Overdue { svid, since } => Some(Event::Overdue {
                svid,
                since: *since,
                survival,
            }),
        }
    }
}

impl Aging {
    /// Of files, whose writers renew when they like; cert-manager's does at two thirds of a life, which is no alarm.
    pub(super) fn of_files() -> Self {
        Self {
            renewed_any_time: true,
            ..Self::default()
        }
    }

    /// Looks at what is held at `now`, and came at `received`.
    pub(super) fn look(
        &mut self,
        snapshot: &Snapshot,
        received: Option<Timestamp>,
        survival: Option<&Survival>,
        now: Timestamp,
    ) -> Option<News> {
        let Ok(svid) = snapshot.svid().cloned() else {
            (self.said, self.held) = (Said::Nothing, None);
            return None;
        };
        let known = self.held.replace(svid.clone());
        let is_new = !known.is_some_and(|known| is_same(&known, &svid));
        match Readiness::of_svid(snapshot, received, survival, now) {
            Readiness::Expired { since } => {
                let is_news = self.said < Said::Expired;
                self.said = Said::Expired;
                is_news.then_some(News::Expired { svid, since })
            }
            Readiness::Overdue { since } if !self.renewed_any_time => {
                let is_news = is_new || self.said < Said::Overdue;
                if is_news {
                    self.said = Said::Overdue;
                }
                is_news.then_some(News::Overdue { svid, since })
            }
            Readiness::Ready | Readiness::Empty | Readiness::Overdue { .. } => {
                let was_old = self.said > Said::Nothing;
                self.said = Said::Nothing;
                was_old.then_some(News::Fresh)
            }
        }
    }

    /// When to look again, if nothing else happens.
    pub(super) fn next(
        &self,
        received: Option<Timestamp>,
        survival: Option<&Survival>,
    ) -> Option<Timestamp> {
        let (window_closes, end) = ages(self.held.as_ref()?, received, survival);
        let expired_at = end + Duration::from_nanos(1);
        match self.said {
            Said::Nothing => Some(window_closes.min(expired_at)),
            Said::Overdue => Some(expired_at),
            Said::Expired => None,
        }
    }
}

/// Whether two SVIDs are the same certificates and the same key.
pub(super) fn is_same(one: &X509Svid, other: &X509Svid) -> bool {
    // The key is the leaf's in both, so the same leaf has the same key.
    one.chain() == other.chain()
}
