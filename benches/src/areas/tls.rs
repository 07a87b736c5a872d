//! Handshakes beside plain rustls, and how soon a new SVID is served.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use rustls::client::{ClientConnection, Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ServerConnection, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use spiffe_core::key::SvidKey;
use spiffe_core::{BundleSet, X509Svid};
use spiffe_tls::{Acceptor, Connector, DEFAULT_HANDSHAKE_TIMEOUT, Mtls, Policy, Publisher};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Measured;
use crate::Effort;
use crate::fixtures::{DNS_NAME, Domain, federation};
use crate::measure::{contender, in_turns, quantile};
use crate::report::{Budget, Row};

pub(crate) const HANDSHAKE_1: &str = "tls/handshake/1";
pub(crate) const HANDSHAKE_200: &str = "tls/handshake/200";
pub(crate) const HANDSHAKE_1000: &str = "tls/handshake/1000";
pub(crate) const ACCEPT_1: &str = "tls/accept/1";
pub(crate) const ACCEPT_200: &str = "tls/accept/200";
pub(crate) const PUSH_P50: &str = "tls/push-to-served/p50";
pub(crate) const PUSH_P99: &str = "tls/push-to-served/p99";

pub(crate) fn handshake_1(effort: Effort) -> Measured {
    handshake(effort, HANDSHAKE_1, 1)
}

pub(crate) fn handshake_200(effort: Effort) -> Measured {
    handshake(effort, HANDSHAKE_200, 200)
}

pub(crate) fn handshake_1000(effort: Effort) -> Measured {
    handshake(effort, HANDSHAKE_1000, 1000)
}

pub(crate) fn accept_1(effort: Effort) -> Measured {
    accept(effort, ACCEPT_1, 1)
}

pub(crate) fn accept_200(effort: Effort) -> Measured {
    accept(effort, ACCEPT_200, 200)
}

/// Both sides of mutual TLS 1.3 on one thread, bytes carried by hand. Plain rustls has the same certificates and keys,
/// the one root of the peer and a DNS name to compare, and resumes nothing either.
fn handshake(effort: Effort, row: &str, trust_domains: usize) -> Measured {
    let pair = Pair::new(trust_domains)?;
    let client = pair.client_side()?.client_config()?;
    let server = pair.server_side()?.server_config()?;
    let (plain_client, plain_server) = (pair.plain_client()?, pair.plain_server()?);
    let name = ServerName::try_from(DNS_NAME)?;
    let [ours, plain] = in_turns(
        effort.span,
        [
            contender(|| {
                shake(&client, &server, &name).expect("both sides are in one trust domain")
            }),
            contender(|| {
                shake(&plain_client, &plain_server, &name).expect("both sides have the root")
            }),
        ],
    );
    Ok(vec![Row::new(
        row,
        "µs",
        ours / 1e3,
        "plain rustls",
        plain / 1e3,
        Budget::Ratio(1.01),
    )])
}

/// The same through acceptor and connector, beside tokio-rustls with the deadline that every handshake needs, over a
/// pipe in memory.
fn accept(effort: Effort, row: &str, trust_domains: usize) -> Measured {
    let pair = Pair::new(trust_domains)?;
    // Plain rustls resumes nothing here either.
    let connector = pair.client_side()?.resumption(false).connector()?;
    let acceptor = pair.server_side()?.resumption(false).acceptor()?;
    let plain_connector = TlsConnector::from(pair.plain_client()?);
    let plain_acceptor = TlsAcceptor::from(pair.plain_server()?);
    let name = ServerName::try_from(DNS_NAME)?;
    let runtime = runtime()?;
    let [ours, plain] = in_turns(
        effort.span,
        [
            contender(|| runtime.block_on(meet(&connector, &acceptor))),
            contender(|| {
                runtime.block_on(async {
                    let (near, far) = tokio::io::duplex(PIPE_BYTES);
                    let (near, far) = tokio::join!(
                        timeout(
                            DEFAULT_HANDSHAKE_TIMEOUT,
                            plain_connector.connect(name.clone(), near)
                        ),
                        timeout(DEFAULT_HANDSHAKE_TIMEOUT, plain_acceptor.accept(far))
                    );
                    (
                        near.expect("nobody waits")
                            .expect("the client has the root"),
                        far.expect("nobody waits").expect("the server has the root"),
                    )
                })
            }),
        ],
    );
    Ok(vec![Row::new(
        row,
        "µs",
        ours / 1e3,
        "tokio-rustls with a deadline",
        plain / 1e3,
        Budget::Ratio(1.01),
    )])
}

