//! What the streams send, made from one view for one caller: SPIFFE Workload API §5.2 and §6.2.2.
//!
//! Each kind of update holds shared values and is encoded only when it differs from the one sent before, so a change
//! elsewhere costs a stream a comparison of pointers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use spiffe_core::bundle::{JwtAuthorities, X509Authorities};
use spiffe_core::key::SvidKey;
use spiffe_core::{Bundle, BundleSet, TrustDomain, X509Svid};
use spiffe_proto::workload::{JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse};

use super::identity::Grant;
use crate::cache::{Standing, View};

/// One message of a stream, before it is encoded.
pub(super) trait Update: Sized + Send + 'static {
    /// Its wire form.
    type Message: Send + 'static;

    /// What the workload with these grants is to know.
    fn of(view: &View, trust_domain: &TrustDomain, grants: &[Grant]) -> Outlook<Self>;

    /// Whether a workload that was sent `self` would learn nothing from `next`.
    fn covers(&self, next: &Self) -> bool;

    /// The wire form.
    fn message(&self) -> Self::Message;

    /// The key identifiers of those who signed the X509-SVIDs in it.
    fn signers(&self) -> BTreeSet<Vec<u8>> {
        BTreeSet::new()
    }
}

/// Whether there is something to send.
pub(super) enum Outlook<U> {
    /// This.
    Ready(U),
    /// Not before the entries with these IDs were demanded from the cache.
    Demand(Vec<String>),
    /// Not before the view changes: an SVID is being issued.
    Pending,
    /// Nothing, for a reason that may pass: every attempt failed, or the own bundle is empty.
    Nothing,
}

/// X509-SVIDs with the bundles to go with them.
pub(super) struct X509Svids {
    /// In the order of the entries, so that the first is the default identity: Workload API §8.
    svids: Vec<(Arc<X509Svid>, String)>,
    bundles: X509Bundles,
}

impl Update for X509Svids {
    type Message = X509svidResponse;

    fn of(view: &View, trust_domain: &TrustDomain, grants: &[Grant]) -> Outlook<Self> {
        let unknown: Vec<String> = grants
            .iter()
            .map(|grant| grant.entry.id())
            .filter(|id| view.standing(id).is_none())
            .map(str::to_owned)
            .collect();
        if !unknown.is_empty() {
            return Outlook::Demand(unknown);
        }
        // The full set at once (§4.3), but for what could not be issued: one bad entry does not keep a workload from the
        // identities that the others give it.
        let mut svids = Vec::with_capacity(grants.len());
        for grant in grants {
            match view.standing(grant.entry.id()) {
                Some(Standing::Ready(svid)) => svids.push((Arc::clone(svid), grant.hint.clone())),
                Some(Standing::Failed) => {}
                Some(Standing::Pending) | None => return Outlook::Pending,
            }
        }
        match X509Bundles::of(view, trust_domain, grants) {
            Outlook::Ready(bundles) if !svids.is_empty() => Outlook::Ready(Self { svids, bundles }),
            _ => Outlook::Nothing,
        }
    }

    fn covers(&self, next: &Self) -> bool {
        self.svids.len() == next.svids.len()
            && self
                .svids
                .iter()
                .zip(&next.svids)
                .all(|(old, new)| Arc::ptr_eq(&old.0, &new.0) && old.1 == new.1)
            && self.bundles.covers(&next.bundles)
    }

    fn message(&self) -> X509svidResponse {
        let own = self.bundles.own.to_concatenated_der();
        let svids = self.svids.iter().map(|(svid, hint)| X509svid {
            spiffe_id: svid.id().to_string(),
            x509_svid: svid.to_concatenated_der(),
            x509_svid_key: match svid.key() {
                SvidKey::Local(key) => key.secret_pkcs8_der().to_vec(),
                // The cache makes every key itself, in memory.
                _ => Vec::new(),
            },
            bundle: own.clone(),
            hint: hint.clone(),
        });
        X509svidResponse {
            svids: svids.collect(),
            crl: Vec::new(),
            federated_bundles: x509_map(&self.bundles.federated),
        }
    }

    fn signers(&self) -> BTreeSet<Vec<u8>> {
        let signers = self
            .svids
            .iter()
            .filter_map(|(svid, _)| svid.authority_key_id());
        signers.map(<[u8]>::to_vec).collect()
    }
}

/// X.509 bundles alone.
pub(super) struct X509Bundles {
    trust_domain: TrustDomain,
    own: Arc<X509Authorities>,
    federated: BTreeMap<TrustDomain, Arc<X509Authorities>>,
}

impl Update for X509Bundles {
    type Message = X509BundlesResponse;

