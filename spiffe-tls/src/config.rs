//! From what this side shows and who the peer is to acceptors, connectors and rustls configurations.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::SigningKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use spiffe_core::snapshot::Rejection;
use spiffe_core::verify::{PeerRole, X509Limits};
use spiffe_core::{Clock, Source, X509Svid};

use crate::asked::Asked;
#[cfg(any(feature = "quinn", feature = "reqwest"))]
use crate::handshake::End;
use crate::handshake::{Acceptor, Connector};
use crate::lease::LeaseRules;
#[cfg(feature = "quinn")]
use crate::making::ServerRecipe;
use crate::making::{Base, Judging, Own, Settings};
use crate::material::{Choice, Svids};
use crate::modes::{
    ClientShows, NoPeer, ServerShows, Shown, ShowsNothing, ShowsSvid, ShowsWebCertificate,
    SpiffePeer, WebCertificate, WebPeer,
};
use crate::terms::Terms;
#[cfg(feature = "aws-lc-rs")]
use crate::tickets::TicketKeys;

/// How long a peer has to finish its handshake unless [`Tls::handshake_timeout`] says otherwise.
pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Mutual TLS between SPIFFE peers: both show an X509-SVID, and each verifies the other's.
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
pub type Mtls = Tls<ShowsSvid, SpiffePeer>;

/// A client that verifies the server's SPIFFE ID and shows nothing.
///
/// ```
/// use spiffe_tls::{Policy, Publisher, TlsClient};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let source = Publisher::new();
/// let connector = TlsClient::new(&source, "domain:example.org".parse::<Policy>()?).connector()?;
/// # Ok(())
/// # }
/// ```
pub type TlsClient = Tls<ShowsNothing, SpiffePeer>;

/// A server that shows its X509-SVID and asks clients for nothing: whoever connects is anonymous.
///
/// ```
/// use spiffe_tls::{Publisher, TlsServer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let source = Publisher::new();
/// let config = TlsServer::new(&source).server_config()?;
/// # Ok(())
/// # }
/// ```
pub type TlsServer = Tls<ShowsSvid, NoPeer>;

/// A client that shows its X509-SVID to a server of the Web PKI, which it knows by DNS name or address.
///
/// ```no_run
/// use spiffe_tls::rustls::RootCertStore;
/// use spiffe_tls::{MtlsWebClient, Publisher};
///
/// # fn client(source: Publisher, roots: RootCertStore) -> Result<(), Box<dyn std::error::Error>> {
/// let config = MtlsWebClient::new(&source, roots).client_config()?;
/// # Ok(())
/// # }
/// ```
pub type MtlsWebClient = Tls<ShowsSvid, WebPeer>;

/// A server that shows a Web PKI certificate and verifies the SPIFFE IDs of its clients.
///
/// ```no_run
/// use spiffe_tls::modes::WebCertificate;
/// use spiffe_tls::{MtlsWebServer, Policy, Publisher};
///
/// # fn server(source: Publisher, certificate: WebCertificate) -> Result<(), Box<dyn std::error::Error>> {
/// let policy: Policy = "domain:example.org".parse()?;
/// let acceptor = MtlsWebServer::new(&source, policy, certificate).acceptor()?;
/// # Ok(())
/// # }
/// ```
pub type MtlsWebServer = Tls<ShowsWebCertificate, SpiffePeer>;

/// A TLS configuration in the making: what this side shows, and who the peer is.
///
/// There are five, each with a name and a constructor of its own: [`Mtls`], [`TlsClient`], [`TlsServer`],
/// [`MtlsWebClient`] and [`MtlsWebServer`]. Where the peer has a SPIFFE ID, an authorizer is a required argument, and
/// there is an [`Acceptor`] or a [`Connector`], whose connections have a lease and whose sessions are resumed. Where it
/// has none, nobody can be judged again: there is a plain rustls configuration, and sessions are not resumed.
#[derive(Clone, Debug)]
pub struct Tls<Own, Peer> {
    settings: Settings,
    own: Own,
    peer: Peer,
}

