//! What an SVID is to say: the data sheets that issuance starts from.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};
use spiffe_core::{SpiffeId, TrustDomain};

use crate::error::DnsNameError;

/// The most DNS names of one X.509-SVID; each makes every handshake of the workload larger.
pub const MAX_DNS_NAMES: usize = 256;

/// The most bytes of all audiences of one JWT-SVID together; tokens travel in headers that servers limit to 8 KiB.
pub const MAX_AUDIENCE_BYTES: usize = 4096;

/// The most bytes of all further claims of one JWT-SVID together, as JSON; the reason is that of
/// [`MAX_AUDIENCE_BYTES`].
pub const MAX_CLAIMS_BYTES: usize = 4096;

/// The most bytes of a DNS name: RFC 1035 §2.3.4.
pub const MAX_DNS_NAME_BYTES: usize = 253;

/// What an X.509-SVID is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct X509SvidParams {
    /// The workload's SPIFFE ID; it must have a path and be in the issuer's trust domain.
    pub id: SpiffeId,
    /// DNS names beside the SPIFFE ID, at most [`MAX_DNS_NAMES`].
    pub dns_names: Vec<DnsName>,
    /// How long it is to be valid from now; `None` for the issuer's default. At least a second.
    pub ttl: Option<Duration>,
    /// The operator's hint, which travels with the SVID and is not part of the certificate: Workload API §8.
    pub hint: Option<String>,
    /// Why it is issued, such as the entry, for the issuance log.
    pub reason: Option<String>,
}

impl X509SvidParams {
    /// For `id`, without DNS names and hint, with the issuer's default lifetime.
    pub const fn new(id: SpiffeId) -> Self {
        Self {
            id,
            dns_names: Vec::new(),
            ttl: None,
            hint: None,
            reason: None,
        }
    }

    /// The same with these DNS names.
    #[must_use]
    pub fn with_dns_names(mut self, names: impl IntoIterator<Item = DnsName>) -> Self {
        self.dns_names = names.into_iter().collect();
        self
    }

    /// The same with this lifetime.
    #[must_use]
    pub fn with_ttl(mut self, ttl: impl Into<Option<Duration>>) -> Self {
        self.ttl = ttl.into();
        self
    }

    /// The same with this hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The same with this reason in the issuance log.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Option<String>>) -> Self {
        self.reason = reason.into();
        self
    }
}

/// What the certificate of an intermediate authority is to say: one for a downstream server of the same trust domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IntermediateParams {
    /// How long it is to be valid from now; `None` for the issuer's default. At least a second.
    pub ttl: Option<Duration>,
    /// How many authorities may follow below it: 0 lets it sign leaves alone, `None` leaves it to those above it.
    pub path_length: Option<u8>,
    /// Whether to confine it to its trust domain by URI name constraints (X509-SVID §4.2). Not every verifier knows
    /// them: webpki, which rustls uses, refuses chains that carry them.
    pub confined: bool,
    /// Why it is issued, for the issuance log.
    pub reason: Option<String>,
}

impl IntermediateParams {
    /// The issuer's default lifetime, neither limited in length nor confined.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with this lifetime.
    #[must_use]
    pub fn with_ttl(mut self, ttl: impl Into<Option<Duration>>) -> Self {
        self.ttl = ttl.into();
        self
    }

    /// The same with this many authorities below it.
    #[must_use]
    pub fn with_path_length(mut self, length: impl Into<Option<u8>>) -> Self {
        self.path_length = length.into();
        self
    }

    /// The same, confined to its trust domain.
    #[must_use]
    pub fn confined(mut self) -> Self {
        self.confined = true;
        self
    }

    /// The same with this reason in the issuance log.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Option<String>>) -> Self {
        self.reason = reason.into();
        self
    }
}

/// The host that URI name constraints name for a trust domain, or why there is none: RFC 5280 §4.2.1.10 wants a fully
/// qualified DNS name there, and an address never matches.
pub(crate) fn constraint_host(trust_domain: &TrustDomain) -> Result<&str, &'static str> {
    let name = trust_domain.as_str();
    let host = DnsName::parse(name).map_err(|error| error.reason)?;
    // A trust domain knows no upper case and no wildcards, so the name is the host.
    if host.as_str().contains('_') {
        return Err("a host name holds no '_'");
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a host name whose last label is a number is taken for an IP address");
    }
    Ok(name)
}

