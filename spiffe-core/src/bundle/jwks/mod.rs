//! JWK Sets: the wire form of bundles, read and written.
//!
//! Two readers, because two standards differ: a SPIFFE bundle document (Trust Domain and Bundle §4, X509-SVID §6,
//! JWT-SVID §6) must give each key its use; a Workload API JWKS (Workload API §6.2.2) is an ordinary one. Both leave
//! single entries out and report them, and refuse a document only as a whole. Private members are never written.

mod key;
mod map;

use std::collections::HashMap;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};

pub(crate) use self::key::{KeyKind, PublicKey};
use super::jwt::JwtAuthority;
use super::x509::MAX_AUTHORITIES;
use super::{Bundle, BundleError, Ignored, JwtAuthorities, X509Authorities, X509Authority};
use crate::base64;
use crate::json::{self, JsonError, Object, Value, push_string, shortened};
use crate::{Rule, TrustDomain};

/// The most bytes of a bundle document or JWKS: three times what [`MAX_AUTHORITIES`] RSA certificates need.
pub const MAX_BUNDLE_DOCUMENT_BYTES: usize = 16 * 1024 * 1024;

impl Bundle {
    /// Parses a SPIFFE bundle document of `trust_domain`: Trust Domain and Bundle §4.
    ///
    /// Entries that the standards say to ignore are left out and listed by [`Bundle::ignored`]; a document without a
    /// usable entry is a bundle without authorities. `wit-svid` entries are known and not kept. A refresh hint of
    /// zero counts as none.
    ///
    /// # Errors
    ///
    /// What is wrong with the document as a whole: [`Rule::BundleJson`], [`Rule::BundleDuplicateMember`],
    /// [`Rule::BundleKeys`], [`Rule::BundleSequence`], [`Rule::BundleRefreshHint`], and [`Rule::DocumentTooLarge`] for
    /// more than [`MAX_BUNDLE_DOCUMENT_BYTES`] or [`MAX_AUTHORITIES`] entries.
    pub fn from_spiffe_json(
        trust_domain: TrustDomain,
        document: impl AsRef<[u8]>,
    ) -> Result<Self, BundleError> {
        Self::from_object(trust_domain, &read(document.as_ref())?)
    }

    fn from_object(trust_domain: TrustDomain, document: &Object<'_>) -> Result<Self, BundleError> {
        let sequence = unsigned(document, "spiffe_sequence", Rule::BundleSequence)?;
        let refresh_hint = unsigned(document, "spiffe_refresh_hint", Rule::BundleRefreshHint)?;
        let entries = Entries::sort(keys(document)?, Form::Spiffe);
        let mut bundle = Self::new(trust_domain)
            .with_x509_authorities(entries.x509)
            .with_jwt_authorities(entries.jwt)
            .with_sequence(sequence)
            .with_refresh_hint(
                refresh_hint
                    .filter(|seconds| *seconds != 0)
                    .map(Duration::from_secs),
            );
        bundle.ignored = entries.ignored.into();
        Ok(bundle)
    }

    /// Writes the SPIFFE bundle document: X.509 authorities, JWT authorities, then sequence and hint where set.
    ///
    /// Each entry has exactly the members of X509-SVID §6.1 or JWT-SVID §6.1, and a key that is restricted to one
    /// algorithm `alg` besides (RFC 7517 §4.4): without it, whoever reads the document would trust more than its writer.
    pub fn to_spiffe_json(&self) -> String {
        let mut out = String::new();
        self.push_document(&mut out, self.refresh_hint());
        out
    }

    fn push_document(&self, out: &mut String, refresh_hint: Option<Duration>) {
        out.push_str("{\"keys\":[");
        for authority in self.x509_authorities().iter() {
            push_entry(out, |out| {
                authority.public_key().push_jwk_members(out);
                out.push_str(",\"use\":\"x509-svid\",\"x5c\":[\"");
                out.push_str(&Base64::encode_string(authority.certificate()));
                out.push_str("\"]");
            });
        }
        push_jwt_entries(out, self.jwt_authorities());
        out.push(']');
        if let Some(sequence) = self.sequence() {
            out.push_str(&format!(",\"spiffe_sequence\":{sequence}"));
        }
        if let Some(hint) = refresh_hint.filter(|hint| hint.as_secs() != 0) {
            out.push_str(&format!(",\"spiffe_refresh_hint\":{}", hint.as_secs()));
        }
        out.push('}');
    }
}