    fn of(view: &View, trust_domain: &TrustDomain, grants: &[Grant]) -> Outlook<Self> {
        let bundles = &view.state.bundles;
        // §5.2.1: `bundle` is mandatory, so an empty one may not be sent.
        let Some(own) = bundles
            .get(trust_domain.as_ref())
            .filter(|own| !own.x509_authorities().is_empty())
        else {
            return Outlook::Nothing;
        };
        Outlook::Ready(Self {
            trust_domain: trust_domain.clone(),
            own: Arc::clone(own.x509_authorities()),
            federated: federated(bundles, trust_domain, grants)
                .map(|bundle| {
                    let authorities = Arc::clone(bundle.x509_authorities());
                    (bundle.trust_domain().clone(), authorities)
                })
                .collect(),
        })
    }

    fn covers(&self, next: &Self) -> bool {
        // A taint is not on the wire, so only the certificates count.
        let same = |old: &Arc<X509Authorities>, new: &Arc<X509Authorities>| {
            Arc::ptr_eq(old, new)
                || old
                    .iter()
                    .map(|authority| authority.certificate())
                    .eq(new.iter().map(|authority| authority.certificate()))
        };
        same(&self.own, &next.own) && same_maps(&self.federated, &next.federated, same)
    }

    fn message(&self) -> X509BundlesResponse {
        let mut bundles = x509_map(&self.federated);
        bundles.insert(key(&self.trust_domain), self.own.to_concatenated_der());
        X509BundlesResponse {
            crl: Vec::new(),
            bundles,
        }
    }
}

/// JWT bundles.
pub(super) struct JwtBundles {
    bundles: BTreeMap<TrustDomain, Arc<JwtAuthorities>>,
}

impl Update for JwtBundles {
    type Message = JwtBundlesResponse;

    fn of(view: &View, trust_domain: &TrustDomain, grants: &[Grant]) -> Outlook<Self> {
        let bundles = &view.state.bundles;
        // §6.2.2: the own trust domain is always there, with however few keys.
        let own = bundles
            .get(trust_domain.as_ref())
            .map_or_else(Arc::default, |own| Arc::clone(own.jwt_authorities()));
        let federated = federated(bundles, trust_domain, grants).map(|bundle| {
            let authorities = Arc::clone(bundle.jwt_authorities());
            (bundle.trust_domain().clone(), authorities)
        });
        Outlook::Ready(Self {
            bundles: federated.chain([(trust_domain.clone(), own)]).collect(),
        })
    }

    fn covers(&self, next: &Self) -> bool {
        same_maps(&self.bundles, &next.bundles, |old, new| {
            Arc::ptr_eq(old, new) || old.to_workload_api_jwks() == new.to_workload_api_jwks()
        })
    }

    fn message(&self) -> JwtBundlesResponse {
        JwtBundlesResponse {
            bundles: self
                .bundles
                .iter()
                .map(|(trust_domain, authorities)| {
                    let jwks = authorities.to_workload_api_jwks();
                    (key(trust_domain), jwks.into())
                })
                .collect(),
        }
    }
}

/// The bundles that a workload with these grants verifies with: the own trust domain's and the federated ones.
pub(super) fn bundles_for(
    bundles: &BundleSet,
    trust_domain: &TrustDomain,
    grants: &[Grant],
) -> BundleSet {
    let own = bundles.get(trust_domain.as_ref());
    federated(bundles, trust_domain, grants)
        .chain(own)
        .cloned()
        .collect()
}

/// The bundles of the foreign trust domains that any of the grants federates with, each once.
fn federated<'a>(
    bundles: &'a BundleSet,
    trust_domain: &'a TrustDomain,
    grants: &[Grant],
) -> impl Iterator<Item = &'a Arc<Bundle>> + use<'a> {
    let foreign: BTreeSet<TrustDomain> = grants
        .iter()
        .flat_map(|grant| &grant.entry.params().federates_with)
        .filter(|foreign| *foreign != trust_domain)
        .cloned()
        .collect();
    foreign
        .into_iter()
        .filter_map(|foreign| bundles.get(foreign.as_ref()))
}

fn same_maps<A>(
    old: &BTreeMap<TrustDomain, A>,
    new: &BTreeMap<TrustDomain, A>,
    same: impl Fn(&A, &A) -> bool,
) -> bool {
    old.len() == new.len()
        && old
            .iter()
            .zip(new)
            .all(|(old, new)| old.0 == new.0 && same(old.1, new.1))
}

fn x509_map(bundles: &BTreeMap<TrustDomain, Arc<X509Authorities>>) -> BTreeMap<String, Vec<u8>> {
    bundles
        .iter()
        .map(|(trust_domain, authorities)| (key(trust_domain), authorities.to_concatenated_der()))
        .collect()
}

/// How bundle maps name a trust domain: by its SPIFFE ID.
fn key(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}")
}
