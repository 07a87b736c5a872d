//! The making of a configuration: from what was asked for to rustls' own, and to what acceptors and connectors hold.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ConfigBuilder, ServerConfig, SupportedProtocolVersion, WantsVerifier};
use spiffe_core::snapshot::{Derived, Rejection};
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{Clock, Publisher, SystemClock, X509Svid};

use crate::config::{ConfigError, DEFAULT_HANDSHAKE_TIMEOUT};
use crate::digest::{Digest, Sha256};
use crate::handshake::End;
use crate::hints::Served;
use crate::judge::Judge;
use crate::keeper::Keeper;
use crate::lease::LeaseRules;
use crate::material::{Choice, Ready, Svids};
use crate::modes::{ShowsSvid, SpiffePeer, WebCertificate};
use crate::namespace::Namespaces;
use crate::peer::is_post_quantum;
use crate::resolver::IdentityResolver;
use crate::sessions::{ClientSessions, Present};
#[cfg(feature = "aws-lc-rs")]
use crate::tickets::{TicketKeys, Ticketer};
use crate::verifier::{PeerVerifier, Told};

/// The lengths of TLS records, header included, that rustls can be held to.
const FRAGMENT_SIZES: std::ops::RangeInclusive<usize> = 32..=16 * 1024 + 5;

/// A caller's own change of a finished configuration.
pub(crate) type Adjust<C> = Arc<dyn Fn(&mut C) + Send + Sync>;

/// What every configuration has.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) provider: Option<Arc<CryptoProvider>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) max_fragment_size: Option<usize>,
    pub(crate) handshake_timeout: Duration,
    pub(crate) versions: Vec<&'static SupportedProtocolVersion>,
    pub(crate) require_post_quantum: bool,
    pub(crate) resumption: bool,
    #[cfg(feature = "aws-lc-rs")]
    pub(crate) ticket_keys: Option<TicketKeys>,
    pub(crate) adjust_server: Option<Adjust<ServerConfig>>,
    pub(crate) adjust_client: Option<Adjust<ClientConfig>>,
}

/// What this side shows, as data.
#[derive(Debug)]
pub(crate) enum Own {
    Svid(ShowsSvid),
    Nothing,
    Web(WebCertificate),
}

impl Own {
    fn choice(&self) -> Choice {
        match self {
            Self::Svid(own) => own.svids.choice.clone(),
            Self::Nothing | Self::Web(_) => Choice::First,
        }
    }

    /// What stands for the own ID in the namespace of sessions, where none is shown. No ID reads like this.
    const fn anonymous(&self) -> &'static str {
        match self {
            Self::Svid(_) | Self::Nothing => "",
            Self::Web(_) => "web",
        }
    }
}

