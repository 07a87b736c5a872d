//! `spiffe fetch`: what the Workload API gives this user, shown or delivered as files.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde::Serialize;
use spiffe_core::{Clock, Source, SpiffeId, SystemClock};
use spiffe_daemons::workload::{Held, Token};
use spiffe_workload_client::delivery::{
    Delivery, DeliveryBuilder, DeliveryDirectory, DeliveryStatus, Modes, RunCommand, SendSignal,
    TokenRequest,
};
use spiffe_workload_client::source::NotYetValid;
use spiffe_workload_client::{BundleSource, JwtSource, WorkloadApiClient, X509Source};

use super::input::{self, WorkloadApi};
use super::output::{Failure, Output, block_on, stopped, table};

/// Fetch SVIDs, tokens or bundles from the Workload API; show them or keep them as files
///
/// Kinds: x509 (the SVIDs and their bundles), jwt (a token for each --audience), bundles (authorities alone).
///
/// With --write, DIR gets svid.N.pem, svid.N.key, credential_bundle.N.pem (key and chain in one file), bundle.N.pem,
/// federated_bundle.N.M.pem, jwt.N.token and bundles/TRUST_DOMAIN.{pem,json}. All are links into one revision, which a rename
/// switches: open DIR/current once, or read credential_bundle.0.pem, and no mix is ever seen.
///
/// A command of --exec is a line for /bin/sh. It gets SPIFFE_DIR, SPIFFE_CERT_FILE, SPIFFE_KEY_FILE, SPIFFE_CREDENTIAL_FILE,
/// SPIFFE_BUNDLE_FILE, SPIFFE_BUNDLES_DIR, SPIFFE_JWT_FILE and SPIFFE_REVISION in its environment; never a secret.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spiffe fetch
  curl -H \"Authorization: Bearer $(spiffe fetch jwt --audience reports)\" https://reports.example.org/
  spiffe fetch --write /run/web/svid
  spiffe fetch --write /etc/nginx/svid --owner 33:33 --watch --signal /run/nginx.pid
  spiffe fetch --write /run/db/svid --watch --exec 'psql -c \"SELECT pg_reload_conf()\"'
  spiffe fetch bundles --output json")]
pub(crate) struct Arguments {
    /// What to fetch
    #[arg(value_enum, default_value_t = What::X509)]
    what: What,
    #[command(flatten)]
    api: WorkloadApi,
    /// Whom a token is for; several names with commas between for one token of all, and again for another token
    #[arg(long, value_name = "NAME[,NAME]")]
    audience: Vec<String>,
    /// Whose token, of the identities that this user has; the default one's unless given
    #[arg(long, value_name = "SPIFFE_ID")]
    id: Option<SpiffeId>,
    /// Deliver into this directory, which is made where it is missing
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Go on until stopped: deliver each update; wait for a Workload API that is away
    #[arg(long, requires = "write")]
    watch: bool,
    /// Run this after new files are in place, again until it succeeds
    #[arg(long, value_name = "COMMAND", requires = "write")]
    exec: Option<String>,
    /// Signal this process after new files are in place: its number or the file that holds it, with :HUP, :USR1, :USR2, :TERM
    /// or another name behind; HUP unless named
    #[arg(long, value_name = "PID|FILE[:NAME]", requires = "write", conflicts_with = "exec", value_parser = SendSignal::parse)]
    signal: Option<SendSignal>,
    /// Mode of keys, credential bundles and tokens, octal
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = input::octal)]
    key_mode: u32,
    /// Mode of certificates and bundles, octal
    #[arg(long, value_name = "MODE", default_value = "644", value_parser = input::octal)]
    mode: u32,
    /// Owner of the files, as UID or UID:GID; takes root
    #[arg(long, value_name = "UID[:GID]", value_parser = input::owner)]
    owner: Option<(u32, Option<u32>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    X509,
    Jwt,
    Bundles,
}