/// What a JWT-SVID is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JwtSvidParams {
    /// The workload's SPIFFE ID; it must have a path and be in the issuer's trust domain.
    pub id: SpiffeId,
    /// The audiences: at least one, none empty, at most [`MAX_AUDIENCE_BYTES`] together. With more than one, each
    /// receiver can pass as the workload towards the others: JWT-SVID §7.2.
    pub audiences: Vec<String>,
    /// How long it is to be valid from now; `None` for the issuer's default. At least a second.
    pub ttl: Option<Duration>,
    /// Whether to give the token an identifier of its own, `jti`, from 128 random bits.
    pub token_id: bool,
    /// Further claims, at most [`MAX_CLAIMS_BYTES`] as JSON; each must be on the issuer's list of allowed ones.
    pub claims: Map<String, Value>,
    /// The operator's hint, which travels with the SVID and is not part of the token: Workload API §8.
    pub hint: Option<String>,
    /// Why it is issued, such as the entry, for the issuance log.
    pub reason: Option<String>,
}

impl JwtSvidParams {
    /// For `id` and one audience, with the issuer's default lifetime, without `jti`.
    pub fn new(id: SpiffeId, audience: impl Into<String>) -> Self {
        Self {
            id,
            audiences: vec![audience.into()],
            ttl: None,
            token_id: false,
            claims: Map::new(),
            hint: None,
            reason: None,
        }
    }

    /// The same for these audiences.
    #[must_use]
    pub fn with_audiences(
        mut self,
        audiences: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.audiences = audiences.into_iter().map(Into::into).collect();
        self
    }

    /// The same with this lifetime.
    #[must_use]
    pub fn with_ttl(mut self, ttl: impl Into<Option<Duration>>) -> Self {
        self.ttl = ttl.into();
        self
    }

    /// The same with one more claim, or another value of it.
    #[must_use]
    pub fn with_claim(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.claims.insert(name.into(), value.into());
        self
    }

    /// The same with an identifier of its own.
    #[must_use]
    pub fn with_token_id(mut self) -> Self {
        self.token_id = true;
        self
    }

    /// The same with this hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The same with this reason in the issuance log.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Option<String>>) -> Self {
        self.reason = reason.into();
        self
    }
}

/// A DNS name as certificates carry it: RFC 5280 §4.2.1.6, RFC 1034 §3.5.
///
/// Labels of letters, digits, `-` and `_`, without a final dot, kept in lower case; the first may be `*`. The
/// underscore is no host name's but is found in the names of services.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName {
    name: String,
}

impl DnsName {
    /// Parses a name.
    ///
    /// # Errors
    ///
    /// [`DnsNameError`].
    pub fn parse(name: &str) -> Result<Self, DnsNameError> {
        let refuse = |reason| {
            Err(DnsNameError {
                name: name.chars().take(64).collect(),
                reason,
            })
        };
        if name.is_empty() {
            return refuse("it is empty");
        }
        if name.len() > MAX_DNS_NAME_BYTES {
            return refuse("it has more than 253 bytes");
        }
        let labels = match name.strip_prefix("*.") {
            Some(rest) if !rest.contains('.') => {
                return refuse("a wildcard would cover a whole top-level domain");
            }
            Some(rest) => rest,
            None => name,
        };
        for label in labels.split('.') {
            if !(1..=63).contains(&label.len()) {
                return refuse("a label has 1 to 63 bytes");
            }
            if !label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            {
                return refuse("a label holds letters, digits, '-' and '_' only");
            }
            if label.starts_with('-') || label.ends_with('-') {
                return refuse("a label neither begins nor ends with '-'");
            }
        }
        // An address belongs into another kind of name; verifiers do not look for it among DNS names.
        if labels.parse::<std::net::Ipv4Addr>().is_ok() {
            return refuse("it is an IP address");
        }
        Ok(Self {
            name: name.to_ascii_lowercase(),
        })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

impl FromStr for DnsName {
    type Err = DnsNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names_are_read() {
        for name in [
            "web",
            "web.example.org",
            "*.example.org",
            "_grpc.a-b.example",
            "1.example",
            &"a".repeat(63),
        ] {
            assert_eq!(DnsName::parse(name).unwrap().as_str(), name);
        }
        assert_eq!(
            DnsName::parse("Web.Example").unwrap().as_str(),
            "web.example"
        );
    }

    #[test]
    fn what_is_no_dns_name_is_refused() {
        for name in [
            "",
            ".",
            "web.",
            ".web",
            "a..b",
            "*",
            "*.",
            "*.com",
            "a.*.b.c",
            "w*b.example.org",
            "-a.example",
            "a-.example",
            "a b",
            "caf\u{e9}.example",
            "127.0.0.1",
            "a\0b",
            &"a".repeat(64),
            &["a"; 127].join("."),
        ] {
            if name.len() == 253 {
                // 127 labels of one byte are just as long as allowed.
                assert!(DnsName::parse(name).is_ok());
                assert!(DnsName::parse(&format!("{name}a")).is_err());
                continue;
            }
            assert!(DnsName::parse(name).is_err(), "{name:?}");
        }
    }
}
