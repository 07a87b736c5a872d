//! Bundles: read, described, written in another form.

use std::collections::HashMap;

use base64ct::{Base64, Encoding};
use serde::{Serialize, Serializer};
use spiffe_core::bundle::{
    BundleError, JwtAuthorities, JwtAuthority, MAX_BUNDLE_DOCUMENT_BYTES, X509Authorities,
    X509Authority,
};
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::{Bundle, BundleSet, Rule, TrustDomain, TrustDomainRef};

use super::{Refusal, hex, id};

/// The most bundles of one question; each is parsed.
pub const MAX_BUNDLES: usize = 65_536;

/// The most bytes of a document of either kind unless a question says less.
pub const MAX_DOCUMENT_BYTES: usize = MAX_BUNDLE_DOCUMENT_BYTES;

/// How a bundle is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// A SPIFFE bundle document: a JWK Set with `use` on every key.
    Spiffe,
    /// Certificates in PEM.
    Pem,
    /// Certificates in DER, one behind the other.
    Der,
    /// The JWK Set of the Workload API's JWT bundles.
    WorkloadApiJwks,
}

impl Form {
    /// Every form.
    pub const ALL: [Self; 4] = [Self::Spiffe, Self::Pem, Self::Der, Self::WorkloadApiJwks];

    /// Its name: `spiffe`, `pem`, `der`, `workload-api-jwks`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spiffe => "spiffe",
            Self::Pem => "pem",
            Self::Der => "der",
            Self::WorkloadApiJwks => "workload-api-jwks",
        }
    }

    /// The form with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.name() == name)
    }

    /// What a document looks like: DER by its first byte, a SPIFFE bundle document by its first brace, else PEM.
    pub fn sniff(document: &[u8]) -> Self {
        let space = |byte: &&u8| !byte.is_ascii_whitespace();
        match document.iter().find(space) {
            Some(b'{') => Self::Spiffe,
            Some(0x30) if document.get(1).is_some_and(|length| *length >= 0x80) => Self::Der,
            _ => Self::Pem,
        }
    }
}

/// Reads one document.
///
/// # Errors
///
/// What is wrong with the document as a whole.
pub fn read(trust_domain: TrustDomain, document: &[u8], form: Form) -> Result<Bundle, Refusal> {
    let refuse = |error: BundleError| Refusal::new(error.rule(), error);
    match form {
        Form::Spiffe => Bundle::from_spiffe_json(trust_domain, document).map_err(refuse),
        Form::WorkloadApiJwks => JwtAuthorities::from_workload_api_jwks(document)
            .map(|authorities| Bundle::new(trust_domain).with_jwt_authorities(authorities))
            .map_err(refuse),
        Form::Der => X509Authorities::from_concatenated_der(document)
            .map(|authorities| Bundle::new(trust_domain).with_x509_authorities(authorities))
            .map_err(refuse),
        Form::Pem => {
            let pem = std::str::from_utf8(document)
                .map_err(|_| Refusal::new(Rule::PemMalformed, "the PEM text is not UTF-8"))?;
            X509Authorities::from_pem(pem)
                .map(|authorities| Bundle::new(trust_domain).with_x509_authorities(authorities))
                .map_err(refuse)
        }
    }
}

/// As [`read`], for a trust domain that is still a text.
///
/// # Errors
///
/// As [`read`], and the rule that the name breaks.
pub fn parse(trust_domain: &str, document: &[u8], form: Form) -> Result<Bundle, Refusal> {
    read(
        TrustDomain::parse(trust_domain).map_err(id::refuse)?,
        document,
        form,
    )
}

/// As [`read`], for a document whose trust domain does not matter, since nothing is verified with it.
///
/// # Errors
///
/// As [`read`].
pub fn read_unnamed(document: &[u8], form: Form) -> Result<Bundle, Refusal> {
    const UNNAMED: TrustDomainRef<'static> = TrustDomainRef::literal("unnamed");
    read(UNNAMED.to_owned(), document, form)
}

/// What a bundle holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// How many X.509 authorities there are.
    pub x509_authorities: usize,
    /// The key IDs of the JWT authorities, sorted.
    pub jwt_authorities: Vec<String>,
    /// The sequence number.
    pub sequence: Option<u64>,
    /// The refresh hint in seconds, as the document says it.
    pub refresh_hint_s: Option<u64>,
    /// The entries that were left out.
    pub ignored: Vec<LeftOut>,
}

