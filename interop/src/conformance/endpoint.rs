//! EP and WA: how the library finds its Workload API, and what it does with what is said there.

use std::time::Duration;

use crate::conformance::api::{Call, Code, Rpc};
use crate::conformance::certificates::Svid;
use crate::conformance::stage::{PEER, Running, Seen, Stage, TRUST_DOMAIN, Update, WORKLOAD};
use crate::conformance::tokens::{AUDIENCE, Keys, Token};
use crate::conformance::wire::{JwtSvid, JwtSvidResponse};
use crate::conformance::{Entry, Level, expect};
use crate::outcome::{Trouble, ensure};
use crate::world::SOON;

pub(crate) fn entries() -> Vec<Entry> {
    use Level::{Must, Opt, Should};
    let mut all = vec![
        Entry::on_stage(
            "EP-1",
            Must,
            "finds the endpoint through SPIFFE_ENDPOINT_SOCKET",
            |stage| stage.start().map(drop),
        ),
        Entry::on_stage(
            "EP-2",
            Must,
            "sends `workload.spiffe.io: true` with every call",
            every_call_has_the_header,
        ),
        Entry::new("EP-3", Should, "takes a tcp:// endpoint", |harness| {
            let stage = Stage::new(harness)?;
            let address = stage.api.listen_tcp()?;
            stage.spawn(&format!("tcp://{address}"))?.ready(SOON)?;
            Ok(())
        }),
        Entry::on_stage(
            "EP-4/unix-authority",
            Opt,
            "refuses a unix:// endpoint with an authority",
            |stage| refused(stage, &format!("unix://host{}", stage.socket().display())),
        ),
        Entry::on_stage(
            "EP-4/tcp-path",
            Opt,
            "refuses a tcp:// endpoint with a path",
            |stage| {
                let address = stage.api.listen_tcp()?;
                refused(stage, &format!("tcp://{address}/path"))
            },
        ),
        Entry::on_stage(
            "EP-5",
            Should,
            "asks again, more slowly, after UNAVAILABLE",
            |stage| asks_again_after(stage, Code::Unavailable),
        ),
        Entry::on_stage(
            "EP-6",
            Should,
            "asks again, more slowly, after PERMISSION_DENIED",
            |stage| asks_again_after(stage, Code::PermissionDenied),
        ),
        Entry::on_stage(
            "EP-7",
            Should,
            "does not ask again after INVALID_ARGUMENT",
            |stage| {
                let asks = |rpc: Rpc, calls: &[Call]| {
                    let calls = calls.iter().filter(|call| call.rpc == rpc);
                    calls.count()
                };
                let both = [Rpc::X509Svid, Rpc::JwtBundles];
                let running = stage.start()?;
                let asked = |calls: &[Call]| both.iter().all(|rpc| asks(*rpc, calls) > 0);
                ensure(stage.api.wait_for_calls(SOON, asked), || {
                    "it asks for no bundles, so nothing shows that it asks once".into()
                })?;
                drop(running);
                stage.api.end_x509(Code::InvalidArgument);
                stage.api.end_jwt_bundles(Code::InvalidArgument);
                let before = stage.api.calls().len();
                let _harness = stage.spawn(&format!("unix://{}", stage.socket().display()))?;
                ensure(
                    stage.api.wait_for_calls(SOON, |calls| calls.len() > before),
                    || "nothing was ever asked".into(),
                )?;
                let repeated =
                    |calls: &[Call]| both.iter().any(|rpc| asks(*rpc, &calls[before..]) > 1);
                ensure(!stage.api.wait_for_calls(5 * SECOND, repeated), || {
                    "it asks on and on".into()
                })
            },
        ),
        Entry::new(
            "EP-8",
            Opt,
            "finds a socket that appears later",
            |harness| {
                let stage = Stage::silent(harness)?;
                stage.say(&stage.update(&stage.first));
                let mut harness = stage.spawn(&format!("unix://{}", stage.socket().display()))?;
                ensure(harness.stays_unready(SECOND), || {
                    "it is ready without a Workload API".into()
                })?;
                stage.api.listen_unix(&stage.socket())?;
                harness.ready(SOON).map(drop)
            },
        ),
        Entry::on_stage(
            "WA-1",
            Should,
            "opens the stream again after the server closed it",
            |stage| {
                let running = served(stage)?;
                let next = stage.authority.svid(WORKLOAD)?;
                stage.api.end_x509(Code::Unavailable);
                stage.say(&stage.update(&next));
                running.until_served(&stage.good, &next).map(drop)
            },
        ),
    ];
    all.extend(EMPTY_FIELDS.iter().map(|(field, what, empty)| {
        Entry::on_stage(format!("WA-2/empty-{field}"), Should, what, move |stage| {
            let mut update = stage.update(&stage.authority.svid(WORKLOAD)?);
            empty(&mut update);
            is_ignored(stage, &update)
        })
    }));
    all.extend([
        Entry::on_stage(
            "WA-2/empty-bundle",
            Should,
            "trusts nobody, or keeps what it had, when the bundle is empty",
            an_empty_bundle_trusts_nobody,
        ),
        Entry::on_stage(
            "WA-3",
            Must,
            "takes the first SVID as the default",
            |stage| {
                let running = served(stage)?;
                let (one, two) = (
                    stage.authority.svid(WORKLOAD)?,
                    stage.authority.svid(WORKLOAD)?,
                );
                stage.say(&stage.updates(&[&one, &two]));
                running.until_served(&stage.good, &one)?;
                stage.say(&stage.updates(&[&two, &one]));
                running.until_served(&stage.good, &two).map(drop)
            },
        ),
        Entry::on_stage(
            "WA-4",
            Should,
            "stops using its SVID within 5 s of PERMISSION_DENIED",
            |stage| {
                let running = served(stage)?;
                stage.api.end_x509(Code::PermissionDenied);
                running
                    .watch(&stage.good, 5 * SECOND, |seen| !seen.shows(&stage.first))
                    .map(drop)
            },
        ),
    ]);
    all
}

