//! Single calls: what is sent, what is taken, what each failure is called.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use spiffe_proto::workload::{ValidateJwtsvidResponse, X509svid, X509svidResponse};
use spiffe_workload_client::client::{ClaimValue, MAX_CLAIMS_BYTES};
use spiffe_workload_client::{ClientError, MAX_HINT_BYTES, ResponseError, WorkloadApiClient};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::support::ca::{Ca, update, x509_bundles};
use crate::support::clock::VirtualClock;
use crate::support::server::{Answer, Api, Place, Running};

struct Fixture {
    api: Arc<Api>,
    _server: Running,
    clock: Arc<VirtualClock>,
    client: WorkloadApiClient,
    _place: Place,
}

fn fixture() -> Fixture {
    let (api, place, clock) = (Api::new(), Place::new(), Arc::new(VirtualClock::new()));
    let client = WorkloadApiClient::builder(place.endpoint())
        .clock(clock.clone())
        .build();
    Fixture {
        _server: Running::start(&api, &place.path()),
        api,
        clock,
        client,
        _place: place,
    }
}

#[tokio::test]
async fn every_call_carries_the_security_header() {
    let f = fixture();
    let ca = Ca::new("east.example");
    f.api.x509.send(ca.update("/web"));
    f.api.x509_bundles.send(x509_bundles(&[&ca]));
    f.client.fetch_x509().await.unwrap();
    let bundles = f.client.fetch_x509_bundles().await.unwrap();
    assert_eq!(bundles.bundles().len(), 1);
    f.client.validate_jwt_svid("t", "a").await.unwrap_err();
    f.client.fetch_jwt_svids(["a"], None).await.unwrap_err();
    f.api.jwt_bundles.fail(Status::unavailable(""));
    f.client.fetch_jwt_bundles().await.unwrap_err();
    let calls = f.api.calls();
    assert_eq!(
        calls.iter().map(|call| call.rpc).collect::<Vec<_>>(),
        [
            "FetchX509SVID",
            "FetchX509Bundles",
            "ValidateJWTSVID",
            "FetchJWTSVID",
            "FetchJWTBundles"
        ]
    );
    assert!(
        calls.iter().all(|call| call.header == ["true"]),
        "{calls:?}"
    );
}

#[tokio::test]
async fn svids_keep_the_servers_order() {
    let f = fixture();
    let ca = Ca::new("east.example");
    f.api
        .x509
        .send(update([ca.svid("/b"), ca.svid("/a"), ca.svid("/c")]));
    let context = f.client.fetch_x509().await.unwrap();
    let ids: Vec<_> = context
        .svids()
        .iter()
        .map(|svid| svid.id().path())
        .collect();
    assert_eq!(ids, ["/b", "/a", "/c"]);
    assert_eq!(context.default_svid().id().path(), "/b");
    assert!(context.notices().is_empty());
}

