//! The Workload API: SPIFFE Workload API §4–§6 and Workload Endpoint §3–§6.
//!
//! A request is judged in this order: the security header (before its body is read), its arguments, who calls, and what
//! that caller is entitled to. WIT-SVIDs are not implemented and say so to everyone.
//!
//! Private keys are wiped from messages after encoding (the messages do so on drop). The encoded bytes pass through buffers of
//! the HTTP/2 library and the kernel's socket, which nobody wipes.

mod claims;
mod feed;
mod identity;
mod updates;

use std::sync::Arc;

use futures_util::future;
use futures_util::stream::Empty;
use spiffe_core::{Clock, JwtSvid, JwtVerifier, SpiffeId};
use spiffe_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use spiffe_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
    ValidateJwtsvidRequest, ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse,
    WitsvidRequest, WitsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
    X509svidResponse,
};
use spiffe_registration::Entry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Request, Response, Status};

use crate::attest::WorkloadAttestor;
use crate::cache::{ISSUE_TIMEOUT, SvidCache};
use crate::caller::Caller;
use crate::deliveries::Deliveries;
use crate::error::IssueError;
use crate::limits::Limits;
use crate::svid_authority::{AuthorityState, SvidAuthority};
use feed::{Feed, Messages};
use identity::{Grant, Identity, NO_IDENTITY};
use updates::{JwtBundles, Update, X509Bundles, X509Svids, bundles_for};

/// The service behind the generated server.
#[derive(Debug)]
pub(crate) struct WorkloadApi {
    authority: Arc<dyn SvidAuthority>,
    attestor: Arc<dyn WorkloadAttestor>,
    cache: SvidCache,
    clock: Arc<dyn Clock>,
    jwt_verifier: JwtVerifier,
    /// Becomes true when streams are to end.
    closing: watch::Receiver<bool>,
    requests: Arc<Semaphore>,
    attestations: Semaphore,
    deliveries: Deliveries,
}

