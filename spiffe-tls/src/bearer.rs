//! JWT-SVIDs as bearer tokens, as tower layers: feature `bearer`. JWT-SVID §5.2, RFC 6750.
//!
//! [`AttachToken`] gives each request of a client a token for one audience; [`RequireToken`] lets in the requests whose
//! token verifies and whose subject the terms allow, and puts the verified [`JwtSvid`] (in an `Arc`) into their
//! extensions. Both fit any HTTP service: [`hyper`], axum, tonic.
//!
//! A bearer token is whoever holds it. Send it over TLS only, to peers that are known.
//!
//! # How a connection ends
//!
//! Tokens are of requests, not of connections: each is judged when its request arrives, under the bundles and terms of
//! that moment. What is under way when its trust ends is finished; over mutual TLS the connection's own lease cuts it.
//!
//! [`hyper`]: https://docs.rs/hyper

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use spiffe_core::svid::JwtError;
use spiffe_core::{
    Clock, Denied, JwtSvid, JwtVerifier, PeerFacts, Publisher, Source, SystemClock, Timestamp,
};
use tower_layer::Layer;
use tower_service::Service;

use crate::terms::Terms;

/// What services and sources of tokens may fail with.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A token that will come.
pub type TokenFuture<'a> = Pin<
    Box<
        dyn Future<Output = Result<Arc<JwtSvid>, Box<dyn std::error::Error + Send + Sync>>>
            + Send
            + 'a,
    >,
>;

/// What gives a client its tokens: the `JwtSource` of `spiffe-workload-client` (feature `bearer`), an issuer in the same
/// process, or a closure `Fn(&str) -> TokenFuture<'static>`.
pub trait TokenSource: Send + Sync + 'static {
    /// A token for `audience` that can be used now. It is asked for with every request, so whoever fetches tokens from
    /// afar keeps them, and renews them in time.
    fn token<'a>(&'a self, audience: &'a str) -> TokenFuture<'a>;
}

impl<F> TokenSource for F
where
    F: Fn(&str) -> TokenFuture<'static> + Send + Sync + 'static,
{
    fn token<'a>(&'a self, audience: &'a str) -> TokenFuture<'a> {
        self(audience)
    }
}

/// Gives each request of a client a token, in the header `Authorization`, in place of one that is there. The header is
/// marked as sensitive, so that it is not printed.
///
/// A request for which there is no token is not sent: its error is that of the source.
#[derive(Clone, Debug)]
pub struct AttachToken<T> {
    tokens: Arc<T>,
    audience: Arc<str>,
}

impl<T: TokenSource> AttachToken<T> {
    /// Tokens for `audience`, the name that the server verifies: JWT-SVID §3.2.
    pub fn new(tokens: T, audience: impl Into<Arc<str>>) -> Self {
        Self {
            tokens: Arc::new(tokens),
            audience: audience.into(),
        }
    }
}

impl<T, S> Layer<S> for AttachToken<T> {
    type Service = AttachTokenService<T, S>;

    fn layer(&self, service: S) -> Self::Service {
        AttachTokenService {
            tokens: self.tokens.clone(),
            audience: self.audience.clone(),
            service,
        }
    }
}

/// What [`AttachToken`] makes of a service.
#[derive(Debug)]
pub struct AttachTokenService<T, S> {
    tokens: Arc<T>,
    audience: Arc<str>,
    service: S,
}

impl<T, S: Clone> Clone for AttachTokenService<T, S> {
    fn clone(&self) -> Self {
        Self {
            tokens: self.tokens.clone(),
            audience: self.audience.clone(),
            service: self.service.clone(),
        }
    }
}

impl<T, S, B> Service<Request<B>> for AttachTokenService<T, S>
where
    T: TokenSource,
    S: Service<Request<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The one that is ready is used, and its clone is asked next time.
        let next = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, next);
        let (tokens, audience) = (self.tokens.clone(), self.audience.clone());
        Box::pin(async move {
            let svid = tokens.token(&audience).await?;
            let mut value = HeaderValue::from_str(&svid.secret_authorization())?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
            service.call(request).await.map_err(Into::into)
        })
    }
}

/// Lets in the requests that carry a good token for this server, and answers the others.
///
/// What verified is in the request's extensions, as `Arc<JwtSvid>`. What did not is logged with the rule that was
/// broken and answered with a challenge that says no more than RFC 6750 §3.1 asks for:
///
/// | request | answer |
/// |---|---|
/// | without a bearer token | 401, `Bearer` |
/// | with more than one `Authorization` header | 400, `Bearer error="invalid_request"` |
/// | with a token that does not verify | 401, `Bearer error="invalid_token"` |
/// | of a subject that the terms do not allow | 403, `Bearer error="insufficient_scope"` |
///
/// The answer's body is the default one, empty in every HTTP library.
#[derive(Clone, Debug)]
pub struct RequireToken {
    shared: Arc<Shared>,
}