#[tokio::test]
async fn a_message_of_five_mebibytes_is_taken_and_the_limit_is_settable() {
    let f = fixture();
    let mut large = Ca::new("east.example").update("/web");
    large.crl = vec![vec![0; 5 * 1024 * 1024]];
    f.api.x509.send(large);
    let context = f.client.fetch_x509().await.unwrap();
    assert_eq!(context.crls()[0].len(), 5 * 1024 * 1024);

    let narrow = WorkloadApiClient::builder(f.client.endpoint().clone())
        .clock(f.clock.clone())
        .max_message_bytes(4 * 1024 * 1024)
        .build();
    let error = narrow.fetch_x509().await.unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::Status {
                code: "OUT_OF_RANGE",
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn each_status_has_its_class() {
    let f = fixture();
    let said = || "one\ntwo".to_string();
    let message = "one two".to_string();
    let cases = [
        (
            Status::invalid_argument(said()),
            ClientError::InvalidArgument {
                message: message.clone(),
            },
            false,
        ),
        (
            Status::permission_denied(said()),
            ClientError::PermissionDenied {
                message: message.clone(),
            },
            true,
        ),
        (
            Status::unavailable(said()),
            ClientError::Unavailable {
                message: message.clone(),
            },
            true,
        ),
        (
            Status::unimplemented(said()),
            ClientError::Unimplemented {
                rpc: "FetchX509SVID",
                message: message.clone(),
            },
            false,
        ),
        (
            Status::internal(said()),
            ClientError::Status {
                code: "INTERNAL",
                message,
            },
            true,
        ),
    ];
    for (status, error, is_retryable) in cases {
        f.api.x509.fail(status);
        assert_eq!(f.client.fetch_x509().await.unwrap_err(), error);
        assert_eq!(error.is_retryable(), is_retryable);
        assert!(!error.to_string().contains('\n'));
    }
    f.api.x509.add(Answer::End);
    let error = f.client.fetch_x509().await.unwrap_err();
    assert_eq!(error, ClientError::StreamEnded);
}

#[tokio::test]
async fn details_of_a_status_that_cannot_be_read_are_left_out() {
    let f = fixture();
    let mut headers = HeaderMap::new();
    let name = HeaderName::from_static("grpc-status-details-bin");
    headers.insert(name, HeaderValue::from_static("*no base64*"));
    let metadata = MetadataMap::from_headers(headers);
    let status = Status::with_metadata(Code::Unavailable, "busy", metadata);
    let is_busy =
        |error| matches!(error, ClientError::Unavailable { message } if message == "busy");
    // In the headers, as an answer without a message has it.
    f.api.jwt.fail(status.clone());
    let error = f.client.fetch_jwt_svids(["db"], None).await.unwrap_err();
    assert!(is_busy(error));
    // In the trailers, after a message.
    f.api.x509.send(Ca::new("east.example").update("/web"));
    let mut updates = f.client.watch_x509().await.unwrap();
    updates.next().await.unwrap();
    f.api.x509.fail(status);
    assert!(is_busy(updates.next().await.unwrap_err()));
}

/// RFC 9113 §4.1.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[..], &[kind, flags, 0, 0, 0, stream]].concat();
    [head, payload.to_vec()].concat()
}

/// Takes a connection, and answers the first request on it with the headers of a stream.
async fn answer(listener: &UnixListener) -> UnixStream {
    const HEADERS: u8 = 1;
    let (mut socket, _) = listener.accept().await.unwrap();
    socket.read_exact(&mut [0; 24]).await.unwrap();
    socket.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        socket.read_exact(&mut payload).await.unwrap();
        if head[3] == HEADERS {
            break;
        }
    }
    // `:status: 200` and the content type.
    let headers = b"\x88\x0f\x10\x10application/grpc";
    socket.write_all(&frame(1, 4, 1, headers)).await.unwrap();
    socket
}

/// A message of FetchX509SVID in a DATA frame.
fn data(message: &X509svidResponse) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    frame(0, 0, 1, &[&[0], &length[..], &message].concat())
}

#[tokio::test]
async fn a_call_after_goaway_goes_over_a_new_connection() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path()).unwrap();
    let message = data(&Ca::new("east.example").update("/web"));
    let client = WorkloadApiClient::builder(place.endpoint())
        .clock(Arc::new(VirtualClock::new()))
        .build();
    let first = async {
        let mut socket = answer(&listener).await;
        // No stream after the first, whose messages go on: who has the second one has read the GOAWAY.
        let goaway = frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
        let said = [&message[..], &goaway, &message].concat();
        socket.write_all(&said).await.unwrap();
        socket
    };
    let following = async {
        let mut updates = client.watch_x509().await.unwrap();
        updates.next().await.unwrap();
        updates.next().await.unwrap();
        updates
    };
    let (_first, mut updates) = tokio::join!(first, following);

    let second = tokio::spawn(async move {
        let mut socket = answer(&listener).await;
        socket.write_all(&message).await.unwrap();
        socket
    });
    let context = client.fetch_x509().await.unwrap();
    assert_eq!(context.default_svid().id().path(), "/web");
    second.await.unwrap();
    // The stream on the old one is open still.
    assert!(updates.next().now_or_never().is_none());
}

#[test]
fn a_connection_of_a_runtime_that_stands_still_is_not_used() {
    let f = fixture();
    f.api.x509.send(Ca::new("east.example").update("/web"));
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap()
    };
    let (first, second) = (runtime(), runtime());
    // The clock that nobody moves would let a call that gets no answer wait for ever.
    let client = WorkloadApiClient::new(f.client.endpoint().clone());
    for runtime in [&first, &first, &second, &second] {
        runtime.block_on(client.fetch_x509()).unwrap();
    }
    assert_eq!(f.api.connections(), 2);
}

#[tokio::test]
async fn a_server_that_says_nothing_runs_into_the_deadline() {
    let f = fixture();
    f.api.x509.add(Answer::Hang);
    let (result, ()) = tokio::join!(f.client.fetch_x509(), async {
        f.api.called(1).await;
        f.clock.pass(Duration::from_secs(30)).await;
    });
    let error = result.unwrap_err();
    assert_eq!(
        error,
        ClientError::DeadlineExceeded {
            endpoint: f.client.endpoint().clone(),
            after: Duration::from_secs(30)
        }
    );
}

