//! A whole trust domain on the virtual clock, its Workload API on a socket: what a rollover waits for, and how what a
//! tainted authority signed is replaced.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{Clock, SpiffeId, Timestamp, TrustDomain};
use spiffe_daemons::local::{LocalApi, LocalTrustDomain};
use spiffe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use spiffe_proto::workload::{X509svidRequest, X509svidResponse};
use spiffe_registration::{Entry, EntryParams, Selector};
use spiffe_svid_ca::authority::{Kind, Status};
use spiffe_svid_ca::error::{CaError, LifecycleError};
use spiffe_testkit::{SeededRandom, VirtualClock};
use spiffe_workload_client::{Endpoint, WorkloadApiClient};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

struct World {
    clock: Arc<VirtualClock>,
    domain: LocalTrustDomain,
    client: WorkloadApiClient,
    _api: LocalApi,
    directory: tempfile::TempDir,
}

impl World {
    /// A trust domain whose every caller gets this many identities.
    async fn new(identities: usize) -> Self {
        let start = Timestamp::from_unix_seconds(1_800_000_000);
        let clock = Arc::new(VirtualClock::start(start));
        let selector = Selector::new("unix", &format!("uid:{}", nix::unistd::getuid())).unwrap();
        let entries = (0..identities).map(|number| {
            let id = SpiffeId::parse(&format!("spiffe://test.example/w{number}")).unwrap();
            let mut params = EntryParams::new(id, vec![selector.clone()]);
            params.hint = Some(format!("w{number}"));
            params.x509_svid_ttl = Some(HOUR * 3);
            Entry::new(params, || format!("w{number}")).unwrap()
        });
        let domain = LocalTrustDomain::builder(TrustDomain::parse("test.example").unwrap())
            .entries(entries)
            .clock(clock.clone())
            .random(Arc::new(SeededRandom::new(7)))
            .reissue_over(MINUTE * 10)
            .build()
            .await
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let api = domain.serve(&socket).unwrap();
        let client = WorkloadApiClient::builder(Endpoint::unix(&socket).unwrap())
            .clock(clock.clone())
            .build();
        Self {
            clock,
            domain,
            client,
            _api: api,
            directory,
        }
    }

    /// A stream that takes no more than a thousand bytes before it is read.
    async fn stream(&self) -> tonic::Streaming<X509svidResponse> {
        let uri = format!("unix://{}", self.directory.path().join("s").display());
        let endpoint = tonic::transport::Endpoint::from_shared(uri).unwrap();
        let endpoint = endpoint.initial_stream_window_size(1000);
        let mut client = SpiffeWorkloadApiClient::new(endpoint.connect().await.unwrap());
        let mut request = tonic::Request::new(X509svidRequest {});
        let header = "true".parse().unwrap();
        request.metadata_mut().insert("workload.spiffe.io", header);
        client.fetch_x509svid(request).await.unwrap().into_inner()
    }

    fn status(&self, id: &str) -> Option<Status> {
        let state = self.domain.ca().state();
        state.slots(Kind::X509).find(id).map(|found| found.status())
    }

    fn active(&self) -> String {
        let state = self.domain.ca().state();
        state.slots(Kind::X509).active().unwrap().id().to_owned()
    }
}

