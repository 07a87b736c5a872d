//! `spiffe why --connect`: the process against a server of this test, and what it prints and ends with.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixtures;

use std::path::Path;
use std::sync::Arc;

use fixtures::{AT, AT_SECONDS, authority, certificate, leaf, private_key};
use serde_json::{Value, json};
use spiffe_core::bundle::X509Authorities;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::key::PrivateKey;
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::{BoxFuture, Bundle, BundleSet, Clock, Timestamp, TrustDomain, X509Svid};
use spiffe_tls::{Mtls, Policy, Publisher};
use tokio::net::TcpListener;
use tokio::process::Command;

/// The time of the fixtures; nobody waits for a deadline here.
#[derive(Debug)]
struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_seconds(AT_SECONDS)
    }

    fn monotonic(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    fn sleep_until(&self, _: std::time::Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// A server that lets in spiffe://a/client, and a directory with what a client needs.
async fn server() -> (String, tempfile::TempDir) {
    let root = authority("root");
    let directory = tempfile::tempdir().unwrap();
    let write =
        |name: &str, text: String| std::fs::write(directory.path().join(name), text).unwrap();
    write("bundle.pem", certificate(root.der()));
    write("other.pem", certificate(authority("other").der()));
    for (id, name) in [
        ("spiffe://a/client", "client"),
        ("spiffe://a/stranger", "stranger"),
    ] {
        let (svid, key) = leaf(id, &root);
        write(&format!("{name}.pem"), certificate(svid.der()));
        write(&format!("{name}.key"), private_key(&key));
    }
    let (svid, key) = leaf("spiffe://a/server", &root);
    let chain: Vec<CertificateDer<'static>> = vec![svid.der().clone()];
    let key = PrivateKey::from_pem(&private_key(&key)).unwrap();
    let svid = X509Svid::new(chain, key, &*aws_lc_rs()).unwrap();
    let bundle = Bundle::new(TrustDomain::parse("a").unwrap())
        .with_x509_authorities(X509Authorities::from_certificates([root.der().clone()]));
    let source = Publisher::fixed([svid], [bundle].into_iter().collect::<BundleSet>());
    let policy: Policy = "id:spiffe://a/client".parse().unwrap();
    let acceptor = Mtls::new(&source, policy)
        .clock(Arc::new(Fixed))
        .acceptor()
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut listener = acceptor.listen(listener);
        while let Ok(ended) = listener.accept().await {
            drop(ended);
        }
    });
    (address, directory)
}

async fn why(directory: &Path, address: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_spiffe"))
        .current_dir(directory)
        .args(["why", "--connect", address, "--at", AT])
        .args(more)
        .output()
        .await
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test]
async fn a_servers_chain_is_shown_and_judged_without_an_own_identity() {
    let (address, directory) = server().await;
    let here = directory.path();
    let trust = ["--bundle", "a=bundle.pem"];
    let (code, out, errors) = why(here, &address, &trust).await;
    assert_eq!(code, Some(0), "{out}{errors}");
    for part in [
        "certificate 0",
        "URI:spiffe://a/server",
        &address,
        "none was shown",
        "verified",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let json = [&trust[..], &["--output", "json"]].concat();
    let (_, out, _) = why(here, &address, &json).await;
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["ok"], json!(true), "{out}");
    assert_eq!(value["value"]["id"], json!("spiffe://a/server"));
    assert_eq!(value["connection"]["asks_for_certificate"], json!(true));
    assert_eq!(value["connection"]["presented"], Value::Null);
    assert_eq!(
        value["connection"]["chain"][0]["names"],
        json!(["URI:spiffe://a/server"])
    );
}

#[tokio::test]
async fn a_server_that_this_side_refuses_is_shown_with_what_would_pass() {
    let (address, directory) = server().await;
    let here = directory.path();
    let denied = [
        "--bundle",
        "a=bundle.pem",
        "--authorize",
        "id:spiffe://a/db",
    ];
    let (code, out, errors) = why(here, &address, &denied).await;
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("URI:spiffe://a/server"), "{out}");
    assert!(
        errors.starts_with("error: not-authorized") && errors.contains("would pass: spiffe://a/db"),
        "{errors}"
    );
    let (code, _, errors) = why(here, &address, &["--bundle", "a=other.pem"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(errors.lines().count(), 1, "{errors}");
    let stranger = ["--bundle", "b=bundle.pem", "--output", "json"];
    let (code, out, _) = why(here, &address, &stranger).await;
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["ok"]), (Some(1), &json!(false)), "{out}");
    assert_eq!(value["error"]["code"], json!("x509-trust-domain-unknown"));
}

#[tokio::test]
async fn a_server_is_shown_an_svid_and_its_answer_is_told() {
    let (address, directory) = server().await;
    let here = directory.path();
    let client = [
        "--bundle",
        "a=bundle.pem",
        "--svid",
        "client.pem",
        "--key",
        "client.key",
    ];
    let (code, out, errors) = why(here, &address, &client).await;
    assert_eq!(code, Some(0), "{out}{errors}");
    assert!(out.contains("did not refuse spiffe://a/client"), "{out}");
    let stranger = [
        "--bundle",
        "a=bundle.pem",
        "--svid",
        "stranger.pem",
        "--key",
        "stranger.key",
    ];
    let (code, out, errors) = why(here, &address, &stranger).await;
    assert_eq!(code, Some(1), "{out}");
    assert!(
        errors.contains("AccessDenied") && errors.lines().count() == 1,
        "{errors}"
    );
}

#[tokio::test]
async fn nobody_there_and_arguments_that_make_no_sense_end_as_everywhere() {
    let (_, directory) = server().await;
    let here = directory.path();
    let trust = ["--bundle", "a=bundle.pem"];
    // A port that was bound and is free again.
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let (code, _, errors) = why(here, &free, &trust).await;
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("is the server up?"), "{errors}");
    for wrong in [
        &["--svid", "client.pem"][..],
        &["chain.pem"],
        &["--server-name", "no name"],
    ] {
        let (code, _, errors) = why(here, &free, &[&trust[..], wrong].concat()).await;
        assert_eq!(code, Some(2), "{wrong:?}: {errors}");
    }
}
