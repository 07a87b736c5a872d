//! One harness between a Workload API that is played and peers that are played: what a case acts on and looks at.

use std::collections::HashMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::conformance::api::Api;
use crate::conformance::certificates::{Authority, Svid};
use crate::conformance::tokens::{AUDIENCE, Keys, jwks};
use crate::conformance::wire::{JwtBundlesResponse, X509Svid, X509SvidResponse};
use crate::lab::short_temporary_folder;
use crate::outcome::{Trouble, ensure};
use crate::process::Process;
use crate::world::SOON;

pub(crate) const TRUST_DOMAIN: &str = "example.org";
pub(crate) const FEDERATED: &str = "fed.example.org";
/// The trust domains that are federated, all with the same authority and key: the names are what differs.
pub(crate) const FOREIGN: [&str; 3] = [FEDERATED, "td_1.example", "10.0.0.1"];
/// The identity of the harness.
pub(crate) const WORKLOAD: &str = "spiffe://example.org/workload";
/// The identity of the peers that are played.
pub(crate) const PEER: &str = "spiffe://example.org/peer";

/// Everything around a harness that has not started yet.
#[derive(Debug)]
pub(crate) struct Stage {
    harness: Command,
    pub(crate) api: Api,
    pub(crate) folder: TempDir,
    pub(crate) authority: Authority,
    pub(crate) federated: Authority,
    /// What the harness is given first.
    pub(crate) first: Svid,
    /// A peer that is always good.
    pub(crate) good: Svid,
}

/// A harness that is ready.
#[derive(Debug)]
pub(crate) struct Running {
    /// Ends with the value.
    process: Process,
    x509: SocketAddr,
    control: SocketAddr,
}

/// One message of FetchX509SVID in the making.
#[derive(Clone, Debug)]
pub(crate) struct Update(pub(crate) X509SvidResponse);

/// What a connection to the harness showed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The certificates that it presented, none when there was no handshake.
    pub(crate) chain: Vec<Vec<u8>>,
    /// The identity that it greeted.
    pub(crate) greeted: Option<String>,
}

/// What the control server answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// What a harness makes of something that it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Accepted, as this identity.
    Accepted(String),
    Rejected,
}

impl Stage {
    /// A Workload API that listens, says a good SVID with the bundles of two trust domains, and their keys for tokens.
    ///
    /// # Errors
    ///
    /// When it cannot be set up.
    pub(crate) fn new(harness: Command) -> Result<Self, Trouble> {
        let stage = Self::silent(harness)?;
        stage.say(&stage.update(&stage.first));
        stage.say_keys(&Keys::get().own().map(|key| key.jwk()));
        stage.api.listen_unix(&stage.socket())?;
        Ok(stage)
    }

    /// The same, but nothing listens and nothing is said yet.
    ///
    /// # Errors
    ///
    /// When it cannot be set up.
    pub(crate) fn silent(harness: Command) -> Result<Self, Trouble> {
        let authority = Authority::root("example.org")?;
        Ok(Self {
            harness,
            api: Api::new()?,
            folder: short_temporary_folder()?,
            first: authority.svid(WORKLOAD)?,
            good: authority.svid(PEER)?,
            federated: Authority::root("fed.example.org")?,
            authority,
        })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// These SVIDs with the bundle of their authority and the federated one.
    pub(crate) fn updates(&self, svids: &[&Svid]) -> Update {
        let svid = |svid: &&Svid| X509Svid {
            spiffe_id: svid.id.clone(),
            x509_svid: svid.chain.concat(),
            x509_svid_key: svid.key.clone(),
            bundle: self.authority.der.clone(),
        };
        let federated = |name: &str| (format!("spiffe://{name}"), self.federated.der.clone());
        Update(X509SvidResponse {
            svids: svids.iter().map(svid).collect(),
            federated_bundles: FOREIGN.map(federated).into(),
        })
    }

    pub(crate) fn update(&self, svid: &Svid) -> Update {
        self.updates(&[svid])
    }

    pub(crate) fn say(&self, update: &Update) {
        self.api.say_x509(&update.0);
    }

    /// The bundles for tokens: the own trust domain's as given, the federated ones' with their key.
    pub(crate) fn say_keys(&self, own: &[Value]) {
        self.say_bundles(own, &FOREIGN, &[Keys::get().federated.jwk()]);
    }

    /// The bundles for tokens, those of `foreign` trust domains all alike.
    pub(crate) fn say_bundles(&self, own: &[Value], foreign: &[&str], keys: &[Value]) {
        let named = |name: &str, keys: &[Value]| (format!("spiffe://{name}"), jwks(keys));
        let foreign = foreign.iter().map(|name| named(name, keys));
        self.api.say_jwt_bundles(&JwtBundlesResponse {
            bundles: foreign.chain([named(TRUST_DOMAIN, own)]).collect(),
        });
    }

    /// Starts the harness on the socket and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it does not become so.
    pub(crate) fn start(&self) -> Result<Running, Trouble> {
        self.spawn(&format!("unix://{}", self.socket().display()))?
            .ready(SOON)
    }

    /// Starts the harness with this endpoint.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub(crate) fn spawn(&self, endpoint: &str) -> Result<Starting, Trouble> {
        let mut command = Command::new(self.harness.get_program());
        command
            .args(self.harness.get_args())
            .env("SPIFFE_ENDPOINT_SOCKET", endpoint);
        Starting::spawn(command)
    }
}

