//! JV, JB and JF: tokens that are verified, the key sets that verify them, and tokens that are fetched.

use aws_lc_rs::hmac;
use prost::Message;
use serde_json::{Value, json};

use crate::conformance::api::{Code, Rpc};
use crate::conformance::stage::{FEDERATED, FOREIGN, Running, Stage, Verdict, WORKLOAD};
use crate::conformance::tokens::{
    AUDIENCE, Key, Keys, MINUTES_5, Token, as_json, base64url, now, turn_a_bit,
};
use crate::conformance::wire::{JwtSvid, JwtSvidRequest, JwtSvidResponse};
use crate::conformance::{Entry, Level, expect};
use crate::outcome::{Trouble, ensure};

const FEDERATED_WORKLOAD: &str = "spiffe://fed.example.org/workload";

pub(crate) fn entries() -> Vec<Entry> {
    let verified = TOKENS.iter().map(|(name, what, is_good, make)| {
        Entry::on_stage(*name, Level::Must, what, move |stage| {
            let running = stage.start()?;
            accepts(&running, &good(&Keys::get().p256))?;
            let token = make(Keys::get());
            if *is_good {
                accepts(&running, &token)
            } else {
                rejects(&running, &token)?;
                // It did not just stop accepting, and it did not ask the Workload API.
                accepts(&running, &good(&Keys::get().p256))?;
                let calls = stage.api.calls();
                let delegated = calls.iter().any(|call| call.rpc == Rpc::ValidateJwt);
                ensure(!delegated, || "the Workload API was asked to judge".into())
            }
        })
    });
    verified.chain(bundles()).chain(fetched()).collect()
}

/// Makes a token.
type Make = fn(&Keys) -> String;

