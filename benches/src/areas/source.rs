//! Live sources over a Workload API of this process, on a Unix socket: what reading one costs, what an update costs with
//! everything on its way, and what sources hold on to.

use std::error::Error;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prost::Message;
use rustix::time::{ClockId, clock_gettime};
use spiffe_core::bundle::JwtAuthorities;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::key::{KeyType, SvidKey};
use spiffe_core::{BoxFuture, BundleSet, Clock, Source, Timestamp, Watch, X509Svid};
use spiffe_proto::workload::spiffe_workload_api_server::{
    SpiffeWorkloadApi, SpiffeWorkloadApiServer,
};
use spiffe_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
    ValidateJwtsvidRequest, ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse,
    WitsvidRequest, WitsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid,
    X509svidRequest, X509svidResponse,
};
use spiffe_workload_client::client::DEFAULT_MAX_MESSAGE_BYTES;
use spiffe_workload_client::{
    Endpoint, JwtSource, MAX_TRUST_DOMAINS, WorkloadApiClient, X509Context, X509Source,
};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::Measured;
use super::jwt::{AUDIENCE, Token};
use crate::Effort;
use crate::fixtures::{Domain, federation, now, ready};
use crate::heap;
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const CURRENT: &str = "source/current";
pub(crate) const SURVIVES_UNTIL: &str = "source/survives-until";
pub(crate) const TOKEN: &str = "source/cached-token";
pub(crate) const APPLY: &str = "source/update-with-200-bundles";
pub(crate) const APPLY_CHANGED: &str = "source/update-with-200-changed-bundles";
pub(crate) const HEAP: &str = "source/heap-per-source";
pub(crate) const GROWTH: &str = "source/growth-by-rotations";
pub(crate) const FLOOD: &str = "source/heap-after-a-flood-of-updates";
pub(crate) const AT_LIMIT: &str = "source/heap-of-an-update-at-the-size-limit";

const FEDERATED: usize = 200;

/// Loads of what a source holds, beside the clone of one shared pointer.
pub(crate) fn read(effort: Effort) -> Measured {
    let f = Fixture::new(0)?;
    let source = f.runtime.block_on(f.x509(&f.client).build())?;
    let builder = JwtSource::builder().client(f.client.clone());
    let tokens = f.runtime.block_on(builder.build())?;
    f.runtime.block_on(tokens.fetch([AUDIENCE]))?;
    let shared = Arc::new(0_u64);
    let [current, survives, token, floor] = in_turns(
        effort.span,
        [
            contender(|| source.current()),
            contender(|| source.survives_until()),
            contender(|| ready(tokens.fetch([black_box(AUDIENCE)]))),
            contender(|| black_box(&shared).clone()),
        ],
    );
    let row = |name, ours, budget| {
        Row::new(
            name,
            "ns",
            ours,
            "the clone of an Arc",
            floor,
            Budget::AtMost(budget),
        )
    };
    Ok(vec![
        row(CURRENT, current, 20.0),
        row(SURVIVES_UNTIL, survives, 20.0),
        row(TOKEN, token, 200.0),
    ])
}

/// CPU time of the whole program from handing the server an update to its being published: encoding, two ends of HTTP/2,
/// decoding, a new key, verification and the swap.
pub(crate) fn apply(effort: Effort) -> Measured {
    let rounds = if effort.span < Duration::from_secs(1) {
        50
    } else {
        400
    };
    let mut rows = Vec::new();
    let plain = Fixture::new(0)?.cpu_per_update(rounds, false)?;
    for (name, changed, budget) in [
        (APPLY, false, Some(Budget::AtMost(2.0))),
        (APPLY_CHANGED, true, None),
    ] {
        let took = Fixture::new(FEDERATED)?.cpu_per_update(rounds, changed)?;
        rows.push(Row::new(
            name,
            "ms",
            took,
            "the same without federated bundles",
            plain,
            budget,
        ));
    }
    Ok(rows)
}

/// Live heap: of further sources of one client, and after many rotations.
pub(crate) fn heap(effort: Effort) -> Measured {
    const MANY: i64 = 100;
    let f = Fixture::new(10)?;
    let first = f.runtime.block_on(f.x509(&f.client).build())?;
    let own = |many: i64| -> Result<f64, Box<dyn Error>> {
        let before = heap::live();
        let mut sources = Vec::new();
        for _ in 0..many {
            let client = f.new_client();
            sources.push(f.runtime.block_on(f.x509(&client).build())?);
        }
        Ok((heap::live() - before) as f64 / many as f64 / 1024.0)
    };
    own(1)?;
    let before = heap::live();
    let mut sources = Vec::new();
    for _ in 0..MANY {
        sources.push(f.runtime.block_on(f.x509(&f.client).build())?);
    }
    let shared = (heap::live() - before) as f64 / MANY as f64 / 1024.0;
    let alone = own(MANY)?;
    drop(sources);

    let rotations = effort.rotations.max(1_000) * 10;
    let svids = [f.message(0)?, f.message(0)?];
    let mut done = 0;
    let begin = Instant::now();
    let mut rotate = |times: u64| -> Result<i64, Box<dyn Error>> {
        for _ in 0..times {
            done += 1;
            f.rotate(&first, svids[done as usize % 2].clone())?;
        }
        Ok(heap::live())
    };
    let before = rotate(100)?;
    let after = rotate(rotations)?;
    eprintln!(
        "{rotations} rotations in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    Ok(vec![
        Row::new(
            HEAP,
            "KiB",
            shared,
            "a source with a client of its own, the server's end with it",
            alone,
            Budget::AtMost(30.0),
        ),
        Row::new(
            GROWTH,
            "KiB",
            (after - before) as f64 / 1024.0,
            "rotations",
            rotations as f64,
            Budget::AtMost(4.0),
        ),
    ])
}