#[tokio::test]
async fn later_messages_of_a_stream_have_no_deadline() {
    let f = fixture();
    let ca = Ca::new("east.example");
    f.api.x509.send(ca.update("/web"));
    let mut updates = f.client.watch_x509().await.unwrap();
    updates.next().await.unwrap();
    f.clock.advance(Duration::from_secs(86_400));
    let (next, ()) = tokio::join!(updates.next(), async {
        f.api.x509.send(ca.update("/web"));
    });
    next.unwrap();
}

#[tokio::test]
async fn a_missing_socket_is_told_from_a_wrong_one() {
    let place = Place::new();
    let client = WorkloadApiClient::new(place.endpoint());
    let error = client.fetch_x509().await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, ClientError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(text.contains("No such file"), "{text}");
    assert!(text.contains("unix://"), "{text}");
}

#[tokio::test]
async fn a_tcp_endpoint_is_served_too() {
    let api = Api::new();
    let (_server, endpoint) = Running::start_tcp(&api);
    api.x509.send(Ca::new("east.example").update("/web"));
    let client = WorkloadApiClient::new(endpoint);
    let context = client.fetch_x509().await.unwrap();
    assert_eq!(context.default_svid().id().path(), "/web");
    assert_eq!(api.calls()[0].header, ["true"]);
}

#[tokio::test]
async fn an_endpoint_that_accepts_and_says_nothing_runs_into_the_deadline() {
    let (place, clock) = (Place::new(), Arc::new(VirtualClock::new()));
    let _listener = UnixListener::bind(place.path()).unwrap();
    let client = WorkloadApiClient::builder(place.endpoint())
        .clock(clock.clone())
        .deadline(Duration::from_secs(5))
        .build();
    let (result, ()) = tokio::join!(client.fetch_x509(), clock.pass(Duration::from_secs(5)));
    let text = result.unwrap_err().to_string();
    assert!(text.contains("did not answer within 5s"), "{text}");
}

/// Whoever listens there answers each connection with these bytes and closes it.
#[track_caller]
fn check_no_workload_api(answer: &'static [u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let place = Place::new();
        let listener = UnixListener::bind(place.path()).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 64]).await;
                let _ = stream.write_all(answer).await;
            }
        });
        let error = WorkloadApiClient::new(place.endpoint())
            .fetch_x509()
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, ClientError::NotWorkloadApi { .. }),
            "{error:?}"
        );
        assert!(text.contains("does not answer as a Workload API"), "{text}");
        assert!(!text.contains('\n') && text.len() < 400, "{text}");
    });
}

#[test]
fn an_endpoint_that_closes_is_no_workload_api() {
    check_no_workload_api(b"");
}