/// Name, what the library does, whether the token is good, the token.
const TOKENS: &[(&str, &str, bool, Make)] = &[
    ("JV-1", "accepts a good token", true, |keys| {
        good(&keys.p256)
    }),
    ("JV-2/ES256", "accepts ES256", true, |keys| good(&keys.p256)),
    ("JV-2/ES384", "accepts ES384", true, |keys| {
        with(&keys.p384, "ES384")
    }),
    ("JV-2/ES512", "accepts ES512", true, |keys| {
        with(&keys.p521, "ES512")
    }),
    ("JV-2/RS256", "accepts RS256", true, |keys| {
        with(&keys.rsa, "RS256")
    }),
    ("JV-2/RS384", "accepts RS384", true, |keys| {
        with(&keys.rsa, "RS384")
    }),
    ("JV-2/RS512", "accepts RS512", true, |keys| {
        with(&keys.rsa, "RS512")
    }),
    ("JV-2/PS256", "accepts PS256", true, |keys| {
        with(&keys.rsa, "PS256")
    }),
    ("JV-2/PS384", "accepts PS384", true, |keys| {
        with(&keys.rsa, "PS384")
    }),
    ("JV-2/PS512", "accepts PS512", true, |keys| {
        with(&keys.rsa, "PS512")
    }),
    ("JV-3", "rejects `alg` none", false, |keys| {
        own(&keys.p256).header("alg", "none").unsigned()
    }),
    (
        "JV-4/HS256",
        "rejects HS256 under the public key",
        false,
        |keys| {
            let token = own(&keys.p256).header("alg", "HS256");
            token.sign_with_public_key(hmac::HMAC_SHA256)
        },
    ),
    (
        "JV-4/HS384",
        "rejects HS384 under the public key",
        false,
        |keys| {
            let token = own(&keys.p256).header("alg", "HS384");
            token.sign_with_public_key(hmac::HMAC_SHA384)
        },
    ),
    (
        "JV-4/HS512",
        "rejects HS512 under the public key",
        false,
        |keys| {
            let token = own(&keys.p256).header("alg", "HS512");
            token.sign_with_public_key(hmac::HMAC_SHA512)
        },
    ),
    (
        "JV-5",
        "rejects EdDSA, though its key is in the bundle",
        false,
        |keys| with(&keys.ed25519, "EdDSA"),
    ),
    (
        "JV-6/RS256-EC",
        "rejects RS256 for a key on a curve",
        false,
        |keys| with(&keys.p256, "RS256"),
    ),
    (
        "JV-6/ES384-P256",
        "rejects ES384 for a P-256 key",
        false,
        |keys| with(&keys.p256, "ES384"),
    ),
    ("JV-7", "rejects a token without `aud`", false, |keys| {
        own(&keys.p256).without_claim("aud").sign()
    }),
    ("JV-8", "rejects a token for others", false, |keys| {
        own(&keys.p256).claim("aud", json!(["other"])).sign()
    }),
    (
        "JV-9",
        "accepts a token for itself among others",
        true,
        |keys| {
            own(&keys.p256)
                .claim("aud", json!(["other", AUDIENCE]))
                .sign()
        },
    ),
    ("JV-10", "accepts `aud` as one string", true, |keys| {
        own(&keys.p256).claim("aud", AUDIENCE).sign()
    }),
    ("JV-11", "rejects a token without `exp`", false, |keys| {
        own(&keys.p256).without_claim("exp").sign()
    }),
    ("JV-12", "rejects an expired token", false, |keys| {
        own(&keys.p256).claim("exp", now() - MINUTES_5).sign()
    }),
    (
        "JV-13",
        "rejects a token whose `nbf` is to come",
        false,
        |keys| own(&keys.p256).claim("nbf", now() + MINUTES_5).sign(),
    ),
    ("JV-14", "rejects a changed signature", false, |keys| {
        turn_a_bit(&good(&keys.p256))
    }),
    ("JV-15", "rejects changed claims", false, |keys| {
        let changed = own(&keys.p256).claim("sub", "spiffe://example.org/admin");
        changed.with_signature_of(&good(&keys.p256))
    }),
    (
        "JV-16",
        "rejects a key that is not in the bundle",
        false,
        |keys| good(&keys.other),
    ),
    (
        "JV-17",
        "rejects a foreign subject under an own key",
        false,
        |keys| Token::new(FEDERATED_WORKLOAD, &keys.p256, "ES256").sign(),
    ),
    (
        "JV-18",
        "rejects a trust domain without a bundle",
        false,
        |keys| Token::new("spiffe://other.example.org/workload", &keys.p256, "ES256").sign(),
    ),
    (
        "JV-19",
        "rejects a subject that is no SPIFFE ID",
        false,
        |keys| Token::new("https://example.org/workload", &keys.p256, "ES256").sign(),
    ),
    ("JV-20/JWT", "accepts `typ` JWT", true, |keys| {
        own(&keys.p256).header("typ", "JWT").sign()
    }),
    ("JV-20/JOSE", "accepts `typ` JOSE", true, |keys| {
        own(&keys.p256).header("typ", "JOSE").sign()
    }),
    (
        "JV-20/none",
        "accepts a token without `typ`",
        true,
        |keys| own(&keys.p256).without_header("typ").sign(),
    ),
    ("JV-21", "rejects any other `typ`", false, |keys| {
        own(&keys.p256).header("typ", "at+jwt").sign()
    }),
    ("JV-22", "accepts a token without `kid`", true, |keys| {
        own(&keys.p256).without_header("kid").sign()
    }),
    ("JV-23", "rejects an unknown `crit`", false, |keys| {
        let token = own(&keys.p256).header("crit", json!(["example"]));
        token.header("example", true).sign()
    }),
    ("JV-24", "rejects the JSON serialisation", false, |keys| {
        as_json(&good(&keys.p256))
    }),
    (
        "JV-25/two-parts",
        "rejects a token of two parts",
        false,
        |keys| {
            let token = good(&keys.p256);
            token
                .rsplit_once('.')
                .map_or(String::new(), |(message, _)| message.to_owned())
        },
    ),
    (
        "JV-25/four-parts",
        "rejects a token of four parts",
        false,
        |keys| format!("{}.AAAA", good(&keys.p256)),
    ),
    (
        "JV-25/base64",
        "rejects what is not base64url",
        false,
        |keys| good(&keys.p256).replacen('.', "+/=.", 1),
    ),
    ("JV-25/json", "rejects what is not JSON", false, |keys| {
        let token = good(&keys.p256);
        let (header, _) = token.split_once('.').unwrap_or_default();
        format!(
            "{header}.{}.{}",
            base64url(b"{\"sub\":"),
            base64url(&[1; 64])
        )
    }),
];

