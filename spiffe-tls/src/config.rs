//! From a source and terms for peers to acceptors, connectors and rustls configurations.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use spiffe_core::snapshot::{Derived, Rejection};
use spiffe_core::verify::{PeerRole, X509Limits, X509Verifier};
use spiffe_core::{Clock, Publisher, Source, SystemClock};

use crate::digest::{Digest, Sha256};
use crate::handshake::{Acceptor, Connector, End};
use crate::judge::Judge;
use crate::keeper::Keeper;
use crate::lease::LeaseRules;
use crate::material::{self, Identity};
use crate::namespace::Namespaces;
use crate::peer::is_post_quantum;
use crate::resolver::IdentityResolver;
use crate::sessions::{ClientSessions, Present};
use crate::terms::Terms;
#[cfg(feature = "aws-lc-rs")]
use crate::tickets::{TicketKeys, Ticketer};
use crate::verifier::PeerVerifier;

/// How long a peer has to finish its handshake unless [`Mtls::handshake_timeout`] says otherwise.
pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Mutual TLS between SPIFFE peers: a source for the own identity and the bundles, terms for the peers.
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
    terms: Terms,
    provider: Option<Arc<CryptoProvider>>,
    clock: Arc<dyn Clock>,
    limits: X509Limits,
    alpn: Vec<Vec<u8>>,
    hint: Option<String>,
    handshake_timeout: Duration,
    versions: Vec<&'static SupportedProtocolVersion>,
    require_post_quantum: bool,
    resumption: bool,
    lease_rules: LeaseRules,
    #[cfg(feature = "aws-lc-rs")]
    ticket_keys: Option<TicketKeys>,
}

impl Mtls {
    /// Configurations that follow `source` and let in the peers that `terms` allow: an
    /// [`Authorizer`](spiffe_core::Authorizer), such as a policy, or [`Terms`] that can be changed later.
    pub fn new(source: &(impl Source + ?Sized), terms: impl Into<Terms>) -> Self {
        Self {
            publisher: source.publisher().clone(),
            terms: terms.into(),
            provider: None,
            clock: Arc::new(SystemClock::new()),
            limits: X509Limits::default(),
            alpn: Vec::new(),
            hint: None,
            handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
            versions: rustls::ALL_VERSIONS.to_vec(),
            require_post_quantum: false,
            resumption: true,
            lease_rules: LeaseRules::default(),
            #[cfg(feature = "aws-lc-rs")]
            ticket_keys: None,
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

    /// Agrees on keys by a hybrid of ML-KEM only, which resists a quantum computer; peers without one, and TLS 1.2, are
    /// refused. Without this the provider's preference decides, and [`Peer::key_exchange_group`] tells.
    ///
    /// [`Peer::key_exchange_group`]: crate::Peer::key_exchange_group
    #[must_use]
    pub fn require_post_quantum(mut self) -> Self {
        self.require_post_quantum = true;
        self
    }

    /// Turns the resumption of sessions off, or on again; acceptors and connectors have it on, plain configurations
    /// never. Without the feature `aws-lc-rs`, acceptors hand no sessions out.
    #[must_use]
    pub fn resumption(mut self, resumption: bool) -> Self {
        self.resumption = resumption;
        self
    }

    /// Encrypts session tickets under these keys, which other processes may share, instead of keys of its own.
    #[cfg(feature = "aws-lc-rs")]
    #[must_use]
    pub fn ticket_keys(mut self, keys: &TicketKeys) -> Self {
        self.ticket_keys = Some(keys.clone());
        self
    }

    /// Ends connections by these rules when their lease has ended; [`LeaseRules::default`] unless set.
    #[must_use]
    pub fn lease_rules(mut self, rules: LeaseRules) -> Self {
        self.lease_rules = rules;
        self
    }

    /// The server's side.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn acceptor(self) -> Result<Acceptor, ConfigError> {
        let prepared = self.prepare(PeerRole::Client)?;
        let config = prepared.server(true)?;
        Ok(Acceptor::new(prepared.end(), Arc::new(config)))
    }

    /// The client's side.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn connector(self) -> Result<Connector, ConfigError> {
        let prepared = self.prepare(PeerRole::Server)?;
        let config = prepared.client(true)?;
        Ok(Connector::new(prepared.end(), Arc::new(config), true))
    }