impl JwtAuthorities {
    /// Parses the JWKS of a JWT bundle as the Workload API carries it (§6.2.2 there): `use` may be absent.
    ///
    /// # Errors
    ///
    /// As [`Bundle::from_spiffe_json`]; sequence and hint mean nothing here.
    pub fn from_workload_api_jwks(document: impl AsRef<[u8]>) -> Result<Self, BundleError> {
        let document = read(document.as_ref())?;
        let mut entries = Entries::sort(keys(&document)?, Form::WorkloadApi);
        entries.jwt.report(entries.ignored);
        Ok(entries.jwt)
    }

    /// Writes the JWKS, each key with its `use`, which readers of every kind understand.
    pub fn to_workload_api_jwks(&self) -> String {
        let mut out = String::from("{\"keys\":[");
        push_jwt_entries(&mut out, self);
        out.push_str("]}");
        out
    }
}

/// Which of the two documents is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Spiffe,
    WorkloadApi,
}

/// What the value of `use` makes of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    X509,
    Jwt,
    Wit,
}

impl Form {
    fn key_use(self, entry: &Object<'_>) -> Result<Use, Fault> {
        let name = match entry.get("use") {
            None if self == Self::WorkloadApi => return Ok(Use::Jwt),
            None => return Err((Rule::JwkUse, "the member use is missing".into())),
            Some(Value::String(name)) => name.as_ref(),
            Some(other) => {
                let reason = format!("the member use is {}, not a string", other.kind());
                return Err((Rule::JwkUse, reason));
            }
        };
        match (self, name) {
            (_, "jwt-svid") | (Self::WorkloadApi, "sig") => Ok(Use::Jwt),
            (Self::Spiffe, "x509-svid") => Ok(Use::X509),
            (Self::Spiffe, "wit-svid") => Ok(Use::Wit),
            _ => Err((
                Rule::JwkUse,
                format!("the use {:?} has no meaning here", shortened(name)),
            )),
        }
    }
}

/// A broken rule, and what was found.
type Fault = (Rule, String);

/// The entries of `keys`, each where it belongs.
struct Entries {
    x509: X509Authorities,
    jwt: JwtAuthorities,
    /// What is of neither kind.
    ignored: Vec<Ignored>,
}