/// Any configuration in the making.
pub(crate) struct Base {
    settings: Settings,
    pub(crate) provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Base {
    pub(crate) fn new(settings: Settings) -> Result<Self, ConfigError> {
        let provider = match &settings.provider {
            Some(provider) => provider.clone(),
            None => default_provider().ok_or(ConfigError::NoProvider)?,
        };
        let (provider, versions) = if settings.require_post_quantum {
            post_quantum_only(&provider)?
        } else {
            (provider, settings.versions.clone())
        };
        if let Some(size) = settings.max_fragment_size
            && !FRAGMENT_SIZES.contains(&size)
        {
            return Err(ConfigError::FragmentSize(size));
        }
        Ok(Self {
            settings,
            provider,
            versions,
        })
    }

    /// Has every revision made ready before it is visible.
    pub(crate) fn derive(
        &self,
        publisher: &Publisher,
        own: &Own,
        namespaces: Option<Arc<Namespaces>>,
    ) -> Result<Derived<Ready>, Rejection> {
        let provider = self.provider.clone();
        let svids = match own {
            Own::Svid(own) => Some(own.svids.clone()),
            Own::Nothing | Own::Web(_) => None,
        };
        let anonymous = own.anonymous();
        publisher.derive(move |snapshot| {
            let names = namespaces.as_deref();
            let of_svid = |own: &X509Svid| {
                names.map_or_else(Digest::default, |names| names.of_svid(snapshot, own))
            };
            let of_nobody = |names: &Namespaces| names.of_nobody(snapshot, anonymous);
            let load = |svids: &Svids| svids.load(snapshot, &provider, of_svid);
            Ok(Ready {
                identities: svids.as_ref().map(load).transpose()?.unwrap_or_default(),
                anonymous: names.map_or_else(Digest::default, of_nobody),
            })
        })
    }

    fn resolver(
        &self,
        choice: Choice,
        ready: &Derived<Ready>,
        is_ours: bool,
    ) -> Arc<IdentityResolver> {
        Arc::new(IdentityResolver {
            ready: ready.clone(),
            choice,
            clock: self.settings.clock.clone(),
            is_ours,
        })
    }

    fn server_resolver(
        &self,
        own: &Own,
        ready: &Derived<Ready>,
        is_ours: bool,
    ) -> Result<Arc<dyn ResolvesServerCert>, ConfigError> {
        match own {
            Own::Web(certificate) => certificate
                .resolver(&self.provider)
                .map_err(ConfigError::WebCertificate),
            own => Ok(self.resolver(own.choice(), ready, is_ours)),
        }
    }

    /// What a server's configuration is made of.
    pub(crate) fn server(
        &self,
        own: &Own,
        ready: &Derived<Ready>,
        is_ours: bool,
    ) -> Result<ServerRecipe, ConfigError> {
        let builder = ServerConfig::builder_with_details(self.provider.clone(), self.time())
            .with_protocol_versions(&self.versions)
            .map_err(ConfigError::Provider)?;
        Ok(ServerRecipe {
            builder,
            resolver: self.server_resolver(own, ready, is_ours)?,
            ticketer: None,
            settings: self.settings.clone(),
        })
    }

    pub(crate) fn client(
        &self,
        verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
        own: &Own,
        ready: &Derived<Ready>,
        is_ours: bool,
    ) -> Result<ClientConfig, ConfigError> {
        let builder = ClientConfig::builder_with_details(self.provider.clone(), self.time())
            .with_protocol_versions(&self.versions)
            .map_err(ConfigError::Provider)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match own {
            Own::Svid(_) => {
                builder.with_client_cert_resolver(self.resolver(own.choice(), ready, is_ours))
            }
            Own::Nothing | Own::Web(_) => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols.clone_from(&self.settings.alpn);
        config.max_fragment_size = self.settings.max_fragment_size;
        Ok(config)
    }

    pub(crate) fn finished_client(&self, mut config: ClientConfig) -> Arc<ClientConfig> {
        if let Some(adjust) = &self.settings.adjust_client {
            adjust(&mut config);
        }
        Arc::new(config)
    }

    fn time(&self) -> Arc<dyn TimeProvider> {
        Arc::new(ClockTime(self.settings.clock.clone()))
    }
}

/// What a server's configuration is made of, but for the verifier of its peers. The names that clients are told
/// are the verifier's, so an acceptor that tells some has a configuration for each set of them.
pub(crate) struct ServerRecipe {
    builder: ConfigBuilder<ServerConfig, WantsVerifier>,
    resolver: Arc<dyn ResolvesServerCert>,
    /// Makes tickets, where sessions are resumed.
    ticketer: Option<Arc<dyn ProducesTickets>>,
    settings: Settings,
}

impl ServerRecipe {
    pub(crate) fn make(&self, verifier: Arc<dyn ClientCertVerifier>) -> Arc<ServerConfig> {
        let builder = self.builder.clone().with_client_cert_verifier(verifier);
        let mut config = builder.with_cert_resolver(self.resolver.clone());
        // Whoever does not judge a resumed peer must not resume: the verifier is not asked, and a peer whose trust was
        // withdrawn would come back on its session.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if let Some(ticketer) = &self.ticketer {
            config.ticketer = ticketer.clone();
            config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
        }
        config.alpn_protocols.clone_from(&self.settings.alpn);
        config.max_fragment_size = self.settings.max_fragment_size;
        if let Some(adjust) = &self.settings.adjust_server {
            adjust(&mut config);
        }
        Arc::new(config)
    }
}

impl fmt::Debug for ServerRecipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerRecipe").finish_non_exhaustive()
    }
}

/// A configuration whose peers are judged, in the making.
pub(crate) struct Judging {
    base: Base,
    own: Own,
    ready: Derived<Ready>,
    judge: Arc<Judge>,
    namespaces: Arc<Namespaces>,
    lease_rules: LeaseRules,
    sends_hints: bool,
}

impl Judging {
    /// `peers` is the role in which the other side presents itself.
    pub(crate) fn new(
        settings: Settings,
        own: Own,
        peer: SpiffePeer,
        peers: PeerRole,
    ) -> Result<Self, ConfigError> {
        let base = Base::new(settings)?;
        let sha256 = Sha256::of(&base.provider).ok_or(ConfigError::NoSha256)?;
        let algorithms = base.provider.signature_verification_algorithms.all;
        let namespaces = Namespaces::new(peer.terms.clone(), sha256, &base.provider)
            .map_err(|_| ConfigError::NoRandomness)?;
        let namespaces = Arc::new(namespaces);
        let of_sessions = base.settings.resumption.then(|| namespaces.clone());
        let ready = base.derive(&peer.publisher, &own, of_sessions)?;
        let judge = Arc::new(Judge::new(
            X509Verifier::with_algorithms(algorithms).with_limits(peer.limits),
            peer.terms,
            base.settings.clock.clone(),
            base.provider.clone(),
            peer.publisher,
            peers,
            sha256,
        ));
        Ok(Self {
            base,
            own,
            ready,
            judge,
            namespaces,
            lease_rules: peer.lease_rules,
            sends_hints: peer.hints,
        })
    }

