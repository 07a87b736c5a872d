//! A CA of the same program as upstream: nested authorities without a wire between them.

use spiffe_core::bundle::{JwtAuthority, X509Authority};
use spiffe_core::{BoxFuture, Timestamp};

use super::{MintRequest, MintedAuthority, UpstreamAuthority};
use crate::ca::TrustDomainCa;
use crate::csr::Csr;
use crate::error::{CaError, UpstreamError};
use crate::params::IntermediateParams;

/// A [`TrustDomainCa`] that certifies the authorities of another one, of the same trust domain.
#[derive(Clone, Debug)]
pub struct InProcessUpstream {
    parent: TrustDomainCa,
    params: IntermediateParams,
}

impl InProcessUpstream {
    /// Below `parent`, without further limits.
    pub fn new(parent: TrustDomainCa) -> Self {
        Self {
            parent,
            params: IntermediateParams::new(),
        }
    }

    /// The same with intermediates of these parameters; the lifetime wished for goes before theirs.
    #[must_use]
    pub fn with_params(mut self, params: IntermediateParams) -> Self {
        self.params = params;
        self
    }
}

impl UpstreamAuthority for InProcessUpstream {
    fn mint<'a>(
        &'a self,
        request: &'a MintRequest,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<MintedAuthority, UpstreamError>> {
        Box::pin(async move {
            let parent = &self.parent;
            let csr = Csr::from_der(&request.csr, parent.key_policy(), &**parent.crypto())?;
            let params = self.params.clone().with_ttl(request.ttl);
            let issued = parent
                .issue_intermediate(&params, csr.public_key(), now)
                .await?;
            Ok(MintedAuthority::new(issued.chain, self.roots(now).await?))
        })
    }

    fn publish_jwt_key<'a>(
        &'a self,
        key: &'a JwtAuthority,
        until: Timestamp,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(async move {
            let shared = self.parent.share_jwt_key(key, until, now).await;
            shared.map(drop).map_err(refused)
        })
    }

    fn withdraw_jwt_key<'a>(
        &'a self,
        key_id: &'a str,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(async move {
            let withdrawn = self.parent.unshare_jwt_key(key_id, now).await;
            withdrawn.map(drop).map_err(refused)
        })
    }

    fn jwt_keys(&self, _: Timestamp) -> BoxFuture<'_, Result<Vec<JwtAuthority>, UpstreamError>> {
        Box::pin(async move {
            let bundle = self.parent.bundle();
            Ok(bundle.jwt_authorities().iter().cloned().collect())
        })
    }

    fn roots(&self, _: Timestamp) -> BoxFuture<'_, Result<Vec<X509Authority>, UpstreamError>> {
        Box::pin(async move {
            let bundle = self.parent.bundle();
            Ok(bundle.x509_authorities().iter().cloned().collect())
        })
    }
}

fn refused(error: CaError) -> UpstreamError {
    match error {
        CaError::Upstream(error) => error,
        other => UpstreamError::JwtKey {
            reason: other.to_string(),
        },
    }
}