impl Entries {
    fn sort(keys: &[Value<'_>], form: Form) -> Self {
        let (mut x509, mut identified) = (Vec::new(), Vec::new());
        let (mut ignored_x509, mut ignored_jwt, mut ignored) = (Vec::new(), Vec::new(), Vec::new());
        for (index, entry) in keys.iter().enumerate() {
            let of_use = typed(entry).and_then(|(entry, kty)| {
                let key_use = form.key_use(entry)?;
                Ok((entry, kty, key_use))
            });
            let (list, found) = match of_use {
                Ok((entry, _, Use::X509)) => {
                    let found = x509_authority(entry).map(|found| x509.push((index, found)));
                    (&mut ignored_x509, found)
                }
                Ok((entry, kty, Use::Jwt)) => {
                    let found = Identified::jwt(index, entry, kty);
                    (&mut ignored_jwt, found.map(|found| identified.push(found)))
                }
                Ok((entry, kty, Use::Wit)) => {
                    let found = Identified::wit(index, entry, kty);
                    (&mut ignored, found.map(|found| identified.push(found)))
                }
                Err(fault) => (&mut ignored, Err(fault)),
            };
            if let Err((rule, reason)) = found {
                list.push(Ignored::new(index, rule, reason));
            }
        }
        let mut jwt = JwtAuthorities::new(
            unambiguous(identified, &mut ignored_jwt, &mut ignored),
            Vec::new(),
        );
        jwt.report(ignored_jwt);
        Self {
            x509: X509Authorities::from_entries(x509, ignored_x509),
            jwt,
            ignored,
        }
    }
}

/// What every entry needs before its use matters.
fn typed<'v, 't>(entry: &'v Value<'t>) -> Result<(&'v Object<'t>, &'v str), Fault> {
    let Value::Object(entry) = entry else {
        let reason = format!("the entry is {}, not an object", entry.kind());
        return Err((Rule::JwkKey, reason));
    };
    let kty = match entry.get("kty") {
        None => return Err((Rule::JwkKty, "the member kty is missing".into())),
        Some(Value::String(kty)) => kty.as_ref(),
        Some(other) => {
            let reason = format!("the member kty is {}, not a string", other.kind());
            return Err((Rule::JwkKty, reason));
        }
    };
    if !key::is_known_type(kty) {
        return Err((
            Rule::JwkKty,
            format!("the key type {:?} is unknown", shortened(kty)),
        ));
    }
    match entry.get("kid") {
        None | Some(Value::String(_)) => Ok((entry, kty)),
        Some(other) => Err((
            Rule::JwkKid,
            format!("the member kid is {}, not a string", other.kind()),
        )),
    }
}

/// X509-SVID §6.2: the first value of `x5c` is the authority, whatever stands behind it.
fn x509_authority(entry: &Object<'_>) -> Result<X509Authority, Fault> {
    let first = match entry.get("x5c") {
        Some(Value::Array(values)) => values.first(),
        None => None,
        Some(other) => {
            let reason = format!("the member x5c is {}, not an array", other.kind());
            return Err((Rule::JwkX5c, reason));
        }
    };
    let text = match first {
        Some(Value::String(text)) => text,
        Some(other) => {
            let reason = format!("the certificate in x5c is {}, not a string", other.kind());
            return Err((Rule::JwkX5c, reason));
        }
        None => return Err((Rule::JwkX5c, "the entry has no certificate in x5c".into())),
    };
    let der = base64::decode_padded(text).ok_or_else(|| {
        let reason = "the certificate in x5c is not base64 with padding";
        (Rule::JwkX5c, reason.to_owned())
    })?;
    let authority = X509Authority::from_der(CertificateDer::from(der))
        .map_err(|error| (error.rule(), error.to_string()))?;
    // RFC 7517 §4.7: the key in the first certificate must match the other members.
    authority
        .public_key()
        .agrees_with(entry)
        .map_err(|member| {
            let reason = format!("the member {member} is not that of the certificate's key");
            (Rule::JwkX5cKey, reason)
        })?;
    Ok(authority)
}

/// A key with its ID, of a use whose keys are looked up by it; JWT and WIT keys share one space of IDs.
struct Identified {
    index: usize,
    key_id: String,
    key: SubjectPublicKeyInfoDer<'static>,
    /// `None` for a WIT key.
    authority: Option<JwtAuthority>,
}

impl Identified {
    fn jwt(index: usize, entry: &Object<'_>, kty: &str) -> Result<Self, Fault> {
        let mut read = Self::wit(index, entry, kty)?;
        let unusable = || {
            let reason = format!("no JWT-SVID algorithm uses this {kty} key");
            (Rule::JwkAlgorithm, reason)
        };
        let mut authority =
            JwtAuthority::new(read.key_id.clone(), read.key.clone()).ok_or_else(unusable)?;
        match entry.get("alg") {
            None => {}
            Some(Value::String(algorithm)) => authority = authority.for_algorithm(&**algorithm),
            Some(other) => {
                let reason = format!("the member alg is {}, not a string", other.kind());
                return Err((Rule::JwkKey, reason));
            }
        }
        read.authority = Some(authority);
        Ok(read)
    }

