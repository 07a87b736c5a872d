//! What certificates say of themselves, for eyes. Nothing in here is judged or believed.
//!
//! The reader is a lenient one, so that what verification refuses can still be looked at.

use serde::Serialize;
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::key::PrivateKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::x509::{self, ChainDocument};
use super::{Refusal, hex, one_line};

/// The most certificates that are described; the rest is counted.
pub const MAX_INSPECTED: usize = 64;

/// A chain and what it would be as an own X509-SVID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Inspected {
    /// How many certificates the document holds.
    pub certificates: usize,
    /// The first of them, in the document's order.
    pub described: Vec<Certificate>,
    /// What they are as an X509-SVID, with the key where there is one.
    pub svid: Option<x509::Own>,
    /// Why they are none.
    pub no_svid: Option<Refusal>,
}

/// One certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Certificate {
    /// Its SHA-256, lower-case hexadecimal.
    pub sha256: String,
    /// Why it cannot be read; then nothing else is known.
    pub unreadable: Option<String>,
    /// The subject's name.
    pub subject: String,
    /// The issuer's name.
    pub issuer: String,
    /// The serial number, lower-case hexadecimal.
    pub serial: String,
    /// The first instant of validity, RFC 3339.
    pub not_before: String,
    /// The last instant of validity, RFC 3339.
    pub not_after: String,
    /// The kind of key.
    pub key: String,
    /// The subject key identifier, lower-case hexadecimal; empty where there is none.
    pub subject_key_id: String,
    /// The key identifier of its issuer, lower-case hexadecimal; empty where there is none.
    pub authority_key_id: String,
    /// The names: `URI:…`, `DNS:…`, `IP:…`.
    pub names: Vec<String>,
    /// Whether it is a CA, and how many further CAs may follow.
    pub ca: String,
    /// What the key may be used for.
    pub key_usage: String,
    /// The purposes.
    pub extended_key_usage: Vec<String>,
    /// Critical extensions by their identifier that this reader has no name for.
    pub unknown_critical: Vec<String>,
}

/// Describes the certificates of a document.
///
/// # Errors
///
/// A document that cannot be divided into certificates.
pub fn chain(
    document: ChainDocument<'_>,
    key: Option<PrivateKey>,
    crypto: &std::sync::Arc<dyn CryptoProvider>,
) -> Result<Inspected, Refusal> {
    let certificates = document.certificates()?;
    let described = certificates.iter().take(MAX_INSPECTED).map(|der| {
        let certificate = match X509Certificate::from_der(der) {
            Ok((_, certificate)) => describe(&certificate),
            Err(error) => Certificate {
                unreadable: Some(one_line(&error.to_string())),
                ..Certificate::default()
            },
        };
        Certificate {
            sha256: hex(&crypto.sha256(der)),
            ..certificate
        }
    });
    let described = described.collect();
    let (svid, no_svid) = match x509::parse(document, key, crypto) {
        Ok(svid) => (Some(svid), None),
        Err(refusal) => (None, Some(refusal)),
    };
    Ok(Inspected {
        certificates: certificates.len(),
        described,
        svid,
        no_svid,
    })
}

fn describe(certificate: &X509Certificate<'_>) -> Certificate {
    let time = |time: x509_parser::time::ASN1Time| {
        spiffe_core::Timestamp::from_unix_seconds(time.timestamp()).to_string()
    };
    let mut described = Certificate {
        subject: one_line(&certificate.subject().to_string()),
        issuer: one_line(&certificate.issuer().to_string()),
        serial: hex(certificate.raw_serial()),
        not_before: time(certificate.validity().not_before),
        not_after: time(certificate.validity().not_after),
        key: key(certificate),
        ca: "no".into(),
        ..Certificate::default()
    };
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                described.names = names.general_names.iter().map(name).collect();
            }
            ParsedExtension::BasicConstraints(basic) if basic.ca => {
                described.ca = match basic.path_len_constraint {
                    Some(length) => format!("yes, path length {length}"),
                    None => "yes".into(),
                };
            }
            ParsedExtension::SubjectKeyIdentifier(id) => described.subject_key_id = hex(id.0),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                described.authority_key_id = id
                    .key_identifier
                    .as_ref()
                    .map_or_else(String::new, |id| hex(id.0));
            }
            ParsedExtension::KeyUsage(usage) => described.key_usage = usage.to_string(),
            ParsedExtension::ExtendedKeyUsage(usage) => {
                described.extended_key_usage = purposes(usage);
            }
            ParsedExtension::UnsupportedExtension { oid } if extension.critical => {
                described.unknown_critical.push(oid.to_id_string());
            }
            _ => {}
        }
    }
    described
}

fn key(certificate: &X509Certificate<'_>) -> String {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(PublicKey::EC(point)) => match point.key_size() {
            // A point of P-521 fills 528 bits.
            528 => "EC P-521".into(),
            bits => format!("EC P-{bits}"),
        },
        _ => match certificate.public_key().algorithm.algorithm.to_id_string() {
            ed25519 if ed25519 == "1.3.101.112" => "Ed25519".into(),
            other => other,
        },
    }
}

fn name(name: &GeneralName<'_>) -> String {
    let text = match name {
        GeneralName::URI(uri) => format!("URI:{uri}"),
        GeneralName::DNSName(dns) => format!("DNS:{dns}"),
        GeneralName::RFC822Name(mail) => format!("email:{mail}"),
        GeneralName::IPAddress([a, b, c, d]) => format!("IP:{a}.{b}.{c}.{d}"),
        GeneralName::IPAddress(bytes) => match <[u8; 16]>::try_from(*bytes) {
            Ok(bytes) => format!("IP:{}", std::net::Ipv6Addr::from(bytes)),
            Err(_) => format!("IP:{}", hex(bytes)),
        },
        other => other.to_string(),
    };
    one_line(&text)
}

fn purposes(usage: &ExtendedKeyUsage<'_>) -> Vec<String> {
    let known = [
        (usage.any, "any"),
        (usage.server_auth, "server"),
        (usage.client_auth, "client"),
        (usage.code_signing, "code signing"),
        (usage.email_protection, "email"),
        (usage.time_stamping, "time stamping"),
        (usage.ocsp_signing, "OCSP"),
    ];
    let named = known.into_iter().filter(|(set, _)| *set);
    named
        .map(|(_, name)| name.into())
        .chain(usage.other.iter().map(|oid| oid.to_id_string()))
        .collect()
}
