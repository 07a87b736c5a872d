//! Rotations under load with ours, with rust-spiffe and with go-spiffe: SVIDs are replaced by one Workload API of ours while
//! connections are made over TCP, first without a pause and then half as many. Built with the feature `peers` alone.

use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, SystemTimeError};

use serde_json::json;
use spiffe_daemons::local::{LocalApi, LocalTrustDomain};
use spiffe_registration::entries_from_json;
use spiffe_workload_client::Endpoint;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Measured;
use super::go;
use super::peers_load::{Counted, Ends, ID, InGo, InProcess};
use crate::Effort;
use crate::fixtures::DNS_NAME;
use crate::measure::quantile;
use crate::report::{Budget, Row};

/// Of each load beside each peer, and at the end ours over a handshake alone.
pub(crate) const ROWS: &[&str] = &[
    "peers/rotation/rate",
    "peers/rotation/failed",
    "peers/rotation/alone-p50",
    "peers/rotation/alone-p99",
    "peers/rotation/push-p50",
    "peers/rotation/push-p99",
    "peers/go/rotation/rate",
    "peers/go/rotation/failed",
    "peers/go/rotation/alone-p50",
    "peers/go/rotation/alone-p99",
    "peers/go/rotation/push-p50",
    "peers/go/rotation/push-p99",
    "peers/rotation/over-alone-p99",
    "peers/rotation/half/rate",
    "peers/rotation/half/failed",
    "peers/rotation/half/alone-p50",
    "peers/rotation/half/alone-p99",
    "peers/rotation/half/push-p50",
    "peers/rotation/half/push-p99",
    "peers/go/rotation/half/rate",
    "peers/go/rotation/half/failed",
    "peers/go/rotation/half/alone-p50",
    "peers/go/rotation/half/alone-p99",
    "peers/go/rotation/half/push-p50",
    "peers/go/rotation/half/push-p99",
    "peers/rotation/half/over-alone-p99",
];

/// All take turns of so many rotations, so that what else the machine does meets each of them.
const TURN: u64 = 25;

/// Enough for a 99th percentile; the peers' failures show in fewer.
const MOST_ROTATIONS: u64 = 1_500;

/// How long a load runs before the first rotation of a turn: threads that slept through the turn of another program are
/// late for about this long.
const WARM_UP: Duration = Duration::from_millis(250);

/// Between the first sight of an SVID and the next moment that is timed.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a rotation may take to be seen before the run is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Failed handshakes, and the time from an order to replace all SVIDs until a handshake with the server's new one is done:
/// issuing, the Workload API and the load are in it, and so is the wait for the next handshake to begin.
pub(crate) fn rotations(effort: Effort) -> Measured {
    let turns = effort.rotations.min(MOST_ROTATIONS).div_ceil(TURN);
    let stage = Stage::new()?;
    let mut full: [Run; 3] = Default::default();
    let mut half: [Run; 3] = Default::default();
    for turn in 0..turns {
        for place in 0..WHO.len() {
            // Nobody always runs behind the same neighbour.
            let at = if turn % 2 == 0 {
                place
            } else {
                WHO.len() - 1 - place
            };
            let saturated = stage.run(WHO[at], None)?;
            let rate = saturated.rate() / 2.0;
            full[at].add(saturated);
            half[at].add(stage.run(WHO[at], Some(rate))?);
        }
    }
    let mut rows = beside(full, "rotation", None);
    rows.extend(beside(half, "rotation/half", Some(Budget::Beyond(2.0))));
    Ok(rows)
}

/// Rows of one load: ours beside each peer, and our push over a handshake alone.
fn beside(runs: [Run; 3], load: &str, budget: Option<Budget>) -> Vec<Row> {
    let [mut ours, mut rust, mut go] = runs;
    let mut rows = ours.beside(
        &mut rust,
        &format!("peers/{load}"),
        "rust-spiffe 0.19 with spiffe-rustls 0.11",
    );
    rows.extend(ours.beside(&mut go, &format!("peers/go/{load}"), "go-spiffe 2.8.1"));
    rows.push(Row::new(
        &format!("peers/{load}/over-alone-p99"),
        "ms",
        quantile(&mut ours.pushes, 0.99),
        "a handshake alone, of ours",
        quantile(&mut ours.alone, 0.99),
        budget,
    ));
    rows
}

#[derive(Clone, Copy)]
enum Who {
    Ours,
    RustSpiffe,
    Go,
}

const WHO: [Who; 3] = [Who::Ours, Who::RustSpiffe, Who::Go];

/// What all runs have in common.
struct Stage {
    world: World,
    /// What is pushed comes from threads of its own, as it would from another process.
    issuing: Runtime,
    loaded: Runtime,
    gobench: PathBuf,
    _folder: TempDir,
}

impl Stage {
    fn new() -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let issuing = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        Ok(Self {
            world: issuing.block_on(World::start())?,
            issuing,
            loaded: Builder::new_multi_thread().enable_all().build()?,
            gobench: go::build(folder.path())?,
            _folder: folder,
        })
    }

    /// A turn under so many handshakes a second, or under as many as can be made.
    fn run(&self, who: Who, rate: Option<f64>) -> Result<Run, Box<dyn Error>> {
        let (sender, sights) = mpsc::unbounded_channel();
        if let Who::Go = who {
            let load = InGo::start(&self.gobench, &self.world.address(), rate, sender)?;
            let rotated = self.rotate(sights);
            return Ok(Run::new(rotated?, load.stop()?)?);
        }
        let world = &self.world;
        let load = self.loaded.block_on(async {
            let ends = match who {
                Who::RustSpiffe => Ends::rust_spiffe(&world.address()).await?,
                _ => Ends::ours(&world.endpoint).await?,
            };
            InProcess::start(ends, rate, sender).await
        })?;
        let rotated = self.rotate(sights);
        let counted = self.loaded.block_on(load.stop())?;
        Ok(Run::new(rotated?, counted)?)
    }

    fn rotate(&self, sights: Sights) -> Result<Rotated, Box<dyn Error>> {
        self.issuing.block_on(self.world.rotate(TURN, sights))
    }
}

