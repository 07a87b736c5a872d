//! A rehearsal of an outage: a Workload API that is withheld, and a clock that may run faster meanwhile.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::snapshot::SourceError;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{BoxFuture, Clock, Source, SystemClock, Timestamp};
use spiffe_workload_client::{Endpoint, StartError, WorkloadApiClient, X509Source};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::program::{PlaceError, private_directory};

/// How far prediction and observation may lie apart.
pub const TOLERANCE: Duration = Duration::from_secs(1);

/// How often it is looked whether the identity still serves.
const LOOK: Duration = Duration::from_millis(500);

/// What is rehearsed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outage {
    /// The Workload API that is withheld.
    pub endpoint: Endpoint,
    /// How long to wait for the first update.
    pub timeout: Duration,
    /// How long to withhold it; until the identity ends when `None`.
    pub lasts: Option<Duration>,
    /// How many times faster time passes while it is withheld.
    pub speed: u32,
}

/// Why an outage could not be rehearsed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrillError {
    /// No socket to stand in for the Workload API's.
    #[error("cannot make a socket: {source}; see that temporary files can be made")]
    Socket {
        /// What the system says.
        source: io::Error,
    },
    /// No place for it.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// There was nothing to withhold.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The first update brought no identity.
    #[error(transparent)]
    NoIdentity(#[from] SourceError),
}

/// What was predicted and what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The identity.
    pub id: String,
    /// When the Workload API was withheld, RFC 3339.
    pub withheld_at: String,
    /// Until when the source said that it would serve, RFC 3339.
    pub predicted_until: String,
    /// The same from the beginning of the outage, in seconds.
    pub predicted_s: u64,
    /// The prediction in words, with what ends first.
    pub prediction: String,
    /// The last instant at which a peer would have accepted the identity, RFC 3339.
    pub observed_until: String,
    /// The same from the beginning of the outage, in seconds.
    pub observed_s: u64,
    /// Whether it served to the end of the outage.
    pub survived: bool,
    /// Whether both agree within [`TOLERANCE`].
    pub agree: bool,
}

impl Outage {
    /// An outage that lasts until the identity ends, in real time.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            timeout: Duration::from_secs(5),
            lasts: None,
            speed: 1,
        }
    }

    /// Rehearses it: a source of its own follows the Workload API through a socket of its own, the socket goes away, and its
    /// SVID is verified as a peer would until it is refused. Nobody else notices.
    ///
    /// The socket is in a directory for this user alone: whoever connects to it is this process to the Workload API.
    ///
    /// # Errors
    ///
    /// [`DrillError`].
    pub async fn rehearse(&self) -> Result<Report, DrillError> {
        // Once without the gate: what is wrong with the endpoint is told of the endpoint itself.
        let direct = WorkloadApiClient::builder(self.endpoint.clone()).build();
        let direct = X509Source::builder().client(direct).timeout(self.timeout);
        direct.build().await?.shutdown().await;

        let failed = |source| DrillError::Socket { source };
        let place = private_directory("spiffe-drill-")?;
        let path = place.path().join("s");
        let gate = Gate::open(&path, self.endpoint.clone()).map_err(failed)?;
        let clock = Arc::new(FastClock::new());
        let stand_in = Endpoint::unix(&path).map_err(|error| failed(io::Error::other(error)))?;
        let client = WorkloadApiClient::builder(stand_in)
            .clock(clock.clone())
            .build();
        let source = X509Source::builder()
            .client(client)
            .timeout(self.timeout)
            .build()
            .await?;
        let id = source.svid()?.id().to_string();

        gate.close(&path).await.map_err(failed)?;
        let survival = source.survives_until();
        let withheld_at = clock.now();
        let ends = withheld_at + self.lasts.unwrap_or(Duration::MAX);
        clock.run(self.speed);
        let verifier = X509Verifier::new(&*aws_lc_rs());
        let serves = |at: Timestamp| {
            let current = source.current();
            current.svid().is_ok_and(|svid| {
                let judged =
                    verifier.verify(svid.chain(), current.bundles(), at, PeerRole::Unspecified);
                judged.is_ok()
            })
        };
        let mut observed = withheld_at;
        let survived = loop {
            let now = clock.now().min(ends);
            if !serves(now) {
                observed = last_good(observed, now, serves);
                break false;
            }
            observed = now;
            if now == ends {
                break true;
            }
            clock.sleep_until(clock.monotonic() + LOOK).await;
        };
        source.shutdown().await;
        let predicted = survival
            .as_ref()
            .map_or(withheld_at, |survival| survival.until());
        Ok(Report {
            id,
            withheld_at: withheld_at.to_string(),
            predicted_until: predicted.to_string(),
            predicted_s: predicted.saturating_since(withheld_at).as_secs(),
            prediction: survival.map_or_else(|| "nothing is held".into(), |one| one.to_string()),
            observed_until: observed.to_string(),
            observed_s: observed.saturating_since(withheld_at).as_secs(),
            survived,
            agree: agree(predicted, observed, survived),
        })
    }
}

