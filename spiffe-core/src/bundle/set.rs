//! Bundles by trust domain.

use std::collections::HashMap;
use std::sync::Arc;

use super::Bundle;
use foldhash::fast::RandomState;

use crate::{TrustDomain, TrustDomainRef};

/// Bundles by trust domain; looking one up costs the same however many there are.
#[derive(Clone, Debug, Default)]
pub struct BundleSet {
    /// Each set has its own seed; the names come from whoever is trusted to name trust domains.
    bundles: HashMap<TrustDomain, Arc<Bundle>, RandomState>,
}

impl BundleSet {
    /// A set without bundles: nobody is trusted.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bundle of `trust_domain`; nothing else ever answers for it.
    pub fn get(&self, trust_domain: TrustDomainRef<'_>) -> Option<&Arc<Bundle>> {
        self.bundles.get(trust_domain.as_str())
    }

    /// Puts a bundle in, replacing the one of the same trust domain.
    pub fn insert(&mut self, bundle: impl Into<Arc<Bundle>>) {
        let bundle = bundle.into();
        self.bundles.insert(bundle.trust_domain().clone(), bundle);
    }

    /// Takes a trust domain's bundle out.
    pub fn remove(&mut self, trust_domain: TrustDomainRef<'_>) -> Option<Arc<Bundle>> {
        self.bundles.remove(trust_domain.as_str())
    }

    /// The bundles, ordered by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        let mut all: Vec<_> = self.bundles.values().collect();
        all.sort_by(|a, b| a.trust_domain().cmp(b.trust_domain()));
        all.into_iter()
    }

    /// How many bundles there are.
    pub fn len(&self) -> usize {
        self.bundles.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bundles.is_empty()
    }

    /// Whether both sets hold the same authorities for the same trust domains.
    pub fn same_authorities(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.bundles.iter().all(|(trust_domain, bundle)| {
                other
                    .get(trust_domain.as_ref())
                    .is_some_and(|twin| Arc::ptr_eq(bundle, twin) || bundle.same_authorities(twin))
            })
    }
}

impl<B: Into<Arc<Bundle>>> FromIterator<B> for BundleSet {
    fn from_iter<T: IntoIterator<Item = B>>(bundles: T) -> Self {
        let mut set = Self::new();
        for bundle in bundles {
            set.insert(bundle);
        }
        set
    }
}