pub(crate) fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let wants_tokens = !arguments.audience.is_empty();
    match arguments.what {
        What::Jwt if !wants_tokens => {
            return Err(Failure::usage(
                "a token is for somebody; add --audience NAME",
            ));
        }
        What::X509 if wants_tokens && arguments.write.is_none() => {
            return Err(Failure::usage(
                "tokens beside SVIDs go to files; add --write DIR, or say 'spiffe fetch jwt'",
            ));
        }
        What::Bundles if wants_tokens => {
            return Err(Failure::usage(
                "bundles are for nobody in particular; leave out --audience",
            ));
        }
        _ => {}
    }
    block_on(async {
        match &arguments.write {
            None => arguments.show(output).await,
            Some(directory) => {
                let directory = arguments.directory(directory);
                arguments.deliver(directory, output).await
            }
        }
    })
}

impl Arguments {
    async fn show(&self, output: &Output) -> Result<(), Failure> {
        let client = self.api.client()?;
        if self.what == What::Jwt {
            let mut tokens = Vec::new();
            for request in self.requests() {
                let fetched = client.fetch_jwt_svids(request.audiences, request.id.as_ref());
                let fetched = fetched.await.map_err(Failure::failed)?;
                let now = SystemClock::new().now().truncated();
                for token in fetched.iter().filter(|token| token.expires_at() <= now) {
                    eprintln!(
                        "warning: the token of {} expired at {}, and it is {now} here: check this machine's clock",
                        token.id(),
                        token.expires_at()
                    );
                }
                tokens.extend(fetched.iter().map(Token::from));
            }
            return output.verdict(Ok(Tokens { tokens }), |fetched| {
                let tokens: Vec<_> = fetched
                    .tokens
                    .iter()
                    .map(|one| one.token.as_str())
                    .collect();
                tokens.join("\n")
            });
        }
        let source = self.source(&client, true).await?;
        output.verdict(Ok(Held::from(&**source.current().snapshot())), describe)
    }

    async fn deliver(&self, directory: DeliveryDirectory, output: &Output) -> Result<(), Failure> {
        let clock = Arc::new(SystemClock::new());
        if !self.watch {
            let delivery = self.delivery(directory, true).await?;
            let status = delivery.once(clock).await.map_err(Failure::failed)?;
            return output.verdict(Ok(self.delivered(&status)), |delivered| {
                delivered.to_string()
            });
        }
        super::log_to_stderr("info");
        let stopped = stopped()?;
        let delivery = self.delivery(directory, false).await?;
        let mut delivery = delivery.start(clock).map_err(Failure::failed)?;
        let mut said = None;
        let follow = async {
            while let Some(status) = delivery.changed().await {
                let delivered = self.delivered(&status);
                if said.as_ref() != Some(&delivered) {
                    output.line(&delivered, |delivered| delivered.to_string())?;
                    said = Some(delivered);
                }
            }
            Err(Failure::failed("the delivery ended by itself"))
        };
        tokio::select! {
            ended = follow => return ended,
            () = stopped => {}
        }
        delivery.shutdown().await;
        Ok(())
    }

    async fn delivery(
        &self,
        directory: DeliveryDirectory,
        wait: bool,
    ) -> Result<DeliveryBuilder, Failure> {
        let client = self.api.client()?;
        let source = self.source(&client, wait).await?;
        let mut delivery = Delivery::builder(directory, source);
        if !self.audience.is_empty() {
            let jwt = JwtSource::builder()
                .client(client)
                .timeout(self.api.timeout());
            let jwt = if wait { jwt.build().await } else { jwt.start() };
            delivery = delivery.tokens(jwt.map_err(Failure::failed)?, self.requests());
        }
        if let Some(line) = &self.exec {
            let clock = Arc::new(SystemClock::new());
            delivery = delivery.notifier(RunCommand::shell(line, clock));
        }
        if let Some(signal) = &self.signal {
            delivery = delivery.notifier(signal.clone());
        }
        Ok(delivery)
    }