/// What came of some rotations.
#[derive(Default)]
struct Run {
    handshakes: u64,
    failed: u64,
    seconds: f64,
    /// Milliseconds from an order to replace all SVIDs until the first handshake with the server's next one is done.
    pushes: Vec<f64>,
    /// The same from moments at which nothing was ordered until the first handshake that began later is done.
    alone: Vec<f64>,
}

impl Run {
    fn new(rotated: Rotated, counted: Counted) -> Result<Self, SystemTimeError> {
        let Counted { failed, exchanges } = counted;
        let within = exchanges
            .iter()
            .filter(|exchange| rotated.begin <= exchange.done && exchange.done <= rotated.end)
            .count();
        let alone = rotated.quiet.iter().filter_map(|moment| {
            let later = exchanges
                .iter()
                .filter(|exchange| exchange.began >= *moment);
            Some(millis(*moment, later.map(|exchange| exchange.done).min()?))
        });
        Ok(Self {
            alone: alone.collect::<Result<_, _>>()?,
            handshakes: within as u64,
            failed,
            seconds: millis(rotated.begin, rotated.end)? / 1e3,
            pushes: rotated.pushes,
        })
    }

    fn add(&mut self, other: Self) {
        self.handshakes += other.handshakes;
        self.failed += other.failed;
        self.seconds += other.seconds;
        self.pushes.extend(other.pushes);
        self.alone.extend(other.alone);
    }

    /// Handshakes a second.
    fn rate(&self) -> f64 {
        self.handshakes as f64 / self.seconds
    }

    fn beside(&mut self, theirs: &mut Self, prefix: &str, who: &str) -> Vec<Row> {
        let of = format!(
            "{who}, beside {} in {} rotations; ours beside {}",
            theirs.handshakes,
            theirs.pushes.len(),
            self.handshakes
        );
        let mut rows = vec![
            Row::new(
                &format!("{prefix}/rate"),
                "handshakes a second",
                self.rate(),
                who,
                theirs.rate(),
                None,
            ),
            Row::new(
                &format!("{prefix}/failed"),
                "handshakes",
                self.failed as f64,
                &of,
                theirs.failed as f64,
                Budget::AtMost(0.0),
            ),
        ];
        let times = [
            ("alone", &mut self.alone, &mut theirs.alone, None),
            (
                "push",
                &mut self.pushes,
                &mut theirs.pushes,
                Some(Budget::Ratio(1.0)),
            ),
        ];
        for (what, ours, theirs, budget) in times {
            rows.extend([("p50", 0.5), ("p99", 0.99)].map(|(percent, at)| {
                let row = format!("{prefix}/{what}-{percent}");
                let [ours, theirs] = [quantile(ours, at), quantile(theirs, at)];
                Row::new(&row, "ms", ours, who, theirs, budget)
            }));
        }
        rows
    }
}

/// A trust domain in which this user is one workload.
struct World {
    domain: LocalTrustDomain,
    _api: LocalApi,
    socket: PathBuf,
    endpoint: Endpoint,
    _folder: TempDir,
}

impl World {
    async fn start() -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("s");
        let uid = folder.path().metadata()?.uid();
        let entry = json!({"entries": [{
            "spiffe_id": ID,
            "parent_id": "spiffe://example.org/agent",
            "selectors": [{"type": "unix", "value": format!("uid:{uid}")}],
            "dns_names": [DNS_NAME],
        }]});
        let entries = entries_from_json(entry.to_string().as_bytes(), || "1".into())?;
        let domain = LocalTrustDomain::builder("example.org".parse()?)
            .entries(entries)
            .build()
            .await?;
        Ok(Self {
            _api: domain.serve(&socket)?,
            domain,
            endpoint: format!("unix://{}", socket.display()).parse()?,
            socket,
            _folder: folder,
        })
    }

    fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Rotates so many times, each time until the first handshake with the server's new SVID, with a moment before each
    /// that is as quiet.
    async fn rotate(&self, times: u64, mut sights: Sights) -> Result<Rotated, Box<dyn Error>> {
        timeout(PATIENCE, sights.recv()).await?;
        sleep(WARM_UP).await;
        let begin = SystemTime::now();
        let (mut quiet, mut pushes) = (Vec::new(), Vec::new());
        for _ in 0..times {
            sleep(PAUSE).await;
            quiet.push(SystemTime::now());
            sleep(PAUSE).await;
            while sights.try_recv().is_ok() {}
            let pushed = SystemTime::now();
            self.domain.reissue();
            let seen = timeout(PATIENCE, sights.recv())
                .await?
                .ok_or("the load has ended")?;
            pushes.push(millis(pushed, seen)?);
        }
        Ok(Rotated {
            begin,
            end: SystemTime::now(),
            quiet,
            pushes,
        })
    }
}

/// When the server's next SVID was first seen.
type Sights = mpsc::UnboundedReceiver<SystemTime>;

struct Rotated {
    begin: SystemTime,
    end: SystemTime,
    quiet: Vec<SystemTime>,
    pushes: Vec<f64>,
}

fn millis(from: SystemTime, until: SystemTime) -> Result<f64, SystemTimeError> {
    Ok(until.duration_since(from)?.as_secs_f64() * 1e3)
}
