//! What the verbs take in: files, times, bundles, policies.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use spiffe_core::{Clock, Policy, SystemClock, Timestamp};
use spiffe_daemons::batch::MAX_LINE_BYTES;
use spiffe_daemons::verdict::bundle::{Bundles, Form, MAX_DOCUMENT_BYTES};

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
