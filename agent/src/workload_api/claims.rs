//! Claims of a JWT-SVID as `google.protobuf.Struct`: SPIFFE Workload API §6.2.3.
//!
//! The form has one kind of number, a double: integers beyond 2^53 lose their last digits. Whoever needs them exactly verifies
//! the token itself.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::Value as Json;
use spiffe_core::JwtSvid;
use spiffe_core::svid::ClaimsError;

/// Every claim of a verified token. `aud` is a list, also where the token has a single string.
///
/// # Errors
///
/// [`ClaimsError`] never for a token that was verified, whose claims are a JSON object.
pub(super) fn claims(svid: &JwtSvid) -> Result<Struct, ClaimsError> {
    let mut claims: serde_json::Map<String, Json> = svid.claims()?;
    claims.insert("aud".into(), svid.audience().to_vec().into());
    Ok(object(claims))
}

fn object(members: serde_json::Map<String, Json>) -> Struct {
    Struct {
        fields: members
            .into_iter()
            .map(|(name, member)| (name, value(member)))
            .collect(),
    }
}

fn value(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        // Every number that this reader takes is in the range of doubles.
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(items) => Kind::ListValue(ListValue {
            values: items.into_iter().map(value).collect(),
        }),
        Json::Object(members) => Kind::StructValue(object(members)),
    };
    Value { kind: Some(kind) }
}