    /// A plain configuration.
    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>, ConfigError> {
        Ok(self.recipe()?.make(self.verifier(false)))
    }

    /// What plain configurations are made of.
    pub(crate) fn recipe(&self) -> Result<ServerRecipe, ConfigError> {
        self.without_hints()?;
        self.base.server(&self.own, &self.ready, false)
    }

    /// What our acceptor serves by.
    pub(crate) fn served(&self) -> Result<Served, ConfigError> {
        #[cfg_attr(
            not(feature = "aws-lc-rs"),
            expect(unused_mut, reason = "tickets need it")
        )]
        let mut recipe = self.base.server(&self.own, &self.ready, true)?;
        #[cfg(feature = "aws-lc-rs")]
        if self.base.settings.resumption {
            recipe.ticketer = Some(self.ticketer()?);
        }
        if self.sends_hints {
            Ok(Served::hinting(recipe, &self.judge)?)
        } else {
            Ok(Served::Same(recipe.make(self.verifier(true))))
        }
    }

    fn without_hints(&self) -> Result<(), ConfigError> {
        if self.sends_hints {
            return Err(ConfigError::AuthorityHints);
        }
        Ok(())
    }

    /// The configuration, for our connector with this place for sessions.
    pub(crate) fn client(
        &self,
        is_ours: bool,
        sessions: Option<Arc<ClientSessions>>,
    ) -> Result<Arc<ClientConfig>, ConfigError> {
        self.without_hints()?;
        let verifier = self.verifier(is_ours);
        let mut config = self
            .base
            .client(verifier, &self.own, &self.ready, is_ours)?;
        if let Some(sessions) = sessions {
            config.resumption = Resumption::store(sessions);
        }
        config.enable_sni = false;
        Ok(self.base.finished_client(config))
    }

    /// Where a connector keeps its sessions.
    pub(crate) fn sessions(&self) -> Option<Arc<ClientSessions>> {
        // A session is chosen before the server has asked, and so before this side knows whom it will show.
        let picks = matches!(self.own.choice(), Choice::Pick(_));
        (self.base.settings.resumption && !picks)
            .then(|| Arc::new(ClientSessions::new(self.present())))
    }

    pub(crate) fn end(&self) -> End {
        End {
            ready: self.ready.clone(),
            keeper: Keeper::new(self.judge.clone(), self.lease_rules),
            timeout: self.base.settings.handshake_timeout,
            shows_svid: matches!(self.own, Own::Svid(_)),
            requires_post_quantum: self.base.settings.require_post_quantum,
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
        let provider = &self.judge.provider;
        let keys = match &self.base.settings.ticket_keys {
            Some(keys) => keys.clone(),
            None => TicketKeys::random(provider).map_err(|_| ConfigError::NoRandomness)?,
        };
        Ok(Arc::new(Ticketer::new(
            keys,
            self.present(),
            provider.clone(),
        )))
    }

    fn verifier(&self, is_ours: bool) -> Arc<PeerVerifier> {
        let told = if is_ours {
            Told::Handshake
        } else {
            Told::Nobody
        };
        Arc::new(PeerVerifier::new(self.judge.clone(), told))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            provider: None,
            clock: Arc::new(SystemClock::new()),
            alpn: Vec::new(),
            max_fragment_size: None,
            handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
            versions: rustls::ALL_VERSIONS.to_vec(),
            require_post_quantum: false,
            resumption: true,
            #[cfg(feature = "aws-lc-rs")]
            ticket_keys: None,
            adjust_server: None,
            adjust_client: None,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("versions", &self.versions)
            .field("require_post_quantum", &self.require_post_quantum)
            .field("resumption", &self.resumption)
            .field("handshake_timeout", &self.handshake_timeout)
            .finish_non_exhaustive()
    }
}

/// Each connection takes one session and leaves one. A ticket carries the client's chain, so more of them cost.
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
pub(crate) fn default_provider() -> Option<Arc<CryptoProvider>> {
    Some(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

#[cfg(not(feature = "aws-lc-rs"))]
pub(crate) fn default_provider() -> Option<Arc<CryptoProvider>> {
    None
}
