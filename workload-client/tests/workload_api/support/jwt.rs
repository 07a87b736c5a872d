//! A trust domain's JWT authority, and tokens and bundles in the Workload API's form.

use std::sync::Arc;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use spiffe_proto::workload::{JwtBundlesResponse, Jwtsvid, JwtsvidResponse};
use spiffe_workload_client::spiffe_core::Timestamp;
use spiffe_workload_client::spiffe_core::bundle::{JwtAuthorities, JwtAuthority};
use spiffe_workload_client::spiffe_core::crypto::aws_lc_rs;
use spiffe_workload_client::spiffe_core::key::{KeyType, Signer};

pub(crate) struct JwtCa {
    trust_domain: &'static str,
    signer: Arc<dyn Signer>,
}

impl JwtCa {
    pub(crate) fn new(trust_domain: &'static str) -> Self {
        let crypto = aws_lc_rs();
        let key = crypto.generate_key(KeyType::EcP256).unwrap();
        Self {
            trust_domain,
            signer: crypto.load_key(&key).unwrap(),
        }
    }

    /// A token of `path` for `audiences`, valid from `now` for `life`.
    pub(crate) async fn token(
        &self,
        path: &str,
        audiences: &[&str],
        now: Timestamp,
        life: Duration,
    ) -> Jwtsvid {
        let spiffe_id = format!("spiffe://{}{path}", self.trust_domain);
        let (iat, exp) = (now.unix_seconds(), (now + life).unix_seconds());
        let claims =
            format!(r#"{{"sub":"{spiffe_id}","aud":{audiences:?},"iat":{iat},"exp":{exp}}}"#);
        let header = Base64UrlUnpadded::encode_string(br#"{"alg":"ES256","kid":"k"}"#);
        let signed = format!(
            "{header}.{}",
            Base64UrlUnpadded::encode_string(claims.as_bytes())
        );
        let signature = self.signer.sign(signed.as_bytes()).await.unwrap();
        Jwtsvid {
            spiffe_id,
            svid: format!("{signed}.{}", Base64UrlUnpadded::encode_string(&signature)),
            hint: String::new(),
        }
    }

    /// The entry of a bundles message.
    pub(crate) fn bundle(&self) -> (String, Vec<u8>) {
        let authority = JwtAuthority::new("k", self.signer.public_key().clone()).unwrap();
        let jwks = JwtAuthorities::from_iter([authority]).to_workload_api_jwks();
        (format!("spiffe://{}", self.trust_domain), jwks.into_bytes())
    }
}

pub(crate) fn tokens(svids: impl IntoIterator<Item = Jwtsvid>) -> JwtsvidResponse {
    JwtsvidResponse {
        svids: svids.into_iter().collect(),
    }
}

pub(crate) fn bundles(entries: impl IntoIterator<Item = (String, Vec<u8>)>) -> JwtBundlesResponse {
    JwtBundlesResponse {
        bundles: entries.into_iter().collect(),
    }
}