/// A harness that is not ready yet.
#[derive(Debug)]
pub(crate) struct Starting(Process);

impl Starting {
    /// Starts a harness.
    ///
    /// # Errors
    ///
    /// When there is no such program.
    pub(crate) fn spawn(command: Command) -> Result<Self, Trouble> {
        Process::spawn("harness", command).map(Self)
    }

    /// Waits for the lines of the contract.
    ///
    /// # Errors
    ///
    /// When they do not come.
    pub(crate) fn ready(mut self, within: Duration) -> Result<Running, Trouble> {
        let mut ports = HashMap::new();
        // READY comes last, the others in any order.
        loop {
            let line = self
                .0
                .wait_for_stdout("READY", within, |line| Some(line.to_owned()))?;
            if line == "READY" {
                break;
            }
            if let Some((name, value)) = line.split_once('=') {
                ports.insert(name.to_owned(), value.to_owned());
            }
        }
        let version = ports.get("SPIFFE_HARNESS_VERSION").map(String::as_str);
        ensure(version == Some("1"), || {
            format!("the harness speaks version {version:?} of the contract")
        })?;
        let port = |name: &str| {
            let port = ports.get(name).and_then(|port| port.parse().ok());
            let port: u16 = port.ok_or_else(|| Trouble::failed(format!("READY without {name}")))?;
            Ok::<_, Trouble>(SocketAddr::from(([127, 0, 0, 1], port)))
        };
        Ok(Running {
            x509: port("SPIFFE_X509_PORT")?,
            control: port("SPIFFE_CONTROL_PORT")?,
            process: self.0,
        })
    }

    /// Whether it stays unready, ending or not, for so long.
    pub(crate) fn stays_unready(&mut self, within: Duration) -> bool {
        let ready = |line: &str| (line == "READY").then_some(());
        self.0.wait_for_stdout("READY", within, ready).is_err()
    }
}

impl Running {
    /// Connects to the TLS port as `client`.
    ///
    /// # Errors
    ///
    /// When nobody takes the connection.
    pub(crate) fn probe(&self, client: &Svid) -> Result<Seen, Trouble> {
        let config = ClientConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_cert_resolver(certified(client)?);
        let name = ServerName::try_from("harness").map_err(|_| Trouble::failed("a bad name"))?;
        let connection = ClientConnection::new(Arc::new(config), name).map_err(tls)?;
        let mut stream = StreamOwned::new(connection, connect(self.x509)?);
        let mut text = Vec::new();
        // A refusal shows as an alert or as the end, before or after this side's handshake: no line either way.
        let _ = stream.read_to_end(&mut text);
        let chain = stream.conn.peer_certificates().unwrap_or_default();
        let line = String::from_utf8_lossy(&text);
        Ok(Seen {
            chain: chain.iter().map(|one| one.to_vec()).collect(),
            greeted: line
                .strip_suffix('\n')
                .filter(|line| !line.is_empty())
                .map(str::to_owned),
        })
    }