/// Live heap after 10,000 updates that come as fast as they are taken, each another SVID than the one before.
pub(crate) fn flood(_: Effort) -> Measured {
    const UPDATES: usize = 10_000;
    let f = Fixture::new(0)?;
    let source = f.runtime.block_on(f.x509(&f.client).build())?;
    let messages = (0..4)
        .map(|_| f.message(0))
        .collect::<Result<Vec<_>, _>>()?;
    let flood = |updates: usize| -> Result<(), Box<dyn Error>> {
        let last = f.message(0)?;
        let leaf = last.svids[0].x509_svid.clone();
        f.runtime.block_on(async {
            for number in 0..updates {
                f.flood.send(messages[number % 4].clone()).await?;
            }
            f.flood.send(last).await?;
            loop {
                let current = source.current();
                if current.svid()?.to_concatenated_der() == leaf {
                    return Ok(());
                }
                source.changed(current.revision()).await;
            }
        })
    };
    flood(100)?;
    let (before, begin) = (heap::live(), Instant::now());
    flood(UPDATES)?;
    let rate = UPDATES as f64 / begin.elapsed().as_secs_f64();
    Ok(vec![Row::new(
        FLOOD,
        "KiB",
        heap::live() as f64 / 1024.0,
        &format!("before it, server included; {rate:.0} updates a second"),
        before as f64 / 1024.0,
        Budget::Beyond(64.0),
    )])
}

/// Live heap that an update keeps which is as large as one may be by default, with as many trust domains as there may be.
/// The message is read as a stream's first, without a stream: buffers of the transport are not in it.
pub(crate) fn at_limit(_: Effort) -> Measured {
    const MIB: f64 = 1024.0 * 1024.0;
    let mut message = Fixture::new(16)?.message(0)?;
    let mut certificates = std::mem::take(&mut message.federated_bundles).into_values();
    let mut bundle = certificates.next().ok_or("there is no certificate")?;
    let of = |bundle: &Vec<u8>| {
        let entry = |number| (format!("spiffe://td{number}.example"), bundle.clone());
        let federated_bundles = (0..MAX_TRUST_DOMAINS).map(entry).collect();
        let message = X509svidResponse {
            federated_bundles,
            ..message.clone()
        };
        message.encode_to_vec()
    };
    let mut largest = of(&bundle);
    for certificate in certificates {
        bundle.extend(certificate);
        let larger = of(&bundle);
        if larger.len() > DEFAULT_MAX_MESSAGE_BYTES {
            break;
        }
        largest = larger;
    }
    let before = heap::live();
    let context = X509Context::decode(&largest, aws_lc_rs())?;
    let kept = heap::live() - before;
    assert_eq!(context.bundles().len(), MAX_TRUST_DOMAINS + 1);
    Ok(vec![Row::new(
        AT_LIMIT,
        "MiB",
        kept as f64 / MIB,
        "the message",
        largest.len() as f64 / MIB,
        Budget::Ratio(3.0),
    )])
}

pub(super) struct Fixture {
    pub(super) runtime: Runtime,
    pub(super) api: watch::Sender<X509svidResponse>,
    pub(super) client: WorkloadApiClient,
    /// Updates of the first stream, none of which is left out.
    flood: mpsc::Sender<X509svidResponse>,
    domain: Domain,
    bundles: BundleSet,
    directory: tempfile::TempDir,
}

