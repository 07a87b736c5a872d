//! What the agent needs of whoever issues: entries, bundles, SVIDs, and word of changes.
//!
//! An in-process certificate authority and a connection to a server can both stand behind [`SvidAuthority`]. It holds no
//! private key of a workload: those are made by the agent and only sign here, which is all a certificate request needs.

use std::fmt;
use std::sync::Arc;

use spiffe_core::key::Signer;
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::{BoxFuture, BundleSet, TrustDomain};
use spiffe_registration::{Entry, EntrySet};

use crate::error::AuthorityError;

/// Whoever issues SVIDs to the agent's workloads.
///
/// An authority exists once it has its first state: until then there is nothing to serve, and no server should be started.
pub trait SvidAuthority: fmt::Debug + Send + Sync + 'static {
    /// The trust domain of all SVIDs it issues.
    fn trust_domain(&self) -> &TrustDomain;

    /// The state of this moment. Cheap: called at every change and by every request.
    fn state(&self) -> AuthorityState;

    /// Resolves once [`AuthorityState::revision`] is another than `seen`, at once when it already is.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no change: the next call compares with what its caller has seen.
    fn changed(&self, seen: u64) -> BoxFuture<'_, ()>;

    /// Issues an X509-SVID for `entry` over the public half of `key`, and gives its chain, leaf first, without the
    /// authority. Implementations that send a certificate request let `key` sign it.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`]; the agent tries again later either way.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the answer and nothing else.
    fn issue_x509<'a>(
        &'a self,
        entry: &'a Entry,
        key: &'a dyn Signer,
    ) -> BoxFuture<'a, Result<Vec<CertificateDer<'static>>, AuthorityError>>;

    /// Issues a JWT-SVID for `entry` with every value of `audience` in `aud`, as a compact token. `audience` is not empty.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`], which fails the workload's request.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the answer and nothing else.
    fn issue_jwt<'a>(
        &'a self,
        entry: &'a Entry,
        audience: &'a [String],
    ) -> BoxFuture<'a, Result<String, AuthorityError>>;
}

/// Everything of an authority that changes, as of one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuthorityState {
    /// Grows with every change of what follows.
    pub revision: u64,
    /// Grows when all SVIDs are to be replaced before their time, because an operator wants it. A taint needs no such
    /// word: the bundle marks the authority, and the agent spreads the replacement of what lies below it.
    pub generation: u64,
    /// Who gets which identity.
    pub entries: Arc<EntrySet>,
    /// The own trust domain's bundle and those of the federated ones. A workload is given the own one and those that its
    /// entries federate with.
    pub bundles: Arc<BundleSet>,
}

impl AuthorityState {
    /// A state of its parts.
    pub fn new(
        revision: u64,
        generation: u64,
        entries: Arc<EntrySet>,
        bundles: Arc<BundleSet>,
    ) -> Self {
        Self {
            revision,
            generation,
            entries,
            bundles,
        }
    }
}