/// From the moment a new SVID is handed to the server's publisher until a handshake with it is done, beside a
/// handshake without. Latency is what is asked for, so this is the wall's time.
pub(crate) fn push_to_served(effort: Effort) -> Measured {
    let pair = Pair::new(200)?;
    // A resumed session would show the SVID that it began with.
    let connector = pair.client_side()?.resumption(false).connector()?;
    let acceptor = pair.server_side()?.resumption(false).acceptor()?;
    let runtime = runtime()?;
    let (mut pushed, mut unpushed) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    while begin.elapsed() < effort.span || pushed.len() < 100 {
        let svid = Arc::new(pair.domain.svid("server")?);
        // An update carries all bundles, changed or not.
        let bundles = BundleSet::clone(&pair.bundles);

        let at = Instant::now();
        pair.server.publish([svid.clone()], bundles)?;
        let (client, _) = runtime.block_on(meet(&connector, &acceptor));
        pushed.push(at.elapsed().as_nanos() as f64 / 1e3);
        if client.peer().verified().serial != svid.serial() {
            return Err("a handshake after a push presented an older SVID".into());
        }

        let at = Instant::now();
        runtime.block_on(meet(&connector, &acceptor));
        unpushed.push(at.elapsed().as_nanos() as f64 / 1e3);
    }
    let rows = [(PUSH_P50, 0.5), (PUSH_P99, 0.99)].map(|(row, at)| {
        Row::new(
            row,
            "µs",
            quantile(&mut pushed, at),
            "a handshake alone",
            quantile(&mut unpushed, at),
            Budget::Beyond(2000.0),
        )
    });
    Ok(rows.into())
}

/// A client and a server of one trust domain that is federated with others.
pub(super) struct Pair {
    pub(super) domain: Domain,
    pub(super) bundles: Arc<BundleSet>,
    pub(super) client: Publisher,
    pub(super) server: Publisher,
}

impl Pair {
    pub(super) fn new(trust_domains: usize) -> Result<Self, Box<dyn Error>> {
        let domain = Domain::new("example.org")?;
        let bundles = Arc::new(federation(&domain, trust_domains - 1)?);
        Ok(Self {
            client: Publisher::fixed([domain.svid("client")?], bundles.clone()),
            server: Publisher::fixed([domain.svid("server")?], bundles.clone()),
            domain,
            bundles,
        })
    }

    pub(super) fn client_side(&self) -> Result<Mtls, Box<dyn Error>> {
        let policy: Policy = "id:spiffe://example.org/server".parse()?;
        Ok(Mtls::new(&self.client, policy))
    }

    pub(super) fn server_side(&self) -> Result<Mtls, Box<dyn Error>> {
        let policy: Policy = "id:spiffe://example.org/client".parse()?;
        Ok(Mtls::new(&self.server, policy))
    }

    pub(super) fn plain_client(&self) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
        let snapshot = self.client.load();
        let svid = snapshot.svid()?;
        self.plain_client_of(svid, svid.chain().to_vec())
    }

    pub(super) fn plain_client_of(
        &self,
        svid: &X509Svid,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
        let provider = Arc::new(default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(self.roots()?, provider.clone()).build()?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(chain, private_key(svid)?)?;
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }

    pub(super) fn plain_server(&self) -> Result<Arc<ServerConfig>, Box<dyn Error>> {
        let provider = Arc::new(default_provider());
        let snapshot = self.server.load();
        let svid = snapshot.svid()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider.clone())
            .clear_root_hint_subjects()
            .build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(svid.chain().to_vec(), private_key(svid)?)?;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    pub(super) fn roots(&self) -> Result<Arc<RootCertStore>, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.domain.certificate().clone())?;
        Ok(Arc::new(roots))
    }
}

pub(super) fn private_key(svid: &X509Svid) -> Result<PrivateKeyDer<'static>, Box<dyn Error>> {
    match svid.key() {
        SvidKey::Local(key) => Ok(key.secret_der().clone_key().into()),
        _ => Err("the fixture's key is local".into()),
    }
}

/// One handshake, until both sides are done.
pub(super) fn shake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &ServerName<'static>,
) -> Result<(ClientConnection, ServerConnection), Box<dyn Error>> {
    let mut client = ClientConnection::new(client.clone(), name.clone())?;
    let mut server = ServerConnection::new(server.clone())?;
    let mut wire = Vec::with_capacity(PIPE_BYTES);
    while client.is_handshaking() || server.is_handshaking() {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire)?;
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest)?;
            server.process_new_packets()?;
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire)?;
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest)?;
            client.process_new_packets()?;
        }
    }
    Ok((client, server))
}

pub(super) type Stream = spiffe_tls::TlsStream<tokio::io::DuplexStream>;

pub(super) async fn meet(connector: &Connector, acceptor: &Acceptor) -> (Stream, Stream) {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let (near, far) = tokio::join!(connector.connect(near), acceptor.accept(far));
    (
        near.expect("the server is in the client's trust domain"),
        far.expect("the client is in the server's trust domain"),
    )
}

pub(super) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
}

/// More than any flight of the handshake.
pub(super) const PIPE_BYTES: usize = 16 * 1024;