impl Mtls {
    /// Configurations that follow `source` and let in the peers that `terms` allow: an
    /// [`Authorizer`](spiffe_core::Authorizer), such as a policy, or [`Terms`] that can be changed later.
    pub fn new(source: &(impl Source + ?Sized), terms: impl Into<Terms>) -> Self {
        Self::of(ShowsSvid::of(source), SpiffePeer::of(source, terms))
    }
}

impl TlsClient {
    /// Clients that let in the servers that `terms` allow, by the bundles of `source`, whose SVIDs are not shown.
    pub fn new(source: &(impl Source + ?Sized), terms: impl Into<Terms>) -> Self {
        Self::of(ShowsNothing { _private: () }, SpiffePeer::of(source, terms))
    }
}

impl TlsServer {
    /// Servers that show the SVID of `source` to everybody.
    pub fn new(source: &(impl Source + ?Sized)) -> Self {
        Self::of(ShowsSvid::of(source), NoPeer { _private: () })
    }

    /// A plain rustls configuration that follows the source for as long as it lives. Clients are asked for nothing.
    /// Deadlines are the caller's to set. There is no peer to hold a lease on, and sessions are not resumed: a client
    /// that does not judge again would go on with an SVID that is no longer shown.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn server_config(self) -> Result<Arc<ServerConfig>, ConfigError> {
        let base = Base::new(self.settings)?;
        let publisher = self.own.publisher.clone();
        let own = Own::Svid(self.own);
        let ready = base.derive(&publisher, &own, None)?;
        let recipe = base.server(&own, &ready, false)?;
        Ok(recipe.make(WebPkiClientVerifier::no_client_auth()))
    }
}

impl MtlsWebClient {
    /// Clients that show the SVID of `source` to servers that lead to one of `roots`.
    pub fn new(source: &(impl Source + ?Sized), roots: impl Into<Arc<RootCertStore>>) -> Self {
        let roots = roots.into();
        Self::of(ShowsSvid::of(source), WebPeer { roots })
    }

    /// A plain rustls configuration that follows the source for as long as it lives. The server name given to rustls is
    /// sent and is what the server must prove: RFC 9525. Without a valid SVID none is shown. There is no SPIFFE ID to
    /// hold a lease on, and sessions are not resumed: the server would go on with an SVID that this side no longer
    /// holds.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], also where there are no roots.
    pub fn client_config(self) -> Result<Arc<ClientConfig>, ConfigError> {
        let base = Base::new(self.settings)?;
        let publisher = self.own.publisher.clone();
        let own = Own::Svid(self.own);
        let ready = base.derive(&publisher, &own, None)?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(self.peer.roots, base.provider.clone())
                .build()
                .map_err(ConfigError::WebRoots)?;
        let config = base.client(verifier, &own, &ready, false)?;
        Ok(base.finished_client(config))
    }
}

impl MtlsWebServer {
    /// Servers that show `certificate` and let in the clients that `terms` allow, by the bundles of `source`, whose SVIDs
    /// are not shown.
    pub fn new(
        source: &(impl Source + ?Sized),
        terms: impl Into<Terms>,
        certificate: WebCertificate,
    ) -> Self {
        let own = ShowsWebCertificate { certificate };
        Self::of(own, SpiffePeer::of(source, terms))
    }
}

impl ShowsSvid {
    fn of(source: &(impl Source + ?Sized)) -> Self {
        Self {
            publisher: source.publisher().clone(),
            svids: Svids::default(),
        }
    }
}

impl SpiffePeer {
    fn of(source: &(impl Source + ?Sized), terms: impl Into<Terms>) -> Self {
        Self {
            publisher: source.publisher().clone(),
            terms: terms.into(),
            limits: X509Limits::default(),
            lease_rules: LeaseRules::default(),
            hints: false,
        }
    }
}

