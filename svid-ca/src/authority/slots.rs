//! One kind's authorities: at most one active, at most one prepared, each with its key in slot A or B, and the old
//! ones whose keys are no longer needed.

use std::fmt;

use spiffe_core::Timestamp;
use spiffe_core::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};

use super::{Evidence, Grade};

/// The two kinds of authorities, each with a life of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "callers handle every kind")]
pub enum Kind {
    /// Signs JWT-SVIDs.
    Jwt,
    /// Signs X.509-SVIDs.
    X509,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jwt => "JWT",
            Self::X509 => "X.509",
        })
    }
}

/// One of the two places for a kind's keys: while one signs, the other is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "there are two slots")]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The key manager's name of the key in this slot, as SPIRE names them.
    pub const fn key_name(self, kind: Kind) -> &'static str {
        match (kind, self) {
            (Kind::X509, Self::A) => "x509-CA-A",
            (Kind::X509, Self::B) => "x509-CA-B",
            (Kind::Jwt, Self::A) => "JWT-Signer-A",
            (Kind::Jwt, Self::B) => "JWT-Signer-B",
        }
    }
}

/// Where in its life an authority is. One that was revoked, or whose work has expired, is no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// In the bundle, and signs nothing yet.
    Prepared,
    /// In the bundle, and signs.
    Active,
    /// In the bundle for what it signed, and signs no more.
    Old,
    /// As old, and what it signed is to be replaced at once.
    Tainted,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Old => "old",
            Self::Tainted => "tainted",
        })
    }
}

/// What the world sees of an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "one form for each kind")]
pub enum PublicHalf {
    /// An X.509 authority.
    Certificate(CertificateDer<'static>),
    /// A JWT authority.
    Key(SubjectPublicKeyInfoDer<'static>),
}

/// One authority, without its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    pub(crate) id: String,
    pub(crate) slot: Option<Slot>,
    pub(crate) status: Status,
    pub(crate) published: u64,
    pub(crate) published_at: Timestamp,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) signed_until: Timestamp,
    pub(crate) public: PublicHalf,
    /// The certificates between it and its root, where an upstream signed it.
    pub(crate) upstream: Option<Vec<CertificateDer<'static>>>,
}

impl Authority {
    /// A prepared authority that has signed nothing, to be published.
    pub fn prepared(
        id: impl Into<String>,
        slot: Slot,
        not_before: Timestamp,
        not_after: Timestamp,
        public: PublicHalf,
    ) -> Self {
        Self {
            id: id.into(),
            slot: Some(slot),
            status: Status::Prepared,
            published: 0,
            published_at: not_before,
            not_before,
            not_after,
            signed_until: not_before,
            public,
            upstream: None,
        }
    }

    /// The same, signed by an upstream: what is between it and the root, nearest first.
    #[must_use]
    pub fn with_upstream(mut self, chain: Vec<CertificateDer<'static>>) -> Self {
        self.upstream = Some(chain);
        self
    }

    /// Its ID: the hexadecimal of the subject key identifier, or the key ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its key is; `None` once the slot serves another.
    pub fn slot(&self) -> Option<Slot> {
        self.slot
    }

    /// Where in its life it is.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The sequence number of the first bundle that contained it.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// When it was first in the bundle.
    pub fn published_at(&self) -> Timestamp {
        self.published_at
    }

    /// The first instant at which it may sign.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last instant of its validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// When the last thing it signed expires; an upper bound after a restart.
    pub fn signed_until(&self) -> Timestamp {
        self.signed_until
    }

    /// The certificates between it and its root, nearest first; `None` for one that is its own root, which the bundle
    /// then contains.
    pub fn upstream(&self) -> Option<&[CertificateDer<'static>]> {
        self.upstream.as_deref()
    }

    /// What the world sees of it.
    pub fn public(&self) -> &PublicHalf {
        &self.public
    }
}

/// One kind's authorities, in the order of their publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    pub(crate) authorities: Vec<Authority>,
}

impl Slots {
    /// All of them, oldest first: exactly those in the bundle, but for those that an upstream signed.
    pub fn iter(&self) -> std::slice::Iter<'_, Authority> {
        self.authorities.iter()
    }

    /// The one that signs.
    pub fn active(&self) -> Option<&Authority> {
        self.with_status(Status::Active)
    }

    /// The one that is to sign next.
    pub fn prepared(&self) -> Option<&Authority> {
        self.with_status(Status::Prepared)
    }

    /// The one with this ID.
    pub fn find(&self, id: &str) -> Option<&Authority> {
        self.iter().find(|authority| authority.id == id)
    }

    /// The slot for the next key: never the one of the authority that signs.
    pub fn free_slot(&self) -> Slot {
        match self.active().and_then(Authority::slot) {
            Some(Slot::A) => Slot::B,
            _ => Slot::A,
        }
    }

    /// Who does not know `prepared` and would be broken if it signed. Nobody where it succeeds none: whoever comes for
    /// the bundle finds it there, and nobody trusts another in its place.
    pub(crate) fn laggards(
        &self,
        prepared: &Authority,
        evidence: &Evidence,
        grade: Grade,
    ) -> Vec<String> {
        match self.active() {
            Some(_) => evidence.laggards(prepared.published, grade),
            None => Vec::new(),
        }
    }

    fn with_status(&self, status: Status) -> Option<&Authority> {
        self.iter().find(|authority| authority.status == status)
    }

    pub(crate) fn find_mut(&mut self, id: &str) -> Option<&mut Authority> {
        self.authorities
            .iter_mut()
            .find(|authority| authority.id == id)
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.authorities.retain(|authority| authority.id != id);
    }
}