impl Fixture {
    /// A Workload API that has an SVID and so many federated bundles; one thread runs both ends.
    pub(super) fn new(federated: usize) -> Result<Self, Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let directory = tempfile::tempdir()?;
        let domain = Domain::new("example.org")?;
        let bundles = federation(&domain, federated)?;
        let (api, updates) = watch::channel(X509svidResponse::default());
        let token = Token::new(KeyType::EcP256)?;
        let (flood, flooded) = mpsc::channel(1);
        let listener = {
            let _guard = runtime.enter();
            UnixListener::bind(directory.path().join("s"))?
        };
        let service = SpiffeWorkloadApiServer::new(Api {
            updates,
            flooded: Mutex::new(Some(flooded)),
            token,
        });
        runtime.spawn(
            Server::builder().serve_with_incoming(service, UnixListenerStream::new(listener)),
        );
        let f = Self {
            client: client(&directory)?,
            runtime,
            api,
            flood,
            domain,
            bundles,
            directory,
        };
        f.api.send_replace(f.message(0)?);
        Ok(f)
    }

    /// Where the Workload API is, as SPIFFE_ENDPOINT_SOCKET would say.
    #[cfg(feature = "peers")]
    pub(super) fn address(&self) -> String {
        format!("unix://{}", self.directory.path().join("s").display())
    }

    fn new_client(&self) -> WorkloadApiClient {
        client(&self.directory).expect("the path was good before")
    }

    pub(super) fn x509(
        &self,
        client: &WorkloadApiClient,
    ) -> spiffe_workload_client::source::X509SourceBuilder {
        X509Source::builder().client(client.clone())
    }

    /// A message with a new SVID, its federated bundles turned by so many places.
    pub(super) fn message(&self, turn: usize) -> Result<X509svidResponse, Box<dyn Error>> {
        let svid = wire(&self.domain.svid("web")?, &self.domain)?;
        let foreign: Vec<_> = self
            .bundles
            .iter()
            .filter(|bundle| bundle.trust_domain().as_str() != "example.org")
            .collect();
        let entry = |(at, bundle): (usize, &&Arc<spiffe_core::Bundle>)| {
            // Another trust domain's authority is as good to parse.
            let from = foreign[(at + turn) % foreign.len()];
            (
                format!("spiffe://{}", bundle.trust_domain()),
                from.x509_authorities().to_concatenated_der(),
            )
        };
        Ok(X509svidResponse {
            svids: vec![svid],
            federated_bundles: foreign.iter().enumerate().map(entry).collect(),
            ..X509svidResponse::default()
        })
    }

    /// Lets the server send a message, and waits until it is published.
    fn rotate(&self, source: &X509Source, message: X509svidResponse) -> Result<(), Box<dyn Error>> {
        let seen = source.current().revision();
        self.api.send_replace(message);
        self.runtime.block_on(source.changed(seen));
        Ok(())
    }

    /// Milliseconds of CPU for each of so many updates, the median.
    pub(super) fn cpu_per_update(
        &self,
        rounds: usize,
        changed: bool,
    ) -> Result<f64, Box<dyn Error>> {
        let source = self.runtime.block_on(self.x509(&self.client).build())?;
        let messages = [self.message(0)?, self.message(usize::from(changed))?];
        let mut spans = Vec::with_capacity(rounds);
        for round in 0..rounds {
            let message = messages[(round + 1) % 2].clone();
            let begin = cpu_time();
            self.rotate(&source, message)?;
            spans.push((cpu_time() - begin).as_secs_f64() * 1e3);
        }
        spans.sort_by(f64::total_cmp);
        Ok(spans[spans.len() / 2])
    }
}

fn client(directory: &tempfile::TempDir) -> Result<WorkloadApiClient, Box<dyn Error>> {
    let endpoint = Endpoint::unix(directory.path().join("s"))?;
    Ok(WorkloadApiClient::builder(endpoint)
        .clock(Arc::new(Still(now())))
        .build())
}

fn wire(svid: &X509Svid, domain: &Domain) -> Result<X509svid, Box<dyn Error>> {
    let SvidKey::Local(key) = svid.key() else {
        return Err("the key is not here".into());
    };
    Ok(X509svid {
        spiffe_id: svid.id().to_string(),
        x509_svid: svid.to_concatenated_der(),
        x509_svid_key: key.secret_pkcs8_der().to_vec(),
        bundle: domain.certificate().to_vec(),
        hint: String::new(),
    })
}

/// Of the whole thread, which runs both ends.
pub(super) fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// A clock that stands still: nothing here waits for time.
#[derive(Debug)]
struct Still(Timestamp);

impl Clock for Still {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep_until(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// A Workload API that says what it was given.
struct Api {
    updates: watch::Receiver<X509svidResponse>,
    flooded: Mutex<Option<mpsc::Receiver<X509svidResponse>>>,
    token: Token,
}

type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;
    type FetchWITSVIDStream = Messages<WitsvidResponse>;
    type FetchWITBundlesStream = Messages<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let updates = WatchStream::new(self.updates.clone());
        let flooded = self.flooded.lock();
        let flooded = flooded
            .map_err(|error| Status::internal(error.to_string()))?
            .take();
        Ok(Response::new(match flooded {
            Some(flooded) => Box::pin(updates.merge(ReceiverStream::new(flooded)).map(Ok)),
            None => Box::pin(updates.map(Ok)),
        }))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let token = self.token.verify();
        let token = token.map_err(|error| Status::internal(error.to_string()))?;
        let svid = Jwtsvid {
            spiffe_id: token.id().to_string(),
            svid: self.token.token.clone(),
            hint: String::new(),
        };
        Ok(Response::new(JwtsvidResponse { svids: vec![svid] }))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let bundles = self.token.bundles.iter().map(|bundle| {
            let authorities: &JwtAuthorities = bundle.jwt_authorities();
            (
                format!("spiffe://{}", bundle.trust_domain()),
                authorities.to_workload_api_jwks().into_bytes(),
            )
        });
        let first = JwtBundlesResponse {
            bundles: bundles.collect(),
        };
        let stream = tokio_stream::once(Ok(first)).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_witsvid(
        &self,
        _: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented(""))
    }
}
