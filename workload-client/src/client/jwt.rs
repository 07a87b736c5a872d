//! The JWT profile's calls: Workload API §6.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use spiffe_core::{JwtSvid, SpiffeId};
use spiffe_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, ValidateJwtsvidRequest,
};

use super::{Responses, WorkloadApiClient};
use crate::error::ClientError;
use crate::update::{self, JwtBundleReader, JwtBundles, empty, id};

/// The largest answer about one token that is taken: claims in memory are up to fifty times as large as on the wire.
pub const MAX_CLAIMS_BYTES: usize = 1024 * 1024;

impl WorkloadApiClient {
    /// Tokens of the workload's identities, or of `id` alone, that name all of `audiences`: FetchJWTSVID. The first is
    /// the default identity's.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; [`ClientError::PermissionDenied`] when the workload has no such identity, and
    /// [`ClientError::InvalidArgument`] without an audience (Workload API §6.2.1).
    pub async fn fetch_jwt_svids<A: Into<String>>(
        &self,
        audiences: impl IntoIterator<Item = A>,
        id: Option<&SpiffeId>,
    ) -> Result<Vec<JwtSvid>, ClientError> {
        let audiences: Vec<String> = audiences.into_iter().map(Into::into).collect();
        let mut stub = self.stub();
        let answer = stub.fetch_jwtsvid(JwtsvidRequest {
            audience: audiences.clone(),
            spiffe_id: id.map(ToString::to_string).unwrap_or_default(),
        });
        let response = self.call("FetchJWTSVID", self.answer_by(), answer).await?;
        Ok(update::jwt_svids(response.into_inner(), &audiences, id)?)
    }

    /// The JWT bundles now: the first message of FetchJWTBundles.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn fetch_jwt_bundles(&self) -> Result<JwtBundles, ClientError> {
        self.watch_jwt_bundles().await?.next().await
    }

    /// Follows the JWT bundles: FetchJWTBundles.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn watch_jwt_bundles(&self) -> Result<JwtBundleUpdates, ClientError> {
        Ok(JwtBundleUpdates {
            responses: self.open_jwt_bundles().await?,
            reader: JwtBundleReader::new(self.crypto().clone()),
        })
    }

    pub(crate) async fn open_jwt_bundles(
        &self,
    ) -> Result<Responses<JwtBundlesResponse>, ClientError> {
        let mut stub = self.stub();
        let answer = stub.fetch_jwt_bundles(JwtBundlesRequest {});
        self.open("FetchJWTBundles", answer).await
    }

    /// Lets the Workload API judge a token: ValidateJWTSVID. `audience` is the one this workload goes by.
    ///
    /// # Errors
    ///
    /// [`ClientError::InvalidArgument`] says why the token is refused: Workload API §6.2.3.
    pub async fn validate_jwt_svid(
        &self,
        token: &str,
        audience: &str,
    ) -> Result<ValidatedJwt, ClientError> {
        let limit = self.inner.max_message_bytes.min(MAX_CLAIMS_BYTES);
        let mut stub = self.stub().max_decoding_message_size(limit);
        let answer = stub.validate_jwtsvid(ValidateJwtsvidRequest {
            audience: audience.into(),
            svid: token.into(),
        });
        let response = self
            .call("ValidateJWTSVID", self.answer_by(), answer)
            .await?
            .into_inner();
        if response.spiffe_id.is_empty() {
            return Err(empty("spiffe_id").into());
        }
        let claims = response.claims.ok_or_else(|| empty("claims"))?;
        if claims.fields.is_empty() {
            return Err(empty("claims").into());
        }
        let named = |(name, value)| (name, ClaimValue::from_wire(value));
        Ok(ValidatedJwt {
            id: id("spiffe_id".into(), &response.spiffe_id)?,
            claims: claims.fields.into_iter().map(named).collect(),
        })
    }
}

/// A stream of JWT bundles; each update replaces the one before it whole.
#[derive(Debug)]
pub struct JwtBundleUpdates {
    responses: Responses<JwtBundlesResponse>,
    reader: JwtBundleReader,
}

impl JwtBundleUpdates {
    /// The next update.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no update.
    ///
    /// # Errors
    ///
    /// After [`ClientError::Response`] the stream goes on, after any other error it has ended.
    pub async fn next(&mut self) -> Result<JwtBundles, ClientError> {
        let response = self.responses.next().await?;
        Ok(self.reader.read(response)?)
    }
}

/// What the Workload API says of a good token.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedJwt {
    id: SpiffeId,
    claims: BTreeMap<String, ClaimValue>,
}

impl ValidatedJwt {
    /// The token's subject.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The token's claims; a server may leave out others than `sub`, `aud` and `exp`.
    pub fn claims(&self) -> &BTreeMap<String, ClaimValue> {
        &self.claims
    }
}

/// The value of a claim as the Workload API carries it.
///
/// Numbers travel as IEEE 754 doubles: integers beyond 2^53 are rounded on the way.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ClaimValue {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// Values in order.
    List(Vec<Self>),
    /// Values by name.
    Object(BTreeMap<String, Self>),
}

impl ClaimValue {
    /// Nesting is bounded by the message decoder, which refuses more than a hundred levels.
    fn from_wire(value: prost_types::Value) -> Self {
        match value.kind {
            None | Some(Kind::NullValue(_)) => Self::Null,
            Some(Kind::BoolValue(value)) => Self::Bool(value),
            Some(Kind::NumberValue(value)) => Self::Number(value),
            Some(Kind::StringValue(value)) => Self::Text(value),
            Some(Kind::ListValue(list)) => {
                Self::List(list.values.into_iter().map(Self::from_wire).collect())
            }
            Some(Kind::StructValue(object)) => Self::Object(
                object
                    .fields
                    .into_iter()
                    .map(|(name, value)| (name, Self::from_wire(value)))
                    .collect(),
            ),
        }
    }
}