/// What any configuration can be told.
impl<Own, Peer> Tls<Own, Peer> {
    fn of(own: Own, peer: Peer) -> Self {
        Self {
            settings: Settings::default(),
            own,
            peer,
        }
    }

    /// Uses this cryptography, its cipher suites and its key exchange groups in its order; the default is AWS-LC, where
    /// the feature `aws-lc-rs` is on. Nothing is installed process-wide.
    #[must_use]
    pub fn provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.settings.provider = Some(provider);
        self
    }

    /// Takes time from this clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Offers these application protocols, best first: RFC 7301.
    #[must_use]
    pub fn alpn(mut self, protocols: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        self.settings.alpn = protocols
            .into_iter()
            .map(|protocol| protocol.as_ref().to_vec())
            .collect();
        self
    }

    /// Sends TLS records of at most this many bytes, header included: 32 to 16,389.
    #[must_use]
    pub fn max_fragment_size(mut self, bytes: usize) -> Self {
        self.settings.max_fragment_size = Some(bytes);
        self
    }

    /// Speaks these TLS versions only; both 1.3 and 1.2 unless set.
    #[must_use]
    pub fn versions(mut self, versions: &[&'static SupportedProtocolVersion]) -> Self {
        self.settings.versions = versions.to_vec();
        self
    }

    /// Agrees on keys by a hybrid of ML-KEM only, which resists a quantum computer; peers without one, and TLS 1.2, are
    /// refused. Without this the provider's preference decides, and [`Peer::key_exchange_group`] tells.
    ///
    /// [`Peer::key_exchange_group`]: crate::Peer::key_exchange_group
    #[must_use]
    pub fn require_post_quantum(mut self) -> Self {
        self.settings.require_post_quantum = true;
        self
    }

    /// Changes each server configuration at the end of its making, whatever the change is: an acceptor that sends
    /// authority hints makes one for each revision, quinn's one for each handshake. **It can weaken or undo what
    /// this crate promises**: a key log gives away all traffic, and sessions that are not this crate's are refused by
    /// its acceptors but not by plain configurations.
    #[must_use]
    pub fn danger_adjust_server_config(
        mut self,
        adjust: impl Fn(&mut ServerConfig) + Send + Sync + 'static,
    ) -> Self {
        self.settings.adjust_server = Some(Arc::new(adjust));
        self
    }

    /// Changes each client configuration at the end of its making, whatever the change is. **It can weaken or undo what
    /// this crate promises**: another verifier takes the peer's SPIFFE ID for nothing, and a key log gives away all
    /// traffic. A [`Connector`] hands out no connection that its own verifier has not seen.
    #[must_use]
    pub fn danger_adjust_client_config(
        mut self,
        adjust: impl Fn(&mut ClientConfig) + Send + Sync + 'static,
    ) -> Self {
        self.settings.adjust_client = Some(Arc::new(adjust));
        self
    }
}

