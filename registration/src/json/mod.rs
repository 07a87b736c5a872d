//! Entries as the JSON that SPIRE's `entry create -data` reads and `entry show -output json` prints.
//!
//! The two differ in a few places and both forms are read: a SPIFFE ID is a text or `{"trust_domain", "path"}`, a 64-bit
//! number may be a text, and `entry_id`, `entry_expiry` (or `entryExpiry`) and `storeSvid` are other names of `id`, `expires_at` and `store_svid`. As in
//! protobuf's JSON an empty or zero value is the same as none. `ttl` is the older name of `x509_svid_ttl`.

use std::time::Duration;

use serde_json::{Map, Value};
use spiffe_core::{SpiffeId, Timestamp, TrustDomain};

use crate::entry::{Entry, EntryParams};
use crate::keys::{ParseEntryError, ParseEntryErrorKind as Kind};
use crate::selector::Selector;

/// Parses `{"entries": […]}`. `draw_id` names the entries that have no ID.
///
/// # Errors
///
/// [`ParseEntryError`] names the entry and the key.
pub fn entries_from_json(
    json: &[u8],
    mut draw_id: impl FnMut() -> String,
) -> Result<Vec<Entry>, ParseEntryError> {
    let document: Value = serde_json::from_slice(json).map_err(|error| Kind::Json {
        reason: error.to_string(),
    })?;
    let document = object("document", &document)?;
    // `next_page_token` comes with what SPIRE prints.
    known(document, &["entries", "next_page_token"])?;
    let entries = document
        .get("entries")
        .ok_or(Kind::Missing { key: "entries" })?;
    array("entries", entries)?
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            params(entry)
                .and_then(|params| Ok(Entry::new(params, &mut draw_id)?))
                .map_err(|kind| ParseEntryError::at(index, kind))
        })
        .collect()
}

fn params(entry: &Value) -> Result<EntryParams, Kind> {
    let entry = object("entry", entry)?;
    known(entry, &KEYS)?;
    let get = |names: &'static [&'static str]| field(entry, names);
    let (key, value) = get(&["spiffe_id"])?.ok_or(Kind::Missing { key: "spiffe_id" })?;
    let mut params = EntryParams::new(spiffe_id(key, value)?, Vec::new());
    if let Some((key, value)) = get(&["selectors"])? {
        params.selectors = array(key, value)?
            .iter()
            .map(|value| selector(key, value))
            .collect::<Result<_, _>>()?;
    }
    if let Some((key, value)) = get(&["parent_id"])?.filter(|(_, value)| *value != "") {
        params.parent_id = Some(spiffe_id(key, value)?);
    }
    if let Some((key, value)) = get(&["federates_with"])? {
        params.federates_with = texts(key, value)?
            .into_iter()
            .map(|text| {
                TrustDomain::from_name_or_id(text).map_err(|reason| Kind::Id {
                    key,
                    value: text.to_owned(),
                    what: "trust domain",
                    reason,
                })
            })
            .collect::<Result<_, _>>()?;
    }
    if let Some((key, value)) = get(&["dns_names"])? {
        params.dns_names = texts(key, value)?.into_iter().map(str::to_owned).collect();
    }
    let flag = |names| get(names)?.map_or(Ok(false), |(key, value)| boolean(key, value));
    let number = |names| get(names)?.map_or(Ok(0), |(key, value)| integer(key, value));
    let nonempty = |names| -> Result<Option<String>, Kind> {
        let text = get(names)?
            .map(|(key, value)| text(key, value))
            .transpose()?;
        Ok(text.filter(|text| !text.is_empty()).map(str::to_owned))
    };
    let some = |number: u64| (number != 0).then_some(number);
    // Saturates at the end of the calendar.
    let time = |seconds| Timestamp::from_unix(Duration::from_secs(seconds));
    params.entry_id = nonempty(&["id", "entry_id"])?;
    params.x509_svid_ttl = some(number(&["x509_svid_ttl", "ttl"])?).map(Duration::from_secs);
    params.jwt_svid_ttl = some(number(&["jwt_svid_ttl"])?).map(Duration::from_secs);
    params.hint = nonempty(&["hint"])?;
    params.admin = flag(&["admin"])?;
    params.downstream = flag(&["downstream"])?;
    params.store_svid = flag(&["store_svid", "storeSvid"])?;
    params.expires_at = some(number(&["expires_at", "entry_expiry", "entryExpiry"])?).map(time);
    params.created_at = some(number(&["created_at"])?).map(time);
    params.revision = number(&["revision_number"])?;
    if let Some((key, value)) =
        get(&["additional_attributes"])?.filter(|(_, value)| !value.is_null())
    {
        let attributes = object(key, value)?;
        known(attributes, &ATTRIBUTES)?;
        let flag = |name| {
            attributes
                .get(name)
                .map_or(Ok(false), |value| boolean(name, value))
        };
        params.disable_x509_svid_prefetch = flag(ATTRIBUTES[0])?;
        params.jwt_svid_include_jti = flag(ATTRIBUTES[1])?;
    }
    Ok(params)
}

