//! What the verbs take in: files, times, bundles, policies.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use spiffe_core::{Clock, Policy, SystemClock, Timestamp};
use spiffe_daemons::batch::MAX_LINE_BYTES;
use spiffe_daemons::ca::AUTHORITY_LIFETIME;
use spiffe_daemons::verdict::bundle::{Bundles, Form, MAX_DOCUMENT_BYTES};
use spiffe_workload_client::{Endpoint, WorkloadApiClient};

use super::output::Failure;

/// The most bytes of a file; what the library takes is less.
const MAX_FILE_BYTES: u64 = MAX_LINE_BYTES as u64;

/// When, whose authorities, and who may: the arguments of everything that verifies.
#[derive(Debug, Args)]
pub(crate) struct Trust {
    /// A trust domain and the file with its bundle: a SPIFFE bundle document, PEM or DER; may repeat
    #[arg(long = "bundle", value_name = "TRUST_DOMAIN=FILE", required = true)]
    bundles: Vec<BundleFile>,
    /// The form of the bundle files: auto, spiffe, pem, der or workload-api-jwks
    #[arg(long, value_name = "FORM", default_value = "auto")]
    bundle_format: BundleFormat,
    /// Verify as of this time, RFC 3339 in UTC; now unless given
    #[arg(long, value_name = "TIME", default_value_t = now(), hide_default_value = true)]
    at: Timestamp,
    /// Who may, besides being verified: any, id:<ID>, ids:<ID>,<ID>, domain:<NAME>, prefix:<ID>/, pattern:<ID with * or **>,
    /// joined by | for "one of"; left out, only verifies
    #[arg(long, value_name = "POLICY")]
    authorize: Option<Policy>,
}

impl Trust {
    pub(crate) fn at(&self) -> Timestamp {
        self.at
    }

    pub(crate) fn policy(&self) -> Option<&Policy> {
        self.authorize.as_ref()
    }

    /// What the policy has said of a peer that passed, for people.
    pub(crate) fn authorized(&self) -> String {
        self.authorize.as_ref().map_or_else(
            || "not asked: no --authorize".into(),
            |policy| format!("by {policy}"),
        )
    }

    /// Reads the bundles. One that cannot be understood is reported and affects its own trust domain only.
    pub(crate) fn bundles(&self) -> Result<Bundles, Failure> {
        let mut bundles = Bundles::new();
        for BundleFile { trust_domain, path } in &self.bundles {
            let document = read(path)?;
            let form = self.bundle_format.of(&document);
            bundles
                .add(trust_domain, &document, form, MAX_DOCUMENT_BYTES)
                .map_err(|refusal| Failure::refused(&refusal))?;
        }
        for (trust_domain, refusal) in bundles.all_broken() {
            eprintln!("warning: the bundle of {trust_domain} cannot be read: {refusal}");
        }
        Ok(bundles)
    }
}

/// `TRUST_DOMAIN=FILE`.
#[derive(Clone, Debug)]
struct BundleFile {
    trust_domain: String,
    path: PathBuf,
}

impl FromStr for BundleFile {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((trust_domain, path)) if !trust_domain.is_empty() && !path.is_empty() => {
                Ok(Self {
                    trust_domain: trust_domain.into(),
                    path: path.into(),
                })
            }
            _ => Err("write it as TRUST_DOMAIN=FILE, such as example.org=bundle.pem"),
        }
    }
}

/// A bundle's form, or whatever the document looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BundleFormat(Option<Form>);

impl BundleFormat {
    pub(crate) fn of(self, document: &[u8]) -> Form {
        self.0.unwrap_or_else(|| Form::sniff(document))
    }
}

impl FromStr for BundleFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self(None));
        }
        form(text).map(|form| Self(Some(form)))
    }
}

/// A form by its name, for the argument parser.
pub(crate) fn form(text: &str) -> Result<Form, String> {
    Form::named(text)
        .ok_or_else(|| format!("it is one of {}", Form::ALL.map(Form::name).join(", ")))
}

/// The time by the system's clock.
fn now() -> Timestamp {
    SystemClock::new().now().truncated()
}

/// A whole file, or standard input for `-`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let shown = path.display();
    let read = |source: &mut dyn Read| {
        let mut content = Vec::new();
        source
            .take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut content)
            .map(|_| content)
    };
    let content = if path == Path::new("-") {
        read(&mut std::io::stdin().lock())
    } else {
        std::fs::File::open(path).and_then(|mut file| read(&mut file))
    };
    let content = content.map_err(|error| {
        Failure::failed(format_args!(
            "cannot read {shown}: {error}; name a readable file, or - for standard input"
        ))
    })?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(Failure::failed(format_args!(
            "{shown} has more than {MAX_FILE_BYTES} bytes; no document of this size is read"
        )));
    }
    Ok(content)
}

/// A whole file that is text, without white space at its ends.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    let content = read(path)?;
    String::from_utf8(content)
        .map(|text| text.trim().to_owned())
        .map_err(|_| Failure::failed(format_args!("{} is not text in UTF-8", path.display())))
}

/// `90s`, `5m`, `1h30m`, `24h`, `365d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a duration such as 90s, 5m, 1h30m, 24h or 365d".to_owned();
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at(digits);
        let seconds = match unit.bytes().next() {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 3600,
            Some(b'd') => 86_400,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total = number
            .checked_mul(seconds)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(wrong)?;
        rest = &unit[1..];
    }
    if total == 0 || total > MAX_DURATION.as_secs() {
        return Err(wrong());
    }
    Ok(Duration::from_secs(total))
}

/// A mode in octal.
pub(crate) fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "write the mode in octal, such as 770".into())
}

/// `UID` or `UID:GID`.
pub(crate) fn owner(text: &str) -> Result<(u32, Option<u32>), String> {
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (text, None),
    };
    let number = |text: &str| {
        text.parse()
            .map_err(|_| format!("{text:?} is no numeric ID"))
    };
    Ok((number(uid)?, gid.map(number).transpose()?))
}

/// Which Workload API, and how long to wait for it.
#[derive(Debug, Args)]
pub(crate) struct WorkloadApi {
    /// The Workload API: a socket's path, or unix:///PATH or tcp://IP:PORT; what SPIFFE_ENDPOINT_SOCKET says unless given
    #[arg(long, value_name = "ENDPOINT", value_parser = endpoint)]
    socket: Option<Endpoint>,
    /// How long to wait for something to come, such as 5s or 10m; refusals and failures meanwhile are tried again
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5s")]
    timeout: Duration,
}

impl WorkloadApi {
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint, Failure> {
        match &self.socket {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Endpoint::from_env()
                .map_err(|error| Failure::usage(format_args!("{error}; or give --socket"))),
        }
    }

    pub(crate) fn client(&self) -> Result<WorkloadApiClient, Failure> {
        Ok(WorkloadApiClient::builder(self.endpoint()?)
            .deadline(self.timeout)
            .build())
    }
}

/// An endpoint in the standard's forms, or the path of a socket.
fn endpoint(text: &str) -> Result<Endpoint, String> {
    let parsed = if text.starts_with("unix:") || text.starts_with("tcp:") {
        text.parse()
    } else {
        let path = std::path::absolute(text).map_err(|error| error.to_string())?;
        Endpoint::unix(path)
    };
    parsed.map_err(|error| error.to_string())
}

/// A hundred years; beyond lies a typing error.
const MAX_DURATION: Duration = Duration::from_secs(AUTHORITY_LIFETIME.as_secs() * 100);