/// Empties one field of an update.
type Empty = fn(&mut Update);

const EMPTY_FIELDS: &[(&str, &str, Empty)] = &[
    ("svids", "discards a response without SVIDs", |update| {
        update.0.svids.clear();
    }),
    (
        "spiffe-id",
        "discards a response without `spiffe_id`",
        |update| {
            update.0.svids[0].spiffe_id.clear();
        },
    ),
    (
        "x509-svid",
        "discards a response without `x509_svid`",
        |update| {
            update.0.svids[0].x509_svid.clear();
        },
    ),
    (
        "x509-svid-key",
        "discards a response without `x509_svid_key`",
        |update| {
            update.0.svids[0].x509_svid_key.clear();
        },
    ),
];

/// Starts the harness and sees it serve what it was given first.
pub(crate) fn served(stage: &Stage) -> Result<Running, Trouble> {
    let running = stage.start()?;
    let seen = running.probe(&stage.good)?;
    expect("at first", &seen, &serving(&stage.first))?;
    Ok(running)
}

/// The harness serves `svid` to a good peer.
fn serving(svid: &Svid) -> Seen {
    Seen {
        chain: svid.chain.clone(),
        greeted: Some(PEER.to_owned()),
    }
}

/// Nothing of `update` is ever seen: neither before the next good one, which shows that it was read, nor then.
pub(crate) fn is_ignored(stage: &Stage, update: &Update) -> Result<(), Trouble> {
    let running = served(stage)?;
    let before = serving(&stage.first);
    stage.say(update);
    let (seen, changed) = running.look(&stage.good, A_WHILE, |seen| *seen != before)?;
    ensure(!changed, || {
        let greeted = seen.last().and_then(|seen| seen.greeted.clone());
        format!("the update had an effect; the peer was greeted: {greeted:?}")
    })?;
    let next = stage.authority.svid(WORKLOAD)?;
    stage.say(&stage.update(&next));
    let after = serving(&next);
    let seen = running.watch(&stage.good, SOON, |seen| *seen == after)?;
    ensure(
        seen.iter().all(|seen| *seen == before || *seen == after),
        || "something else was served before the next good update".into(),
    )
}