/// A token of the own trust domain before it is signed.
fn own(key: &Key) -> Token<'_> {
    Token::new(WORKLOAD, key, "ES256")
}

fn good(key: &Key) -> String {
    own(key).sign()
}

fn with(key: &Key, alg: &str) -> String {
    Token::new(WORKLOAD, key, alg).sign()
}

fn federated(key: &Key) -> String {
    Token::new(FEDERATED_WORKLOAD, key, "ES256").sign()
}

fn accepts(running: &Running, token: &str) -> Result<(), Trouble> {
    match running.judge_token(token)? {
        Verdict::Accepted(_) => Ok(()),
        Verdict::Rejected => Err(Trouble::failed("a good token was rejected")),
    }
}

fn rejects(running: &Running, token: &str) -> Result<(), Trouble> {
    expect(
        "a bad token",
        &running.judge_token(token)?,
        &Verdict::Rejected,
    )
}

/// Asks again and again until the token is accepted: a new key set arrives when it arrives.
fn until_accepted(running: &Running, token: &str) -> Result<(), Trouble> {
    let until = std::time::Instant::now() + KEYS_ARRIVE;
    while std::time::Instant::now() < until {
        if running.judge_token(token)? != Verdict::Rejected {
            return Ok(());
        }
    }
    Err(Trouble::failed(
        "a token of the new key set is not accepted",
    ))
}

fn bundles() -> Vec<Entry> {
    use Level::{Must, Opt, Should};
    let keys = Keys::get;
    vec![
        Entry::on_stage(
            "JB-1",
            Must,
            "takes up a key that was added",
            move |stage| {
                let running = stage.start()?;
                accepts(&running, &good(&keys().p256))?;
                rejects(&running, &good(&keys().other))?;
                stage.say_keys(&[keys().p256.jwk(), keys().other.jwk()]);
                until_accepted(&running, &good(&keys().other))?;
                accepts(&running, &good(&keys().p256))
            },
        ),
        Entry::on_stage("JB-2", Must, "drops a key that was removed", move |stage| {
            stage.say_keys(&[keys().p256.jwk()]);
            let running = stage.start()?;
            accepts(&running, &good(&keys().p256))?;
            stage.say_keys(&[keys().other.jwk()]);
            until_accepted(&running, &good(&keys().other))?;
            rejects(&running, &good(&keys().p256))
        }),
        Entry::on_stage(
            "JB-3",
            Should,
            "drops a trust domain whose bundle was removed",
            move |stage| {
                let running = stage.start()?;
                accepts(&running, &federated(&keys().federated))?;
                stage.say_bundles(&[keys().other.jwk()], &[], &[]);
                until_accepted(&running, &good(&keys().other))?;
                rejects(&running, &federated(&keys().federated))
            },
        ),
        Entry::on_stage("JB-4", Must, "picks the key by `kid`", move |stage| {
            let all = [&keys().p256, &keys().other, &keys().federated].map(|key| key.jwk());
            stage.say_keys(&all);
            let running = stage.start()?;
            accepts(&running, &good(&keys().other))?;
            rejects(&running, &own(&keys().p256).header("kid", "other").sign())
        }),
        Entry::on_stage(
            "JB-5/x509-svid-use",
            Must,
            "ignores a key for another use",
            move |stage| {
                let mut jwk = keys().other.jwk();
                jwk["use"] = "x509-svid".into();
                is_ignored_among_keys(stage, jwk)
            },
        ),
        Entry::on_stage(
            "JB-5/missing-use",
            Opt,
            "ignores a key without a use",
            move |stage| {
                let mut jwk = keys().other.jwk();
                if let Some(members) = jwk.as_object_mut() {
                    members.remove("use");
                }
                is_ignored_among_keys(stage, jwk)
            },
        ),
        Entry::on_stage(
            "JB-6",
            Must,
            "ignores a key of an unknown type, not those beside it",
            move |stage| {
                let running = stage.start()?;
                accepts(&running, &good(&keys().p256))?;
                rejects(&running, &good(&keys().other))?;
                let unknown = json!({"kty": "LATTICE", "kid": "new", "use": "jwt-svid", "l": "AQ"});
                stage.say_keys(&[unknown, keys().other.jwk()]);
                until_accepted(&running, &good(&keys().other))
            },
        ),
        Entry::on_stage(
            "JB-7",
            Must,
            "trusts no key when `keys` is empty",
            move |stage| {
                let running = stage.start()?;
                accepts(&running, &good(&keys().p256))?;
                stage.say_bundles(&[], &[FEDERATED], &[keys().other.jwk()]);
                until_accepted(&running, &federated(&keys().other))?;
                rejects(&running, &good(&keys().p256))
            },
        ),
        Entry::on_stage(
            "JB-8",
            Must,
            "verifies a federated token with its own bundle",
            move |stage| {
                stage.say_bundles(&[keys().p256.jwk()], &FOREIGN, &[keys().federated.jwk()]);
                let running = stage.start()?;
                accepts(&running, &federated(&keys().federated))?;
                rejects(&running, &federated(&keys().p256))?;
                accepts(&running, &federated(&keys().federated))
            },
        ),
    ]
}