    /// A source of what is asked for; holding it already when `wait` is true.
    async fn source(
        &self,
        client: &WorkloadApiClient,
        wait: bool,
    ) -> Result<Arc<dyn Source>, Failure> {
        let (client, timeout) = (client.clone(), self.api.timeout());
        let source: Arc<dyn Source> = match self.what {
            What::X509 => {
                let source = X509Source::builder().client(client).timeout(timeout);
                let source = if wait {
                    source.build().await
                } else {
                    source.start()
                };
                Arc::new(source.map_err(Failure::failed)?)
            }
            What::Jwt => {
                let source = JwtSource::builder().client(client).timeout(timeout);
                let source = if wait {
                    source.build().await
                } else {
                    source.start()
                };
                Arc::new(source.map_err(Failure::failed)?)
            }
            What::Bundles => {
                let source = BundleSource::builder().client(client).timeout(timeout);
                let source = if wait {
                    source.build().await
                } else {
                    source.start()
                };
                Arc::new(source.map_err(Failure::failed)?)
            }
        };
        // Where nobody waits, the log says it.
        if wait && let Some(svid) = NotYetValid::of(&source.current(), SystemClock::new().now()) {
            eprintln!("warning: {svid}");
        }
        Ok(source)
    }

    fn directory(&self, path: &PathBuf) -> DeliveryDirectory {
        let mut modes = Modes::default();
        (modes.public, modes.secret) = (self.mode, self.key_mode);
        let (uid, gid) = self
            .owner
            .map_or((None, None), |(uid, gid)| (Some(uid), gid));
        DeliveryDirectory::new(path).modes(modes).owner(uid, gid)
    }

    fn requests(&self) -> Vec<TokenRequest> {
        let request = |names: &String| TokenRequest::new(names.split(',')).of(self.id.clone());
        self.audience.iter().map(request).collect()
    }

    fn delivered(&self, status: &DeliveryStatus) -> Delivered {
        Delivered {
            directory: self
                .write
                .as_ref()
                .map_or_else(String::new, |path| path.display().to_string()),
            what: match self.what {
                What::Bundles => "the bundles were",
                What::Jwt | What::X509 => "the identity was",
            },
            revision: status.revision,
            withdrawn: status.withdrawn,
            told: status.told,
            error: status.last_error.as_ref().map(ToString::to_string),
            failures: status.failures,
        }
    }
}

#[derive(Debug, Serialize)]
struct Tokens {
    tokens: Vec<Token>,
}

/// How a delivery fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Delivered {
    directory: String,
    #[serde(skip)]
    what: &'static str,
    /// The revision in place.
    revision: Option<u64>,
    /// Whether it is empty, since the Workload API withdrew what was delivered.
    withdrawn: bool,
    /// The revision that the command or the process was told of.
    #[serde(skip_serializing_if = "Option::is_none")]
    told: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    failures: u32,
}

impl std::fmt::Display for Delivered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision {
            Some(revision) if self.withdrawn => write!(
                f,
                "{} withdrawn, and the files are removed from {} (revision {revision})",
                self.what, self.directory
            )?,
            Some(revision) => write!(f, "revision {revision} is in {}", self.directory)?,
            None => write!(f, "nothing is in {} yet", self.directory)?,
        }
        if self.told.is_some() && self.told == self.revision {
            f.write_str(", and told of")?;
        }
        match &self.error {
            Some(error) => write!(f, "; failed {} times in a row: {error}", self.failures),
            None => Ok(()),
        }
    }
}

/// SVIDs and bundles, for people.
fn describe(held: &Held) -> String {
    let mut text = String::new();
    for svid in &held.svids {
        let mut rows = vec![("spiffe id", svid.id.clone())];
        rows.extend(svid.hint.clone().map(|hint| ("hint", hint)));
        rows.extend([
            ("serial", svid.serial.clone()),
            ("valid from", svid.not_before.clone()),
            ("valid until", svid.not_after.clone()),
        ]);
        text.push_str(&table(&rows));
        text.push_str("\n\n");
    }
    for bundle in &held.bundles {
        let _ = writeln!(
            text,
            "bundle of {}: {} x509 and {} jwt authorities{}",
            bundle.trust_domain,
            bundle.x509_authorities,
            bundle.jwt_authorities,
            bundle
                .not_after
                .as_ref()
                .map(|at| format!(", until {at}"))
                .unwrap_or_default()
        );
    }
    text
}
