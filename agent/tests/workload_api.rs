//! The Workload API over a real Unix socket, seen by a client that sends exactly what the test says.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use spiffe_agent::listener::{ListenOptions, WorkloadListener};
use spiffe_agent::{DRAIN_TIMEOUT, Limits, WorkloadApiServer};
use spiffe_core::bundle::JwtAuthorities;
use spiffe_core::key::PrivateKey;
use spiffe_core::{JwtSvid, X509Svid};
use spiffe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use spiffe_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitsvidRequest, X509BundlesRequest,
    X509svidRequest, X509svidResponse,
};
use support::{
    ManualClock, Root, START, TestAttestor, TestAuthority, bundle, entry, entry_with, trust_domain,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

mod support;

/// A server with its socket in a directory of its own.
struct Fixture {
    clock: Arc<ManualClock>,
    authority: Arc<TestAuthority>,
    attestor: Arc<TestAttestor>,
    socket: PathBuf,
    shutdown: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Fixture {
    /// Callers are `a:1`; `web` and then `db` are theirs, `other` is of callers that are `b:1`.
    fn new() -> Self {
        Self::with_limits(Limits::new())
    }

    fn with_limits(limits: Limits) -> Self {
        let clock = ManualClock::new();
        let authority = TestAuthority::new(&clock);
        authority.set_entries(vec![
            entry_with("web", "a:1", |params| params.hint = Some("public".into())),
            entry("db", "a:1"),
            entry("other", "b:1"),
        ]);
        let attestor = TestAttestor::new("a:1");
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let listener =
            WorkloadListener::bind(&socket, ListenOptions::new(), clock.clone()).unwrap();
        let (shutdown, stop) = oneshot::channel::<()>();
        let server = WorkloadApiServer::new(
            authority.clone(),
            attestor.clone(),
            spiffe_core::crypto::aws_lc_rs(),
        )
        .clock(clock.clone())
        .limits(limits)
        .serve(listener, stop.map(drop));
        Self {
            clock,
            authority,
            attestor,
            socket,
            shutdown: Some(shutdown),
            server: tokio::spawn(async { server.await.unwrap() }),
            _directory: directory,
        }
    }

    async fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        let uri = format!("unix://{}", self.socket.display());
        let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
        SpiffeWorkloadApiClient::new(channel)
    }

    /// A stream of X509-SVIDs.
    async fn x509(&self) -> Result<Streaming<X509svidResponse>, Status> {
        let response = self
            .client()
            .await
            .fetch_x509svid(with_header(X509svidRequest {}))
            .await?;
        Ok(response.into_inner())
    }

    fn stop(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    /// Whether the server still runs after everything that can go on without time passing went on.
    async fn unfinished_after_turns(&self) -> bool {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        !self.server.is_finished()
    }
}

fn with_header<T>(message: T) -> Request<T> {
    with_values(message, &["true"])
}

fn with_values<T>(message: T, values: &[&str]) -> Request<T> {
    let mut request = Request::new(message);
    for value in values {
        request
            .metadata_mut()
            .append("workload.spiffe.io", value.parse().unwrap());
    }
    request
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    stream.message().await.unwrap().unwrap()
}

/// What the stream ends with, having sent nothing more.
async fn end<T: std::fmt::Debug>(stream: &mut Streaming<T>) -> Status {
    stream.message().await.unwrap_err()
}

fn ids(message: &X509svidResponse) -> Vec<&str> {
    message
        .svids
        .iter()
        .map(|svid| svid.spiffe_id.as_str())
        .collect()
}

#[track_caller]
fn check_status<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, message: &str) {
    let status = result.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, message));
}

async fn check_header(values: &[&str], is_good: bool) {
    let fixture = Fixture::new();
    let mut client = fixture.client().await;
    let missing = "security header missing from request";
    let svids = client
        .fetch_x509svid(with_values(X509svidRequest {}, values))
        .await;
    let wit = client
        .fetch_witsvid(with_values(WitsvidRequest::default(), values))
        .await;
    if is_good {
        assert!(next(&mut svids.unwrap().into_inner()).await.svids.len() == 2);
        assert_eq!(wit.unwrap_err().code(), Code::Unimplemented);
        return;
    }
    check_status(svids, Code::InvalidArgument, missing);
    check_status(wit, Code::InvalidArgument, missing);
    let x509 = client
        .fetch_x509_bundles(with_values(X509BundlesRequest {}, values))
        .await;
    check_status(x509, Code::InvalidArgument, missing);
    let jwt = client
        .fetch_jwt_bundles(with_values(JwtBundlesRequest {}, values))
        .await;
    check_status(jwt, Code::InvalidArgument, missing);
    let token = client
        .fetch_jwtsvid(with_values(JwtsvidRequest::default(), values))
        .await;
    check_status(token, Code::InvalidArgument, missing);
    let claims = client
        .validate_jwtsvid(with_values(ValidateJwtsvidRequest::default(), values))
        .await;
    check_status(claims, Code::InvalidArgument, missing);
}

