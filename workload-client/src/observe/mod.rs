//! What sources tell about themselves: events for `tracing`, and numbers for whoever keeps them.
//!
//! Names and fields are a promise; `docs/reference/events.md` lists them. No event holds a key or a token.

#[cfg(feature = "prometheus")]
mod prometheus;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use spiffe_core::snapshot::Published;
use spiffe_core::{Timestamp, X509Svid};
use tracing::{debug, error, info, warn};

#[cfg(feature = "prometheus")]
pub use prometheus::PrometheusMetrics;

use crate::error::ClientError;
use crate::source::{NotYetValid, SealError, Survival};
use crate::update::Notice;

/// Something that happened to a source.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The last good state cannot be read or written; the source goes on without.
    CacheFailed {
        /// Why.
        error: &'a SealError,
    },
    /// Calendar and stopwatch have parted, since the clock was set or the machine slept.
    ClockStepped {
        /// By how much, either way.
        by: Duration,
        /// How long what is held lasts by the new time.
        survival: Option<&'a Survival>,
    },
    /// The first good message of a stream came.
    Connected,
    /// A message, or a set of files, breaks a rule or was refused by a step; the last good one stays.
    Discarded {
        /// Why, in one line.
        error: &'a str,
    },
    /// The default SVID, or the authority it rests on, has expired: peers refuse it. Once for each.
    Expired {
        /// The SVID.
        svid: &'a X509Svid,
        /// The last instant at which it served.
        since: Timestamp,
    },
    /// There is no stream any more.
    Lost {
        /// Why.
        error: &'a ClientError,
        /// How long what is held lasts without one.
        survival: Option<&'a Survival>,
    },
    /// An SVID that was published is not valid yet, by this machine's clock.
    NotYetValid {
        /// Which, and the two times.
        svid: &'a NotYetValid,
    },
    /// The default SVID should have been renewed by now; it still serves. Once for each.
    Overdue {
        /// The SVID.
        svid: &'a X509Svid,
        /// When its renewal window closed, at two thirds of its life.
        since: Timestamp,
        /// How long it lasts.
        survival: Option<&'a Survival>,
    },
    /// Something of an update was left out.
    PassedOver {
        /// What.
        notice: &'a Notice,
    },
    /// Updates come again after they were lost, or what was overdue or expired has been renewed.
    Recovered {
        /// For how long none came; `None` where the endpoint was not away.
        away: Option<Duration>,
        /// How long what is held lasts.
        survival: Option<&'a Survival>,
    },
    /// What an earlier run kept is published.
    Restored,
    /// A token was fetched or renewed.
    TokenFetched,
    /// A token could not be fetched or renewed.
    TokenFailed {
        /// Why.
        error: &'a ClientError,
    },
    /// A new revision is published.
    Updated {
        /// The revision.
        published: &'a Published,
        /// How long it lasts.
        survival: Option<&'a Survival>,
    },
    /// SVIDs of an update cannot be used; those that are held stand in for them.
    UsedInPart {
        /// Why, in one line.
        problem: &'a str,
    },
    /// What was held is no longer used, since the Workload API withdrew it.
    Withdrawn,
}

/// Counts what happens to sources. Called on their tasks: it must not block.
pub trait Metrics: fmt::Debug + Send + Sync + 'static {
    /// Something happened to the source of this kind: `x509`, `jwt`, `x509_bundles`, `jwt_bundles` or `files`.
    fn record(&self, source: &'static str, event: &Event<'_>);
}

/// Where a source's events go.
#[derive(Clone, Debug)]
pub(crate) struct Observer {
    source: &'static str,
    metrics: Option<Arc<dyn Metrics>>,
}

impl Observer {
    pub(crate) fn new(source: &'static str, metrics: Option<Arc<dyn Metrics>>) -> Self {
        Self { source, metrics }
    }

    /// As another source's.
    pub(crate) fn named(&self, source: &'static str) -> Self {
        Self::new(source, self.metrics.clone())
    }

    pub(crate) fn event(&self, event: &Event<'_>) {
        self.trace(event);
        if let Some(metrics) = &self.metrics {
            metrics.record(self.source, event);
        }
    }

    fn trace(&self, event: &Event<'_>) {
        let source = self.source;
        match event {
            Event::CacheFailed { error } => {
                warn!(source, event = "cache_failed", %error, "the last good state cannot be used");
            }
            Event::ClockStepped { by, survival } => warn!(
                source,
                event = "clock_stepped",
                by_seconds = by.as_secs_f64(),
                survives = survival.map(tracing::field::display),
                "the clock stepped, or the machine slept; asking again"
            ),
            Event::Connected => debug!(source, event = "connected", "following the Workload API"),
            Event::Discarded { error } => {
                warn!(source, event = "discarded", %error, "an update was discarded; the last good one stays");
            }
            Event::Expired { svid, since } => error!(
                source,
                event = "expired",
                spiffe_id = %svid.id(),
                serial = svid.serial_hex(),
                since = %since.truncated(),
                "the identity in use has expired, and peers refuse it"
            ),
            Event::Lost { error, survival } => {
                let survives = survival.map(tracing::field::display);
                let next = if error.is_retryable() {
                    "asking again"
                } else {
                    "not asking again"
                };
                warn!(source, event = "lost", %error, survives, "no updates from the Workload API; {next}");
            }
            Event::PassedOver { notice } => {
                warn!(source, event = "passed_over", %notice, "a part of an update was passed over");
            }
            Event::NotYetValid { svid } => {
                warn!(source, event = "not_yet_valid", "{svid}");
            }
            Event::Overdue {
                svid,
                since,
                survival,
            } => warn!(
                source,
                event = "overdue",
                spiffe_id = %svid.id(),
                serial = svid.serial_hex(),
                since = %since.truncated(),
                survives = survival.map(tracing::field::display),
                "the identity in use should have been renewed by now"
            ),
            Event::Recovered { away, survival } => info!(
                source,
                event = "recovered",
                away_seconds = away.as_ref().map(Duration::as_secs_f64),
                survives = survival.map(tracing::field::display),
                "updates come again"
            ),
            Event::Restored => info!(
                source,
                event = "restored",
                "serving the last good state of an earlier run until an update comes"
            ),
            Event::TokenFetched => debug!(source, event = "token_fetched", "a token was fetched"),
            Event::TokenFailed { error } => {
                warn!(source, event = "token_failed", %error, "a token was not fetched");
            }
            Event::Updated {
                published,
                survival,
            } => {
                let svid = published.svids().first().map(AsRef::as_ref);
                debug!(
                    source,
                    event = "updated",
                    revision = published.revision().get(),
                    spiffe_id = svid.map(|svid| tracing::field::display(svid.id())),
                    serial = svid.map(X509Svid::serial_hex),
                    not_after = svid.map(|svid| tracing::field::display(svid.not_after())),
                    survives = survival.map(tracing::field::display),
                    "an update was published"
                );
            }
            Event::UsedInPart { problem } => {
                warn!(source, event = "used_in_part", %problem, "an update was used in part");
            }
            Event::Withdrawn => warn!(
                source,
                event = "withdrawn",
                "what the Workload API withdrew is no longer used"
            ),
        }
    }
}
