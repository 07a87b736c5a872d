//! The journal: what of the authorities must survive a restart, as JSON.
//!
//! A journal is taken whole or refused. Nothing here repairs, guesses or begins anew: a trust domain that silently lost
//! its authorities would be another one under the same name.

use std::fmt;
use std::path::Path;

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};
use spiffe_core::bundle::{JwtAuthority, X509Authority};
use spiffe_core::{Timestamp, TrustDomain};

use super::{Authority, Kind, PublicHalf, Root, SharedKey, Slot, Slots, State, Status};
use crate::error::StateError;
use crate::issuer::hex;
use crate::log::LogMark;

/// The format that is written, and the only one that is read.
pub const FORMAT: u32 = 1;

/// The file's name in its directory.
pub const JOURNAL_FILE: &str = "journal.json";

/// The most bytes of a journal. One authority has about 1 KiB, and there are few.
pub const MAX_JOURNAL_BYTES: usize = 4 * 1024 * 1024;

/// Writes a state.
pub fn encode(trust_domain: &TrustDomain, state: &State) -> Vec<u8> {
    let records = |slots: &Slots| slots.iter().map(Record::from).collect();
    let journal = Journal {
        format: FORMAT,
        trust_domain: trust_domain.to_string(),
        keys: state.keys.clone(),
        sequence: state.sequence,
        x509: records(&state.x509),
        jwt: records(&state.jwt),
        roots: state.roots.iter().map(RootRecord::from).collect(),
        roots_since: state.roots_since,
        shared_keys: state.shared_keys.iter().map(KeyRecord::from).collect(),
        log: state.log.clone(),
    };
    // Strings, numbers and lists have a JSON form whatever they hold.
    serde_json::to_vec_pretty(&journal).expect("a journal has a JSON form")
}

/// Whose journal it is; `path` is named in errors.
///
/// # Errors
///
/// [`StateError::Damaged`].
pub fn trust_domain(contents: &[u8], path: &Path) -> Result<TrustDomain, StateError> {
    #[derive(Deserialize)]
    struct Named {
        trust_domain: String,
    }
    let damaged = |reason: String| StateError::Damaged {
        path: path.into(),
        reason,
    };
    let named: Named =
        serde_json::from_slice(contents).map_err(|error| damaged(error.to_string()))?;
    TrustDomain::parse(&named.trust_domain).map_err(|error| damaged(error.to_string()))
}