/// An entry that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LeftOut {
    /// Its position in the document, from 0.
    pub index: usize,
    /// The broken rule's code, a colon, and what was found.
    pub reason: String,
}

impl From<&Bundle> for Summary {
    fn from(bundle: &Bundle) -> Self {
        let keys = bundle.jwt_authorities().iter();
        let mut jwt_authorities: Vec<_> = keys.map(|key| key.key_id().to_owned()).collect();
        jwt_authorities.sort_unstable();
        let ignored = bundle.ignored().map(|entry| LeftOut {
            index: entry.index,
            reason: super::one_line(&format!("{}: {}", entry.rule.code(), entry.reason)),
        });
        Self {
            x509_authorities: bundle.x509_authorities().len(),
            jwt_authorities,
            sequence: bundle.sequence(),
            refresh_hint_s: bundle.refresh_hint().map(|hint| hint.as_secs()),
            ignored: ignored.collect(),
        }
    }
}

/// A bundle in another form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Converted {
    /// The document.
    #[serde(flatten)]
    pub written: Written,
    /// What the form cannot hold, by the names of [`Summary`]'s members.
    pub lost: Vec<&'static str>,
}

/// A document; as data, `document` or `document_b64`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Written {
    /// Every form but DER.
    #[serde(rename = "document")]
    Text(String),
    /// DER, base64 as data.
    #[serde(rename = "document_b64", serialize_with = "base64")]
    Der(Vec<u8>),
}

impl Written {
    /// The document as it goes into a file.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Der(der) => der,
        }
    }
}

/// Writes a bundle in `form`.
pub fn write(bundle: &Bundle, form: Form) -> Converted {
    let (x509, jwt) = (bundle.x509_authorities(), bundle.jwt_authorities());
    let written = match form {
        Form::Spiffe => Written::Text(bundle.to_spiffe_json()),
        Form::Pem => Written::Text(x509.to_pem()),
        Form::Der => Written::Der(x509.to_concatenated_der()),
        Form::WorkloadApiJwks => Written::Text(jwt.to_workload_api_jwks()),
    };
    let spiffe = form == Form::Spiffe;
    let certificates = spiffe || matches!(form, Form::Pem | Form::Der);
    let keys = spiffe || form == Form::WorkloadApiJwks;
    let members = [
        ("x509_authorities", certificates || x509.is_empty()),
        ("jwt_authorities", keys || jwt.is_empty()),
        ("sequence", spiffe || bundle.sequence().is_none()),
        ("refresh_hint_s", spiffe || bundle.refresh_hint().is_none()),
    ];
    let lost = members.into_iter().filter(|(_, kept)| !kept);
    Converted {
        written,
        lost: lost.map(|(name, _)| name).collect(),
    }
}

fn base64<S: Serializer>(der: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&Base64::encode_string(der))
}

/// A bundle with its authorities one by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Described {
    /// What it holds.
    #[serde(flatten)]
    pub summary: Summary,
    /// Its authorities, in the document's order.
    pub authorities: Authorities,
}

/// Authorities of both kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Authorities {
    /// Those of X509-SVIDs.
    pub x509: Vec<X509Described>,
    /// Those of JWT-SVIDs.
    pub jwt: Vec<JwtDescribed>,
}

/// One X.509 authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct X509Described {
    /// The certificate's SHA-256, lower-case hexadecimal.
    pub sha256: String,
    /// Its subject key identifier, lower-case hexadecimal.
    pub subject_key_id: Option<String>,
    /// Its first instant, RFC 3339.
    pub not_before: String,
    /// Its last instant, RFC 3339.
    pub not_after: String,
    /// Whether what it signed is to be replaced.
    pub tainted: bool,
}

/// One JWT authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JwtDescribed {
    /// The key ID.
    pub key_id: String,
    /// The one algorithm it is for, where its document names one.
    pub algorithm: Option<String>,
    /// Whether what it signed is to be replaced.
    pub tainted: bool,
}

