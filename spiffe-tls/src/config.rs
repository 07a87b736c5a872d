//! From a source and an authorizer to acceptors, connectors and rustls configurations.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use spiffe_core::snapshot::{Derived, Rejection, Snapshot};
use spiffe_core::verify::{X509Limits, X509Verifier};
use spiffe_core::{Authorizer, Clock, Publisher, Source, SystemClock};

use crate::handshake::{Acceptor, Connector};
use crate::material::{self, Identity};
use crate::resolver::{IdentityResolver, Own};
use crate::verifier::{Judge, PeerVerifier};

/// How long a peer has to finish its handshake unless [`Mtls::handshake_timeout`] says otherwise.
pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Mutual TLS between SPIFFE peers: a source for the own identity and the bundles, an authorizer for the peers.
///
/// ```
/// use spiffe_tls::{Mtls, Policy, Publisher};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let source = Publisher::new();
/// let policy: Policy = "id:spiffe://example.org/db".parse()?;
/// let connector = Mtls::new(&source, policy).alpn([b"h2"]).connector()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Mtls {
    publisher: Publisher,
    authorizer: Arc<dyn Authorizer>,
    provider: Option<Arc<CryptoProvider>>,
    clock: Arc<dyn Clock>,
    limits: X509Limits,
    alpn: Vec<Vec<u8>>,
    hint: Option<String>,
    handshake_timeout: Duration,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Mtls {
    /// Configurations that follow `source` and let in the peers that `authorizer` allows.
    pub fn new(source: &(impl Source + ?Sized), authorizer: impl Authorizer) -> Self {
        Self {
            publisher: source.publisher().clone(),
            authorizer: Arc::new(authorizer),
            provider: None,
            clock: Arc::new(SystemClock::new()),
            limits: X509Limits::default(),
            alpn: Vec::new(),
            hint: None,
            handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
            versions: rustls::ALL_VERSIONS.to_vec(),
        }
    }

    /// Uses this cryptography; the default is AWS-LC, where the feature `aws-lc-rs` is on. Nothing is installed
    /// process-wide.
    #[must_use]
    pub fn provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Takes time from this clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Bounds the work that a peer's chain may cause.
    #[must_use]
    pub fn limits(mut self, limits: X509Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Offers these application protocols, best first: RFC 7301.
    #[must_use]
    pub fn alpn(mut self, protocols: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        self.alpn = protocols
            .into_iter()
            .map(|protocol| protocol.as_ref().to_vec())
            .collect();
        self
    }

    /// Presents the SVID that carries this hint instead of the default one; without such an SVID handshakes fail.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Gives a peer this long to finish its handshake; [`DEFAULT_HANDSHAKE_TIMEOUT`] unless set.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Speaks these TLS versions only; both 1.3 and 1.2 unless set.
    #[must_use]
    pub fn versions(mut self, versions: &[&'static SupportedProtocolVersion]) -> Self {
        self.versions = versions.to_vec();
        self
    }

    /// The server's side.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn acceptor(self) -> Result<Acceptor, ConfigError> {
        let prepared = self.prepare()?;
        let ready = prepared.derive(|prepared, own| prepared.server(true, own))?;
        Ok(Acceptor::new(
            ready,
            prepared.clock.clone(),
            prepared.handshake_timeout,
        ))
    }

    /// The client's side.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn connector(self) -> Result<Connector, ConfigError> {
        let prepared = self.prepare()?;
        let ready = prepared.derive(|prepared, own| prepared.client(true, own))?;
        Ok(Connector::new(
            ready,
            prepared.clock.clone(),
            prepared.handshake_timeout,
        ))
    }

    /// A plain rustls configuration for the server's side that follows the source for as long as it lives. Each
    /// handshake uses what is current; deadlines are the caller's to set.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn server_config(self) -> Result<Arc<ServerConfig>, ConfigError> {
        let prepared = self.prepare()?;
        let own = prepared.live_identity()?;
        Ok(prepared.server(false, own)?)
    }

    /// A plain rustls configuration for the client's side, likewise. The server name given to rustls means nothing:
    /// the peer is known by its SPIFFE ID, and no name is sent.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn client_config(self) -> Result<Arc<ClientConfig>, ConfigError> {
        let prepared = self.prepare()?;
        let own = prepared.live_identity()?;
        Ok(prepared.client(false, own)?)
    }

    fn prepare(self) -> Result<Arc<Prepared>, ConfigError> {
        let provider = match self.provider {
            Some(provider) => provider,
            None => default_provider().ok_or(ConfigError::NoProvider)?,
        };
        let algorithms = provider.signature_verification_algorithms.all;
        Ok(Arc::new(Prepared {
            judge: Arc::new(Judge {
                verifier: X509Verifier::with_algorithms(algorithms).with_limits(self.limits),
                authorizer: self.authorizer,
                clock: self.clock.clone(),
                provider,
            }),
            publisher: self.publisher,
            clock: self.clock,
            alpn: self.alpn,
            hint: self.hint,
            handshake_timeout: self.handshake_timeout,
            versions: self.versions,
        }))
    }
}