    /// What the harness as a server makes of `client`.
    ///
    /// # Errors
    ///
    /// When it is not there to be asked.
    pub(crate) fn judge_client(&self, client: &Svid) -> Result<Verdict, Trouble> {
        let seen = self.probe(client)?;
        Ok(seen.greeted.map_or(Verdict::Rejected, Verdict::Accepted))
    }

    /// What the harness as a client makes of `server`.
    ///
    /// # Errors
    ///
    /// When it cannot or will not say.
    pub(crate) fn judge_server(&self, server: &Svid) -> Result<Verdict, Trouble> {
        let config = ServerConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_no_client_auth()
            .with_cert_resolver(certified(server)?);
        let connection = ServerConnection::new(Arc::new(config)).map_err(tls)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let serving = thread::spawn(move || {
            let (transport, _) = listener.accept()?;
            transport.set_read_timeout(Some(SOON))?;
            // Whatever becomes of the connection is the harness's to say.
            StreamOwned::new(connection, transport).read_to_end(&mut Vec::new())
        });
        let verdict = self.dial(&address);
        // A harness that does not dial leaves it waiting.
        let _ = TcpStream::connect(&address);
        let _ = serving.join();
        verdict
    }

    /// Where its TLS port is.
    pub(crate) fn address(&self) -> String {
        self.x509.to_string()
    }

    /// What the harness as a client makes of whoever listens at `address`.
    ///
    /// # Errors
    ///
    /// When it cannot or will not say.
    pub(crate) fn dial(&self, address: &str) -> Result<Verdict, Trouble> {
        let request = json!({ "address": address });
        self.post("/v1/x509/dial", &request)?.verdict()
    }

    /// The leaf that it presents, to a client that it will not accept.
    ///
    /// # Errors
    ///
    /// When it presents none.
    pub(crate) fn presented(&self) -> Result<Vec<u8>, Trouble> {
        let stranger = Authority::root("stranger")?.svid(PEER)?;
        let leaf = self.probe(&stranger)?.chain.into_iter().next();
        leaf.ok_or_else(|| Trouble::failed("the harness presents nothing"))
    }

    /// Looks again and again at the leaf that it presents until `enough`.
    ///
    /// # Errors
    ///
    /// When that does not come in time, or as `enough` says.
    pub(crate) fn watch_presented(
        &self,
        within: Duration,
        mut enough: impl FnMut(&[u8]) -> Result<bool, Trouble>,
    ) -> Result<(), Trouble> {
        let until = Instant::now() + within;
        while !enough(&self.presented()?)? {
            ensure(Instant::now() < until, || {
                format!("no other SVID came in {} s", within.as_secs())
            })?;
        }
        Ok(())
    }

    /// What the harness makes of a token.
    ///
    /// # Errors
    ///
    /// When it cannot or will not say.
    pub(crate) fn judge_token(&self, token: &str) -> Result<Verdict, Trouble> {
        let request = json!({"token": token, "audience": AUDIENCE});
        self.post("/v1/jwt/validate", &request)?.verdict()
    }

    /// Looks again and again until `enough`; what was seen, the last included.
    ///
    /// # Errors
    ///
    /// When it has not come in time.
    pub(crate) fn watch(
        &self,
        client: &Svid,
        within: Duration,
        enough: impl Fn(&Seen) -> bool,
    ) -> Result<Vec<Seen>, Trouble> {
        let (seen, came) = self.look(client, within, enough)?;
        ensure(came, || {
            format!("what was waited for has not come in {} s", within.as_secs())
        })?;
        Ok(seen)
    }

    /// As [`watch`](Self::watch), for what must not come: says whether it came.
    ///
    /// # Errors
    ///
    /// When nobody takes the connection.
    pub(crate) fn look(
        &self,
        client: &Svid,
        within: Duration,
        enough: impl Fn(&Seen) -> bool,
    ) -> Result<(Vec<Seen>, bool), Trouble> {
        let until = Instant::now() + within;
        let mut all = Vec::new();
        while Instant::now() < until {
            let seen = self.probe(client)?;
            let came = enough(&seen);
            all.push(seen);
            if came {
                return Ok((all, true));
            }
        }
        Ok((all, false))
    }

