//! Endpoints that mean no good: nothing panics, and the last good state serves.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use prost::Message;
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use spiffe_proto::workload::{JwtBundlesResponse, X509svid, X509svidResponse};
use spiffe_workload_client::client::{DEFAULT_MAX_MESSAGE_BYTES, MAX_MESSAGE_FIELDS};
use spiffe_workload_client::source::{EndpointState, LastGood, X509SourceBuilder};
use spiffe_workload_client::spiffe_core::crypto::aws_lc_rs;
use spiffe_workload_client::spiffe_core::{Source, Watch};
use spiffe_workload_client::{
    ClientError, JwtBundles, MAX_SVIDS, MAX_TRUST_DOMAINS, ResponseError, WorkloadApiClient,
    X509Context, X509Source,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::support::ca::{Ca, update};
use crate::support::clock::VirtualClock;
use crate::support::server::{Api, Place, Running};
use crate::support::until;

struct Fixture {
    api: Arc<Api>,
    clock: Arc<VirtualClock>,
    ca: Ca,
    _server: Running,
    place: Place,
}

impl Fixture {
    fn new() -> Self {
        let (api, place) = (Api::new(), Place::new());
        Self {
            _server: Running::start(&api, &place.path()),
            clock: Arc::new(VirtualClock::new()),
            ca: Ca::new("east.example"),
            api,
            place,
        }
    }

    fn builder(&self, limit: usize) -> X509SourceBuilder {
        let client = WorkloadApiClient::builder(self.place.endpoint())
            .clock(self.clock.clone())
            .max_message_bytes(limit)
            .deadline(Duration::from_secs(86_400));
        X509Source::builder().client(client.build())
    }

    /// Every message that breaks a rule.
    fn malformed(&self) -> Vec<(&'static str, X509svidResponse)> {
        let with = |change: &dyn Fn(&mut X509svid)| {
            let mut svid = self.ca.svid("/bad");
            change(&mut svid);
            update([svid])
        };
        let other = self.ca.svid("/other");
        let pem = b"-----BEGIN CERTIFICATE-----\n".to_vec();
        let pem = &pem;
        vec![
            ("no SVIDs", update([])),
            ("too many SVIDs", update(vec![other.clone(); MAX_SVIDS + 1])),
            (
                "too many trust domains",
                X509svidResponse {
                    federated_bundles: trust_domains(MAX_TRUST_DOMAINS + 1),
                    ..self.ca.update("/bad")
                },
            ),
            ("no SPIFFE ID", with(&|svid| svid.spiffe_id.clear())),
            (
                "another SPIFFE ID",
                with(&|svid| svid.spiffe_id = "spiffe://east.example/x".into()),
            ),
            (
                "no valid SPIFFE ID",
                with(&|svid| svid.spiffe_id = "https://east.example/bad".into()),
            ),
            ("no certificate", with(&|svid| svid.x509_svid.clear())),
            (
                "PEM for a certificate",
                with(&|svid| svid.x509_svid.clone_from(pem)),
            ),
            (
                "half a certificate",
                with(&|svid| svid.x509_svid.truncate(svid.x509_svid.len() / 2)),
            ),
            (
                "a byte after the certificate",
                with(&|svid| svid.x509_svid.push(0)),
            ),
            (
                "the authority for a leaf",
                with(&|svid| svid.x509_svid.clone_from(&svid.bundle)),
            ),
            ("no key", with(&|svid| svid.x509_svid_key.clear())),
            (
                "another key",
                with(&|svid| svid.x509_svid_key.clone_from(&other.x509_svid_key)),
            ),
            (
                "half a key",
                with(&|svid| svid.x509_svid_key.truncate(svid.x509_svid_key.len() / 2)),
            ),
            (
                "a key of zeros",
                with(&|svid| svid.x509_svid_key = vec![0; 138]),
            ),
            (
                "nonsense for the own bundle",
                with(&|svid| svid.bundle = b"nonsense".to_vec()),
            ),
            (
                "half an authority",
                with(&|svid| svid.bundle.truncate(svid.bundle.len() / 2)),
            ),
        ]
    }
}

/// So many bundles that trust nobody, each a few bytes.
fn trust_domains(number: usize) -> BTreeMap<String, Vec<u8>> {
    let entry = |number| (format!("spiffe://d{number}"), Vec::new());
    (0..number).map(entry).collect()
}

fn path(source: &X509Source) -> String {
    source.svid().unwrap().id().path().into()
}

#[tokio::test]
async fn every_malformed_message_leaves_the_last_good_state() {
    let f = Fixture::new();
    f.api.x509.send(f.ca.update("/web"));
    let source = f.builder(1 << 20).build().await.unwrap();
    for (what, message) in f.malformed() {
        let held = source.current().revision();
        f.api.x509.send(message);
        until(|| source.status().last_error.is_some()).await;
        assert_eq!(source.current().revision(), held, "{what}");
        assert_eq!(path(&source), "/web", "{what}");
        // The same but good, and the error is over.
        f.api.x509.send(f.ca.update("/web"));
        source.changed(held).await;
        until(|| source.status().last_error.is_none()).await;
    }
    assert_eq!(f.api.calls().len(), 1);
}

#[test]
fn as_many_trust_domains_as_allowed_are_taken_and_one_more_is_not() {
    let ca = Ca::new("east.example");
    let with_svid = |number| {
        let message = X509svidResponse {
            federated_bundles: trust_domains(number),
            ..ca.update("/web")
        };
        X509Context::decode(&message.encode_to_vec(), aws_lc_rs())
    };
    let only_bundles = |number| {
        let bundles = trust_domains(number);
        JwtBundles::decode(&JwtBundlesResponse { bundles }.encode_to_vec(), aws_lc_rs())
    };
    let most = MAX_TRUST_DOMAINS;
    assert_eq!(with_svid(most).unwrap().bundles().len(), most + 1);
    assert_eq!(only_bundles(most).unwrap().bundles().len(), most);
    let refused = ResponseError::TooManyTrustDomains {
        found: most + 1,
        limit: most,
    };
    assert_eq!(with_svid(most + 1).unwrap_err(), refused);
    assert_eq!(only_bundles(most + 1).unwrap_err(), refused);
}

/// Each key is the leaf's, and its other form is well formed: what is wrong is the form alone.
#[tokio::test]
async fn a_key_counts_as_unencrypted_pkcs8_in_der_alone() {
    let f = Fixture::new();
    f.api.x509.send(f.ca.update("/web"));
    let source = f.builder(1 << 20).build().await.unwrap();
    let (ec, encrypted) = [EC_KEY, ENCRYPTED_EC_KEY]
        .map(|text| Base64::decode_vec(text).unwrap())
        .into();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{EC_KEY}\n-----END PRIVATE KEY-----\n");
    let ec_key = KeyPair::try_from(ec.clone()).unwrap();
    let rsa_key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    // What PKCS#8 wraps: the last of its three members, an octet string.
    let (sec1, pkcs1) = (ec[29..].to_vec(), rsa_key.serialize_der()[26..].to_vec());
    assert!(sec1.starts_with(&[0x30, 0x6b, 2, 1, 1]) && pkcs1.starts_with(&[0x30, 0x82]));
    for (form, key, bytes) in [
        ("encrypted", &ec_key, encrypted),
        ("PEM", &ec_key, pem.into_bytes()),
        ("SEC 1", &ec_key, sec1),
        ("PKCS#1", &rsa_key, pkcs1),
    ] {
        let held = source.current();
        let good = f.ca.svid_of("/next", key);
        let mut bad = good.clone();
        bad.x509_svid_key = bytes;
        f.api.x509.send(update([bad]));
        until(|| source.status().last_error.is_some()).await;
        let error = source.status().last_error.unwrap();
        assert!(error.contains("PKCS#8"), "{form}: {error}");
        assert_eq!(source.current().revision(), held.revision(), "{form}");
        let leaf = good.x509_svid.clone();
        f.api.x509.send(update([good]));
        source.changed(held.revision()).await;
        assert_eq!(source.svid().unwrap().chain()[0].as_ref(), leaf, "{form}");
        until(|| source.status().last_error.is_none()).await;
    }
}

#[tokio::test]
async fn ten_thousand_updates_are_survived_and_the_last_one_counts() {
    let f = Fixture::new();
    f.api.x509.send(f.ca.update("/web"));
    let source = f.builder(1 << 20).build().await.unwrap();
    let good = ["/a", "/b", "/c", "/d"].map(|path| f.ca.update(path));
    let bad = update([]);
    for number in 0..10_000 {
        let message = match number % 5 {
            4 => &bad,
            at => &good[at],
        };
        f.api.x509.send(message.clone());
    }
    f.api.x509.send(f.ca.update("/last"));
    until(|| path(&source) == "/last").await;
    // Each of the good ones differs from the one before and is a revision.
    assert_eq!(source.current().revision().get(), 1 + 8_000 + 1);
    let status = source.status();
    assert_eq!((status.last_error, status.notices.len()), (None, 0));
}

#[tokio::test]
async fn an_update_at_the_limit_is_taken_and_one_byte_more_is_not() {
    let f = Fixture::new();
    let padded = |path: &str, size: usize| {
        let mut message = f.ca.update(path);
        // A list that nothing here applies; its length takes two bytes more than a short one.
        message.crl = vec![vec![0; 200]];
        let missing = size - message.encoded_len();
        message.crl = vec![vec![0; 200 + missing]];
        let beyond = message.encoded_len() - size;
        message.crl = vec![vec![0; 200 + missing - beyond]];
        assert_eq!(message.encoded_len(), size);
        message
    };
    let limit = 100_000;
    f.api.x509.send(padded("/web", limit));
    let source = f.builder(limit).build().await.unwrap();
    assert_eq!(path(&source), "/web");
    f.api.x509.send(padded("/bigger", limit + 1));
    until(|| source.status().endpoint == EndpointState::Waiting).await;
    let error = source.status().last_error.unwrap();
    assert!(error.contains("OUT_OF_RANGE"), "{error}");
    assert_eq!(path(&source), "/web");
    f.api.x509.send(f.ca.update("/small"));
    let held = source.current().revision();
    let (_, ()) = tokio::join!(source.changed(held), f.clock.pass(Duration::from_secs(30)));
    assert_eq!(path(&source), "/small");
}

/// Two bytes each on the wire, and over a hundred in memory.
#[tokio::test]
async fn a_message_of_empty_entries_is_not_unpacked() {
    let f = Fixture::new();
    f.api.x509.send(f.ca.update("/web"));
    let source = f.builder(DEFAULT_MAX_MESSAGE_BYTES).build().await.unwrap();
    let empty = |number| update(vec![X509svid::default(); number]);
    // As many as are unpacked are counted by who reads them.
    f.api.x509.send(empty(MAX_MESSAGE_FIELDS));
    until(|| source.status().last_error.is_some()).await;
    let error = source.status().last_error.unwrap();
    assert!(error.contains("32768 SVIDs"), "{error}");
    f.api.x509.send(empty(MAX_MESSAGE_FIELDS + 1));
    until(|| source.status().endpoint == EndpointState::Waiting).await;
    let error = source.status().last_error.unwrap();
    assert!(error.contains("more than 32768 fields"), "{error}");
    assert_eq!(path(&source), "/web");
}

#[tokio::test]
async fn an_endpoint_of_another_user_is_refused_where_that_is_asked_for() {
    let f = Fixture::new();
    f.api.x509.send(f.ca.update("/web"));
    let own = std::fs::metadata(f.place.path()).unwrap().uid();
    let client = |uid| {
        WorkloadApiClient::builder(f.place.endpoint())
            .owner(uid)
            .build()
    };
    client(own).fetch_x509().await.unwrap();
    let error = client(own + 1).fetch_x509().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("belongs to user {own}")), "{text}");
}

