//! What the log says of a caller that is refused: a program of its own, for what listens to a process's events is global.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use spiffe_agent::WorkloadApiServer;
use spiffe_agent::listener::{ListenOptions, WorkloadListener};
use spiffe_proto::workload::X509svidRequest;
use spiffe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use support::{ManualClock, TestAttestor, TestAuthority, entry};
use tonic::transport::Endpoint;
use tonic::{Code, Request};

mod support;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn refusal_names_the_callers_selectors_and_the_nearest_entry() {
    let log = Log::default();
    let writer = log.clone();
    tracing::subscriber::set_global_default(
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish(),
    )
    .unwrap();

    let clock = ManualClock::new();
    let authority = TestAuthority::new(&clock);
    authority.set_entries(vec![entry("far", "b:1 b:2"), entry("near", "a:1 a:2")]);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api.sock");
    let listener = WorkloadListener::bind(&socket, ListenOptions::new(), clock.clone()).unwrap();
    let attestor = TestAttestor::new("a:1 c:3");
    let server =
        WorkloadApiServer::new(authority, attestor, spiffe_core::crypto::aws_lc_rs()).clock(clock);
    tokio::spawn(server.serve(listener, std::future::pending()));

    let uri = format!("unix://{}", socket.display());
    let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
    let mut request = Request::new(X509svidRequest {});
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().unwrap());
    let mut stream = SpiffeWorkloadApiClient::new(channel)
        .fetch_x509svid(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        stream.message().await.unwrap_err().code(),
        Code::PermissionDenied
    );

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = log
        .lines()
        .find(|line| line.contains("no identity issued"))
        .unwrap();
    let caller = format!("caller=pid {}", std::process::id());
    for part in [
        "WARN",
        caller.as_str(),
        "caller has a:1, c:3",
        "spiffe://example.org/near lacks a:2",
    ] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
}
