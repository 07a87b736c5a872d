//! ID: SPIFFE IDs at the edges, as subjects of tokens and as names in certificates, each well signed.

use crate::conformance::stage::{Stage, Verdict};
use crate::conformance::tokens::{Keys, Token};
use crate::conformance::with_x509::{Role, accepts, rejects};
use crate::conformance::{Entry, Level, expect};
use crate::outcome::Trouble;

pub(crate) fn entries() -> Vec<Entry> {
    let entry = |rule: &'static str, what: &'static str, run: Run, (name, id): (&str, String)| {
        [(false, ""), (true, "/x509")].map(|(in_certificate, suffix)| {
            let id = id.clone();
            let name = format!("{rule}/{name}{suffix}");
            Entry::on_stage(name, Level::Must, what, move |stage| {
                run(stage, &id, in_certificate)
            })
        })
    };
    let bad = BAD.iter().map(|(name, id)| (*name, (*id).to_owned()));
    let bad = bad.flat_map(|it| entry("ID-1", "rejects a malformed SPIFFE ID", is_rejected, it));
    let good = GOOD.iter().map(|(name, id)| (*name, (*id).to_owned()));
    let good = good.chain([("2048-bytes", longest())]);
    let good =
        good.flat_map(|it| entry("ID-2", "accepts a SPIFFE ID at the edge", is_accepted, it));
    bad.chain(good).collect()
}

type Run = fn(&Stage, &str, bool) -> Result<(), Trouble>;

const BAD: &[(&str, &str)] = &[
    ("no-trust-domain", "spiffe:///a"),
    ("port", "spiffe://example.org:8080/a"),
    ("userinfo", "spiffe://user@example.org/a"),
    ("query", "spiffe://example.org/a?x=1"),
    ("fragment", "spiffe://example.org/a#f"),
    ("percent-encoding", "spiffe://example.org/%41"),
    ("empty-segment", "spiffe://example.org/a//b"),
    ("dot-segment", "spiffe://example.org/a/./b"),
    ("dot-dot-segment", "spiffe://example.org/a/../b"),
    ("trailing-slash", "spiffe://example.org/a/"),
    ("path-character", "spiffe://example.org/a!b"),
    ("trust-domain-character", "spiffe://ex$mple.org/a"),
];

const GOOD: &[(&str, &str)] = &[
    ("path-characters", "spiffe://example.org/Ab.c-d_9/..."),
    ("trust-domain-characters", "spiffe://td_1.example/a"),
    ("ipv4-like", "spiffe://10.0.0.1/a"),
];

/// The longest ID that is to be supported: SPIFFE-ID §2.3.
fn longest() -> String {
    let start = "spiffe://example.org/";
    format!("{start}{}", "a".repeat(2048 - start.len()))
}

fn is_own(id: &str) -> bool {
    id.starts_with("spiffe://example.org/")
}

fn is_rejected(stage: &Stage, id: &str, in_certificate: bool) -> Result<(), Trouble> {
    let running = stage.start()?;
    if in_certificate {
        accepts(&running, Role::Server, &stage.good)?;
        return rejects(&running, Role::Server, &stage.authority.svid(id)?);
    }
    let key = &Keys::get().p256;
    let good = "spiffe://example.org/a";
    let token = |id: &str| Token::new(id, key, "ES256").sign();
    let wanted = Verdict::Accepted(good.into());
    expect(
        "a good subject",
        &running.judge_token(&token(good))?,
        &wanted,
    )?;
    expect(
        "a bad subject",
        &running.judge_token(&token(id))?,
        &Verdict::Rejected,
    )
}

fn is_accepted(stage: &Stage, id: &str, in_certificate: bool) -> Result<(), Trouble> {
    let running = stage.start()?;
    if in_certificate {
        let authority = if is_own(id) {
            &stage.authority
        } else {
            &stage.federated
        };
        return accepts(&running, Role::Server, &authority.svid(id)?);
    }
    let key = if is_own(id) {
        &Keys::get().p256
    } else {
        &Keys::get().federated
    };
    let token = Token::new(id, key, "ES256").sign();
    let wanted = Verdict::Accepted(id.into());
    expect("a good subject", &running.judge_token(&token)?, &wanted)
}