    /// A plain rustls configuration for the server's side that follows the source for as long as it lives. Each
    /// handshake uses what is current and is a full one; deadlines are the caller's to set, and connections have no
    /// lease.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn server_config(self) -> Result<Arc<ServerConfig>, ConfigError> {
        Ok(Arc::new(self.prepare(PeerRole::Client)?.server(false)?))
    }

    /// A plain rustls configuration for the client's side, likewise. The server name given to rustls means nothing:
    /// the peer is known by its SPIFFE ID, and no name is sent.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn client_config(self) -> Result<Arc<ClientConfig>, ConfigError> {
        Ok(Arc::new(self.prepare(PeerRole::Server)?.client(false)?))
    }

    fn prepare(self, peers: PeerRole) -> Result<Prepared, ConfigError> {
        let provider = match &self.provider {
            Some(provider) => provider.clone(),
            None => default_provider().ok_or(ConfigError::NoProvider)?,
        };
        let (provider, versions) = if self.require_post_quantum {
            post_quantum_only(&provider)?
        } else {
            (provider, self.versions.clone())
        };
        let sha256 = Sha256::of(&provider).ok_or(ConfigError::NoSha256)?;
        let algorithms = provider.signature_verification_algorithms.all;
        let namespaces = Arc::new(
            Namespaces::new(self.terms.clone(), sha256, &provider)
                .map_err(|_| ConfigError::NoRandomness)?,
        );
        let ready = self.publisher.derive({
            let (namespaces, provider) = (namespaces.clone(), provider.clone());
            let (hint, resumption) = (self.hint.clone(), self.resumption);
            move |snapshot| {
                let identity = material::pick(snapshot, hint.as_deref(), &provider)?.map(Arc::new);
                let own = identity.as_ref().map(|identity| identity.svid.id());
                let namespace = if resumption {
                    namespaces.of_revision(snapshot, own)
                } else {
                    Digest::default()
                };
                Ok(Ready {
                    identity,
                    namespace,
                })
            }
        })?;
        let judge = Arc::new(Judge::new(
            X509Verifier::with_algorithms(algorithms).with_limits(self.limits),
            self.terms.clone(),
            self.clock.clone(),
            provider,
            self.publisher.clone(),
            peers,
            sha256,
        ));
        Ok(Prepared {
            builder: self,
            versions,
            judge,
            ready,
            namespaces,
        })
    }
}

/// One revision, ready for handshakes.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) identity: Option<Arc<Identity>>,
    /// The revision's part of what sessions are bound to.
    pub(crate) namespace: Digest,
}

/// A configuration in the making.
struct Prepared {
    builder: Mtls,
    versions: Vec<&'static SupportedProtocolVersion>,
    judge: Arc<Judge>,
    ready: Derived<Ready>,
    namespaces: Arc<Namespaces>,
}

impl Prepared {
    fn server(&self, is_ours: bool) -> Result<ServerConfig, ConfigError> {
        let provider = self.judge.provider.clone();
        let mut config = ServerConfig::builder_with_details(provider, self.time())
            .with_protocol_versions(&self.versions)
            .map_err(ConfigError::Provider)?
            .with_client_cert_verifier(self.verifier(is_ours))
            .with_cert_resolver(self.resolver(is_ours));
        // Whoever does not judge a resumed peer must not resume: the verifier is not asked, and a peer whose trust was
        // withdrawn would come back on its session.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        #[cfg(feature = "aws-lc-rs")]
        if is_ours && self.builder.resumption {
            config.ticketer = self.ticketer()?;
            config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
        }
        config.alpn_protocols.clone_from(&self.builder.alpn);
        Ok(config)
    }

