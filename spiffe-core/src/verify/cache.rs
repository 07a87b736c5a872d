//! Issuers that were admitted before: with a warm one, a chain costs its leaf's signature alone.
//!
//! An entry belongs to one immutable set of authorities, not to its content or number: whatever is changed in a bundle
//! makes another set, under which nothing is remembered. What depends on time or on the leaf is judged every time.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use foldhash::fast::RandomState;

use super::issuers::{Issuer, Kinship, Standing};
use crate::bundle::X509Authorities;
use crate::x509::cert::Cert;

/// The most issuers that a cache remembers unless said otherwise: each intermediate of each trust domain in use is one.
pub const DEFAULT_CACHED_ISSUERS: usize = 1024;

/// Admitted intermediates, by certificate and set of authorities.
///
/// Only what a verified chain has used gets in, so a peer that no authority vouches for cannot fill it. When it is
/// full it is emptied.
pub struct IssuerCache {
    capacity: usize,
    kept: RwLock<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By address of the authorities.
    sets: HashMap<usize, Set, RandomState>,
    issuers: usize,
}

/// What was admitted under one set of authorities. The weak reference keeps the set's address from being used again, so
/// that equal addresses mean the same set.
struct Set {
    authorities: Weak<X509Authorities>,
    /// What gets in here an authority has vouched for, so nobody chooses keys to collide.
    issuers: HashMap<Box<[u8]>, Arc<Admitted>, RandomState>,
}

/// An admitted intermediate, on its own feet.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) subject: Box<[u8]>,
    /// The content of its SubjectPublicKeyInfo.
    pub(super) spki: Box<[u8]>,
    key_id: Option<Box<[u8]>>,
    pub(super) standing: Standing,
}

impl IssuerCache {
    /// A cache of at most `capacity` issuers; with zero, nothing is remembered.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            capacity,
            kept: RwLock::default(),
        }
    }

    /// How many issuers are remembered.
    pub fn len(&self) -> usize {
        self.kept
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .issuers
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first of `certificates` that was admitted under these authorities and is fit for use.
    pub(super) fn find<'c>(
        &self,
        authorities: &Arc<X509Authorities>,
        certificates: impl Iterator<Item = &'c [u8]>,
        is_fit: impl Fn(&Admitted) -> bool,
    ) -> Option<Arc<Admitted>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let set = kept.sets.get(&address(authorities))?;
        certificates
            .filter_map(|der| set.issuers.get(der))
            .find(|admitted| is_fit(admitted))
            .cloned()
    }

    /// Remembers the issuer under which a leaf has just been verified; authorities need no remembering.
    pub(super) fn keep(&self, authorities: &Arc<X509Authorities>, issuer: &Issuer<'_>) {
        if issuer.standing.intermediates() == 0 || self.capacity == 0 {
            return;
        }
        let der: &[u8] = &issuer.standing.certificates[0];
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.issuers >= self.capacity {
            *kept = Kept::default();
        }
        kept.sets
            .retain(|_, set| set.authorities.strong_count() > 0);
        let set = kept
            .sets
            .entry(address(authorities))
            .or_insert_with(|| Set {
                authorities: Arc::downgrade(authorities),
                issuers: HashMap::default(),
            });
        set.issuers.insert(
            der.into(),
            Arc::new(Admitted {
                subject: issuer.subject.into(),
                spki: issuer.spki.into(),
                key_id: issuer.key_id.map(Box::from),
                standing: issuer.standing.clone(),
            }),
        );
        kept.issuers = kept.sets.values().map(|set| set.issuers.len()).sum();
    }
}

impl Default for IssuerCache {
    fn default() -> Self {
        Self::with_capacity(DEFAULT_CACHED_ISSUERS)
    }
}

impl fmt::Debug for IssuerCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerCache")
            .field("capacity", &self.capacity)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Admitted {
    /// Whether name and key identifiers let it be the issuer of a certificate.
    pub(super) fn may_have_issued(&self, cert: &Cert<'_>) -> bool {
        *self.subject == *cert.issuer && Kinship::of(cert, self.key_id.as_deref()) != Kinship::Other
    }
}

fn address(authorities: &Arc<X509Authorities>) -> usize {
    Arc::as_ptr(authorities).addr()
}