    /// Waits until the harness serves `svid`; what was seen on the way, the last included.
    ///
    /// # Errors
    ///
    /// When it does not come to that.
    pub(crate) fn until_served(&self, client: &Svid, svid: &Svid) -> Result<Vec<Seen>, Trouble> {
        self.watch(client, SOON, |seen| seen.chain == svid.chain)
            .map_err(|why| why.during(&format!("waiting for {} to be served", svid.id)))
    }

    /// One request to the control server.
    ///
    /// # Errors
    ///
    /// When it gives no answer of the contract.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Answer, Trouble> {
        self.ask("POST", path, &body.to_string())
    }

    /// As [`post`](Self::post), of a page.
    ///
    /// # Errors
    ///
    /// When it gives no answer of the contract.
    pub(crate) fn get(&self, path: &str) -> Result<Answer, Trouble> {
        self.ask("GET", path, "")
    }

    /// Asks it to end by SIGTERM, with a connection to each port that says nothing, and waits for that.
    ///
    /// # Errors
    ///
    /// When it has not ended in time.
    pub(crate) fn terminate(self, within: Duration) -> Result<(), Trouble> {
        let _silent = (connect(self.x509)?, connect(self.control)?);
        self.process.terminate()?;
        self.process.finish(within).map(drop)
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<Answer, Trouble> {
        let mut stream = connect(self.control)?;
        // Version 1.0, which every server of 1.1 answers, in one piece up to the end of the connection.
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nhost: harness\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let answer = || {
            let (head, body) = text.split_once("\r\n\r\n")?;
            Some(Answer {
                status: head.split(' ').nth(1)?.parse().ok()?,
                body: serde_json::from_str(body).ok()?,
            })
        };
        answer().ok_or_else(|| Trouble::failed(format!("`{text}` is no answer of the contract")))
    }
}

impl Answer {
    /// # Errors
    ///
    /// When the harness could not do it, which fails a case that expects a rejection too, or does not offer it.
    pub(crate) fn verdict(&self) -> Result<Verdict, Trouble> {
        let text = |name: &str| self.body[name].as_str().unwrap_or_default().to_owned();
        match (self.status, text("status").as_str()) {
            (200, "ok") => Ok(Verdict::Accepted(text("spiffe_id"))),
            (422, "rejected") => Ok(Verdict::Rejected),
            (501, "unsupported") => Err(Trouble::Missing("the harness does not offer it".into())),
            (status, _) => Err(Trouble::failed(format!(
                "the harness answers {status}: {}",
                self.body
            ))),
        }
    }
}

impl fmt::Debug for Seen {
    /// The end of the leaf, a part of its signature, tells certificates apart well enough.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leaf = self.chain.first().map_or(&[][..], Vec::as_slice);
        let end = &leaf[leaf.len().saturating_sub(4)..];
        write!(f, "leaf …{end:02x?}, greeted {:?}", self.greeted)
    }
}

impl Seen {
    /// Whether `svid` was presented, whole and in order.
    pub(crate) fn shows(&self, svid: &Svid) -> bool {
        self.chain == svid.chain
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream, Trouble> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider()))
}

/// Presents a chain as it is, whatever it says.
fn certified(svid: &Svid) -> Result<Arc<SingleCertAndKey>, Trouble> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(svid.key.clone()));
    let key = provider().key_provider.load_private_key(key).map_err(tls)?;
    let chain = svid
        .chain
        .iter()
        .cloned()
        .map(CertificateDer::from)
        .collect();
    Ok(Arc::new(SingleCertAndKey::from(CertifiedKey::new(
        chain, key,
    ))))
}

fn tls(error: rustls::Error) -> Trouble {
    Trouble::Failed(format!("the peer that is played cannot do it: {error}"))
}

/// Talks to every server, even one whose key is not that of its certificate: what it presents is what is looked at.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