/// The catalogue wants the response discarded; DEC-19 lets it mean that nobody is trusted. What neither allows is the old
/// bundle under the new SVID.
fn an_empty_bundle_trusts_nobody(stage: &Stage) -> Result<(), Trouble> {
    let running = served(stage)?;
    let svid = stage.authority.svid(WORKLOAD)?;
    let mut update = stage.update(&svid);
    update.0.svids[0].bundle.clear();
    stage.say(&update);
    let refused = |svid: &Svid| Seen {
        greeted: None,
        ..serving(svid)
    };
    // A handshake may begin under one update and end under the next.
    let allowed = [serving(&stage.first), refused(&stage.first), refused(&svid)];
    let (mut seen, _) = running.look(&stage.good, A_WHILE, |seen| seen.shows(&svid))?;
    seen.push(running.probe(&stage.good)?);
    ensure(seen.iter().all(|seen| allowed.contains(seen)), || {
        "a peer was accepted by a bundle that was taken back".into()
    })?;
    let next = stage.authority.svid(WORKLOAD)?;
    stage.say(&stage.update(&next));
    let after = serving(&next);
    running
        .watch(&stage.good, SOON, |seen| *seen == after)
        .map(drop)
}

fn every_call_has_the_header(stage: &Stage) -> Result<(), Trouble> {
    let running = stage.start()?;
    let token = Token::new(WORKLOAD, &Keys::get().p256, "ES256").sign();
    running.judge_token(&token)?;
    stage.api.answer_jwt(Ok(&JwtSvidResponse {
        svids: vec![JwtSvid {
            spiffe_id: WORKLOAD.into(),
            svid: token,
        }],
    }));
    let request = serde_json::json!({ "audience": [AUDIENCE] });
    running.post("/v1/jwt/fetch", &request)?.verdict()?;
    let calls = stage.api.calls();
    for rpc in [Rpc::X509Svid, Rpc::JwtBundles, Rpc::JwtSvid] {
        ensure(calls.iter().any(|call| call.rpc == rpc), || {
            format!("{rpc:?} of {TRUST_DOMAIN} was never called")
        })?;
    }
    for call in calls {
        expect(
            &format!("{:?}", call.rpc),
            &call.header,
            &vec!["true".to_owned()],
        )?;
    }
    Ok(())
}

/// The same socket by a good name and by a bad one.
fn refused(stage: &Stage, endpoint: &str) -> Result<(), Trouble> {
    stage.start()?;
    let before = stage.api.calls().len();
    let mut harness = stage.spawn(endpoint)?;
    ensure(harness.stays_unready(2 * SECOND), || {
        format!("{endpoint} was taken")
    })?;
    expect("calls", &stage.api.calls().len(), &before)
}

fn asks_again_after(stage: &Stage, code: Code) -> Result<(), Trouble> {
    stage.api.refuse_first(Rpc::X509Svid, 3, code);
    stage.start()?;
    let calls = stage.api.calls();
    let times: Vec<_> = calls
        .iter()
        .filter(|call| call.rpc == Rpc::X509Svid)
        .map(|call| call.at)
        .collect();
    let [first, .., last] = times[..] else {
        return Err(Trouble::failed("it was ready without asking again"));
    };
    let pauses = u32::try_from(times.len() - 1).unwrap_or(u32::MAX);
    let pause = (last - first) / pauses;
    ensure(pause >= Duration::from_millis(50), || {
        format!("{pauses} further calls, {pause:?} apart")
    })
}

const SECOND: Duration = Duration::from_secs(1);

/// How long the effect of an update is looked for before the next one is sent.
const A_WHILE: Duration = Duration::from_millis(500);