/// One revision, ready for handshakes in one role.
#[derive(Debug)]
pub(crate) struct Ready<C> {
    pub(crate) config: Arc<C>,
    pub(crate) identity: Option<Arc<Identity>>,
}

/// What every revision of a configuration shares.
#[derive(Debug)]
struct Prepared {
    judge: Arc<Judge>,
    publisher: Publisher,
    clock: Arc<dyn Clock>,
    alpn: Vec<Vec<u8>>,
    hint: Option<String>,
    handshake_timeout: Duration,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Prepared {
    /// Registers the step that makes each next revision ready before it is published.
    fn derive<C: Send + Sync + 'static>(
        self: &Arc<Self>,
        build: impl Fn(&Self, Own) -> Result<Arc<C>, Rejection> + Send + Sync + 'static,
    ) -> Result<Derived<Ready<C>>, ConfigError> {
        let shared = self.clone();
        let derived = self.publisher.derive(move |snapshot| {
            let identity = shared.identity(snapshot)?;
            let config = build(&shared, Own::Pinned(identity.clone()))?;
            Ok(Ready { config, identity })
        })?;
        Ok(derived)
    }

    fn live_identity(self: &Arc<Self>) -> Result<Own, ConfigError> {
        let shared = self.clone();
        let derived = self
            .publisher
            .derive(move |snapshot| shared.identity(snapshot))?;
        Ok(Own::Live(derived))
    }

    fn identity(&self, snapshot: &Snapshot) -> Result<Option<Arc<Identity>>, Rejection> {
        let picked = material::pick(snapshot, self.hint.as_deref(), &self.judge.provider)?;
        Ok(picked.map(Arc::new))
    }

    fn server(&self, is_ours: bool, own: Own) -> Result<Arc<ServerConfig>, Rejection> {
        let provider = self.judge.provider.clone();
        let mut config = ServerConfig::builder_with_details(provider, self.time())
            .with_protocol_versions(&self.versions)
            .map_err(unusable)?
            .with_client_cert_verifier(self.verifier(is_ours))
            .with_cert_resolver(self.resolver(own));
        // A resumed session would skip the verifier: after trust is withdrawn the peer must not come back so.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.alpn_protocols.clone_from(&self.alpn);
        Ok(Arc::new(config))
    }

    fn client(&self, is_ours: bool, own: Own) -> Result<Arc<ClientConfig>, Rejection> {
        let provider = self.judge.provider.clone();
        let mut config = ClientConfig::builder_with_details(provider, self.time())
            .with_protocol_versions(&self.versions)
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(is_ours))
            .with_client_cert_resolver(self.resolver(own));
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.alpn_protocols.clone_from(&self.alpn);
        Ok(Arc::new(config))
    }

    fn verifier(&self, is_ours: bool) -> Arc<PeerVerifier> {
        Arc::new(PeerVerifier {
            judge: self.judge.clone(),
            publisher: self.publisher.clone(),
            is_ours,
        })
    }

    fn resolver(&self, own: Own) -> Arc<IdentityResolver> {
        Arc::new(IdentityResolver {
            own,
            clock: self.clock.clone(),
        })
    }

    fn time(&self) -> Arc<dyn TimeProvider> {
        Arc::new(ClockTime(self.clock.clone()))
    }
}

fn unusable(error: rustls::Error) -> Rejection {
    Rejection::new(
        spiffe_core::Rule::CertAlgorithm,
        format!("the cryptography provider cannot serve these TLS versions: {error}"),
    )
}

/// Our clock as rustls asks for it.
#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().unix_seconds()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

#[cfg(feature = "aws-lc-rs")]
fn default_provider() -> Option<Arc<CryptoProvider>> {
    Some(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

#[cfg(not(feature = "aws-lc-rs"))]
fn default_provider() -> Option<Arc<CryptoProvider>> {
    None
}

/// Why a configuration cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No cryptography was given and the feature `aws-lc-rs` is off.
    #[error(
        "no cryptography provider: give one to `Mtls::provider`, or turn on the feature aws-lc-rs"
    )]
    NoProvider,
    /// The source's current revision cannot be used for TLS.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}