impl Authorities {
    fn new<'a>(
        x509: impl IntoIterator<Item = &'a X509Authority>,
        jwt: impl IntoIterator<Item = &'a JwtAuthority>,
        crypto: &dyn CryptoProvider,
    ) -> Self {
        let x509 = x509.into_iter().map(|authority| X509Described {
            sha256: hex(&crypto.sha256(authority.certificate())),
            subject_key_id: authority.subject_key_id().map(hex),
            not_before: authority.not_before().to_string(),
            not_after: authority.not_after().to_string(),
            tainted: authority.is_tainted(),
        });
        let jwt = jwt.into_iter().map(|authority| JwtDescribed {
            key_id: authority.key_id().into(),
            algorithm: authority.algorithm().map(Into::into),
            tainted: authority.is_tainted(),
        });
        Self {
            x509: x509.collect(),
            jwt: jwt.collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.x509.is_empty() && self.jwt.is_empty()
    }
}

/// Describes a bundle and each of its authorities.
pub fn describe(bundle: &Bundle, crypto: &dyn CryptoProvider) -> Described {
    let (x509, jwt) = (bundle.x509_authorities(), bundle.jwt_authorities());
    Described {
        summary: bundle.into(),
        authorities: Authorities::new(x509.iter(), jwt.iter(), crypto),
    }
}

/// What changed between two bundles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// In the newer one only.
    pub added: Authorities,
    /// In the older one only.
    pub removed: Authorities,
    /// In both, newly tainted.
    pub tainted: Authorities,
}

impl Difference {
    /// Whether both hold the same authorities.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.tainted.is_empty()
    }
}

/// Compares two bundles by authority.
pub fn diff(older: &Bundle, newer: &Bundle, crypto: &dyn CryptoProvider) -> Difference {
    let diff = older.diff(newer);
    Difference {
        added: Authorities::new(diff.x509.added, diff.jwt.added, crypto),
        removed: Authorities::new(diff.x509.removed, diff.jwt.removed, crypto),
        tainted: Authorities::new(diff.x509.tainted, diff.jwt.tainted, crypto),
    }
}

/// The bundles of one question. One that cannot be read affects its own trust domain only.
#[derive(Clone, Debug, Default)]
pub struct Bundles {
    known: BundleSet,
    broken: HashMap<TrustDomain, Refusal>,
}

impl Bundles {
    /// No bundles.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the bundle of `trust_domain`, a bare name.
    ///
    /// # Errors
    ///
    /// [`Rule::BundleTrustDomain`] for a key that is no name, [`Rule::DocumentTooLarge`] beyond [`MAX_BUNDLES`]. A document
    /// that cannot be read is no error here: see [`Self::broken`].
    pub fn add(
        &mut self,
        trust_domain: &str,
        document: &[u8],
        form: Form,
        max_document_bytes: usize,
    ) -> Result<(), Refusal> {
        let trust_domain = TrustDomain::parse(trust_domain).map_err(|error| {
            Refusal::new(
                Rule::BundleTrustDomain,
                format_args!("the bundle's key is no trust domain name: {error}"),
            )
        })?;
        if self.known.len() + self.broken.len() >= MAX_BUNDLES {
            return Err(Refusal::new(
                Rule::DocumentTooLarge,
                format_args!("there are more than {MAX_BUNDLES} bundles"),
            ));
        }
        let bundle = if document.len() > max_document_bytes {
            Err(Refusal::new(
                Rule::DocumentTooLarge,
                format_args!(
                    "the bundle of {trust_domain} has {} bytes; {max_document_bytes} is the limit",
                    document.len()
                ),
            ))
        } else {
            read(trust_domain.clone(), document, form)
        };
        match bundle {
            Ok(bundle) => self.known.insert(bundle),
            Err(refusal) => {
                self.broken.insert(trust_domain, refusal);
            }
        }
        Ok(())
    }

    /// Those that could be read.
    pub fn known(&self) -> &BundleSet {
        &self.known
    }

    /// Those that could not be read, by trust domain.
    pub fn all_broken(&self) -> impl Iterator<Item = (&TrustDomain, &Refusal)> {
        self.broken.iter()
    }

    /// Why the bundle of `trust_domain` could not be read.
    pub fn broken(&self, trust_domain: &TrustDomain) -> Option<&Refusal> {
        self.broken.get(trust_domain)
    }
}