/// The value under one of a key's names, and the name found.
fn field<'a>(
    entry: &'a Map<String, Value>,
    names: &'static [&'static str],
) -> Result<Option<(&'static str, &'a Value)>, Kind> {
    let mut found = names
        .iter()
        .filter_map(|name| Some((*name, entry.get(*name)?)));
    let first = found.next();
    match found.next() {
        None => Ok(first),
        Some((key, _)) => Err(Kind::Repeated {
            key: key.to_owned(),
        }),
    }
}

fn known(object: &Map<String, Value>, keys: &[&'static str]) -> Result<(), Kind> {
    match object.keys().find(|key| !keys.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(Kind::unknown(key, keys.iter().copied())),
    }
}

fn spiffe_id(key: &'static str, value: &Value) -> Result<SpiffeId, Kind> {
    let id = match value {
        Value::String(id) => id.clone(),
        value => {
            let parts = object(key, value).map_err(|_| Kind::value(key, "a SPIFFE ID"))?;
            known(parts, &["trust_domain", "path"])?;
            let part = |name| parts.get(name).map_or(Ok(""), |value| text(name, value));
            format!("spiffe://{}{}", part("trust_domain")?, part("path")?)
        }
    };
    SpiffeId::parse(&id).map_err(|reason| Kind::Id {
        key,
        value: id,
        what: "SPIFFE ID",
        reason,
    })
}

fn selector(key: &'static str, value: &Value) -> Result<Selector, Kind> {
    let parts = object(key, value)
        .map_err(|_| Kind::value(key, "a list of {\"type\", \"value\"} objects"))?;
    known(parts, &["type", "value"])?;
    let part = |name| parts.get(name).map_or(Ok(""), |value| text(name, value));
    Selector::new(part("type")?, part("value")?).map_err(|reason| Kind::Selector { key, reason })
}

fn object<'a>(key: &str, value: &'a Value) -> Result<&'a Map<String, Value>, Kind> {
    value
        .as_object()
        .ok_or_else(|| Kind::value(key, "an object"))
}

fn array<'a>(key: &str, value: &'a Value) -> Result<&'a [Value], Kind> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Null => Ok(&[]),
        _ => Err(Kind::value(key, "a list")),
    }
}

fn texts<'a>(key: &str, value: &'a Value) -> Result<Vec<&'a str>, Kind> {
    let texts = array(key, value)?
        .iter()
        .map(Value::as_str)
        .collect::<Option<_>>();
    texts.ok_or_else(|| Kind::value(key, "a list of texts"))
}

fn text<'a>(key: &str, value: &'a Value) -> Result<&'a str, Kind> {
    value.as_str().ok_or_else(|| Kind::value(key, "a text"))
}

fn boolean(key: &str, value: &Value) -> Result<bool, Kind> {
    value
        .as_bool()
        .ok_or_else(|| Kind::value(key, "true or false"))
}

fn integer(key: &str, value: &Value) -> Result<u64, Kind> {
    // Protobuf's JSON writes 64-bit numbers as texts.
    let digits = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse().ok())
            .flatten()
    };
    value
        .as_u64()
        .or_else(|| value.as_str().and_then(digits))
        .ok_or_else(|| Kind::value(key, "a whole number, not negative"))
}

const KEYS: [&str; 21] = [
    "additional_attributes",
    "admin",
    "created_at",
    "dns_names",
    "downstream",
    "entryExpiry",
    "entry_expiry",
    "entry_id",
    "expires_at",
    "federates_with",
    "hint",
    "id",
    "jwt_svid_ttl",
    "parent_id",
    "revision_number",
    "selectors",
    "spiffe_id",
    "storeSvid",
    "store_svid",
    "ttl",
    "x509_svid_ttl",
];

const ATTRIBUTES: [&str; 2] = ["disable_x509_svid_prefetch", "jwt_svid_include_jti"];

#[cfg(test)]
mod tests;