/// Where this side shows an SVID.
impl<Peer> Tls<ShowsSvid, Peer> {
    /// Presents the SVID that carries this hint instead of the default one; without such an SVID handshakes fail.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.own.svids.choice = Choice::Hint(hint.into());
        self
    }

    /// Presents the SVID that `pick` chooses from those of the revision that are valid, in their order, by what the peer
    /// has asked for; where it chooses none, the handshake fails. All their keys must be usable.
    ///
    /// Servers resume a session only for the ID that it began with. Clients that pick resume none: the server has not
    /// asked yet when a session must be chosen.
    ///
    /// ```
    /// use spiffe_tls::{Mtls, Policy, Publisher};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let source = Publisher::new();
    /// // The SVID that leads to an authority that the client knows, or else the default one.
    /// let acceptor = Mtls::new(&source, "domain:example.org".parse::<Policy>()?)
    ///     .pick(|svids, asked| svids.iter().find(|svid| asked.accepts(svid)).or(svids.first()))
    ///     .acceptor()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn pick<F>(mut self, pick: F) -> Self
    where
        F: for<'s> Fn(&'s [Arc<X509Svid>], &Asked<'_>) -> Option<&'s Arc<X509Svid>>
            + Send
            + Sync
            + 'static,
    {
        self.own.svids.choice = Choice::Pick(Arc::new(pick));
        self
    }

    /// Signs for SVIDs whose key is a remote [`Signer`](spiffe_core::key::Signer) by what `signer_of` gives. rustls signs
    /// inside a handshake and cannot wait: a signer that blocks holds up every connection of its thread.
    ///
    /// It is asked once for each such SVID of each revision, before the revision is visible. A revision with an SVID that
    /// it has no signer for, or one of another key, is rejected.
    #[must_use]
    pub fn synchronous_signer(
        mut self,
        signer_of: impl Fn(&X509Svid) -> Option<Arc<dyn SigningKey>> + Send + Sync + 'static,
    ) -> Self {
        self.own.svids.signers = Some(Arc::new(signer_of));
        self
    }
}

/// Where the peer has a SPIFFE ID.
impl<O> Tls<O, SpiffePeer> {
    /// Bounds the work that a peer's chain may cause.
    #[must_use]
    pub fn limits(mut self, limits: X509Limits) -> Self {
        self.peer.limits = limits;
        self
    }

    /// Gives a peer of an acceptor or connector this long to finish its handshake; [`DEFAULT_HANDSHAKE_TIMEOUT`] unless
    /// set.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handshake_timeout = timeout;
        self
    }

    /// Turns the resumption of sessions off, or on again; acceptors and connectors have it on, plain configurations
    /// never. Without the feature `aws-lc-rs`, acceptors hand no sessions out.
    #[must_use]
    pub fn resumption(mut self, resumption: bool) -> Self {
        self.settings.resumption = resumption;
        self
    }

    /// Encrypts session tickets under these keys, which other processes may share, instead of keys of its own.
    #[cfg(feature = "aws-lc-rs")]
    #[must_use]
    pub fn ticket_keys(mut self, keys: &TicketKeys) -> Self {
        self.settings.ticket_keys = Some(keys.clone());
        self
    }

    /// Ends connections by these rules when their lease has ended; [`LeaseRules::default`] unless set.
    #[must_use]
    pub fn lease_rules(mut self, rules: LeaseRules) -> Self {
        self.peer.lease_rules = rules;
        self
    }

    /// A configuration in the making; `peers` is the role in which the other side presents itself.
    fn judging(self, peers: PeerRole) -> Result<Judging, ConfigError>
    where
        O: Into<Shown>,
    {
        Judging::new(self.settings, self.own.into().0, self.peer, peers)
    }
}

/// A server whose clients have a SPIFFE ID.
impl<O: ServerShows> Tls<O, SpiffePeer> {
    /// Tells clients of an acceptor the names of the authorities that may vouch for them, so that those with several SVIDs can
    /// choose: RFC 8446 §4.2.4, RFC 5246 §7.4.4. Off unless this is called, since whoever connects learns of which trust
    /// domains there are authorities here.
    ///
    /// They are the names in the bundles of trust domains of which the terms [may allow](spiffe_core::Authorizer::may_allow)
    /// somebody, without tainted authorities where those are refused; both are asked when a revision arrives or the terms
    /// change. Every handshake carries them. Where they have more than [`MAX_AUTHORITY_HINT_BYTES`] none is sent, and an
    /// event at WARN says so.
    ///
    /// [`MAX_AUTHORITY_HINT_BYTES`]: crate::MAX_AUTHORITY_HINT_BYTES
    #[must_use]
    pub fn send_authority_hints(mut self) -> Self {
        self.peer.hints = true;
        self
    }

