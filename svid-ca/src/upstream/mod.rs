//! Upstream authorities: who certifies a trust domain's own authorities where they are not their own root.
//!
//! With one, each X.509 authority of a [`TrustDomainCa`](crate::TrustDomainCa) is an intermediate that the upstream
//! signed, its chain is handed to workloads without the root, and the bundle holds the upstream's roots. JWT
//! authorities know no chains: their keys are published upstream before they sign, and come back from there to every
//! server of the trust domain. An upstream that takes none leaves them in the own bundle alone.

mod disk;
mod in_process;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use spiffe_core::bundle::{JwtAuthority, X509Authorities, X509Authority};
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{BoxFuture, Bundle, BundleSet, SpiffeId, Timestamp};

pub use disk::{DiskFiles, DiskUpstream, MAX_UPSTREAM_FILE_BYTES};
pub use in_process::InProcessUpstream;

use crate::error::UpstreamError;
use crate::issuer::X509Issuer;
use crate::params::X509SvidParams;

/// The most certificates of a minted chain, and the most roots: beyond what verifiers look at.
pub const MAX_UPSTREAM_CERTIFICATES: usize = 100;

/// Certifies the authorities of a trust domain.
pub trait UpstreamAuthority: fmt::Debug + Send + Sync + 'static {
    /// Signs the certificate of an intermediate authority.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]; it is asked again at the next tick.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may have signed a certificate that nobody uses.
    fn mint<'a>(
        &'a self,
        request: &'a MintRequest,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<MintedAuthority, UpstreamError>>;

    /// The roots as the upstream knows them now, the tainted ones marked; asked for at every tick.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]; the roots known before stay in the bundle.
    fn roots(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<X509Authority>, UpstreamError>>;

    /// Takes the key of a JWT authority, which signs nothing before this has succeeded and expires at `until`. One that
    /// is known already is no error. By default nothing happens: the key stays in the own bundle alone.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]; it is asked again at the next tick, with another key.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may have published a key that nobody uses; it leaves at `until`.
    fn publish_jwt_key<'a>(
        &'a self,
        key: &'a JwtAuthority,
        until: Timestamp,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<(), UpstreamError>> {
        let _ = (key, until, now);
        Box::pin(std::future::ready(Ok(())))
    }

    /// Takes a key back before its time, because it was revoked. By default nothing happens, and the key leaves when it
    /// expires.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]; the key leaves when it expires.
    fn withdraw_jwt_key<'a>(
        &'a self,
        key_id: &'a str,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<(), UpstreamError>> {
        let _ = (key_id, now);
        Box::pin(std::future::ready(Ok(())))
    }

    /// The JWT keys of the trust domain as the upstream knows them now, the tainted ones marked; asked for at every tick.
    /// By default none.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]; the keys known before stay in the bundle.
    fn jwt_keys(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<JwtAuthority>, UpstreamError>> {
        let _ = now;
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

/// What an upstream is asked to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MintRequest {
    /// A signing request in DER: subject, one URI name, the trust domain's own SPIFFE ID, and proof of possession.
    pub csr: Vec<u8>,
    /// The lifetime that is wished for.
    pub ttl: Duration,
}

impl MintRequest {
    /// A request for so long a life.
    pub fn new(csr: impl Into<Vec<u8>>, ttl: Duration) -> Self {
        Self {
            csr: csr.into(),
            ttl,
        }
    }
}

/// What an upstream signed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MintedAuthority {
    /// The new intermediate, then those above it, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The upstream's roots.
    pub roots: Vec<X509Authority>,
}

impl MintedAuthority {
    /// A chain and the roots above it.
    pub fn new(
        chain: impl IntoIterator<Item = CertificateDer<'static>>,
        roots: impl IntoIterator<Item = X509Authority>,
    ) -> Self {
        Self {
            chain: chain.into_iter().collect(),
            roots: roots.into_iter().collect(),
        }
    }
}

/// Shows by a throw-away SVID that what `issuer` signs verifies under `roots`: whatever is wrong with the chain, its
/// lengths, names or times, is found out before anybody depends on it.
pub(crate) async fn prove(
    issuer: &X509Issuer,
    roots: &[X509Authority],
    now: Timestamp,
) -> Result<(), UpstreamError> {
    let unusable = |reason: String| UpstreamError::Unusable { reason };
    let settings = issuer.settings();
    let trust_domain = issuer.trust_domain();
    // A path that no workload has.
    let id = SpiffeId::parse(&format!("{}/spiffe/throwaway", trust_domain.id()))
        .map_err(|error| unusable(error.to_string()))?;
    let key = issuer.public_key();
    let issued = issuer.issue(&X509SvidParams::new(id), key, now).await?;
    let roots: X509Authorities = roots.iter().cloned().collect();
    let bundle = Bundle::new(trust_domain.clone()).with_x509_authorities(roots);
    let bundles: BundleSet = [Arc::new(bundle)].into_iter().collect();
    X509Verifier::new(&*settings.crypto)
        .verify(&issued.chain, &bundles, now, PeerRole::Client)
        .map_err(|error| unusable(error.to_string()))?;
    Ok(())
}
