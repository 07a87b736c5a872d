//! `spiffe ca`: a trust domain in a directory, issuing to files by hand.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use spiffe_core::bundle::certificates_to_pem;
use spiffe_core::crypto::{CryptoProvider, aws_lc_rs};
use spiffe_core::key::{KeyType, PrivateKey};
use spiffe_core::pki_types::pem::PemObject;
use spiffe_core::pki_types::{CertificateSigningRequestDer, SubjectPublicKeyInfoDer};
use spiffe_core::{Clock, SpiffeId, SystemClock, Timestamp, TrustDomain};
use spiffe_daemons::ca::{CaDirectory, Delivery, PRIVATE, PUBLIC, StatusReport};
use spiffe_daemons::verdict::Refusal;
use spiffe_daemons::verdict::bundle::Form;
use spiffe_svid_ca::authority::Kind;
use spiffe_svid_ca::keys::TokenUri;
use spiffe_svid_ca::{
    Csr, DnsName, IntermediateParams, JwtSvidParams, KeyPolicy, Profile, TrustDomainCa,
    TrustDomainCaBuilder, X509SvidParams,
};

use super::input;
use super::output::{Failure, Output, table};

/// Verbs of a trust domain's CA in a directory.
#[derive(Debug, Subcommand)]
#[command(after_help = "Two commands from nothing to an identity in files:
  spiffe ca init example.org
  spiffe ca issue spiffe://example.org/web --dns web.example.org
  openssl verify -CAfile bundle.pem svid.pem")]
pub(crate) enum Verb {
    /// Make a trust domain: its first authorities, in a new directory
    Init(Init),
    /// Show the authorities: which signs, which is to follow, which stay for what they signed
    Status {
        #[command(flatten)]
        place: Place,
    },
    /// Issue an X.509-SVID to files: svid.pem, key.pem (0600) and bundle.pem
    Issue(Issue),
    /// Issue an intermediate authority to files: ca.pem, ca-key.pem (0600) and bundle.pem
    ///
    /// Together they are what SPIRE's upstream authority 'disk' takes.
    Intermediate(Intermediate),
    /// Issue a JWT-SVID to standard output; whoever holds it can use it
    Jwt(Jwt),
    /// Let the next authority follow: first publish it, then, once everybody has the new bundle, let it sign
    Rotate(Rotate),
    /// Mark an old authority, so that consumers replace what it signed
    Taint {
        /// The authority's ID, as 'status' shows it
        authority: String,
        /// Take it out of the bundle as well: what it signed is refused from then on
        #[arg(long)]
        revoke: bool,
        #[command(flatten)]
        change: Change,
    },
    /// Write the bundle to standard output
    Bundle {
        /// The form to write: spiffe, pem, der or workload-api-jwks
        #[arg(long, value_name = "FORM", default_value = "spiffe", value_parser = input::form)]
        to: Form,
        #[command(flatten)]
        place: Place,
    },
    /// Read the log of everything that was issued
    #[command(subcommand)]
    Log(Log),
}

/// Which directory.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The directory of the trust domain
    #[arg(
        long,
        value_name = "DIR",
        default_value = "spiffe-ca",
        env = "SPIFFE_CA_STATE"
    )]
    state: PathBuf,
}

/// Which directory, and whether to change it.
#[derive(Debug, Args)]
pub(crate) struct Change {
    #[command(flatten)]
    place: Place,
    /// Do everything but write: show what would come of it
    #[arg(long)]
    dry_run: bool,
    /// The clock is right, though it is past the end of every authority or before what was recorded last
    #[arg(long)]
    believe_clock: bool,
    /// The token that holds the authorities' keys, as a PKCS#11 URI such as
    /// 'pkcs11:token=ca?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin'
    ///
    /// Given to 'init', it is kept in the directory, without a 'pin-value'; later it is only needed when module or PIN
    /// are found elsewhere. Without it keys lie in the directory.
    #[arg(
        long,
        value_name = "URI",
        env = "SPIFFE_CA_KEYS",
        hide_env_values = true
    )]
    keys: Option<TokenUri>,
}

