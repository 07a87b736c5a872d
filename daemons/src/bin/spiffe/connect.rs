//! `spiffe why --connect`: the chain that a server shows, and what it makes of this side.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use spiffe_core::X509Svid;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::pki_types::ServerName;
use spiffe_daemons::verdict::inspect::{self, Certificate};
use spiffe_daemons::verdict::x509::{self, ChainDocument};
use spiffe_workload_client::tls::danger::{SeenPeer, UnverifiedPeer};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::input::{self, Trust};
use super::output::{Context, Failure, Output, table};
use super::x509 as x509_verbs;

/// How long each of connecting, the handshake, and the server's answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whom to dial, and as whom.
#[derive(Debug, Args)]
pub(crate) struct Dial {
    /// Dial this server and judge the chain that it shows; nothing is sent but the handshake
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["file", "audience"])]
    pub(crate) connect: Option<String>,
    /// Present this X509-SVID, a chain in PEM, if the server asks for one
    #[arg(long, value_name = "FILE", requires = "connect", requires = "key")]
    svid: Option<PathBuf>,
    /// The key of --svid, PKCS#8 in PEM
    #[arg(long, value_name = "FILE", requires = "svid")]
    key: Option<PathBuf>,
    /// Send this server name, for servers that choose by it; none unless given
    #[arg(long, value_name = "NAME", requires = "connect")]
    server_name: Option<String>,
}

/// What was seen, as data.
#[derive(Debug, Serialize)]
struct Connection {
    address: String,
    /// The TLS version; none where the handshake came to nothing after the chain.
    version: Option<String>,
    group: Option<String>,
    /// Whether the server asks for a certificate.
    asks_for_certificate: bool,
    /// The ID that was presented, if one was.
    presented: Option<String>,
    /// How it ended after the chain, if not well.
    failure: Option<String>,
    chain: Vec<Certificate>,
}

pub(crate) fn run(
    address: &str,
    dial: &Dial,
    trust: &Trust,
    output: &Output,
) -> Result<(), Failure> {
    let bundles = trust.bundles()?;
    let own = dial.own()?;
    let presented = own.as_ref().map(|own| own.id().to_string());
    let mut look = UnverifiedPeer::new().timeout(TIMEOUT);
    if let Some(name) = &dial.server_name {
        let name = ServerName::try_from(name.clone()).map_err(|_| {
            Failure::usage(format_args!(
                "{name:?} is no DNS name or address to ask for"
            ))
        })?;
        look = look.server_name(name);
    }
    if let Some(own) = own {
        look = look.present(own);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    let seen = runtime.block_on(see(address, look))?;
    let chain: Vec<u8> = seen.chain().iter().flat_map(|der| der.to_vec()).collect();
    let question = x509_verbs::question(&chain, &bundles, trust, x509_verbs::Role::Server);
    let judged = x509::verify(&question, &aws_lc_rs(), true);
    let connection = Connection::new(address, &seen, presented.clone());
    let context = connection.context()?;
    output.explained_in(Some(context), "x509.verify", judged, |peer| {
        x509_verbs::describe(peer, trust)
    })?;
    // The server is good; whether it takes this side is an answer only where this side has said who it is.
    match (presented, seen.failure()) {
        (Some(id), Some(failure)) => Err(Failure::failed(format_args!(
            "the server is accepted, and does not accept {id}: {failure}"
        ))),
        _ => Ok(()),
    }
}

async fn see(address: &str, look: UnverifiedPeer) -> Result<SeenPeer, Failure> {
    let advice = "is the address right, and is the server up?";
    let connected = tokio::time::timeout(TIMEOUT, TcpStream::connect(address)).await;
    let stream = connected
        .map_err(|_| {
            let after = TIMEOUT.as_secs();
            Failure::failed(format_args!(
                "{address} has not answered within {after} s; {advice}"
            ))
        })?
        .map_err(|error| {
            Failure::failed(format_args!(
                "cannot connect to {address}: {error}; {advice}"
            ))
        })?;
    look.look(stream).await.map_err(|error| {
        Failure::failed(format_args!("{address} has shown no certificate: {error}"))
    })
}

impl Dial {
    fn own(&self) -> Result<Option<X509Svid>, Failure> {
        let (Some(svid), Some(key)) = (&self.svid, &self.key) else {
            return Ok(None);
        };
        let chain = input::read_text(svid)?;
        let key = Zeroizing::new(input::read_text(key)?);
        let own = X509Svid::from_pem(&chain, &key, &*aws_lc_rs());
        own.map(Some).map_err(|error| {
            Failure::failed(format_args!(
                "{} and its key are no X509-SVID: {error}",
                svid.display()
            ))
        })
    }
}

impl Connection {
    fn new(address: &str, seen: &SeenPeer, presented: Option<String>) -> Self {
        let describe = |der: &spiffe_core::pki_types::CertificateDer<'_>| {
            let described = inspect::chain(ChainDocument::Der(der), None, &aws_lc_rs());
            described.map(|inspected| inspected.described)
        };
        let chain = seen.chain().iter().flat_map(|der| {
            // What cannot be read at all is told by the verdict.
            describe(der).unwrap_or_default()
        });
        Self {
            address: address.into(),
            version: seen
                .protocol_version()
                .map(|version| format!("{version:?}")),
            group: seen.key_exchange_group().map(|group| format!("{group:?}")),
            asks_for_certificate: seen.asks_for_certificate(),
            presented,
            failure: seen.failure().map(ToString::to_string),
            chain: chain.take(inspect::MAX_INSPECTED).collect(),
        }
    }

    fn context(&self) -> Result<Context, Failure> {
        let mut text = String::new();
        for (at, certificate) in self.chain.iter().enumerate() {
            let rows = x509_verbs::rows(certificate);
            text.push_str(&format!("certificate {at}\n{rows}\n\n"));
        }
        let unknown = || "the handshake came to nothing after the chain".to_owned();
        let client = match (&self.presented, self.asks_for_certificate, &self.failure) {
            (None, true, _) => {
                "asked for a certificate; none was shown, since there is no --svid".into()
            }
            (Some(id), true, None) => format!("asked for a certificate, and did not refuse {id}"),
            (Some(id), true, Some(failure)) => {
                format!("asked for a certificate, got {id}: {failure}")
            }
            (_, false, None) => "asks for no certificate".into(),
            (_, false, Some(failure)) => failure.clone(),
        };
        text.push_str(&table(&[
            ("server", self.address.clone()),
            ("version", self.version.clone().unwrap_or_else(unknown)),
            ("key exchange", self.group.clone().unwrap_or_else(unknown)),
            ("of this side", client),
        ]));
        Ok(Context {
            text,
            json: serde_json::to_value(self).map_err(Failure::failed)?,
        })
    }
}