#[tokio::test]
async fn header_true_is_let_in() {
    check_header(&["true"], true).await;
}

#[tokio::test]
async fn header_absent_is_refused() {
    check_header(&[], false).await;
}

#[tokio::test]
async fn header_empty_is_refused() {
    check_header(&[""], false).await;
}

#[tokio::test]
async fn header_of_other_case_is_refused() {
    check_header(&["True"], false).await;
    check_header(&["TRUE"], false).await;
}

#[tokio::test]
async fn header_one_is_refused() {
    check_header(&["1"], false).await;
}

#[tokio::test]
async fn header_twice_is_refused() {
    check_header(&["true", "true"], false).await;
    check_header(&["true, true"], false).await;
}

#[tokio::test]
async fn first_message_has_everything_and_needs_no_change() {
    let fixture = Fixture::new();
    let message = next(&mut fixture.x509().await.unwrap()).await;
    assert_eq!(
        ids(&message),
        ["spiffe://example.org/web", "spiffe://example.org/db"]
    );
    for svid in &message.svids {
        assert_eq!(svid.bundle, fixture.authority.root().certificate.as_ref());
        let parsed = X509Svid::from_concatenated_der(
            &svid.x509_svid,
            PrivateKey::from_pkcs8_der(svid.x509_svid_key.clone()),
            &*spiffe_core::crypto::aws_lc_rs(),
        )
        .unwrap();
        assert_eq!(parsed.id().as_str(), svid.spiffe_id);
    }
    assert_ne!(
        message.svids[0].x509_svid_key,
        message.svids[1].x509_svid_key
    );
    assert!(message.crl.is_empty() && message.federated_bundles.is_empty());
}

#[tokio::test]
async fn each_caller_gets_its_own() {
    let fixture = Fixture::new();
    let first = next(&mut fixture.x509().await.unwrap()).await;
    fixture.attestor.set("b:1");
    let second = next(&mut fixture.x509().await.unwrap()).await;
    assert_eq!(ids(&first).len(), 2);
    assert_eq!(ids(&second), ["spiffe://example.org/other"]);
}

#[tokio::test]
async fn same_svid_is_given_to_all_streams() {
    let fixture = Fixture::new();
    let first = next(&mut fixture.x509().await.unwrap()).await;
    let second = next(&mut fixture.x509().await.unwrap()).await;
    assert_eq!(first, second);
    assert_eq!(fixture.authority.take_attempts().len(), 2);
}

#[tokio::test]
async fn hints_are_sent_in_order_and_each_once() {
    let fixture = Fixture::new();
    let hint = |hint: &'static str| {
        move |params: &mut spiffe_registration::EntryParams| params.hint = Some(hint.into())
    };
    fixture.authority.set_entries(vec![
        entry_with("z", "a:1", hint("internal")),
        entry("y", "a:1"),
        entry_with("x", "a:1", hint("internal")),
        entry_with("w", "a:1", hint("external")),
    ]);
    let message = next(&mut fixture.x509().await.unwrap()).await;
    let sent: Vec<_> = message
        .svids
        .iter()
        .map(|svid| (svid.spiffe_id.as_str(), svid.hint.as_str()))
        .collect();
    assert_eq!(
        sent,
        [
            ("spiffe://example.org/z", "internal"),
            ("spiffe://example.org/y", ""),
            ("spiffe://example.org/x", ""),
            ("spiffe://example.org/w", "external"),
        ]
    );
}

