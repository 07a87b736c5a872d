//! The numbers of sources in Prometheus' form, by the crate prometheus-client.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Event, Metrics};
use crate::source::Survival;

/// Counts and times of sources, by kind of source: `docs/reference/events.md` lists names and meaning.
#[derive(Clone, Debug, Default)]
pub struct PrometheusMetrics {
    updates: Family<Kind, Counter>,
    discarded: Family<Kind, Counter>,
    lost: Family<Kind, Counter>,
    withdrawals: Family<Kind, Counter>,
    overdue: Family<Kind, Counter>,
    expired: Family<Kind, Counter>,
    clock_steps: Family<Kind, Counter>,
    tokens: Family<Kind, Counter>,
    token_failures: Family<Kind, Counter>,
    connected: Family<Kind, Gauge>,
    revision: Family<Kind, Gauge>,
    survives_until: Family<Kind, Gauge>,
}

impl PrometheusMetrics {
    /// Metrics that `registry` shows, each under a name that begins with `spiffe_source_`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("spiffe_source");
        let mut counter = |name, help, family: &Family<Kind, Counter>| {
            registry.register(name, help, family.clone());
        };
        counter("updates", "Revisions published", &metrics.updates);
        counter(
            "discarded",
            "Updates discarded or used in part",
            &metrics.discarded,
        );
        counter("lost", "Streams that ended or were refused", &metrics.lost);
        counter(
            "withdrawals",
            "Withdrawals by the Workload API",
            &metrics.withdrawals,
        );
        counter(
            "overdue",
            "Identities that should have been renewed and were not",
            &metrics.overdue,
        );
        counter(
            "expired",
            "Identities that expired in use",
            &metrics.expired,
        );
        counter(
            "clock_steps",
            "Steps of the clock, or sleeps of the machine",
            &metrics.clock_steps,
        );
        counter("tokens", "Tokens fetched", &metrics.tokens);
        counter(
            "token_failures",
            "Tokens that could not be fetched",
            &metrics.token_failures,
        );
        let mut gauge = |name, help, family: &Family<Kind, Gauge>| {
            registry.register(name, help, family.clone());
        };
        gauge(
            "connected",
            "Whether a stream is being followed",
            &metrics.connected,
        );
        gauge("revision", "The revision published", &metrics.revision);
        gauge(
            "survives_until_timestamp_seconds",
            "When what is held ends without another update; 0 when nothing is held",
            &metrics.survives_until,
        );
        metrics
    }

    fn survival(&self, kind: &Kind, survival: Option<&Survival>) {
        let until = survival.map_or(0, |survival| survival.until().unix_seconds());
        self.survives_until.get_or_create(kind).set(until);
    }
}

impl Metrics for PrometheusMetrics {
    fn record(&self, source: &'static str, event: &Event<'_>) {
        let kind = Kind { source };
        match event {
            Event::ClockStepped { survival, .. } => {
                self.clock_steps.get_or_create(&kind).inc();
                self.survival(&kind, *survival);
            }
            Event::Connected => {
                self.connected.get_or_create(&kind).set(1);
            }
            Event::Discarded { .. } | Event::UsedInPart { .. } => {
                self.discarded.get_or_create(&kind).inc();
            }
            Event::Expired { .. } => {
                self.expired.get_or_create(&kind).inc();
            }
            Event::Lost { survival, .. } => {
                self.lost.get_or_create(&kind).inc();
                self.connected.get_or_create(&kind).set(0);
                self.survival(&kind, *survival);
            }
            Event::Overdue { .. } => {
                self.overdue.get_or_create(&kind).inc();
            }
            Event::TokenFetched => {
                self.tokens.get_or_create(&kind).inc();
            }
            Event::TokenFailed { .. } => {
                self.token_failures.get_or_create(&kind).inc();
            }
            Event::Updated {
                published,
                survival,
            } => {
                let revision = i64::try_from(published.revision().get()).unwrap_or(i64::MAX);
                self.updates.get_or_create(&kind).inc();
                self.revision.get_or_create(&kind).set(revision);
                self.survival(&kind, *survival);
            }
            Event::Withdrawn => {
                self.withdrawals.get_or_create(&kind).inc();
                self.survival(&kind, None);
            }
            Event::CacheFailed { .. }
            | Event::NotYetValid { .. }
            | Event::PassedOver { .. }
            | Event::Recovered { .. }
            | Event::Restored => {}
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    source: &'static str,
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use spiffe_testkit::TrustDomain;

    use super::*;

    #[tokio::test]
    async fn identities_that_were_not_renewed_are_counted() {
        let mut registry = Registry::default();
        let metrics = PrometheusMetrics::register(&mut registry);
        let svid = TrustDomain::ephemeral("example.org")
            .await
            .svid("web")
            .await;
        let (svid, since) = (&svid, svid.not_after());
        let survival = None;
        let overdue = Event::Overdue {
            svid,
            since,
            survival,
        };
        metrics.record("x509", &overdue);
        metrics.record("x509", &Event::Expired { svid, since });
        metrics.record("x509", &overdue);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            r#"spiffe_source_overdue_total{source="x509"} 2"#,
            r#"spiffe_source_expired_total{source="x509"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn events_are_counted_by_kind_of_source() {
        let mut registry = Registry::default();
        let metrics = PrometheusMetrics::register(&mut registry);
        metrics.record("x509", &Event::Connected);
        metrics.record("x509", &Event::Withdrawn);
        metrics.record("jwt", &Event::TokenFetched);
        metrics.record("jwt", &Event::TokenFetched);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            r#"spiffe_source_connected{source="x509"} 1"#,
            r#"spiffe_source_withdrawals_total{source="x509"} 1"#,
            r#"spiffe_source_tokens_total{source="jwt"} 2"#,
            r#"spiffe_source_survives_until_timestamp_seconds{source="x509"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