#[tokio::test]
async fn an_endpoint_of_another_user_takes_nothing_from_what_is_held() {
    let f = Fixture::new();
    f.api.x509.send(f.ca.update("/web"));
    let path = f.place.path();
    let own = std::fs::metadata(&path).unwrap().uid();
    let place = path.parent().unwrap();
    let trusting = |uid| {
        let client = WorkloadApiClient::builder(f.place.endpoint())
            .clock(f.clock.clone())
            .owner(uid)
            .build();
        let last_good = LastGood::in_files(place.join("state"), place.join("key")).unwrap();
        X509Source::builder().client(client).last_good(last_good)
    };
    trusting(own).build().await.unwrap().shutdown().await;
    f.api.x509.send(f.ca.update("/theirs"));

    let source = trusting(own + 1).build().await.unwrap();
    let says = format!("belongs to user {own}");
    let is_refused = || {
        let error = source.status().last_error;
        error.is_some_and(|error| error.contains(&says))
    };
    until(is_refused).await;
    assert_eq!(self::path(&source), "/web");
    assert_eq!(source.status().endpoint, EndpointState::Waiting);
    source.shutdown().await;
    drop(source);

    let source = trusting(own).build().await.unwrap();
    until(|| self::path(&source) == "/theirs").await;
}

/// An HTTP/2 server that opens the connection and then, like a frozen process, never reads nor writes again.
async fn freeze_after_the_preface(listener: UnixListener) {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let mut open = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        stream.write_all(&SETTINGS).await.unwrap();
        open.push(stream);
    }
}