#[track_caller]
fn laggards(refused: Result<impl std::fmt::Debug, CaError>) -> Vec<String> {
    match refused {
        Err(CaError::Lifecycle(LifecycleError::Laggards { laggards, .. })) => laggards,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_rollover_waits_for_a_stream_that_is_not_read_until_the_deadline() {
    let world = World::new(1).await;
    let (clock, domain) = (&world.clock, &world.domain);
    let first = world.active();
    // The stream is open, and nobody reads it.
    let mut unread = world.stream().await;
    clock.sleep(MINUTE).await;
    domain.prepare_x509_authority().await.unwrap();
    clock.sleep(HOUR).await;
    let waiting = laggards(domain.activate_x509_authority(&domain.evidence()).await);
    assert!(
        matches!(&waiting[..], [one] if one.starts_with("spiffe://test.example/w0, ")),
        "{waiting:?}"
    );
    assert_eq!(world.active(), first, "nor does time alone activate it");
    // It is read until it has what is newest; then the rollover goes on by itself.
    let read = tokio::spawn(async move {
        loop {
            unread.message().await.unwrap().unwrap();
        }
    });
    clock.sleep(MINUTE).await;
    assert_ne!(world.active(), first);
    read.abort();
    drop(read);
    // The same again with a stream that is never read: the deadline comes, a sixth of the life before its end.
    clock.sleep(MINUTE).await;
    let second = world.active();
    let _unread = world.stream().await;
    clock.sleep(MINUTE).await;
    domain.prepare_x509_authority().await.unwrap();
    let state = domain.ca().state();
    let end = state.slots(Kind::X509).active().unwrap().not_after();
    clock.sleep_until_time(end - HOUR * 4 - MINUTE * 5).await;
    assert_eq!(world.active(), second);
    clock.sleep(MINUTE * 5 + HOUR / 2).await;
    assert_ne!(world.active(), second);
}

#[tokio::test]
async fn what_a_tainted_authority_signed_is_replaced_over_the_span_and_then_it_is_revoked() {
    const IDENTITIES: usize = 40;
    let world = World::new(IDENTITIES).await;
    let (clock, domain) = (&world.clock, &world.domain);
    let old = world.active();
    let mut updates = world.client.watch_x509().await.unwrap();
    let first = updates.next().await.unwrap();
    assert_eq!(first.svids().len(), IDENTITIES);
    let signed_by = |id: &[u8]| {
        id.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };

    // Every update is noted as it comes, and everything in it verifies with the bundle that came with it.
    let (noted, mut notes) = tokio::sync::mpsc::unbounded_channel();
    let watched = clock.clone();
    let watching = tokio::spawn(async move {
        let verifier = X509Verifier::new(&*aws_lc_rs());
        loop {
            let update = updates.next().await.unwrap();
            let now = watched.now();
            let mut signers = BTreeMap::new();
            for svid in update.svids() {
                verifier
                    .verify(svid.chain(), update.bundles(), now, PeerRole::Unspecified)
                    .unwrap_or_else(|error| panic!("{now}: {error}"));
                let signer = signed_by(svid.authority_key_id().unwrap());
                signers.insert(svid.id().to_string(), signer);
            }
            let authorities = update
                .bundles()
                .iter()
                .next()
                .unwrap()
                .x509_authorities()
                .len();
            noted.send((now, signers, authorities)).unwrap();
        }
    });

    clock.sleep(MINUTE).await;
    domain.prepare_x509_authority().await.unwrap();
    // Nobody was sent it yet.
    assert_eq!(
        laggards(domain.activate_x509_authority(&domain.evidence()).await).len(),
        1
    );
    clock.sleep(MINUTE).await;
    domain
        .activate_x509_authority(&domain.evidence())
        .await
        .unwrap();
    let tainted_at = clock.now();
    domain.taint_x509_authority(&old).await.unwrap();
    assert_eq!(world.status(&old), Some(Status::Tainted));

    // Half of them still present what it signed.
    clock.sleep(MINUTE * 5).await;
    let refused = domain.revoke_x509_authority(&old, false).await.unwrap_err();
    assert!(
        matches!(&refused, CaError::Lifecycle(LifecycleError::StillInUse { holders, .. }) if holders.len() == 1),
        "{refused}"
    );
    clock.sleep(MINUTE * 6).await;
    domain.revoke_x509_authority(&old, false).await.unwrap();
    assert_eq!(world.status(&old), None);
    clock.sleep(MINUTE).await;
    watching.abort();

    let mut replaced: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut authorities = 1;
    while let Some((now, signers, known)) = notes.recv().await {
        authorities = known;
        for (id, signer) in signers {
            if signer != old {
                replaced.entry(id).or_insert(now);
            }
        }
    }
    assert_eq!(
        authorities, 1,
        "the bundle of the last update holds the new one alone"
    );
    assert_eq!(replaced.len(), IDENTITIES);
    let mut minutes = [0; 10];
    for at in replaced.values() {
        let after = at.saturating_since(tainted_at);
        minutes[(after.as_secs() / 60) as usize] += 1;
    }
    // Four in each of ten minutes, give or take.
    assert!(
        minutes.iter().all(|number| (1..=10).contains(number)),
        "{minutes:?}"
    );
}