    fn wit(index: usize, entry: &Object<'_>, kty: &str) -> Result<Self, Fault> {
        let key_id = match entry.get("kid").and_then(Value::as_str) {
            None => return Err((Rule::JwkKid, "the member kid is missing".into())),
            Some("") => return Err((Rule::JwkKid, "the member kid is empty".into())),
            Some(key_id) => key_id.to_owned(),
        };
        Ok(Self {
            index,
            key_id,
            key: key::from_jwk(kty, entry)?,
            authority: None,
        })
    }
}

/// The JWT authorities that their key ID names without doubt; of one key under one ID the first stays.
fn unambiguous(
    keys: Vec<Identified>,
    ignored_jwt: &mut Vec<Ignored>,
    ignored_other: &mut Vec<Ignored>,
) -> Vec<JwtAuthority> {
    /// What is known of one key ID after all entries were seen.
    struct Holder<'k> {
        key: &'k SubjectPublicKeyInfoDer<'static>,
        clash: bool,
    }
    let mut holders: HashMap<&str, Holder<'_>> = HashMap::with_capacity(keys.len());
    for entry in &keys {
        holders
            .entry(&entry.key_id)
            .and_modify(|holder| holder.clash |= *holder.key != entry.key)
            .or_insert(Holder {
                key: &entry.key,
                clash: false,
            });
    }
    let clashing: Vec<bool> = keys
        .iter()
        .map(|entry| holders[entry.key_id.as_str()].clash)
        .collect();
    let mut kept = HashMap::with_capacity(holders.len());
    let mut authorities = Vec::with_capacity(holders.len());
    for (entry, clash) in keys.into_iter().zip(clashing) {
        let list = match entry.authority {
            Some(_) => &mut *ignored_jwt,
            None => &mut *ignored_other,
        };
        let name = shortened(&entry.key_id);
        let is_jwt = entry.authority.is_some();
        if clash {
            let reason = format!("the key ID {name:?} stands for different keys");
            list.push(Ignored::new(entry.index, Rule::JwkKidClash, reason));
        } else if let Some(first) = kept.insert((entry.key_id, is_jwt), entry.index) {
            let reason = format!("the same key stands under the key ID {name:?} in entry {first}");
            list.push(Ignored::new(entry.index, Rule::AuthorityRepeated, reason));
        } else {
            authorities.extend(entry.authority);
        }
    }
    authorities
}

fn read(document: &[u8]) -> Result<Object<'_>, BundleError> {
    if document.len() > MAX_BUNDLE_DOCUMENT_BYTES {
        return Err(BundleError::new(
            Rule::DocumentTooLarge,
            format!(
                "the document has {} bytes; {MAX_BUNDLE_DOCUMENT_BYTES} is the limit",
                document.len()
            ),
        ));
    }
    match json::parse_bytes(document) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(BundleError::new(
            Rule::BundleJson,
            format!("the document is {}, not an object", other.kind()),
        )),
        Err(JsonError::Repeated { name }) => Err(BundleError::new(
            Rule::BundleDuplicateMember,
            format!("the document repeats the member \"{name}\""),
        )),
        Err(error @ JsonError::TooManyValues) => Err(BundleError::new(
            Rule::DocumentTooLarge,
            format!("the document is too large: {error}"),
        )),
        Err(error) => Err(BundleError::new(
            Rule::BundleJson,
            format!("the document is no JSON object: {error}"),
        )),
    }
}

fn keys<'v, 't>(document: &'v Object<'t>) -> Result<&'v [Value<'t>], BundleError> {
    let keys = match document.get("keys") {
        Some(Value::Array(keys)) => keys,
        Some(other) => {
            return Err(BundleError::new(
                Rule::BundleKeys,
                format!("the member keys is {}, not an array", other.kind()),
            ));
        }
        None => {
            let reason = "the document has no member keys";
            return Err(BundleError::new(Rule::BundleKeys, reason));
        }
    };
    if keys.len() > MAX_AUTHORITIES {
        return Err(BundleError::new(
            Rule::DocumentTooLarge,
            format!(
                "the document has {} keys; {MAX_AUTHORITIES} is the limit",
                keys.len()
            ),
        ));
    }
    Ok(keys)
}

fn unsigned(
    document: &Object<'_>,
    member: &'static str,
    rule: Rule,
) -> Result<Option<u64>, BundleError> {
    match document.get(member) {
        None => Ok(None),
        Some(Value::Unsigned(value)) => Ok(Some(*value)),
        Some(_) => Err(BundleError::new(
            rule,
            format!("the member {member} is not an unsigned integer of 64 bits"),
        )),
    }
}

fn push_jwt_entries(out: &mut String, authorities: &JwtAuthorities) {
    for authority in authorities.iter() {
        push_entry(out, |out| {
            authority.key().push_jwk_members(out);
            out.push_str(",\"use\":\"jwt-svid\",\"kid\":");
            push_string(out, authority.key_id());
            if let Some(algorithm) = authority.algorithm() {
                out.push_str(",\"alg\":");
                push_string(out, algorithm);
            }
        });
    }
}

fn push_entry(out: &mut String, members: impl FnOnce(&mut String)) {
    if !out.ends_with('[') {
        out.push(',');
    }
    out.push('{');
    members(out);
    out.push('}');
}
