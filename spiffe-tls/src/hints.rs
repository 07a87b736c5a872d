//! Names of authorities that a server tells its clients, so that those with several SVIDs can choose.
//!
//! rustls takes the names from the verifier by reference, so each set of names has a configuration of its own. It is made
//! ready with the revision, before that is visible, and again at the first handshake after the terms have changed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::{DistinguishedName, ServerConfig};
use spiffe_core::BundleSet;
use spiffe_core::snapshot::{Derived, Rejection};

use crate::judge::{self, Judge};
use crate::making::ServerRecipe;
use crate::terms::InForce;
use crate::verifier::{PeerVerifier, Told};

/// The most bytes of authorities' names that a handshake carries. Java's TLS takes no message of a handshake of more than
/// 32,768 bytes unless it is told to, others take 65,535; what else is in this one has fewer than the rest.
pub const MAX_AUTHORITY_HINT_BYTES: usize = 30 * 1024;

/// What an acceptor serves by.
#[derive(Clone, Debug)]
pub(crate) enum Served {
    /// The same configuration whatever comes.
    Same(Arc<ServerConfig>),
    Hinting(Hinting),
}

/// A configuration for each revision and each state of the terms.
#[derive(Clone, Debug)]
pub(crate) struct Hinting {
    maker: Arc<Maker>,
    revisions: Derived<Mutex<Ready>>,
}

/// The number of the terms, and the configuration under them.
type Ready = (u64, Arc<ServerConfig>);

#[derive(Debug)]
struct Maker {
    recipe: ServerRecipe,
    judge: Arc<Judge>,
}

impl Served {
    pub(crate) fn hinting(recipe: ServerRecipe, judge: &Arc<Judge>) -> Result<Self, Rejection> {
        let maker = Arc::new(Maker {
            recipe,
            judge: judge.clone(),
        });
        let making = maker.clone();
        let revisions = judge.publisher.derive(move |snapshot| {
            let terms = making.judge.terms.in_force();
            Ok(Mutex::new(making.make(snapshot.bundles(), &terms)))
        })?;
        Ok(Self::Hinting(Hinting { maker, revisions }))
    }

    /// The configuration for a handshake that begins now.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        let Hinting { maker, revisions } = match self {
            Self::Same(config) => return config.clone(),
            Self::Hinting(hinting) => hinting,
        };
        let (revision, ready) = revisions.load();
        let terms = maker.judge.terms.in_force();
        let mut ready = ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.0 < terms.number {
            *ready = maker.make(revision.bundles(), &terms);
        }
        ready.1.clone()
    }
}

impl Maker {
    fn make(&self, bundles: &BundleSet, terms: &InForce) -> Ready {
        let verifier = PeerVerifier {
            hints: names(bundles, terms),
            ..PeerVerifier::new(self.judge.clone(), Told::Handshake)
        };
        (terms.number, self.recipe.make(Arc::new(verifier)))
    }
}

/// The names of the authorities that may vouch for somebody whom the terms let in, each once; none if they are too many.
fn names(bundles: &BundleSet, terms: &InForce) -> Vec<DistinguishedName> {
    let mut known = HashSet::new();
    let mut names = Vec::new();
    let mut bytes = 0;
    let may_allow = |trust_domain| judge::may_allow(terms, trust_domain);
    let bundles = bundles
        .iter()
        .filter(|bundle| may_allow(bundle.trust_domain().as_ref()));
    for authority in bundles.flat_map(|bundle| bundle.x509_authorities().iter()) {
        let counts = !(terms.refuse_tainted && authority.is_tainted());
        if counts && known.insert(authority.subject()) {
            let name = DistinguishedName::in_sequence(authority.subject());
            // Each has its length before it.
            bytes += 2 + name.as_ref().len();
            names.push(name);
        }
    }
    if bytes > MAX_AUTHORITY_HINT_BYTES {
        tracing::warn!(
            authorities = names.len(),
            bytes,
            limit = MAX_AUTHORITY_HINT_BYTES,
            "no authority hints are sent: their names do not fit a handshake; narrow the policy, or turn hints off"
        );
        return Vec::new();
    }
    names
}
