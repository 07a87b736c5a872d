//! What the page of events and metrics promises is what the code tells, both ways.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use prost::Message;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::verify::X509Verifier;
use spiffe_proto::workload::JwtBundlesResponse;
use spiffe_testkit::TrustDomain;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

use super::*;
use crate::update::JwtBundles;

const PAGE: &str = include_str!("../../../docs/reference/events.md");

/// What events are about.
struct World {
    published: Arc<Published>,
    survival: Survival,
    seal: SealError,
    client: ClientError,
    notices: JwtBundles,
    not_yet_valid: NotYetValid,
}

impl World {
    async fn new() -> Self {
        let issuer = TrustDomain::ephemeral("example.org").await;
        let published = issuer.fixed_source("web", &[]).await.load();
        let svid = &published.svids()[0];
        let verifier = X509Verifier::new(&*aws_lc_rs());
        let (first, last) = (svid.not_before(), svid.not_after());
        // One bundle that can be read, and a name that is none.
        let bundles = [("spiffe://example.org", vec![]), ("nobody", vec![])];
        let bundles = bundles.map(|(name, jwks)| (name.to_owned(), jwks)).into();
        let message = JwtBundlesResponse { bundles }.encode_to_vec();
        Self {
            survival: Survival::of(published.snapshot(), &verifier, last).unwrap(),
            seal: SealError {
                path: "/var/lib/last-good".into(),
                reason: "no space".into(),
            },
            client: ClientError::Unimplemented {
                rpc: "FetchX509SVID",
                message: String::new(),
            },
            notices: JwtBundles::decode(&message, aws_lc_rs()).unwrap(),
            not_yet_valid: NotYetValid::of(published.snapshot(), first - Duration::from_secs(1))
                .unwrap(),
            published,
        }
    }

    fn first(&self) -> Event<'_> {
        Event::CacheFailed { error: &self.seal }
    }

    /// Goes through all events: one that is new does not compile until it has its place here.
    fn after(&self, event: &Event<'_>) -> Option<Event<'_>> {
        let survival = Some(&self.survival);
        let (svid, since) = (&*self.published.svids()[0], self.survival.until());
        Some(match event {
            Event::CacheFailed { .. } => Event::ClockStepped {
                by: Duration::from_secs(60),
                survival,
            },
            Event::ClockStepped { .. } => Event::Connected,
            Event::Connected => Event::Discarded { error: "empty" },
            Event::Discarded { .. } => Event::Expired { svid, since },
            Event::Expired { .. } => Event::Lost {
                error: &self.client,
                survival,
            },
            Event::Lost { .. } => Event::NotYetValid {
                svid: &self.not_yet_valid,
            },
            Event::NotYetValid { .. } => Event::Overdue {
                svid,
                since,
                survival,
            },
            Event::Overdue { .. } => Event::PassedOver {
                notice: &self.notices.notices()[0],
            },
            Event::PassedOver { .. } => Event::Recovered {
                away: None,
                survival,
            },
            Event::Recovered { .. } => Event::Restored,
            Event::Restored => Event::TokenFailed {
                error: &self.client,
            },
            Event::TokenFailed { .. } => Event::TokenFetched,
            Event::TokenFetched => Event::Updated {
                published: &self.published,
                survival,
            },
            Event::Updated { .. } => Event::UsedInPart { problem: "expired" },
            Event::UsedInPart { .. } => Event::Withdrawn,
            Event::Withdrawn => return None,
        })
    }

    /// Tells one observer of every event.
    fn tell(&self, observer: &Observer) {
        let mut next = Some(self.first());
        while let Some(event) = next {
            observer.event(&event);
            next = self.after(&event);
        }
    }
}

/// Level and fields by the name of the event.
type Told = BTreeMap<String, (String, BTreeSet<String>)>;

/// Notes the events of sources that reach `tracing`.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Told>>);

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "spiffe_workload_client::observe"
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut name = Name::default();
        event.record(&mut name);
        let metadata = event.metadata();
        let fields = metadata.fields().iter().map(|field| field.name().into());
        let mut fields: BTreeSet<String> = fields.collect();
        for always in ["source", "event", "message"] {
            assert!(fields.remove(always), "{always} of {}", name.0);
        }
        let level = metadata.level().to_string().to_lowercase();
        self.0.lock().unwrap().insert(name.0, (level, fields));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The field `event`.
#[derive(Default)]
struct Name(String);

impl Visit for Name {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "event" {
            self.0 = value.into();
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// The cells of the first table after a heading of the page, a row for each name.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, after) = PAGE.split_once(heading).unwrap();
    let lines = after.lines().skip_while(|line| !line.starts_with('|'));
    let table = lines.take_while(|line| line.starts_with('|')).skip(2);
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    table.map(cells).collect()
}

/// What a cell has between backquotes.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn name(cell: &str) -> String {
    quoted(cell).into_iter().next().unwrap()
}

#[tokio::test]
async fn events_are_those_of_the_page() {
    let (world, log) = (World::new().await, Log::default());
    tracing::subscriber::with_default(log.clone(), || world.tell(&Observer::new("x509", None)));
    let row = |cells: Vec<&str>| (name(cells[0]), (cells[1].to_owned(), quoted(cells[3])));
    let promised: Told = rows("## Events").into_iter().map(row).collect();
    assert_eq!(*log.0.lock().unwrap(), promised);
}

#[cfg(feature = "prometheus")]
#[tokio::test]
async fn metrics_are_those_of_the_page() {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    let mut registry = Registry::default();
    let metrics = Arc::new(PrometheusMetrics::register(&mut registry));
    let world = World::new().await;
    world.tell(&Observer::new("x509", Some(metrics)));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let kinds: BTreeMap<_, _> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let shown: BTreeMap<String, &str> = samples
        .map(|line| {
            let (name, rest) = line.split_once('{').unwrap();
            assert!(rest.starts_with(r#"source="x509"}"#), "{line}");
            let kind = kinds[name.strip_suffix("_total").unwrap_or(name)];
            (name.to_owned(), kind)
        })
        .collect();
    let row = |cells: Vec<&'static str>| (name(cells[0]), cells[1]);
    let promised: BTreeMap<_, _> = rows("## Metrics").into_iter().map(row).collect();
    assert_eq!(shown, promised);
}
