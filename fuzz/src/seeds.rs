//! What each target starts from: at least one input that is good and one for each way to be refused.

use base64ct::{Base64, Encoding};
use spiffe_core::bundle::certificates_to_pem;

use crate::frames::frame_seeds;
use crate::messages::{message_seeds, x509_message};
use crate::tokens::{CLAIMS, jwk_members, signed, url64};
use crate::{World, joined};

/// One input of one target.
#[derive(Debug)]
pub struct Seed {
    /// The target.
    pub target: &'static str,
    /// The input.
    pub bytes: Vec<u8>,
}

/// Every seed of every target.
pub fn seeds() -> Vec<Seed> {
    let world = World::new();
    let mut seeds = Vec::new();
    let mut add = |target, bytes: Vec<u8>| seeds.push(Seed { target, bytes });
    for text in IDS {
        add("spiffe_id", (*text).into());
    }
    for text in POLICIES {
        // The policy, and an ID that is judged by it.
        for id in ["spiffe://a/ns/x", "spiffe://b/y"] {
            add("policy", format!("{text}\0{id}").into());
        }
    }
    for text in documents(&world) {
        add("bundle_json", text.clone().into());
        add(
            "bundle_json",
            format!(r#"{{"trust_domains":{{"a":{text}}}}}"#).into(),
        );
        add("jwks", text.replace(r#""use":"jwt-svid","#, "").into());
        add("jwks", text.into());
    }
    for claims in [
        CLAIMS.to_owned(),
        CLAIMS.replace("1795000300", "1"),
        CLAIMS.replace("spiffe://a", "spiffe://b"),
        CLAIMS.replace("db", "dB"),
        CLAIMS.replace(r#""iat""#, r#""nbf""#),
        r#"{"sub":"spiffe://a/x"}"#.to_owned(),
    ] {
        add("jwt_svid", signed(&claims).into());
    }
    let unsigned = format!("{}.{}.", url64(r#"{"alg":"none"}"#), url64(CLAIMS));
    add("jwt_svid", unsigned.into());
    for chain in [&world.chain, &world.other]
        .into_iter()
        .chain(&world.refused)
    {
        add("verify_chain", joined(chain));
        add("x509_svid", joined(chain));
        add("x509_svid", joined(&chain[..1]));
        add("pem", certificates_to_pem(chain).into());
    }
    for which in 0..3 {
        for said in frame_seeds(&x509_message(&world, &world.authorities[1])) {
            add("workload_frames", [&[which], &said[..]].concat());
        }
    }
    for message in message_seeds(&world) {
        add("workload_update", message);
    }
    let key = Base64::encode_string(world.key().secret_pkcs8_der());
    let key = format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n");
    add(
        "pem",
        format!("text\n{key}{}", certificates_to_pem(&world.chain)).into(),
    );
    add("pem", key.into());
    seeds
}

fn documents(world: &World) -> [String; 4] {
    let jwt = format!(r#"{{"use":"jwt-svid",{}}}"#, jwk_members());
    let x5c = Base64::encode_string(&world.authorities[0]);
    let x509 = format!(r#"{{"use":"x509-svid","kty":"OKP","x5c":["{x5c}"]}}"#);
    let rsa = url64([0xff; 256]);
    [
        r#"{"keys":[]}"#.into(),
        format!(r#"{{"keys":[{x509},{jwt}],"spiffe_sequence":7,"spiffe_refresh_hint":300}}"#),
        format!(
            r#"{{"keys":[{{"use":"jwt-svid","kid":"r","kty":"RSA","alg":"PS256","e":"AQAB","n":"{rsa}"}},{jwt},{jwt}]}}"#
        ),
        r#"{"keys":[{"kty":"AKP","use":"odd"},{"kid":"","x5c":[],"n":null,"e":1.5e3}],"more":{"\u0061":[true]}}"#
            .into(),
    ]
}

const IDS: &[&str] = &[
    "spiffe://a",
    "spiffe://trust_domain-1.x/Foo/bar_baz-1.2",
    "spiffe://1.2.3.4/ns/staging/sa/default",
    "SPIFFE://Example.ORG/Path",
    "spiffe://a/../b",
    "spiffe://a//b/",
    "spiffe://a:80/x?y#z",
    "spiffe://a/%2e%2e",
];

const POLICIES: &[&str] = &[
    "any",
    "id:spiffe://a/ns/x",
    "ids:spiffe://a/ns/x,spiffe://b/y",
    "domain:a",
    "prefix:spiffe://a/ns/",
    "pattern:spiffe://a/*/x",
    "pattern:spiffe://a/ns/**",
    "id:spiffe://c/z|domain:b|prefix:spiffe://a/ns/",
];
