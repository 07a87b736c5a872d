//! What changed between two bundles of one trust domain, by authority.
//!
//! Sequence and hint are not authorities and do not count.

use std::collections::HashMap;

use super::{Bundle, JwtAuthority, X509Authority};

/// What a newer bundle adds, drops and taints, compared with an older one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BundleDiff<'a> {
    /// The X.509 authorities that changed.
    pub x509: Changes<&'a X509Authority>,
    /// The JWT authorities that changed; another key under a known ID is one removed and one added.
    pub jwt: Changes<&'a JwtAuthority>,
}

/// What changed of one kind of authority, in the documents' order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes<A> {
    /// In the newer bundle only.
    pub added: Vec<A>,
    /// In the older bundle only.
    pub removed: Vec<A>,
    /// In both, and marked as tainted in the newer one only.
    pub tainted: Vec<A>,
}

impl<A> Changes<A> {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.tainted.is_empty()
    }

    fn between<K: std::hash::Hash + Eq>(
        older: impl Iterator<Item = A>,
        newer: impl Iterator<Item = A>,
        key: impl Fn(&A) -> K,
        tainted: impl Fn(&A) -> bool,
    ) -> Self {
        let mut known: HashMap<K, (usize, A)> = older
            .enumerate()
            .map(|(at, authority)| (key(&authority), (at, authority)))
            .collect();
        let mut changes = Self::default();
        for authority in newer {
            match known.remove(&key(&authority)) {
                None => changes.added.push(authority),
                Some((_, before)) if tainted(&authority) && !tainted(&before) => {
                    changes.tainted.push(authority);
                }
                Some(_) => {}
            }
        }
        let mut removed: Vec<_> = known.into_values().collect();
        removed.sort_by_key(|(at, _)| *at);
        changes.removed = removed
            .into_iter()
            .map(|(_, authority)| authority)
            .collect();
        changes
    }
}

impl<A> Default for Changes<A> {
    fn default() -> Self {
        Self {
            added: Vec::new(),
            removed: Vec::new(),
            tainted: Vec::new(),
        }
    }
}

impl BundleDiff<'_> {
    /// Whether both bundles hold the same authorities.
    pub fn is_empty(&self) -> bool {
        self.x509.is_empty() && self.jwt.is_empty()
    }
}

impl Bundle {
    /// What `newer` changes about the authorities of this bundle.
    ///
    /// An X.509 authority is its certificate, a JWT authority its key ID with its key.
    pub fn diff<'a>(&'a self, newer: &'a Self) -> BundleDiff<'a> {
        BundleDiff {
            x509: Changes::between(
                self.x509.iter(),
                newer.x509.iter(),
                |authority| authority.certificate().as_ref(),
                |authority| authority.is_tainted(),
            ),
            jwt: Changes::between(
                self.jwt.iter(),
                newer.jwt.iter(),
                |authority| (authority.key_id(), authority.public_key().as_ref()),
                |authority| authority.is_tainted(),
            ),
        }
    }
}