/// A key set with `jwk`, which is `other`'s: its tokens are rejected and those of its neighbour are not.
fn is_ignored_among_keys(stage: &Stage, jwk: Value) -> Result<(), Trouble> {
    stage.say_keys(&[Keys::get().p256.jwk(), jwk]);
    let running = stage.start()?;
    accepts(&running, &good(&Keys::get().p256))?;
    rejects(&running, &good(&Keys::get().other))
}

fn fetched() -> Vec<Entry> {
    use Level::{Must, Opt};
    vec![
        Entry::on_stage(
            "JF-1",
            Must,
            "asks for the audience and returns the token",
            |stage| asks_for(stage, &[AUDIENCE], ""),
        ),
        Entry::on_stage(
            "JF-2",
            Must,
            "asks for several audiences as they are",
            |stage| asks_for(stage, &["orders", AUDIENCE, "billing"], ""),
        ),
        Entry::on_stage("JF-3", Opt, "asks for one SPIFFE ID", |stage| {
            asks_for(stage, &[AUDIENCE], WORKLOAD)
        }),
        Entry::on_stage(
            "JF-4",
            Opt,
            "tells of PERMISSION_DENIED, with no old token instead",
            |stage| {
                let running = stage.start()?;
                fetch(stage, &running, &[AUDIENCE], "")?;
                stage.api.answer_jwt(Err(Code::PermissionDenied));
                let request = json!({"audience": [AUDIENCE], "spiffe_id": ""});
                let answer = running.post("/v1/jwt/fetch", &request)?;
                ensure(answer.status == 500 || answer.status == 422, || {
                    format!("{} was answered", answer.status)
                })
            },
        ),
    ]
}

fn asks_for(stage: &Stage, audiences: &[&str], id: &str) -> Result<(), Trouble> {
    let running = stage.start()?;
    fetch(stage, &running, audiences, id)?;
    let calls = stage.api.calls();
    let call = calls.iter().find(|call| call.rpc == Rpc::JwtSvid);
    let request = call.and_then(|call| JwtSvidRequest::decode(call.request.clone()).ok());
    let wanted = JwtSvidRequest {
        audience: audiences.iter().map(|&audience| audience.into()).collect(),
        spiffe_id: id.into(),
    };
    expect("the request", &request, &Some(wanted))
}

/// Fetches a token through the harness and checks that it is the one that the Workload API gave.
fn fetch(stage: &Stage, running: &Running, audiences: &[&str], id: &str) -> Result<(), Trouble> {
    let token = own(&Keys::get().p256).claim("aud", json!(audiences)).sign();
    stage.api.answer_jwt(Ok(&JwtSvidResponse {
        svids: vec![JwtSvid {
            spiffe_id: WORKLOAD.into(),
            svid: token.clone(),
        }],
    }));
    let request = json!({"audience": audiences, "spiffe_id": id});
    let answer = running.post("/v1/jwt/fetch", &request)?;
    answer.verdict()?;
    let svid = &answer.body["svids"][0];
    expect("the token", &svid["token"], &Value::from(token))?;
    expect("its ID", &svid["spiffe_id"], &Value::from(WORKLOAD))
}

/// How long a key set may take from the Workload API to the verifier.
const KEYS_ARRIVE: std::time::Duration = std::time::Duration::from_secs(5);
