//! A CA of the same program as upstream: nested authorities without a wire between them.

use spiffe_core::bundle::X509Authority;
use spiffe_core::{BoxFuture, Timestamp};

use super::{MintRequest, MintedAuthority, UpstreamAuthority};
use crate::ca::TrustDomainCa;
use crate::csr::Csr;
use crate::error::UpstreamError;
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

    fn roots(&self, _: Timestamp) -> BoxFuture<'_, Result<Vec<X509Authority>, UpstreamError>> {
        Box::pin(async move {
            let bundle = self.parent.bundle();
            Ok(bundle.x509_authorities().iter().cloned().collect())
        })
    }
}