/// Whether the identity served as long as was predicted: to within [`TOLERANCE`], or at least to the end of the outage.
fn agree(predicted: Timestamp, observed: Timestamp, survived: bool) -> bool {
    if survived {
        return predicted >= observed;
    }
    let apart = predicted
        .saturating_since(observed)
        .max(observed.saturating_since(predicted));
    apart <= TOLERANCE
}

/// The last instant between a good one and a bad one that is good, to a tenth of a second.
fn last_good(
    mut good: Timestamp,
    mut bad: Timestamp,
    is_good: impl Fn(Timestamp) -> bool,
) -> Timestamp {
    while bad.saturating_since(good) > Duration::from_millis(100) {
        let middle = good + bad.saturating_since(good) / 2;
        if is_good(middle) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    good
}

/// A socket in front of another endpoint, which passes everything on until it is closed.
#[derive(Debug)]
struct Gate {
    serving: JoinSet<()>,
}

impl Gate {
    fn open(path: &Path, to: Endpoint) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            // Ends with this task.
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let to = to.clone();
                connections.spawn(async move {
                    // What breaks here breaks for those at its ends.
                    let _ = pass_on(near, &to).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { serving })
    }

    /// Cuts every connection and takes the socket away.
    async fn close(mut self, path: &Path) -> io::Result<()> {
        self.serving.shutdown().await;
        std::fs::remove_file(path)
    }
}

async fn pass_on(mut near: UnixStream, to: &Endpoint) -> io::Result<()> {
    if let Some(path) = to.unix_path() {
        let mut far = UnixStream::connect(path).await?;
        tokio::io::copy_bidirectional(&mut near, &mut far).await?;
    } else if let Some(address) = to.tcp_address() {
        let mut far = TcpStream::connect(address).await?;
        tokio::io::copy_bidirectional(&mut near, &mut far).await?;
    }
    Ok(())
}

/// The system's clock, running faster from some moment on.
struct FastClock {
    system: SystemClock,
    since: watch::Sender<Since>,
}

/// From when on time runs at which speed.
#[derive(Clone, Copy)]
struct Since {
    system: Duration,
    monotonic: Duration,
    now: Timestamp,
    speed: u32,
}

impl FastClock {
    fn new() -> Self {
        let system = SystemClock::new();
        let (since, _) = watch::channel(Since {
            system: system.monotonic(),
            monotonic: system.monotonic(),
            now: system.now(),
            speed: 1,
        });
        Self { system, since }
    }

    /// Runs at this speed from now on.
    fn run(&self, speed: u32) {
        let (now, monotonic) = (self.now(), self.monotonic());
        let system = self.system.monotonic();
        let since = Since {
            system,
            monotonic,
            now,
            speed,
        };
        self.since.send_replace(since);
    }

    fn passed(&self, since: Since) -> Duration {
        self.system
            .monotonic()
            .saturating_sub(since.system)
            .saturating_mul(since.speed)
    }
}

impl Clock for FastClock {
    fn now(&self) -> Timestamp {
        let since = *self.since.borrow();
        since.now + self.passed(since)
    }

    fn monotonic(&self) -> Duration {
        let since = *self.since.borrow();
        since.monotonic.saturating_add(self.passed(since))
    }

    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        let (mut since, system) = (self.since.subscribe(), self.system);
        Box::pin(async move {
            loop {
                let current = *since.borrow_and_update();
                let left = deadline.saturating_sub(current.monotonic) / current.speed.max(1);
                tokio::select! {
                    () = system.sleep_until(current.system.saturating_add(left)) => return,
                    changed = since.changed() => if changed.is_err() {
                        // The clock is gone, and its speed stays.
                        return system.sleep_until(current.system.saturating_add(left)).await;
                    }
                }
            }
        })
    }
}

impl fmt::Debug for FastClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FastClock")
            .field("speed", &self.since.borrow().speed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prediction_that_is_off_by_more_than_a_second_either_way_does_not_agree() {
        let at =
            |millis| Timestamp::from_unix_seconds(1_795_161_600) + Duration::from_millis(millis);
        let end = at(10_000);
        for (observed, good) in [
            (8_999, false),
            (9_000, true),
            (11_000, true),
            (11_001, false),
        ] {
            assert_eq!(agree(end, at(observed), false), good, "{observed}");
        }
        // It served to the end of the outage, of which more was promised, or less.
        for (observed, good) in [(0, true), (10_000, true), (10_001, false)] {
            assert_eq!(agree(end, at(observed), true), good, "{observed}");
        }
    }

    #[test]
    fn the_last_good_instant_is_found_to_a_tenth_of_a_second() {
        let start = Timestamp::from_unix_seconds(1_795_161_600);
        let (last, bad) = (start + Duration::from_millis(1234), start + LOOK * 10);
        let found = last_good(start, bad, |at| at <= last);
        assert!(found <= last && last.saturating_since(found) <= Duration::from_millis(100));
    }
}