/// Tokio's own time, which the transport's keep-alive runs on, stands still while anything can run, and then jumps.
#[tokio::test(start_paused = true)]
async fn a_frozen_endpoint_is_noticed() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path()).unwrap();
    let server = tokio::spawn(freeze_after_the_preface(listener));
    let client = WorkloadApiClient::builder(place.endpoint())
        .clock(Arc::new(VirtualClock::new()))
        .keep_alive(Duration::from_secs(20))
        .build();
    let source = X509Source::builder().client(client).start().unwrap();
    let states = async {
        while source.status().endpoint != EndpointState::Waiting {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let begun = tokio::time::Instant::now();
    states.await;
    // The deadline of the request is on a clock that stands still: it was the keep-alive.
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(40), "{took:?}");
    assert!(took <= Duration::from_secs(45), "{took:?}");
    server.abort();
}

/// Carries bytes to the endpoint and back; the first connection freezes when it is told to, and stays open.
async fn carry(
    listener: UnixListener,
    to: PathBuf,
    accepted: watch::Sender<usize>,
    frozen: watch::Receiver<bool>,
) {
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = UnixStream::connect(&to).await.unwrap();
        let is_first = *accepted.borrow() == 0;
        accepted.send_modify(|number| *number += 1);
        let mut frozen = frozen.clone();
        tokio::spawn(async move {
            let freezes = async {
                let _ = frozen.wait_for(|frozen| *frozen && is_first).await;
            };
            tokio::select! {
                biased;
                () = freezes => {}
                _ = copy_bidirectional(&mut near, &mut far) => return,
            }
            std::future::pending::<()>().await;
        });
    }
}