#[tokio::test]
async fn rotation_is_pushed_with_the_full_set() {
    let fixture = Fixture::new();
    let mut stream = fixture.x509().await.unwrap();
    let before = next(&mut stream).await;
    fixture.authority.rotate();
    // The two are replaced at once or one after the other; each message has both.
    let mut after = next(&mut stream).await;
    assert_eq!(ids(&after), ids(&before));
    let serves_old = |after: &X509svidResponse| {
        after
            .svids
            .iter()
            .zip(&before.svids)
            .any(|(new, old)| new.x509_svid == old.x509_svid)
    };
    while serves_old(&after) {
        after = next(&mut stream).await;
        assert_eq!(ids(&after), ids(&before));
    }
}

#[tokio::test]
async fn renewal_in_time_is_pushed() {
    let fixture = Fixture::new();
    let mut stream = fixture.x509().await.unwrap();
    let before = next(&mut stream).await;
    fixture.clock.advance(Duration::from_secs(36 * 60));
    let after = next(&mut stream).await;
    assert_eq!(ids(&after), ids(&before));
    assert_ne!(after, before);
}

/// A stream that is not concerned is next sent the change that does concern it.
#[tokio::test]
async fn change_of_others_sends_nothing() {
    let fixture = Fixture::new();
    let mut stream = fixture.x509().await.unwrap();
    let mut bundles = fixture
        .client()
        .await
        .fetch_x509_bundles(with_header(X509BundlesRequest {}))
        .await
        .unwrap()
        .into_inner();
    let first = next(&mut stream).await;
    next(&mut bundles).await;

    // Another's entry, and its first SVID.
    fixture.attestor.set("b:1");
    next(&mut fixture.x509().await.unwrap()).await;
    // A foreign bundle that only the other entry federates with, which that caller is told.
    let own = || bundle("example.org", &[fixture.authority.root()]);
    let foreign = Root::of(&trust_domain("west.example"));
    let of_caller = || {
        [
            entry_with("web", "a:1", |params| params.hint = Some("public".into())),
            entry("db", "a:1"),
        ]
    };
    let federating = entry_with("other", "b:1", |params| {
        params.federates_with = vec![trust_domain("west.example")];
    });
    fixture
        .authority
        .set_entries(of_caller().into_iter().chain([federating]).collect());
    fixture
        .authority
        .set_bundles([own(), bundle("west.example", &[&foreign])]);
    let other = next(&mut fixture.x509().await.unwrap()).await;
    assert_eq!(other.federated_bundles.len(), 1);

    // Only now something of its own.
    let second_root = Root::of(&trust_domain("example.org"));
    let two = [fixture.authority.root(), &second_root];
    fixture.authority.set_bundles([
        bundle("example.org", &two),
        bundle("west.example", &[&foreign]),
    ]);
    let second = next(&mut stream).await;
    assert_eq!(second.svids[0].x509_svid, first.svids[0].x509_svid);
    assert_eq!(
        second.svids[0].bundle,
        [two[0].certificate.as_ref(), two[1].certificate.as_ref()].concat()
    );
    assert!(second.federated_bundles.is_empty());
    let second = next(&mut bundles).await;
    assert_eq!(
        second.bundles["spiffe://example.org"],
        [two[0].certificate.as_ref(), two[1].certificate.as_ref()].concat()
    );
}

#[tokio::test]
async fn federated_bundles_are_those_of_the_callers_entries() {
    let fixture = Fixture::new();
    let west = Root::of(&trust_domain("west.example"));
    let north = Root::of(&trust_domain("north.example"));
    fixture.authority.set_bundles([
        bundle("example.org", &[fixture.authority.root()]),
        bundle("west.example", &[&west]),
        bundle("north.example", &[&north]),
    ]);
    fixture
        .authority
        .set_entries(vec![entry_with("web", "a:1", |params| {
            params.federates_with =
                vec![trust_domain("west.example"), trust_domain("absent.example")];
        })]);
    let svids = next(&mut fixture.x509().await.unwrap()).await;
    let west_only = [(
        "spiffe://west.example".to_owned(),
        west.certificate.to_vec(),
    )];
    assert_eq!(svids.federated_bundles, west_only.clone().into());
    let mut stream = fixture
        .client()
        .await
        .fetch_x509_bundles(with_header(X509BundlesRequest {}))
        .await
        .unwrap()
        .into_inner();
    let mut expected = std::collections::BTreeMap::from(west_only);
    expected.insert(
        "spiffe://example.org".into(),
        fixture.authority.root().certificate.to_vec(),
    );
    assert_eq!(next(&mut stream).await.bundles, expected);
}