    fn client(&self, is_ours: bool) -> Result<ClientConfig, ConfigError> {
        let provider = self.judge.provider.clone();
        let mut config = ClientConfig::builder_with_details(provider, self.time())
            .with_protocol_versions(&self.versions)
            .map_err(ConfigError::Provider)?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(is_ours))
            .with_client_cert_resolver(self.resolver(is_ours));
        config.resumption = if is_ours && self.builder.resumption {
            Resumption::store(Arc::new(ClientSessions::new(self.present())))
        } else {
            Resumption::disabled()
        };
        config.enable_sni = false;
        config.alpn_protocols.clone_from(&self.builder.alpn);
        Ok(config)
    }

    fn end(&self) -> End {
        End {
            ready: self.ready.clone(),
            keeper: Keeper::new(self.judge.clone(), self.builder.lease_rules),
            timeout: self.builder.handshake_timeout,
        }
    }

    fn present(&self) -> Present {
        Present {
            ready: self.ready.clone(),
            namespaces: self.namespaces.clone(),
            clock: self.judge.clock.clone(),
        }
    }

    #[cfg(feature = "aws-lc-rs")]
    fn ticketer(&self) -> Result<Arc<Ticketer>, ConfigError> {
        let keys = match &self.builder.ticket_keys {
            Some(keys) => keys.clone(),
            None => {
                TicketKeys::random(&self.judge.provider).map_err(|_| ConfigError::NoRandomness)?
            }
        };
        Ok(Arc::new(Ticketer::new(
            keys,
            self.present(),
            self.judge.provider.clone(),
        )))
    }

    fn verifier(&self, is_ours: bool) -> Arc<PeerVerifier> {
        Arc::new(PeerVerifier {
            judge: self.judge.clone(),
            is_ours,
        })
    }

    fn resolver(&self, is_ours: bool) -> Arc<IdentityResolver> {
        Arc::new(IdentityResolver {
            ready: self.ready.clone(),
            clock: self.judge.clock.clone(),
            is_ours,
        })
    }

    fn time(&self) -> Arc<dyn TimeProvider> {
        Arc::new(ClockTime(self.judge.clock.clone()))
    }
}

/// Each connection takes one session and leaves one. A ticket carries the client's chain, so more of them cost.
#[cfg(feature = "aws-lc-rs")]
const TICKETS_PER_HANDSHAKE: usize = 1;

/// The provider with nothing but hybrid key exchange, and the one version that has it.
fn post_quantum_only(
    provider: &CryptoProvider,
) -> Result<(Arc<CryptoProvider>, Vec<&'static SupportedProtocolVersion>), ConfigError> {
    let mut provider = provider.clone();
    provider
        .kx_groups
        .retain(|group| is_post_quantum(group.name()));
    if provider.kx_groups.is_empty() {
        return Err(ConfigError::NoPostQuantum);
    }
    Ok((Arc::new(provider), vec![&rustls::version::TLS13]))
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
    /// Post-quantum key exchange was required, and the provider has none.
    #[error(
        "the cryptography provider has no post-quantum key exchange, which this configuration requires"
    )]
    NoPostQuantum,
    /// The provider's randomness failed.
    #[error("the cryptography provider has no randomness to give")]
    NoRandomness,
    /// The provider has no cipher suite with SHA-256.
    #[error(
        "the cryptography provider has no cipher suite with SHA-256, which every TLS peer expects"
    )]
    NoSha256,
    /// The provider cannot serve the TLS versions that were asked for.
    #[error("the cryptography provider cannot serve these TLS versions: {0}")]
    Provider(#[source] rustls::Error),
    /// The source's current revision cannot be used for TLS.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}