#[tokio::test]
async fn a_connection_that_freezes_is_replaced_and_what_is_held_serves_on() {
    let (f, place) = (Fixture::new(), Place::new());
    f.api.x509.send(f.ca.update("/web"));
    let listener = UnixListener::bind(place.path()).unwrap();
    let (accepted, mut connections) = watch::channel(0);
    let (freeze, frozen) = watch::channel(false);
    let carrier = tokio::spawn(carry(listener, f.place.path(), accepted, frozen));
    let client = WorkloadApiClient::builder(place.endpoint())
        .clock(f.clock.clone())
        .keep_alive(Duration::from_secs(20))
        .build();
    let source = X509Source::builder().client(client).build().await.unwrap();
    let held = source.current().revision();
    freeze.send_replace(true);
    f.api.x509.send(f.ca.update("/unseen"));

    // From here on nothing happens but what the keep-alive's timer does, so its time may jump.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    while *connections.borrow_and_update() == 1 {
        assert_eq!(path(&source), "/web");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let took = begun.elapsed();
    tokio::time::resume();
    assert!(took >= Duration::from_secs(20), "{took:?}");
    assert!(took <= Duration::from_secs(45), "{took:?}");
    source.changed(held).await;
    assert_eq!(path(&source), "/unseen");
    carrier.abort();
}

/// A key by OpenSSL, `openssl pkcs8 -topk8 -nocrypt -outform DER`.
const EC_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgibs1gZ/yIY00fopPpbyyXt88T6cK\
    7kzyylZIlIw8N/ahRANCAAT2h4FZGsBlPy++L40ZW2RuqVR4qkVmYQahyEzVMyrxAPvvSbsGTwHbjuTK/9q/f/bZUUk9qRGl\
    BG0svYAG1r7j";

/// The same, `-v2 aes-256-cbc`.
const ENCRYPTED_EC_KEY: &str = "MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAjMwTRlHOxNPwICCAAwDAYIKoZIhvcN\
    AgkFADAdBglghkgBZQMEASoEEP8TPY3X9oNBQX2UkD22BXAEgZBZHdtaeo0S87E/fG1WAn1n+bLLioZQY/eP1ILu6rLk+2sz\
    iK6UqzsQLjZWhYN2p5iH2BQG4cveTrOzb4bA7ix9Zw+iQZ9xA+bUsQfZI6wT4lG/9PjFie1iZRR7vms59uTL1Z2plCICFvhX\
    TxFnrs2sI9JghAxEGHfSn+1fD9DiKCKGET3pN+asRogmeP0OSoA=";
