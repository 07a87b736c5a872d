//! `spiffe x509`: X509-SVIDs.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::verify::{PeerRole, X509Limits};
use spiffe_daemons::verdict::bundle::{Bundles, MAX_DOCUMENT_BYTES};
use spiffe_daemons::verdict::inspect::{self, Certificate, Inspected};
use spiffe_daemons::verdict::x509::{self, ChainDocument, Peer, Question};

use super::input::{self, Trust};
use super::output::{Failure, Output, table};

/// Verbs about X509-SVIDs.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  spiffe x509 verify chain.pem --bundle example.org=bundle.pem
  spiffe x509 verify chain.pem --bundle a.example=a.json --bundle b.example=b.json --authorize 'domain:a.example'
  spiffe x509 inspect svid.pem --key svid_key.pem
  openssl s_client -showcerts -connect host:443 </dev/null | spiffe x509 inspect -")]
pub(crate) enum Verb {
    /// Verify a chain against bundles: which SPIFFE ID does it prove?
    ///
    /// The trust domain that the leaf names picks the one bundle that counts; authorities of other trust domains never
    /// help. Prints the proven ID, or the first rule that is broken. 'spiffe why' shows every rule.
    Verify {
        /// The chain, leaf first, PEM or DER; - for standard input
        chain: PathBuf,
        #[command(flatten)]
        trust: Trust,
        /// What the peer is in TLS, which an extended key usage must allow
        #[arg(long, value_enum, default_value_t = Role::Any)]
        role: Role,
    },
    /// Show what the certificates of a chain say, and whether they are an X509-SVID
    ///
    /// Nothing is verified against a bundle. With --key, also says whether the key is the leaf's.
    Inspect {
        /// The chain, leaf first, PEM or DER; - for standard input
        chain: PathBuf,
        /// The leaf's private key, PKCS#8 in PEM
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
}

/// What the peer is in TLS.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Role {
    Any,
    Client,
    Server,
}

impl From<Role> for PeerRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Any => Self::Unspecified,
            Role::Client => Self::Client,
            Role::Server => Self::Server,
        }
    }
}

pub(crate) fn run(verb: Verb, output: &Output) -> Result<(), Failure> {
    match verb {
        Verb::Verify { chain, trust, role } => {
            let chain = input::read(&chain)?;
            let bundles = trust.bundles()?;
            let question = question(&chain, &bundles, &trust, role);
            let judged = x509::verify(&question, &aws_lc_rs(), false);
            output.verdict(judged.verdict, |peer| describe(peer, &trust))
        }
        Verb::Inspect { chain, key } => {
            let chain = input::read(&chain)?;
            let key = key.map(|key| input::read_text(&key)).transpose()?;
            let verdict = key
                .map(|key| x509::key_from_pem(&key))
                .transpose()
                .and_then(|key| inspect::chain(ChainDocument::sniff(&chain), key, &aws_lc_rs()));
            output.verdict(verdict, show)
        }
    }
}

/// What is asked about a chain of a file.
pub(crate) fn question<'a>(
    chain: &'a [u8],
    bundles: &'a Bundles,
    trust: &'a Trust,
    role: Role,
) -> Question<'a> {
    Question {
        chain: ChainDocument::sniff(chain),
        bundles,
        at: trust.at(),
        role: role.into(),
        policy: trust.policy(),
        limits: X509Limits::default(),
        max_document_bytes: MAX_DOCUMENT_BYTES,
    }
}

fn show(inspected: &Inspected) -> String {
    let mut text = String::new();
    for (at, certificate) in inspected.described.iter().enumerate() {
        text.push_str(&format!("certificate {at}\n{}\n\n", rows(certificate)));
    }
    let hidden = inspected.certificates - inspected.described.len();
    if hidden > 0 {
        text.push_str(&format!("and {hidden} more certificates\n\n"));
    }
    let said = match (&inspected.svid, &inspected.no_svid) {
        (Some(svid), _) => svid.id.clone(),
        (None, Some(refusal)) => format!("none: {refusal} ({})", refusal.code),
        (None, None) => String::new(),
    };
    text + &table(&[("X509-SVID", said)])
}

pub(crate) fn rows(certificate: &Certificate) -> String {
    let some = |text: String| if text.is_empty() { "none".into() } else { text };
    let mut rows = vec![("  sha256", certificate.sha256.clone())];
    if let Some(reason) = &certificate.unreadable {
        rows.push(("  unreadable", reason.clone()));
        return table(&rows);
    }
    let validity = format!("{} to {}", certificate.not_before, certificate.not_after);
    rows.extend([
        ("  names", some(certificate.names.join(", "))),
        ("  subject", some(certificate.subject.clone())),
        ("  issuer", some(certificate.issuer.clone())),
        ("  serial", certificate.serial.clone()),
        ("  valid", validity),
        ("  key", certificate.key.clone()),
        ("  key id", some(certificate.subject_key_id.clone())),
        (
            "  issuer key id",
            some(certificate.authority_key_id.clone()),
        ),
        ("  CA", certificate.ca.clone()),
        ("  key usage", some(certificate.key_usage.clone())),
        (
            "  extended",
            some(certificate.extended_key_usage.join(", ")),
        ),
    ]);
    if !certificate.unknown_critical.is_empty() {
        rows.push((
            "  critical, unknown",
            certificate.unknown_critical.join(", "),
        ));
    }
    table(&rows)
}

/// A verified peer for people.
pub(crate) fn describe(peer: &Peer, trust: &Trust) -> String {
    table(&[
        ("verified", peer.id.clone()),
        ("authorized", trust.authorized()),
        ("chain length", peer.chain_length.to_string()),
        ("at", trust.at().to_string()),
    ])
}