impl Change {
    fn directory(&self) -> CaDirectory {
        CaDirectory::new(&self.place.state)
            .rehearsal(self.dry_run)
            .believe_clock(self.believe_clock)
            .keys(self.keys.clone())
    }

    /// The CA, ready to issue; what opening it did to the authorities is told.
    async fn open(
        &self,
        configure: impl FnOnce(TrustDomainCaBuilder) -> TrustDomainCaBuilder,
        now: Timestamp,
    ) -> Result<TrustDomainCa, Failure> {
        let directory = self.directory();
        let (_, before) = directory.look().map_err(Failure::failed)?;
        let ca = directory.open(configure, now).await;
        let ca = ca.map_err(Failure::failed)?;
        let after = ca.state();
        for kind in [Kind::X509, Kind::Jwt] {
            for authority in after.slots(kind).iter() {
                let (id, status) = (authority.id(), authority.status());
                let was = before.slots(kind).find(id).map(|before| before.status());
                match was {
                    None => eprintln!(
                        "note: the {kind} authority {id} is new, and {status}; hand out the bundle"
                    ),
                    Some(was) if was != status => {
                        eprintln!("note: the {kind} authority {id} was {was}, and is {status} now");
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(ca)
    }
}

/// Where files go.
#[derive(Debug, Args)]
struct Out {
    /// The directory to write into
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The name of the trust domain
    trust_domain: TrustDomain,
    /// How long authorities live
    #[arg(long, value_name = "DURATION", value_parser = input::duration, default_value = "365d")]
    ca_ttl: Duration,
    /// The kind of the authorities' keys; tokens are signed with EC where it is Ed25519
    #[arg(long, value_enum, default_value_t = Key::EcP256)]
    key_type: Key,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
pub(crate) struct Issue {
    /// The workload's SPIFFE ID
    id: SpiffeId,
    /// A DNS name beside it; may repeat
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<DnsName>,
    /// How long it is to be valid
    #[arg(long, value_name = "DURATION", value_parser = input::duration, default_value = "24h")]
    ttl: Duration,
    /// How it is written: plain, or with SPIRE's subject and key usage
    #[arg(long, value_enum, default_value_t = Written::Plain)]
    profile: Written,
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    out: Out,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
pub(crate) struct Intermediate {
    /// How long it is to be valid
    #[arg(long, value_name = "DURATION", value_parser = input::duration, default_value = "30d")]
    ttl: Duration,
    /// How many authorities may follow below it
    #[arg(long, value_name = "N")]
    path_length: Option<u8>,
    /// Confine it to its trust domain by URI name constraints, which webpki and rustls do not know
    #[arg(long)]
    confined: bool,
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    out: Out,
    #[command(flatten)]
    change: Change,
}

/// Whose key is certified, and why.
#[derive(Debug, Args)]
struct Subject {
    /// A signing request, PEM or DER, whose key is certified; without it a key is made. Nothing else in it counts
    #[arg(long, value_name = "FILE", conflicts_with = "key_type")]
    csr: Option<PathBuf>,
    /// The kind of key to make
    #[arg(long, value_enum, default_value_t = Key::EcP256)]
    key_type: Key,
    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Jwt {
    /// The workload's SPIFFE ID
    id: SpiffeId,
    /// Whom it is for; may repeat, but then each receiver can pass as the workload towards the others
    #[arg(long = "audience", value_name = "TEXT", required = true)]
    audiences: Vec<String>,
    /// How long it is to be valid
    #[arg(long, value_name = "DURATION", value_parser = input::duration, default_value = "5m")]
    ttl: Duration,
    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// Which authorities
    #[arg(long, value_enum, default_value_t = Which::All)]
    kind: Which,
    /// Everybody has the bundle with the prepared authority
    #[arg(long)]
    acknowledged: bool,
    /// Do not ask who has it: those who have not refuse what is issued from now on. Nor doubt the clock
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// Verify the log from its first record to its last; needs no keys
    Verify {
        /// The hash that the last record should have, kept from an earlier look
        #[arg(long, value_name = "SHA256")]
        head: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Print the records as JSON lines, verified on the way
    Show {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    All,
    Jwt,
    X509,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Written {
    Plain,
    Spire,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Key {
    EcP256,
    EcP384,
    EcP521,
    Ed25519,
    #[value(name = "rsa-2048")]
    Rsa2048,
    #[value(name = "rsa-4096")]
    Rsa4096,
}

impl From<Key> for KeyType {
    fn from(key: Key) -> Self {
        match key {
            Key::EcP256 => Self::EcP256,
            Key::EcP384 => Self::EcP384,
            Key::EcP521 => Self::EcP521,
            Key::Ed25519 => Self::Ed25519,
            Key::Rsa2048 => Self::Rsa2048,
            Key::Rsa4096 => Self::Rsa4096,
        }
    }
}

pub(crate) fn run(verb: Verb, output: &Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(Failure::failed)?;
    runtime.block_on(go(verb, output, SystemClock::new().now()))
}

async fn go(verb: Verb, output: &Output, now: Timestamp) -> Result<(), Failure> {
    match verb {
        Verb::Init(init) => {
            let directory = init.change.directory();
            let (lifetime, key) = (init.ca_ttl, init.key_type.into());
            let made = directory.init(&init.trust_domain, lifetime, key, now).await;
            show_status(&made.map_err(Failure::failed)?, output)
        }
        Verb::Status { place } => {
            let status = CaDirectory::new(place.state).status(now).await;
            let status = status.map_err(Failure::failed)?;
            show_status(&status, output)?;
            let lacking: Vec<_> = status.without_keys().map(|one| one.id.as_str()).collect();
            if lacking.is_empty() {
                return Ok(());
            }
            Err(Failure::failed(format_args!(
                "nothing can be issued: the key file does not hold the keys of {}; restore it from a backup",
                lacking.join(" and ")
            )))
        }
        Verb::Issue(issue) => issue.run(output, now).await,
        Verb::Intermediate(intermediate) => intermediate.run(output, now).await,
        Verb::Jwt(jwt) => jwt.run(output, now).await,
        Verb::Rotate(rotate) => {
            let kinds: &[Kind] = match rotate.kind {
                Which::All => &[Kind::X509, Kind::Jwt],
                Which::Jwt => &[Kind::Jwt],
                Which::X509 => &[Kind::X509],
            };
            let believe = rotate.force || rotate.change.believe_clock;
            let directory = rotate.change.directory().believe_clock(believe);
            let rotated = directory.rotate(kinds, rotate.acknowledged, rotate.force, now);
            show_status(&rotated.await.map_err(Failure::failed)?, output)
        }
        Verb::Taint {
            authority,
            revoke,
            change,
        } => {
            let tainted = change.directory().taint(&authority, revoke, now).await;
            show_status(&tainted.map_err(Failure::failed)?, output)
        }
        Verb::Bundle { to, place } => {
            let bundle = CaDirectory::new(place.state).bundle();
            let bundle = bundle.map_err(Failure::failed)?;
            let (x509, jwt) = (bundle.x509_authorities(), bundle.jwt_authorities());
            output.raw(&match to {
                Form::Pem => x509.to_pem().into_bytes(),
                Form::Der => x509.to_concatenated_der(),
                Form::WorkloadApiJwks => jwt.to_workload_api_jwks().into_bytes(),
                _ => bundle.to_spiffe_json().into_bytes(),
            })
        }
        Verb::Log(log) => log.run(output),
    }
}

impl Issue {
    async fn run(self, output: &Output, now: Timestamp) -> Result<(), Failure> {
        let certified = self.subject.certified()?;
        let delivery = certified.delivery(&self.out, "svid.pem", "key.pem");
        delivery.check().map_err(Failure::failed)?;
        let profile = match self.profile {
            Written::Plain => Profile::new(),
            Written::Spire => Profile::spire(),
        };
        let ca = self
            .change
            .open(|builder| builder.profile(profile), now)
            .await?;
        let params = X509SvidParams::new(self.id)
            .with_dns_names(self.dns_names)
            .with_ttl(self.ttl)
            .with_reason(self.subject.reason);
        let issued = ca.issue_x509(&params, &certified.public_key, now).await;
        let issued = issued.map_err(Failure::failed)?;
        let bundle = ca.bundle().x509_authorities().to_pem();
        certified.deliver(&delivery, &issued.chain, &bundle, self.change.dry_run)?;
        let issued = Issued {
            id: issued.id.to_string(),
            authority: issued.authority,
            serial: Some(hex(&issued.serial)),
            expires: issued.not_after.to_string(),
            capped: issued.capped,
            files: shown(&delivery),
            dry_run: self.change.dry_run,
        };
        issued.show(output)
    }
}

impl Intermediate {
    async fn run(self, output: &Output, now: Timestamp) -> Result<(), Failure> {
        let certified = self.subject.certified()?;
        let delivery = certified.delivery(&self.out, "ca.pem", "ca-key.pem");
        delivery.check().map_err(Failure::failed)?;
        let ca = self.change.open(|builder| builder, now).await?;
        let mut params = IntermediateParams::new()
            .with_ttl(self.ttl)
            .with_path_length(self.path_length)
            .with_reason(self.subject.reason);
        params.confined = self.confined;
        let issued = ca
            .issue_intermediate(&params, &certified.public_key, now)
            .await
            .map_err(Failure::failed)?;
        let bundle = ca.bundle().x509_authorities().to_pem();
        certified.deliver(&delivery, &issued.chain, &bundle, self.change.dry_run)?;
        let issued = Issued {
            id: ca.trust_domain().id().to_string(),
            authority: issued.authority,
            serial: Some(hex(&issued.serial)),
            expires: issued.not_after.to_string(),
            capped: issued.capped,
            files: shown(&delivery),
            dry_run: self.change.dry_run,
        };
        issued.show(output)
    }
}

impl Jwt {
    async fn run(self, output: &Output, now: Timestamp) -> Result<(), Failure> {
        let ca = self.change.open(|builder| builder, now).await?;
        let params = JwtSvidParams::new(self.id, "")
            .with_audiences(self.audiences)
            .with_ttl(self.ttl)
            .with_reason(self.reason);
        let issued = ca.issue_jwt(&params, now).await.map_err(Failure::failed)?;
        let token = Token {
            id: issued.id.to_string(),
            // What a dry run signs is in no log, so it is not released.
            token: (!self.change.dry_run).then_some(issued.token),
            authority: issued.authority,
            expires: issued.expires_at.to_string(),
            capped: issued.capped,
            dry_run: self.change.dry_run,
        };
        output.verdict(Ok::<_, Refusal>(token), |token| {
            token.token.clone().unwrap_or_else(|| {
                format!(
                    "would issue a token for {} until {}",
                    token.id, token.expires
                )
            })
        })
    }
}

impl Log {
    fn run(self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Show { place } => {
                let mut failed = None;
                let shown = CaDirectory::new(place.state).verify_log(|record| {
                    // Strings and numbers have a JSON form whatever they hold.
                    let mut line = serde_json::to_vec(record).unwrap_or_default();
                    line.push(b'\n');
                    if failed.is_none() {
                        failed = output.raw(&line).err();
                    }
                });
                shown.map_err(Failure::failed)?;
                failed.map_or(Ok(()), Err)
            }
            Self::Verify { head, place } => {
                let verified = CaDirectory::new(place.state).verify_log(|_| ());
                let verified = verified.map_err(Failure::failed)?;
                if let Some(head) = head.filter(|head| *head != verified.head) {
                    return Err(Failure::failed(format_args!(
                        "the log ends with {}, not with {head}: records are missing at its end, or were added",
                        verified.head
                    )));
                }
                let report = LogReport {
                    records: verified.records,
                    first: verified.first,
                    head: verified.head,
                    torn: verified.torn,
                };
                output.verdict(Ok::<_, Refusal>(report), |report| {
                    table(&[
                        ("records", report.records.to_string()),
                        ("first", report.first.to_string()),
                        ("head", report.head.clone()),
                        ("half a record at the end", report.torn.to_string()),
                    ])
                })
            }
        }
    }
}

impl Subject {
    /// The key that is to be certified: the request's, or a new one.
    fn certified(&self) -> Result<Certified, Failure> {
        let crypto = aws_lc_rs();
        let Some(path) = &self.csr else {
            let key = crypto
                .generate_key(self.key_type.into())
                .map_err(Failure::failed)?;
            let signer = crypto.load_key(&key).map_err(Failure::failed)?;
            return Ok(Certified {
                public_key: signer.public_key().clone(),
                key: Some(key),
            });
        };
        let bytes = input::read(path)?;
        let der = if bytes.first() == Some(&0x30) {
            bytes
        } else {
            CertificateSigningRequestDer::from_pem_slice(&bytes)
                .map_err(|error| {
                    Failure::failed(format_args!(
                        "{} holds no signing request in PEM or DER: {error}",
                        path.display()
                    ))
                })?
                .to_vec()
        };
        let crypto: &dyn CryptoProvider = &*crypto;
        let csr = Csr::from_der(&der, &KeyPolicy::default(), crypto).map_err(Failure::failed)?;
        Ok(Certified {
            public_key: csr.public_key().clone(),
            key: None,
        })
    }
}

/// A public key to be certified, with the private one where it was made here.
struct Certified {
    public_key: SubjectPublicKeyInfoDer<'static>,
    key: Option<PrivateKey>,
}

impl Certified {
    /// The key first: a certificate without its key is of no use to anybody.
    fn delivery(&self, out: &Out, certificate: &str, key: &str) -> Delivery {
        let delivery = Delivery::new(&out.out, out.force);
        let delivery = if self.key.is_some() {
            delivery.file(key, PRIVATE)
        } else {
            delivery
        };
        delivery
            .file(certificate, PUBLIC)
            .file("bundle.pem", PUBLIC)
    }

    fn deliver(
        &self,
        delivery: &Delivery,
        chain: &[spiffe_core::pki_types::CertificateDer<'static>],
        bundle: &str,
        dry_run: bool,
    ) -> Result<(), Failure> {
        if dry_run {
            return Ok(());
        }
        let key = self.key.as_ref().map(PrivateKey::secret_pkcs8_pem);
        let chain = certificates_to_pem(chain);
        let mut contents = Vec::with_capacity(3);
        if let Some(key) = &key {
            contents.push(key.as_bytes());
        }
        contents.extend([chain.as_bytes(), bundle.as_bytes()]);
        delivery.write(&contents).map_err(Failure::failed)
    }
}

/// What was issued to files.
#[derive(Serialize)]
struct Issued {
    id: String,
    authority: String,
    serial: Option<String>,
    expires: String,
    capped: bool,
    files: Vec<String>,
    dry_run: bool,
}

impl Issued {
    fn show(self, output: &Output) -> Result<(), Failure> {
        output.verdict(Ok::<_, Refusal>(self), |issued| {
            let files = issued.files.join(" ");
            let mut rows = vec![
                ("id", issued.id.clone()),
                ("serial", issued.serial.clone().unwrap_or_default()),
                ("authority", issued.authority.clone()),
                (
                    "expires",
                    if issued.capped {
                        format!(
                            "{}, with the authority, before the time asked for",
                            issued.expires
                        )
                    } else {
                        issued.expires.clone()
                    },
                ),
            ];
            rows.push((
                if issued.dry_run {
                    "would write"
                } else {
                    "written"
                },
                files,
            ));
            table(&rows)
        })
    }
}

#[derive(Serialize)]
struct Token {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    authority: String,
    expires: String,
    capped: bool,
    dry_run: bool,
}

#[derive(Serialize)]
struct LogReport {
    records: u64,
    first: u64,
    head: String,
    torn: bool,
}

fn show_status(status: &StatusReport, output: &Output) -> Result<(), Failure> {
    output.verdict(Ok::<_, Refusal>(status.clone()), |status| {
        let mut text = table(&[
            ("trust domain", status.trust_domain.clone()),
            ("sequence", status.sequence.to_string()),
        ]);
        for one in &status.authorities {
            let over = if one.expired { ", expired" } else { "" };
            let key = match one.key {
                Some("missing") => ", its key is missing",
                Some("another one") => ", its key is another one",
                _ => "",
            };
            text.push_str(&format!(
                "\n{:4}  {}  {}, until {}{over}{key}",
                one.kind, one.id, one.status, one.expires
            ));
        }
        text
    })
}

fn shown(delivery: &Delivery) -> Vec<String> {
    delivery
        .paths()
        .map(|path| path.display().to_string())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