#[test]
fn an_endpoint_that_speaks_http_1_is_no_workload_api() {
    check_no_workload_api(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
}

#[test]
fn an_endpoint_that_speaks_nonsense_is_no_workload_api() {
    check_no_workload_api(&[0xff; 4096]);
}

#[track_caller]
fn check_discarded(f: &Fixture, svid: X509svid) -> ResponseError {
    f.api.x509.send(update([svid]));
    let error = tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(f.client.fetch_x509())
    })
    .unwrap_err();
    assert!(error.leaves_stream_open());
    match error {
        ClientError::Response(error) => error,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_rule_is_discarded() {
    let f = fixture();
    let ca = Ca::new("east.example");
    let good = ca.svid("/web");

    let mut other_id = good.clone();
    other_id.spiffe_id = "spiffe://east.example/other".into();
    assert!(matches!(
        check_discarded(&f, other_id),
        ResponseError::IdMismatch { .. }
    ));
    let mut no_id = good.clone();
    no_id.spiffe_id = "https://east.example/web".into();
    assert!(matches!(
        check_discarded(&f, no_id),
        ResponseError::Id { .. }
    ));
    let mut other_key = good.clone();
    other_key.x509_svid_key = ca.svid("/web").x509_svid_key.clone();
    assert!(matches!(
        check_discarded(&f, other_key),
        ResponseError::Svid { index: 0, .. }
    ));
    let mut nonsense = good.clone();
    nonsense.x509_svid = b"-----BEGIN CERTIFICATE-----".to_vec();
    assert!(matches!(
        check_discarded(&f, nonsense),
        ResponseError::Svid { index: 0, .. }
    ));
    let mut bad_bundle = good.clone();
    bad_bundle.bundle = b"nonsense".to_vec();
    assert!(matches!(
        check_discarded(&f, bad_bundle),
        ResponseError::Bundle { .. }
    ));
    let mut leaf_as_bundle = good.clone();
    leaf_as_bundle.bundle = good.x509_svid.clone();
    assert!(matches!(
        check_discarded(&f, leaf_as_bundle),
        ResponseError::Bundle { .. }
    ));
    f.api.x509.send(update(vec![good.clone(); 257]));
    let error = f.client.fetch_x509().await.unwrap_err();
    assert_eq!(
        error,
        ClientError::Response(ResponseError::TooManySvids {
            found: 257,
            limit: 256
        })
    );

    f.api.x509.send(update([good]));
    f.client.fetch_x509().await.unwrap();
}

#[tokio::test]
async fn hints_that_are_too_long_or_repeated_are_noticed() {
    let f = fixture();
    let ca = Ca::new("east.example");
    let hinted = |path, hint: String| {
        let mut svid = ca.svid(path);
        svid.hint = hint;
        svid
    };
    f.api.x509.send(update([
        hinted("/a", "h".repeat(MAX_HINT_BYTES)),
        hinted("/b", "h".repeat(MAX_HINT_BYTES + 1)),
        hinted("/c", "h".repeat(MAX_HINT_BYTES)),
    ]));
    let context = f.client.fetch_x509().await.unwrap();
    let hints: Vec<_> = context
        .svids()
        .iter()
        .map(|svid| svid.hint().map(str::len))
        .collect();
    assert_eq!(hints, [Some(MAX_HINT_BYTES), None, Some(MAX_HINT_BYTES)]);
    let notices: Vec<_> = context.notices().iter().map(|n| n.text()).collect();
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices[0].contains("svids[1]"), "{notices:?}");
    assert!(notices[1].contains("svids[2] repeats"), "{notices:?}");
}

#[tokio::test]
async fn claims_without_end_are_not_unpacked() {
    let f = fixture();
    let answer = |number| {
        let values = vec![Value { kind: None }; number];
        let list = Kind::ListValue(ListValue { values });
        let claims = BTreeMap::from([("aud".to_owned(), Value { kind: Some(list) })]);
        ValidateJwtsvidResponse {
            spiffe_id: "spiffe://east.example/web".into(),
            claims: Some(Struct { fields: claims }),
        }
    };
    // Two bytes each.
    let most = MAX_CLAIMS_BYTES / 2;
    f.api.validation.send(answer(most - 100));
    f.client.validate_jwt_svid("t", "a").await.unwrap();
    f.api.validation.send(answer(most + 1));
    let error = f.client.validate_jwt_svid("t", "a").await.unwrap_err();
    assert!(error.to_string().contains("OUT_OF_RANGE"), "{error}");
}

#[tokio::test]
async fn a_validated_token_gives_its_claims() {
    let f = fixture();
    let value = |kind| Value { kind: Some(kind) };
    let claims = Struct {
        fields: BTreeMap::from([
            ("exp".into(), value(Kind::NumberValue(5.0))),
            (
                "aud".into(),
                value(Kind::ListValue(ListValue {
                    values: vec![value(Kind::StringValue("a".into()))],
                })),
            ),
        ]),
    };
    let answer = |spiffe_id: &str, claims| ValidateJwtsvidResponse {
        spiffe_id: spiffe_id.into(),
        claims,
    };
    let id = "spiffe://east.example/web";
    f.api.validation.send(answer(id, Some(claims.clone())));
    let validated = f.client.validate_jwt_svid("t", "a").await.unwrap();
    assert_eq!(validated.id().as_str(), id);
    assert_eq!(validated.claims()["exp"], ClaimValue::Number(5.0));
    assert_eq!(
        validated.claims()["aud"],
        ClaimValue::List(vec![ClaimValue::Text("a".into())])
    );
    for incomplete in [
        answer("", Some(claims)),
        answer(id, None),
        answer(id, Some(Struct::default())),
    ] {
        f.api.validation.send(incomplete);
        let error = f.client.validate_jwt_svid("t", "a").await.unwrap_err();
        assert!(
            matches!(
                error,
                ClientError::Response(ResponseError::EmptyField { .. })
            ),
            "{error}"
        );
    }
    f.api.validation.fail(Status::invalid_argument("expired"));
    let error = f.client.validate_jwt_svid("t", "a").await.unwrap_err();
    assert!(matches!(error, ClientError::InvalidArgument { .. }));
}