#[tokio::test]
async fn caller_without_entries_is_denied_everywhere_but_wit() {
    let fixture = Fixture::new();
    fixture.attestor.set("c:1");
    let denied = (Code::PermissionDenied, "no identity issued");
    let mut client = fixture.client().await;
    let mut svids = fixture.x509().await.unwrap();
    let status = end(&mut svids).await;
    assert_eq!((status.code(), status.message()), denied);
    let mut x509 = client
        .fetch_x509_bundles(with_header(X509BundlesRequest {}))
        .await
        .unwrap()
        .into_inner();
    let status = end(&mut x509).await;
    assert_eq!((status.code(), status.message()), denied);
    let mut jwt = client
        .fetch_jwt_bundles(with_header(JwtBundlesRequest {}))
        .await
        .unwrap()
        .into_inner();
    let status = end(&mut jwt).await;
    assert_eq!((status.code(), status.message()), denied);
    let request = JwtsvidRequest {
        audience: vec!["x".into()],
        spiffe_id: String::new(),
    };
    let token = client.fetch_jwtsvid(with_header(request)).await;
    check_status(token, denied.0, denied.1);
    let request = ValidateJwtsvidRequest {
        audience: "x".into(),
        svid: "x".into(),
    };
    let claims = client.validate_jwtsvid(with_header(request)).await;
    check_status(claims, denied.0, denied.1);
    let wit = client
        .fetch_witsvid(with_header(WitsvidRequest::default()))
        .await;
    assert_eq!(wit.unwrap_err().code(), Code::Unimplemented);
    let wit = client
        .fetch_wit_bundles(with_header(WitBundlesRequest {}))
        .await;
    assert_eq!(wit.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn removed_entry_leaves_the_next_message_and_the_last_one_ends_the_stream() {
    let fixture = Fixture::new();
    let mut stream = fixture.x509().await.unwrap();
    assert_eq!(ids(&next(&mut stream).await).len(), 2);
    fixture
        .authority
        .set_entries(vec![entry("db", "a:1"), entry("other", "b:1")]);
    assert_eq!(ids(&next(&mut stream).await), ["spiffe://example.org/db"]);
    fixture.authority.set_entries(vec![entry("other", "b:1")]);
    let status = end(&mut stream).await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "no identity issued")
    );
}