#[derive(Clone, Debug)]
struct Shared {
    publisher: Publisher,
    verifier: JwtVerifier,
    audience: String,
    terms: Terms,
    clock: Arc<dyn Clock>,
}

impl RequireToken {
    /// Tokens are verified for `audience`, the name this server goes by, with the bundles of `source`, which are looked
    /// up anew for each request; `terms` say which subjects are let in.
    pub fn new(
        source: &(impl Source + ?Sized),
        verifier: JwtVerifier,
        audience: impl Into<String>,
        terms: impl Into<Terms>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                publisher: source.publisher().clone(),
                verifier,
                audience: audience.into(),
                terms: terms.into(),
                clock: Arc::new(SystemClock::new()),
            }),
        }
    }

    /// Takes time from this clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        Arc::make_mut(&mut self.shared).clock = clock;
        self
    }
}

impl<S> Layer<S> for RequireToken {
    type Service = RequireTokenService<S>;

    fn layer(&self, service: S) -> Self::Service {
        RequireTokenService {
            shared: self.shared.clone(),
            service,
        }
    }
}

/// What [`RequireToken`] makes of a service.
#[derive(Clone, Debug)]
pub struct RequireTokenService<S> {
    shared: Arc<Shared>,
    service: S,
}

impl<S, B, R> Service<Request<B>> for RequireTokenService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.shared.judge(&request) {
            Ok(svid) => {
                if let Some(token) = request.headers_mut().get_mut(AUTHORIZATION) {
                    token.set_sensitive(true);
                }
                request.extensions_mut().insert(Arc::new(svid));
                Either::Left(self.service.call(request))
            }
            Err(refused) => Either::Right(ready(Ok(refused.answer()))),
        }
    }
}

impl Shared {
    fn judge<B>(&self, request: &Request<B>) -> Result<JwtSvid, Refused> {
        let token = bearer(request)?;
        let current = self.publisher.load();
        let now = self.clock.now();
        let svid = self
            .verifier
            .verify(token, &self.audience, current.bundles(), now)
            .map_err(|error| self.refuse(token, &error, now))?;
        let facts = PeerFacts::new(svid.id().as_ref(), now, svid.expires_at(), 0);
        match self.terms.in_force().authorizer.authorize(&facts) {
            Ok(()) => Ok(svid),
            Err(denied) => Err(Refused::denied(&svid, &denied)),
        }
    }

    /// Says to the log which rule was broken, and what the nearest thing is that would have passed.
    fn refuse(&self, token: &str, error: &JwtError, now: Timestamp) -> Refused {
        let current = self.publisher.load();
        let (_, tree) = self
            .verifier
            .explain(token, &self.audience, current.bundles(), now);
        let failed = tree.first_failure();
        tracing::info!(
            revision = %current.revision(),
            rule = failed.map(|step| step.rule.code()),
            section = failed.and_then(|step| step.rule.section()),
            would_pass = error.nearest(current.bundles()),
            reason = %error,
            "a bearer token was refused"
        );
        Refused::InvalidToken
    }
}

/// The one bearer token of a request: RFC 6750 §2.1.
fn bearer<B>(request: &Request<B>) -> Result<&str, Refused> {
    let mut headers = request.headers().get_all(AUTHORIZATION).iter();
    let value = headers.next().ok_or(Refused::NoToken)?;
    if headers.next().is_some() {
        tracing::info!("a request with several Authorization headers was refused");
        return Err(Refused::InvalidRequest);
    }
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .ok_or(Refused::NoToken)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        Ok(token.trim_start_matches(' '))
    } else {
        Err(Refused::NoToken)
    }
}

/// What the caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    NoToken,
    InvalidRequest,
    InvalidToken,
    NotAllowed,
}

impl Refused {
    fn denied(svid: &JwtSvid, denied: &Denied) -> Self {
        tracing::info!(
            subject = %svid.id(),
            rule = denied.rule().code(),
            would_pass = denied.nearest,
            reason = %denied,
            "the subject of a bearer token was refused"
        );
        Self::NotAllowed
    }

    fn answer<R: Default>(self) -> Response<R> {
        // RFC 6750 §3.1: who has shown no token is told no error.
        let (status, challenge) = match self {
            Self::NoToken => (StatusCode::UNAUTHORIZED, "Bearer"),
            Self::InvalidRequest => (StatusCode::BAD_REQUEST, "Bearer error=\"invalid_request\""),
            Self::InvalidToken => (StatusCode::UNAUTHORIZED, "Bearer error=\"invalid_token\""),
            Self::NotAllowed => (StatusCode::FORBIDDEN, "Bearer error=\"insufficient_scope\""),
        };
        let mut response = Response::new(R::default());
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        response
    }
}
