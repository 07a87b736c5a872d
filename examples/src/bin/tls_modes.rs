//! The six ends that TLS with SPIFFE has, each a subcommand: what a side shows, and how it knows its peer.
//!
//! | server            | client            | the server shows              | the client shows |
//! |-------------------|-------------------|-------------------------------|------------------|
//! | `tls-server`      | `tls-client`      | its SVID                      | nothing          |
//! | `mtls-server`     | `mtls-client`     | its SVID                      | its SVID         |
//! | `mtls-web-server` | `mtls-web-client` | a certificate of the Web PKI  | its SVID         |
//!
//! Run a Workload API (`spiffe up …`), set `SPIFFE_ENDPOINT_SOCKET`, then
//! `cargo run --bin tls_modes -- tls-server` and `cargo run --bin tls_modes -- tls-client --authorize domain:example.org`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use spiffe_core::bundle::certificates_from_pem;
use spiffe_core::key::PrivateKey;
use spiffe_examples::{POLICY_FORMS, answer_to, exit, greet, interrupted, log_to_stderr};
use spiffe_tls::modes::WebCertificate;
use spiffe_tls::rustls::RootCertStore;
use spiffe_tls::rustls::pki_types::ServerName;
use spiffe_tls::{
    Acceptor, Connector, DEFAULT_HANDSHAKE_TIMEOUT, Mtls, MtlsWebClient, MtlsWebServer, Policy,
    TlsClient, TlsServer,
};
use spiffe_workload_client::X509Source;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Failure = Box<dyn Error + Send + Sync>;

/// Greets or answers over TLS, with what each side shows chosen by the mode.
#[derive(Parser)]
enum Mode {
    /// Shows its SVID and asks clients for nothing
    TlsServer {
        #[command(flatten)]
        listen: Listen,
    },
    /// Shows its SVID and verifies that of its clients
    MtlsServer {
        #[command(flatten)]
        listen: Listen,
        #[command(flatten)]
        peers: Peers,
    },
    /// Shows a certificate of the Web PKI and verifies the SVID of its clients
    MtlsWebServer {
        #[command(flatten)]
        listen: Listen,
        #[command(flatten)]
        peers: Peers,
        /// The certificate and what is above it but the root, in PEM
        #[arg(long)]
        certificate: PathBuf,
        /// The certificate's key, PKCS#8 in PEM
        #[arg(long)]
        key: PathBuf,
    },
    /// Verifies the server's SVID and shows nothing
    TlsClient {
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        peers: Peers,
    },
    /// Verifies the server's SVID and shows its own
    MtlsClient {
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        peers: Peers,
    },
    /// Verifies the server as browsers do and shows its SVID
    MtlsWebClient {
        #[command(flatten)]
        connect: Connect,
        /// The DNS name that the server has to prove
        #[arg(long)]
        name: String,
        /// The roots that it may lead to, in PEM
        #[arg(long)]
        roots: PathBuf,
    },
}

#[derive(clap::Args)]
struct Listen {
    /// Address to listen on; port 0 lets the system choose
    #[arg(long = "listen", default_value = "127.0.0.1:8443")]
    address: String,
}

#[derive(clap::Args)]
struct Connect {
    /// Address of the server
    #[arg(long = "connect", default_value = "127.0.0.1:8443")]
    address: String,
}

#[derive(clap::Args)]
struct Peers {
    /// Peers to talk to, in the text form of policies
    #[arg(long, help = format!("Peers to talk to: {POLICY_FORMS}"))]
    authorize: Policy,
}

#[tokio::main]
async fn main() -> ExitCode {
    let mode = Mode::parse();
    log_to_stderr();
    exit(run(mode).await)
}

async fn run(mode: Mode) -> Result<(), Failure> {
    let source = X509Source::new().await?;
    match mode {
        Mode::TlsServer { listen } => {
            // There is nobody to hold a lease on, so this is a plain rustls configuration.
            let config = TlsServer::new(&source).server_config()?;
            serve(listen, Server::OfAnyone(config.into())).await
        }
        Mode::MtlsServer { listen, peers } => {
            let acceptor = Mtls::new(&source, peers.authorize).acceptor()?;
            serve(listen, Server::OfSpiffePeers(acceptor)).await
        }
        Mode::MtlsWebServer {
            listen,
            peers,
            certificate,
            key,
        } => {
            let chain = certificates_from_pem(&read(&certificate)?)?;
            let certificate = WebCertificate::new(chain, PrivateKey::from_pem(&read(&key)?)?);
            let server = MtlsWebServer::new(&source, peers.authorize, certificate);
            serve(listen, Server::OfSpiffePeers(server.acceptor()?)).await
        }
        Mode::TlsClient { connect, peers } => {
            dial(
                connect,
                TlsClient::new(&source, peers.authorize).connector()?,
            )
            .await
        }
        Mode::MtlsClient { connect, peers } => {
            dial(connect, Mtls::new(&source, peers.authorize).connector()?).await
        }
        Mode::MtlsWebClient {
            connect,
            name,
            roots,
        } => {
            let mut store = RootCertStore::empty();
            for root in certificates_from_pem(&read(&roots)?)? {
                store.add(root)?;
            }
            // A plain rustls configuration, as above.
            let connector = TlsConnector::from(MtlsWebClient::new(&source, store).client_config()?);
            let host = ServerName::try_from(name.clone())?;
            let handshake = connector.connect(host, reach(&connect).await?);
            let mut stream = timeout(DEFAULT_HANDSHAKE_TIMEOUT, handshake).await??;
            println!("hello from {name}");
            println!("{}", greet(&mut stream).await?);
            Ok(())
        }
    }
}

async fn dial(connect: Connect, connector: Connector) -> Result<(), Failure> {
    let mut stream = connector.connect(reach(&connect).await?).await?;
    println!("hello from {}", stream.peer().id());
    println!("{}", greet(&mut stream).await?);
    Ok(())
}

async fn reach(connect: &Connect) -> Result<TcpStream, Failure> {
    let address = &connect.address;
    TcpStream::connect(address)
        .await
        .map_err(|error| format!("cannot connect to {address}: {error}").into())
}

#[derive(Clone)]
enum Server {
    OfAnyone(TlsAcceptor),
    OfSpiffePeers(Acceptor),
}

impl Server {
    /// Answers one client, by its SPIFFE ID if it has shown one.
    async fn answer(&self, tcp: TcpStream) -> Result<String, Failure> {
        match self {
            Self::OfAnyone(acceptor) => {
                let handshake = acceptor.accept(tcp);
                let mut stream = timeout(DEFAULT_HANDSHAKE_TIMEOUT, handshake).await??;
                answer_to(&mut stream, "nobody").await?;
                Ok("nobody".into())
            }
            Self::OfSpiffePeers(acceptor) => {
                let mut stream = acceptor.accept(tcp).await?;
                let id = stream.peer().id().to_string();
                answer_to(&mut stream, &id).await?;
                Ok(id)
            }
        }
    }
}

async fn serve(listen: Listen, server: Server) -> Result<(), Failure> {
    let listener = TcpListener::bind(&listen.address).await?;
    println!("listening on {}", listener.local_addr()?);
    let mut stop = std::pin::pin!(interrupted());
    loop {
        let (tcp, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            stopped = &mut stop => return Ok(stopped?),
        };
        let server = server.clone();
        tokio::spawn(async move {
            match server.answer(tcp).await {
                Ok(client) => println!("greeted {client}"),
                Err(error) => println!("refused: {error}"),
            }
        });
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()).into())
}