/// Reads a state back; `path` is named in errors.
///
/// # Errors
///
/// [`StateError::Damaged`], [`StateError::UnknownFormat`] and [`StateError::ForeignTrustDomain`].
pub fn decode(
    contents: &[u8],
    trust_domain: &TrustDomain,
    path: &Path,
) -> Result<State, StateError> {
    let damaged = |reason: String| StateError::Damaged {
        path: path.into(),
        reason,
    };
    // The format first: what another version wrote need not look like ours.
    let value: serde_json::Value =
        serde_json::from_slice(contents).map_err(|error| damaged(error.to_string()))?;
    match value.get("format") {
        Some(format) if *format == FORMAT => {}
        Some(format) => {
            return Err(StateError::UnknownFormat {
                path: path.into(),
                found: format.to_string(),
                known: FORMAT,
            });
        }
        None => return Err(damaged("it names no format".into())),
    }
    let journal: Journal =
        serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
    if journal.trust_domain != trust_domain.as_str() {
        return Err(StateError::ForeignTrustDomain {
            path: path.parent().unwrap_or(path).into(),
            found: journal.trust_domain,
            expected: trust_domain.clone(),
        });
    }
    let state = State {
        sequence: journal.sequence,
        x509: slots(journal.x509, Kind::X509).map_err(damaged)?,
        jwt: slots(journal.jwt, Kind::Jwt).map_err(damaged)?,
        roots: journal
            .roots
            .into_iter()
            .map(RootRecord::into_root)
            .collect::<Result<_, _>>()
            .map_err(damaged)?,
        roots_since: journal.roots_since,
        keys: journal.keys,
        settled: None,
        log: journal.log,
        shared_keys: journal
            .shared_keys
            .into_iter()
            .map(KeyRecord::into_key)
            .collect::<Result<_, _>>()
            .map_err(damaged)?,
    };
    check(&state).map_err(damaged)?;
    Ok(state)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Journal {
    format: u32,
    trust_domain: String,
    /// Where the private keys lie, unless in the same directory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    keys: Option<String>,
    sequence: u64,
    x509: Vec<Record>,
    jwt: Vec<Record>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    roots: Vec<RootRecord>,
    #[serde(skip_serializing_if = "is_zero", default)]
    roots_since: u64,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    shared_keys: Vec<KeyRecord>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    log: Option<LogMark>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One root of the upstream.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootRecord {
    certificate: String,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    tainted: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    withdrawn_at: Option<String>,
}

impl From<&Root> for RootRecord {
    fn from(root: &Root) -> Self {
        Self {
            certificate: Base64::encode_string(&root.certificate),
            tainted: root.tainted,
            withdrawn_at: root.withdrawn_at.map(|at| at.to_string()),
        }
    }
}

impl RootRecord {
    fn into_root(self) -> Result<Root, String> {
        let der = Base64::decode_vec(&self.certificate)
            .map_err(|_| "a root of the upstream is not base64".to_owned())?;
        let authority = X509Authority::from_der(der.into())
            .map_err(|error| format!("a root of the upstream is none: {error}"))?;
        let withdrawn_at = self
            .withdrawn_at
            .map(|text| text.parse::<Timestamp>())
            .transpose()
            .map_err(|error| format!("withdrawn_at of a root is {error}"))?;
        Ok(Root {
            certificate: authority.certificate().clone(),
            tainted: self.tainted,
            withdrawn_at,
        })
    }
}

/// One JWT key of another server.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRecord {
    id: String,
    public_key: String,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    tainted: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    until: Option<String>,
}

impl From<&SharedKey> for KeyRecord {
    fn from(shared: &SharedKey) -> Self {
        Self {
            id: shared.key.key_id().into(),
            public_key: Base64::encode_string(shared.key.public_key()),
            tainted: shared.key.is_tainted(),
            until: shared.until.map(|until| until.to_string()),
        }
    }
}

impl KeyRecord {
    fn into_key(self) -> Result<SharedKey, String> {
        let id = self.id;
        let der = Base64::decode_vec(&self.public_key)
            .map_err(|_| format!("the shared key {id:?} is not base64"))?;
        let until = self
            .until
            .map(|text| text.parse::<Timestamp>())
            .transpose()
            .map_err(|error| format!("until of the shared key {id:?} is {error}"))?;
        let key = JwtAuthority::new(&*id, der.into())
            .ok_or_else(|| format!("the shared key {id:?} is no JWT authority"))?;
        let key = if self.tainted {
            key.into_tainted()
        } else {
            key
        };
        Ok(SharedKey { key, until })
    }
}

/// One authority.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: String,
    status: RecordedStatus,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    slot: Option<RecordedSlot>,
    published: u64,
    published_at: String,
    not_before: String,
    not_after: String,
    signed_until: String,
    /// Base64 of the DER: exactly one of the two.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    public_key: Option<String>,
    /// Base64 of the certificates between it and the upstream's root.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    upstream: Option<Vec<String>>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RecordedStatus {
    Prepared,
    Active,
    Old,
    Tainted,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum RecordedSlot {
    A,
    B,
}

impl From<&Authority> for Record {
    fn from(authority: &Authority) -> Self {
        let (certificate, public_key) = match &authority.public {
            PublicHalf::Certificate(der) => (Some(Base64::encode_string(der)), None),
            PublicHalf::Key(der) => (None, Some(Base64::encode_string(der))),
        };
        Self {
            id: authority.id.clone(),
            status: match authority.status {
                Status::Prepared => RecordedStatus::Prepared,
                Status::Active => RecordedStatus::Active,
                Status::Old => RecordedStatus::Old,
                Status::Tainted => RecordedStatus::Tainted,
            },
            slot: authority.slot.map(|slot| match slot {
                Slot::A => RecordedSlot::A,
                Slot::B => RecordedSlot::B,
            }),
            published: authority.published,
            published_at: authority.published_at.to_string(),
            not_before: authority.not_before.to_string(),
            not_after: authority.not_after.to_string(),
            signed_until: authority.signed_until.to_string(),
            certificate,
            public_key,
            upstream: authority
                .upstream
                .as_ref()
                .map(|chain| chain.iter().map(|der| Base64::encode_string(der)).collect()),
        }
    }
}

fn slots(records: Vec<Record>, kind: Kind) -> Result<Slots, String> {
    records
        .into_iter()
        .map(|record| record.into_authority(kind))
        .collect::<Result<_, _>>()
        .map(|authorities| Slots { authorities })
}

impl Record {
    fn into_authority(self, kind: Kind) -> Result<Authority, String> {
        let id = self.id;
        let time = |name: &str, text: &str| {
            text.parse::<Timestamp>()
                .map_err(|error| format!("{name} of the authority {id:?} is {error}"))
        };
        let bytes = |text: &str| {
            Base64::decode_vec(text)
                .map_err(|_| format!("the public half of the authority {id:?} is not base64"))
        };
        let not_before = time("not_before", &self.not_before)?;
        let not_after = time("not_after", &self.not_after)?;
        let signed_until = time("signed_until", &self.signed_until)?;
        let published_at = time("published_at", &self.published_at)?;
        let public = match (kind, &self.certificate, &self.public_key) {
            (Kind::X509, Some(certificate), None) => {
                let der = bytes(certificate)?.into();
                let authority = X509Authority::from_der(der)
                    .map_err(|error| format!("the authority {id:?} is none: {error}"))?;
                if authority.subject_key_id().map(hex).as_deref() != Some(id.as_str())
                    || (authority.not_before(), authority.not_after()) != (not_before, not_after)
                {
                    return Err(format!(
                        "the authority {id:?} is not the one of its certificate"
                    ));
                }
                PublicHalf::Certificate(authority.certificate().clone())
            }
            (Kind::Jwt, None, Some(key)) if !id.is_empty() => PublicHalf::Key(bytes(key)?.into()),
            _ => {
                return Err(format!(
                    "the authority {id:?} has no public half of its kind"
                ));
            }
        };
        let upstream = self
            .upstream
            .map(|chain| {
                let certificates = chain.iter().map(|text| bytes(text).map(Into::into));
                certificates.collect::<Result<Vec<_>, _>>()
            })
            .transpose()?;
        Ok(Authority {
            upstream,
            slot: self.slot.map(|slot| match slot {
                RecordedSlot::A => Slot::A,
                RecordedSlot::B => Slot::B,
            }),
            status: match self.status {
                RecordedStatus::Prepared => Status::Prepared,
                RecordedStatus::Active => Status::Active,
                RecordedStatus::Old => Status::Old,
                RecordedStatus::Tainted => Status::Tainted,
            },
            published: self.published,
            published_at,
            not_before,
            not_after,
            signed_until,
            public,
            id,
        })
    }
}

/// What every state keeps to, so that a journal edited by hand cannot break it.
fn check(state: &State) -> Result<(), String> {
    for kind in [Kind::X509, Kind::Jwt] {
        let all: Vec<_> = state.slots(kind).iter().collect();
        for (at, authority) in all.iter().enumerate() {
            let others = &all[at + 1..];
            let broken = |what: &dyn fmt::Display| Err(format!("{kind} authorities: {what}"));
            if others.iter().any(|other| other.id == authority.id) {
                return broken(&format_args!("{:?} is listed twice", authority.id));
            }
            let in_charge = matches!(authority.status, Status::Active | Status::Prepared);
            if in_charge && others.iter().any(|other| other.status == authority.status) {
                return broken(&format_args!("two are {}", authority.status));
            }
            if authority.slot.is_some() && others.iter().any(|other| other.slot == authority.slot) {
                return broken(&"two have the same slot");
            }
            if in_charge && authority.slot.is_none() {
                return broken(&format_args!("the {} one has no slot", authority.status));
            }
            if authority.published > state.sequence || authority.published == 0 {
                return broken(&"one is newer than the bundle");
            }
        }
    }
    Ok(())
}