#[tokio::test]
async fn entry_whose_time_is_over_ends_the_stream() {
    let fixture = Fixture::new();
    let until = START + Duration::from_secs(60);
    fixture
        .authority
        .set_entries(vec![entry_with("web", "a:1", |params| {
            params.expires_at = Some(until)
        })]);
    let mut stream = fixture.x509().await.unwrap();
    next(&mut stream).await;
    fixture.clock.advance(Duration::from_secs(60));
    assert_eq!(end(&mut stream).await.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn failing_authority_makes_the_server_unavailable_to_those_who_have_nothing() {
    let fixture = Fixture::new();
    let mut old = fixture.x509().await.unwrap();
    let first = next(&mut old).await;
    fixture.authority.set_broken(true);
    fixture.authority.rotate();
    fixture.attestor.set("b:1");
    let status = end(&mut fixture.x509().await.unwrap()).await;
    assert_eq!(status.code(), Code::Unavailable);
    // Those who have something keep it, and hear of the next that works.
    fixture.authority.set_broken(false);
    fixture.authority.rotate();
    assert_ne!(next(&mut old).await, first);
}

#[tokio::test]
async fn entry_that_cannot_be_issued_does_not_keep_back_the_others() {
    let fixture = Fixture::new();
    fixture
        .authority
        .set_entries(vec![entry("db", "a:1"), entry("other", "b:1")]);
    next(&mut fixture.x509().await.unwrap()).await;
    fixture.authority.set_broken(true);
    fixture
        .authority
        .set_entries(vec![entry("db", "a:1"), entry("web", "a:1")]);
    let mut stream = fixture.x509().await.unwrap();
    assert_eq!(ids(&next(&mut stream).await), ["spiffe://example.org/db"]);
    fixture.authority.set_broken(false);
    fixture.clock.advance(Duration::from_secs(2));
    assert_eq!(
        ids(&next(&mut stream).await),
        ["spiffe://example.org/db", "spiffe://example.org/web"]
    );
}

async fn jwt(fixture: &Fixture, audience: &[&str], spiffe_id: &str) -> Result<Vec<String>, Status> {
    let request = JwtsvidRequest {
        audience: audience.iter().map(|one| (*one).to_owned()).collect(),
        spiffe_id: spiffe_id.into(),
    };
    let mut client = fixture.client().await;
    let response = client.fetch_jwtsvid(with_header(request)).await?;
    Ok(response.get_ref().svids.iter().map(tell).collect())
}

/// A JWT-SVID in one line: its ID, what the token says, its hint.
fn tell(svid: &Jwtsvid) -> String {
    let token = JwtSvid::parse_insecure(&svid.svid).unwrap();
    assert_eq!(token.id().as_str(), svid.spiffe_id);
    format!(
        "{} {} {:?}",
        token.id(),
        token.audience().join("+"),
        svid.hint
    )
}

#[tokio::test]
async fn jwt_svids_are_for_all_identities_or_the_one_asked_for() {
    let fixture = Fixture::new();
    let web = "spiffe://example.org/web x+y \"public\"";
    let db = "spiffe://example.org/db x+y \"\"";
    assert_eq!(jwt(&fixture, &["x", "y"], "").await.unwrap(), [web, db]);
    let one = jwt(&fixture, &["x", "y"], "spiffe://example.org/db").await;
    assert_eq!(one.unwrap(), [db]);
}

#[tokio::test]
async fn jwt_svid_that_does_not_come_is_given_up() {
    let fixture = Fixture::new();
    let mut client = fixture.client().await;
    let request = || {
        with_header(JwtsvidRequest {
            audience: vec!["x".into()],
            spiffe_id: String::new(),
        })
    };
    // The connection is past its own deadlines once it has served something.
    client.fetch_jwtsvid(request()).await.unwrap();
    fixture.authority.set_stuck(true);
    let mut waiting = Box::pin(client.fetch_jwtsvid(request()));
    let status = loop {
        // Time runs, however late the request reaches the authority.
        if let Some(answer) = (&mut waiting).now_or_never() {
            break answer.unwrap_err();
        }
        fixture.clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    };
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("did not answer"), "{status}");
}

#[tokio::test]
async fn jwt_svid_arguments_are_judged() {
    let fixture = Fixture::new();
    let unspecified = "audience must be specified";
    check_status(
        jwt(&fixture, &[], "").await,
        Code::InvalidArgument,
        unspecified,
    );
    check_status(
        jwt(&fixture, &["x", ""], "").await,
        Code::InvalidArgument,
        unspecified,
    );
    for malformed in [
        "web",
        "spiffe://example.org/web/",
        "https://example.org/web",
    ] {
        let status = jwt(&fixture, &["x"], malformed).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{malformed}");
    }
    check_status(
        jwt(&fixture, &["x"], "spiffe://example.org/other").await,
        Code::PermissionDenied,
        "no identity issued",
    );
    fixture.authority.set_broken(true);
    let status = jwt(&fixture, &["x"], "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

async fn validate(
    fixture: &Fixture,
    audience: &str,
    svid: &str,
) -> Result<ValidateJwtsvidResponse, Status> {
    let request = ValidateJwtsvidRequest {
        audience: audience.into(),
        svid: svid.into(),
    };
    let mut client = fixture.client().await;
    Ok(client
        .validate_jwtsvid(with_header(request))
        .await?
        .into_inner())
}

#[tokio::test]
async fn jwt_svids_of_the_own_and_federated_trust_domains_are_validated() {
    let fixture = Fixture::new();
    let own = fixture.authority.root();
    let west = Root::of(&trust_domain("west.example"));
    fixture.authority.set_bundles([
        bundle("example.org", &[own]),
        bundle("west.example", &[&west]),
    ]);
    fixture
        .authority
        .set_entries(vec![entry_with("web", "a:1", |params| {
            params.federates_with = vec![trust_domain("west.example")];
        })]);
    let claims = r#""aud":"x","iat":7,"n":-1.5,"deep":{"list":[null,true,"text"]}"#;
    for (root, subject) in [
        (own, "spiffe://example.org/peer"),
        (&west, "spiffe://west.example/peer"),
    ] {
        let token = root.token("j1", subject, START, claims).await;
        let answer = validate(&fixture, "x", &token).await.unwrap();
        assert_eq!(answer.spiffe_id, subject);
        let claims = answer.claims.unwrap().fields;
        let shown = |name: &str| format!("{:?}", claims[name].kind.as_ref().unwrap());
        assert_eq!(shown("sub"), format!("StringValue({subject:?})"));
        assert_eq!(shown("exp"), "NumberValue(1800003600.0)");
        assert_eq!(shown("n"), "NumberValue(-1.5)");
        assert!(shown("aud").starts_with("ListValue"), "{}", shown("aud"));
        for part in ["NullValue", "BoolValue(true)", "StringValue(\"text\")"] {
            assert!(shown("deep").contains(part), "{}", shown("deep"));
        }
    }
}

#[tokio::test]
async fn jwt_svids_that_break_a_rule_are_refused_without_quoting_them() {
    let fixture = Fixture::new();
    let own = fixture.authority.root();
    let subject = "spiffe://example.org/s3cret";
    let aud = r#""aud":"s3cret""#;
    let good = own.token("j1", subject, START, aud).await;
    assert!(validate(&fixture, "s3cret", &good).await.is_ok());

    let expired = own
        .token("j1", subject, START - Duration::from_secs(7200), aud)
        .await;
    let other_key = Root::of(&trust_domain("example.org"))
        .token("j1", subject, START, aud)
        .await;
    let unknown_key = own.token("s3cret", subject, START, aud).await;
    let foreign = own
        .token("j1", "spiffe://s3cret.example/x", START, aud)
        .await;
    for (audience, token) in [
        ("y", good.as_str()),
        ("s3cret", &expired),
        ("s3cret", &other_key),
        ("s3cret", &unknown_key),
        ("s3cret", &foreign),
        ("s3cret", "s3cret"),
    ] {
        let status = validate(&fixture, audience, token).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(!status.message().contains("s3cret"), "{status}");
        assert!(status.message().contains("breaks a rule"), "{status}");
    }
}

#[tokio::test]
async fn validation_needs_an_audience_and_a_token() {
    let fixture = Fixture::new();
    check_status(
        validate(&fixture, "", "x").await,
        Code::InvalidArgument,
        "audience must be specified",
    );
    check_status(
        validate(&fixture, "x", "").await,
        Code::InvalidArgument,
        "svid must be specified",
    );
}

#[tokio::test]
async fn bundles_of_trust_domains_not_federated_with_validate_nothing() {
    let fixture = Fixture::new();
    let west = Root::of(&trust_domain("west.example"));
    fixture.authority.set_bundles([
        bundle("example.org", &[fixture.authority.root()]),
        bundle("west.example", &[&west]),
    ]);
    let token = west
        .token("j1", "spiffe://west.example/peer", START, r#""aud":"x""#)
        .await;
    let status = validate(&fixture, "x", &token).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn jwt_bundles_are_key_sets_with_use_and_follow_changes() {
    let fixture = Fixture::new();
    let mut stream = fixture
        .client()
        .await
        .fetch_jwt_bundles(with_header(JwtBundlesRequest {}))
        .await
        .unwrap()
        .into_inner();
    let read = |message: JwtBundlesResponse| {
        let (name, jwks) = message.bundles.into_iter().next().unwrap();
        assert_eq!(name, "spiffe://example.org");
        let text = String::from_utf8(jwks).unwrap();
        let keys = JwtAuthorities::from_workload_api_jwks(&text).unwrap();
        assert_eq!(text.matches(r#""use":"jwt-svid""#).count(), keys.len());
        keys.iter().map(|key| key.key_id().to_owned()).collect()
    };
    let keys: Vec<String> = read(next(&mut stream).await);
    assert_eq!(keys, ["j1"]);
    let own = fixture.authority.root();
    let x509_only = |roots: &[&Root]| {
        let both = bundle("example.org", roots);
        let jwt = bundle("example.org", &[own]).jwt_authorities().clone();
        both.with_jwt_authorities(jwt)
    };
    let second = Root::of(&trust_domain("example.org"));
    // Of no concern to this stream.
    fixture.authority.set_bundles([x509_only(&[own, &second])]);
    let mut svids = fixture.x509().await.unwrap();
    let seen = next(&mut svids).await;
    assert!(seen.svids[0].bundle.len() > own.certificate.len());
    fixture
        .authority
        .set_bundles([bundle("example.org", &[own, &second])]);
    let keys: Vec<String> = read(next(&mut stream).await);
    assert_eq!(keys, ["j1", "j2"]);
}

/// Workload API §6.2.2: the own trust domain is always there.
#[tokio::test]
async fn jwt_bundle_without_keys_is_an_empty_key_set() {
    let fixture = Fixture::new();
    let own = bundle("example.org", &[fixture.authority.root()]);
    fixture
        .authority
        .set_bundles([own.with_jwt_authorities(JwtAuthorities::default())]);
    let mut stream = fixture
        .client()
        .await
        .fetch_jwt_bundles(with_header(JwtBundlesRequest {}))
        .await
        .unwrap()
        .into_inner();
    let message = next(&mut stream).await;
    assert_eq!(message.bundles["spiffe://example.org"], br#"{"keys":[]}"#);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_unavailable_until_one_ends() {
    let fixture = Fixture::with_limits(Limits::new().requests(2));
    let mut first = fixture.x509().await.unwrap();
    let mut second = fixture.x509().await.unwrap();
    next(&mut first).await;
    next(&mut second).await;
    check_status(
        fixture.x509().await,
        Code::Unavailable,
        "too many requests are open: ask again later",
    );
    let token = jwt(&fixture, &["x"], "").await.unwrap_err();
    assert_eq!(token.code(), Code::Unavailable);
    fixture.authority.set_entries(vec![entry("other", "b:1")]);
    end(&mut first).await;
    end(&mut second).await;
    fixture.attestor.set("b:1");
    next(&mut fixture.x509().await.unwrap()).await;
}

#[tokio::test]
async fn requests_beyond_a_connections_limit_wait() {
    let fixture = Fixture::with_limits(Limits::new().requests_per_connection(1));
    let mut client = fixture.client().await;
    let mut open = client
        .fetch_x509svid(with_header(X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    next(&mut open).await;
    let mut other = client.clone();
    let mut waiting = Box::pin(other.fetch_x509svid(with_header(X509svidRequest {})));
    // Another connection is served meanwhile, twice: what is only slow would have come by then.
    for _ in 0..2 {
        next(&mut fixture.x509().await.unwrap()).await;
        assert!((&mut waiting).now_or_never().is_none());
    }
    drop(open);
    next(&mut waiting.await.unwrap().into_inner()).await;
}

#[tokio::test]
async fn request_that_is_too_long_is_refused() {
    let fixture = Fixture::with_limits(Limits::new().request_bytes(1024));
    let fits = jwt(&fixture, &["x".repeat(900).as_str()], "").await;
    assert_eq!(fits.unwrap().len(), 2);
    let status = jwt(&fixture, &["x".repeat(1024).as_str()], "")
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
}

#[tokio::test]
async fn shutdown_ends_streams_without_an_error_and_removes_the_socket() {
    let mut fixture = Fixture::new();
    let mut stream = fixture.x509().await.unwrap();
    next(&mut stream).await;
    fixture.stop();
    assert!(stream.message().await.unwrap().is_none());
    drop(stream);
    (&mut fixture.server).await.unwrap();
    assert!(!fixture.socket.exists());
}

#[tokio::test]
async fn authority_that_panics_ends_serving_and_leaves_nobody_waiting() {
    let mut fixture = Fixture::new();
    fixture.authority.set_defective(true);
    let mut stream = fixture.x509().await.unwrap();
    let ended = (&mut fixture.server).await.unwrap_err();
    assert!(ended.is_panic(), "the error was unwrapped: {ended}");
    assert!(stream.message().await.is_err());
    assert!(!fixture.socket.exists());
}

#[tokio::test]
async fn client_that_does_not_read_is_left_behind() {
    let mut fixture = Fixture::new();
    // Its window is closed, so the stream's end cannot be sent either.
    let uri = format!("unix://{}", fixture.socket.display());
    let channel = Endpoint::from_shared(uri)
        .unwrap()
        .initial_stream_window_size(0)
        .connect()
        .await
        .unwrap();
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let _unread = client
        .fetch_x509svid(with_header(X509svidRequest {}))
        .await
        .unwrap();
    fixture.stop();
    let mut reading = fixture.unfinished_after_turns().await;
    assert!(reading);
    while reading {
        fixture.clock.advance(DRAIN_TIMEOUT);
        reading = fixture.unfinished_after_turns().await;
    }
    (&mut fixture.server).await.unwrap();
    assert!(!fixture.socket.exists());
}