    /// The server's side.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], also where a Web PKI certificate and its key do not fit each other.
    pub fn acceptor(self) -> Result<Acceptor, ConfigError> {
        let judging = self.judging(PeerRole::Client)?;
        Ok(Acceptor::new(judging.end(), judging.served()?))
    }

    /// A plain rustls configuration for the server's side that follows the source for as long as it lives. Each
    /// handshake uses what is current and is a full one; deadlines are the caller's to set, and connections have no
    /// lease.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], also where a Web PKI certificate and its key do not fit each other.
    pub fn server_config(self) -> Result<Arc<ServerConfig>, ConfigError> {
        self.judging(PeerRole::Client)?.server()
    }

    /// What plain configurations are made of, and what is needed to keep leases on the connections that others make of
    /// them.
    #[cfg(feature = "quinn")]
    pub(crate) fn bare_server(self) -> Result<(End, ServerRecipe), ConfigError> {
        let judging = self.judging(PeerRole::Client)?;
        Ok((judging.end(), judging.recipe()?))
    }
}

/// A client whose servers have a SPIFFE ID. One that shows nothing gives a server that asks for a certificate none.
impl<O: ClientShows> Tls<O, SpiffePeer> {
    /// The client's side.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn connector(self) -> Result<Connector, ConfigError> {
        let judging = self.judging(PeerRole::Server)?;
        let sessions = judging.sessions();
        let config = judging.client(true, sessions.clone())?;
        Ok(Connector::new(judging.end(), config, sessions))
    }

    /// A plain rustls configuration for the client's side, as [`server_config`](Self::server_config) is for the server's.
    /// The server name given to rustls means nothing: the peer is known by its SPIFFE ID, and no name is sent.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn client_config(self) -> Result<Arc<ClientConfig>, ConfigError> {
        self.judging(PeerRole::Server)?.client(false, None)
    }

    /// A plain configuration, and what is needed to keep leases on the connections that others make of it.
    #[cfg(any(feature = "quinn", feature = "reqwest"))]
    pub(crate) fn bare_client(self) -> Result<(End, Arc<ClientConfig>), ConfigError> {
        let judging = self.judging(PeerRole::Server)?;
        Ok((judging.end(), judging.client(false, None)?))
    }
}

/// Why a configuration cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No cryptography was given and the feature `aws-lc-rs` is off.
    #[error(
        "no cryptography provider: give one to `Tls::provider`, or turn on the feature aws-lc-rs"
    )]
    NoProvider,
    /// Post-quantum key exchange was required, and the provider has none.
    #[error(
        "the cryptography provider has no post-quantum key exchange, which this configuration requires"
    )]
    NoPostQuantum,
    /// [`Tls::send_authority_hints`] was asked of something else than an acceptor.
    #[error(
        "only an acceptor sends authority hints: connectors send none, and a plain configuration would go on sending \
         those of today"
    )]
    AuthorityHints,
    /// The provider's randomness failed.
    #[error("the cryptography provider has no randomness to give")]
    NoRandomness,
    /// The provider has no cipher suite with SHA-256.
    #[error(
        "the cryptography provider has no cipher suite with SHA-256, which every TLS peer expects"
    )]
    NoSha256,
    /// [`Tls::max_fragment_size`] was given a length that TLS does not have.
    #[error(
        "TLS records have 32 to 16,389 bytes, and not {0}, which `max_fragment_size` was given"
    )]
    FragmentSize(usize),
    /// The Web PKI certificate cannot be shown.
    #[error("the Web PKI certificate cannot be shown: {0}")]
    WebCertificate(#[source] rustls::Error),
    /// The Web PKI roots cannot be used.
    #[error("servers of the Web PKI cannot be verified: {0}")]
    WebRoots(#[source] VerifierBuilderError),
    /// The provider cannot serve the TLS versions that were asked for.
    #[error("the cryptography provider cannot serve these TLS versions: {0}")]
    Provider(#[source] rustls::Error),
    /// The source's current revision cannot be used for TLS.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}