impl WorkloadApi {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a service, each named where it is made"
    )]
    pub(crate) fn new(
        authority: Arc<dyn SvidAuthority>,
        attestor: Arc<dyn WorkloadAttestor>,
        cache: SvidCache,
        clock: Arc<dyn Clock>,
        jwt_verifier: JwtVerifier,
        closing: watch::Receiver<bool>,
        limits: &Limits,
        deliveries: Deliveries,
    ) -> Self {
        Self {
            authority,
            attestor,
            cache,
            clock,
            jwt_verifier,
            closing,
            deliveries,
            requests: Arc::new(Semaphore::new(limits.requests.min(Semaphore::MAX_PERMITS))),
            attestations: Semaphore::new(limits.attestations.clamp(1, Semaphore::MAX_PERMITS)),
        }
    }

    /// A place among the open requests.
    fn turn(&self) -> Result<OwnedSemaphorePermit, Status> {
        // Workload Endpoint §6: an overloaded server answers UNAVAILABLE.
        Arc::clone(&self.requests)
            .try_acquire_owned()
            .map_err(|_| Status::unavailable(OVERLOADED))
    }

    async fn identify<T>(&self, request: &Request<T>) -> Result<Identity, Status> {
        let caller = request
            .extensions()
            .get::<Caller>()
            .ok_or_else(|| Status::internal("the connection does not say who calls"))?;
        let attestor = Arc::clone(&self.attestor);
        Identity::attest(caller.clone(), attestor, &self.attestations).await
    }

    async fn follow<U: Update, T>(
        &self,
        request: &Request<T>,
    ) -> Result<Response<Messages<U::Message>>, Status> {
        let turn = self.turn()?;
        let identity = self.identify(request).await?;
        let feed = Feed::<U>::new(
            identity,
            self.authority.trust_domain().clone(),
            self.cache.clone(),
            Arc::clone(&self.clock),
            self.closing.clone(),
            self.deliveries.clone(),
            turn,
        );
        Ok(Response::new(feed.into_stream()))
    }

    /// What the caller of a single request is entitled to, under the newest state.
    async fn grants<T>(
        &self,
        request: &Request<T>,
    ) -> Result<(AuthorityState, Vec<Grant>), Status> {
        let identity = self.identify(request).await?;
        let state = self.authority.state();
        let grants = identity.grants(&state.entries, self.clock.now())?;
        Ok((state, grants))
    }

    async fn issue_jwt(&self, grant: &Grant, audience: &[String]) -> Result<Jwtsvid, Status> {
        let deadline = self.clock.monotonic() + ISSUE_TIMEOUT;
        let issued = tokio::select! {
            issued = self.issue_jwt_for(&grant.entry, audience) => issued,
            () = self.clock.sleep_until(deadline) => Err(IssueError::TimedOut {
                after: ISSUE_TIMEOUT,
            }),
        };
        let spiffe_id = grant.entry.spiffe_id();
        let svid = issued.map_err(|error| {
            tracing::warn!(%spiffe_id, entry = grant.entry.id(), %error, "JWT-SVID not issued");
            Status::unavailable(format!("no JWT-SVID for {spiffe_id}: {error}"))
        })?;
        Ok(Jwtsvid {
            spiffe_id: spiffe_id.to_string(),
            svid,
            hint: grant.hint.clone(),
        })
    }

    async fn issue_jwt_for(
        &self,
        entry: &Entry,
        audience: &[String],
    ) -> Result<String, IssueError> {
        let token = self.authority.issue_jwt(entry, audience).await?;
        let svid = JwtSvid::parse_insecure(&token)?;
        if svid.id() != entry.spiffe_id() {
            return Err(IssueError::OtherId {
                got: svid.id().clone(),
            });
        }
        Ok(token)
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;
    type FetchWITSVIDStream = Empty<Result<WitsvidResponse, Status>>;
    type FetchWITBundlesStream = Empty<Result<WitBundlesResponse, Status>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.follow::<X509Svids, _>(&request).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.follow::<X509Bundles, _>(&request).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let JwtsvidRequest {
            audience,
            spiffe_id,
        } = request.get_ref();
        // §4.5: a mandatory field at its default.
        if audience.is_empty() || audience.iter().any(String::is_empty) {
            return Err(Status::invalid_argument(NO_AUDIENCE));
        }
        let wanted = match spiffe_id.as_str() {
            "" => None,
            text => Some(SpiffeId::parse(text).map_err(|error| {
                Status::invalid_argument(format!("spiffe_id is not a SPIFFE ID: {error}"))
            })?),
        };
        let _turn = self.turn()?;
        let (_, mut grants) = self.grants(&request).await?;
        if let Some(wanted) = wanted {
            grants.retain(|grant| *grant.entry.spiffe_id() == wanted);
            if grants.is_empty() {
                tracing::warn!(%wanted, "caller asks for a JWT-SVID that it is not entitled to");
                return Err(Status::permission_denied(NO_IDENTITY));
            }
        }
        let issuing = grants.iter().map(|grant| self.issue_jwt(grant, audience));
        let svids = future::try_join_all(issuing).await?;
        Ok(Response::new(JwtsvidResponse { svids }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.follow::<JwtBundles, _>(&request).await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let ValidateJwtsvidRequest { audience, svid } = request.get_ref();
        if audience.is_empty() {
            return Err(Status::invalid_argument(NO_AUDIENCE));
        }
        if svid.is_empty() {
            return Err(Status::invalid_argument("svid must be specified"));
        }
        let _turn = self.turn()?;
        let (state, grants) = self.grants(&request).await?;
        let bundles = bundles_for(&state.bundles, self.authority.trust_domain(), &grants);
        let svid = self
            .jwt_verifier
            .verify(svid, audience, &bundles, self.clock.now())
            .map_err(|error| {
                tracing::info!(%error, "caller was given a JWT-SVID that is not valid");
                // The rule, not the error's own text: that quotes what the token holds.
                let rule = error.rule();
                Status::invalid_argument(format!(
                    "the JWT-SVID breaks a rule: {}",
                    rule.statement()
                ))
            })?;
        let claims = claims::claims(&svid).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ValidateJwtsvidResponse {
            spiffe_id: svid.id().to_string(),
            claims: Some(claims),
        }))
    }

    // §7: a server without the WIT profile says so before it looks at who asks.

    async fn fetch_witsvid(
        &self,
        _: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented(NO_WIT))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented(NO_WIT))
    }
}

/// Lets a request in if it carries the metadata `workload.spiffe.io: true`, once and in exactly these letters.
///
/// Workload Endpoint §3: a browser or a proxy that is tricked into sending a request does not add it. It is judged before anything
/// else, the body included.
///
/// # Errors
///
/// INVALID_ARGUMENT.
pub(crate) fn require_security_header(request: Request<()>) -> Result<Request<()>, Status> {
    let mut values = request.metadata().get_all(SECURITY_HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(request),
        _ => Err(Status::invalid_argument(
            "security header missing from request",
        )),
    }
}

const SECURITY_HEADER: &str = "workload.spiffe.io";
const NO_AUDIENCE: &str = "audience must be specified";
const NO_WIT: &str = "WIT-SVIDs are not implemented";
const OVERLOADED: &str = "too many requests are open: ask again later";
