//! What goes without a protection, under a name that a reviewer can search for.
//!
//! Other names that do: [`Tls::danger_adjust_server_config`](crate::Tls::danger_adjust_server_config),
//! [`Tls::danger_adjust_client_config`](crate::Tls::danger_adjust_client_config), and
//! [`AuthorizeAny`](spiffe_core::danger::AuthorizeAny).

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, NamedGroup, ProtocolVersion, SignatureScheme};
use spiffe_core::{Clock, SystemClock, X509Svid};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::config::{ConfigError, DEFAULT_HANDSHAKE_TIMEOUT};
use crate::error::{HandshakeError, PeerRefused};
use crate::handshake::unused_name;
use crate::making::default_provider;
use crate::material::Svids;

/// The most bytes that are read, and thrown away, while a server makes up its mind about this side.
const MAX_DISCARDED: u64 = 64 * 1024;

/// Looks at the chain that a server shows, **without believing it**: to be shown to people and judged elsewhere, not to
/// talk to whoever it is. No application data is sent, and what arrives is thrown away.
#[derive(Clone, Debug)]
pub struct UnverifiedPeer {
    provider: Option<Arc<CryptoProvider>>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    server_name: Option<ServerName<'static>>,
    own: Option<Arc<X509Svid>>,
}

impl UnverifiedPeer {
    /// Shows nothing, sends no server name, and waits for [`DEFAULT_HANDSHAKE_TIMEOUT`].
    pub fn new() -> Self {
        Self {
            provider: None,
            clock: Arc::new(SystemClock::new()),
            timeout: DEFAULT_HANDSHAKE_TIMEOUT,
            server_name: None,
            own: None,
        }
    }

    /// Uses this cryptography, as with [`Tls::provider`](crate::Tls::provider).
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

    /// Waits this long for the handshake, and as long again for what the server makes of this side.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends this server name, for servers that choose by it.
    #[must_use]
    pub fn server_name(mut self, name: ServerName<'static>) -> Self {
        self.server_name = Some(name);
        self
    }

    /// Shows this SVID, if the server asks for one, and so proves its ID to a server that nobody has verified.
    #[must_use]
    pub fn present(mut self, svid: impl Into<Arc<X509Svid>>) -> Self {
        self.own = Some(svid.into());
        self
    }

    /// Performs a handshake, as far as the server lets it come, and looks.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`] where the server has shown no chain. Whatever fails after that is told by
    /// [`SeenPeer::failure`]. [`ConfigError`] inside an I/O error where the own SVID or the provider cannot be used.
    pub async fn look<IO>(self, transport: IO) -> Result<SeenPeer, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let seen = Arc::<Seen>::default();
        let config = self.config(&seen).map_err(io::Error::other);
        let config = config.map_err(HandshakeError::Io)?;
        let name = self.server_name.clone().unwrap_or_else(unused_name);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let connected = self.in_time(connector.connect(name, transport)).await;
        let (negotiated, failure) = match connected {
            Ok(mut stream) => {
                let connection = stream.get_ref().1;
                let group = connection.negotiated_key_exchange_group();
                let negotiated = (
                    connection.protocol_version(),
                    group.map(|group| group.name()),
                );
                // Under TLS 1.3 a server refuses after this side has finished. Told that nothing will come, it has no
                // reason to wait.
                let answer = async {
                    stream.shutdown().await?;
                    let mut rest = (&mut stream).take(MAX_DISCARDED);
                    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
                };
                (negotiated, self.in_time(answer).await.err())
            }
            Err(failure) => ((None, None), Some(failure)),
        };
        let (chain, asked) = seen.take();
        match (chain, failure) {
            (None, failure) => Err(failure
                .unwrap_or_else(|| HandshakeError::Tls(rustls::Error::NoCertificatesPresented))),
            (Some(chain), failure) => Ok(SeenPeer {
                chain,
                version: negotiated.0,
                group: negotiated.1,
                asks_for_certificate: asked,
                // How a server ends a connection on which nothing was said is its own business.
                failure: failure.filter(|failure| {
                    negotiated.0.is_none() || matches!(failure, HandshakeError::PeerRefused(_))
                }),
            }),
        }
    }

    async fn in_time<T>(
        &self,
        act: impl Future<Output = io::Result<T>>,
    ) -> Result<T, HandshakeError> {
        let until = self.clock.monotonic().saturating_add(self.timeout);
        match select(pin!(act), self.clock.sleep_until(until)).await {
            Either::Left((outcome, _)) => outcome.map_err(HandshakeError::from_io),
            Either::Right(_) => Err(HandshakeError::TimedOut {
                after: self.timeout,
            }),
        }
    }

    fn config(&self, seen: &Arc<Seen>) -> Result<ClientConfig, ConfigError> {
        let provider = match &self.provider {
            Some(provider) => provider.clone(),
            None => default_provider().ok_or(ConfigError::NoProvider)?,
        };
        let own = match &self.own {
            Some(svid) => Some(Arc::new(Svids::default().certified(svid, &provider)?)),
            None => None,
        };
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(ConfigError::Provider)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Looker {
                seen: seen.clone(),
                provider,
            }))
            .with_client_cert_resolver(Arc::new(Shower {
                seen: seen.clone(),
                own,
            }));
        config.resumption = Resumption::disabled();
        config.enable_sni = self.server_name.is_some();
        Ok(config)
    }
}

impl Default for UnverifiedPeer {
    fn default() -> Self {
        Self::new()
    }
}

/// What was seen of a server that **nobody has verified**.
#[derive(Debug)]
pub struct SeenPeer {
    chain: Vec<CertificateDer<'static>>,
    version: Option<ProtocolVersion>,
    group: Option<NamedGroup>,
    asks_for_certificate: bool,
    failure: Option<HandshakeError>,
}

impl SeenPeer {
    /// The chain that it shows, leaf first, as it came.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The TLS version, where the handshake came to its end: then the server has also proven that it holds the leaf's key.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// The key exchange group, likewise.
    pub fn key_exchange_group(&self) -> Option<NamedGroup> {
        self.group
    }

    /// Whether it asked for a certificate.
    pub fn asks_for_certificate(&self) -> bool {
        self.asks_for_certificate
    }

    /// Why it came to nothing after the chain: most often that the server refused this side.
    pub fn failure(&self) -> Option<&HandshakeError> {
        self.failure.as_ref()
    }

    /// The alert by which the server refused this side, if it did.
    pub fn refused(&self) -> Option<PeerRefused> {
        match self.failure {
            Some(HandshakeError::PeerRefused(refused)) => Some(refused),
            _ => None,
        }
    }
}

/// What verifier and resolver leave behind.
#[derive(Debug, Default)]
struct Seen(Mutex<(Option<Vec<CertificateDer<'static>>>, bool)>);

impl Seen {
    fn take(&self) -> (Option<Vec<CertificateDer<'static>>>, bool) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Keeps the chain, and believes that it is somebody's. That the server holds the leaf's key is checked.
#[derive(Debug)]
struct Looker {
    seen: Arc<Seen>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Looker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates);
        let chain = chain.map(|shown| shown.clone().into_owned()).collect();
        let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0 = Some(chain);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Notes that the server asked, and shows what there is.
#[derive(Debug)]
struct Shower {
    seen: Arc<Seen>,
    own: Option<Arc<CertifiedKey>>,
}

impl ResolvesClientCert for Shower {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.seen.0.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.own.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
