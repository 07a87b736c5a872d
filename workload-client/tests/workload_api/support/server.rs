//! A Workload API that says what the test tells it to, on a runtime of its own so that it can be killed.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::stream::{self, Stream, StreamExt};
use spiffe_proto::workload::spiffe_workload_api_server::{
    SpiffeWorkloadApi, SpiffeWorkloadApiServer,
};
use spiffe_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest,
    WitsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use spiffe_workload_client::Endpoint;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

/// What the server does next on a stream, or answers to a call.
#[derive(Clone)]
pub(crate) enum Answer<M> {
    Send(M),
    Fail(Status),
    /// Ends the stream in good order.
    End,
    /// Says nothing.
    Hang,
    /// Says nothing until there is another answer.
    Wait,
}

/// The answers of one call in order. A new stream begins with the last one and goes on with those that come.
pub(crate) struct Script<M> {
    answers: watch::Sender<Vec<Answer<M>>>,
}

impl<M: Clone + Send + Sync + 'static> Script<M> {
    fn new() -> Self {
        let (answers, _) = watch::channel(Vec::new());
        Self { answers }
    }

    pub(crate) fn add(&self, answer: Answer<M>) {
        self.answers.send_modify(|answers| answers.push(answer));
    }

    /// Several at once: nobody begins with one that is not the last.
    pub(crate) fn add_all(&self, more: impl IntoIterator<Item = Answer<M>>) {
        self.answers.send_modify(|answers| answers.extend(more));
    }

    pub(crate) fn send(&self, message: M) {
        self.add(Answer::Send(message));
    }

    pub(crate) fn fail(&self, status: Status) {
        self.add(Answer::Fail(status));
    }

    /// How many streams are open.
    pub(crate) fn readers(&self) -> usize {
        self.answers.receiver_count()
    }

    fn stream(&self) -> Messages<M> {
        let answers = self.answers.subscribe();
        let first = answers.borrow().len().saturating_sub(1);
        Box::pin(stream::unfold(Some((answers, first)), |state| async {
            let (mut answers, mut at) = state?;
            let answer = loop {
                let is_there =
                    |answers: &Vec<_>| answers.len() > at && !matches!(answers[at], Answer::Hang);
                match answers.wait_for(is_there).await.ok()?[at].clone() {
                    Answer::Wait => at += 1,
                    answer => break answer,
                }
            };
            match answer {
                Answer::Send(message) => Some((Ok(message), Some((answers, at + 1)))),
                Answer::Fail(status) => Some((Err(status), None)),
                Answer::End | Answer::Hang | Answer::Wait => None,
            }
        }))
    }

    /// The last answer, as a unary call gives it; waits for one.
    async fn last(&self) -> Result<Response<M>, Status> {
        let mut answers = self.answers.subscribe();
        let is_answer =
            |answers: &Vec<_>| !matches!(answers.last(), Some(Answer::Hang | Answer::Wait));
        match answers.wait_for(is_answer).await.unwrap().last() {
            Some(Answer::Send(message)) => Ok(Response::new(message.clone())),
            Some(Answer::Fail(status)) => Err(status.clone()),
            _ => Err(Status::unavailable("the test has no answer")),
        }
    }
}

type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// One request as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) rpc: &'static str,
    /// All values of the security header.
    pub(crate) header: Vec<String>,
}

/// What the test says and sees; outlives a killed server.
pub(crate) struct Api {
    pub(crate) x509: Script<X509svidResponse>,
    pub(crate) x509_bundles: Script<X509BundlesResponse>,
    pub(crate) jwt: Script<JwtsvidResponse>,
    pub(crate) jwt_bundles: Script<JwtBundlesResponse>,
    pub(crate) validation: Script<ValidateJwtsvidResponse>,
    pub(crate) jwt_requests: Mutex<Vec<JwtsvidRequest>>,
    calls: watch::Sender<Vec<Call>>,
    connections: AtomicUsize,
}

impl Api {
    pub(crate) fn new() -> Arc<Self> {
        let (calls, _) = watch::channel(Vec::new());
        Arc::new(Self {
            x509: Script::new(),
            x509_bundles: Script::new(),
            jwt: Script::new(),
            jwt_bundles: Script::new(),
            validation: Script::new(),
            jwt_requests: Mutex::default(),
            calls,
            connections: AtomicUsize::default(),
        })
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.borrow().clone()
    }

    /// How many connections were ever accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Resolves once `number` requests have arrived.
    pub(crate) async fn called(&self, number: usize) {
        let mut calls = self.calls.subscribe();
        calls.wait_for(|calls| calls.len() >= number).await.unwrap();
    }

    fn note<T>(&self, rpc: &'static str, request: &Request<T>) {
        let header = request.metadata().get_all("workload.spiffe.io");
        let header = header
            .iter()
            .map(|value| value.to_str().unwrap().into())
            .collect();
        self.calls
            .send_modify(|calls| calls.push(Call { rpc, header }));
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;
    type FetchWITSVIDStream = Messages<WitsvidResponse>;
    type FetchWITBundlesStream = Messages<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.note("FetchX509SVID", &request);
        Ok(Response::new(self.x509.stream()))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.note("FetchX509Bundles", &request);
        Ok(Response::new(self.x509_bundles.stream()))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        self.note("FetchJWTSVID", &request);
        self.jwt_requests.lock().unwrap().push(request.into_inner());
        self.jwt.last().await
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.note("FetchJWTBundles", &request);
        Ok(Response::new(self.jwt_bundles.stream()))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.note("ValidateJWTSVID", &request);
        self.validation.last().await
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

/// A server on a socket in a directory of its own.
pub(crate) struct Running {
    runtime: Option<Runtime>,
    path: Option<PathBuf>,
}

impl Running {
    pub(crate) fn start(api: &Arc<Api>, path: &Path) -> Self {
        let runtime = runtime();
        let listener = {
            let _guard = runtime.enter();
            UnixListener::bind(path).unwrap()
        };
        runtime.spawn(serve(api.clone(), UnixListenerStream::new(listener)));
        Self {
            runtime: Some(runtime),
            path: Some(path.into()),
        }
    }

    /// On a port of 127.0.0.1.
    pub(crate) fn start_tcp(api: &Arc<Api>) -> (Self, Endpoint) {
        let runtime = runtime();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = {
            let _guard = runtime.enter();
            TcpListener::from_std(listener).unwrap()
        };
        let endpoint = Endpoint::tcp(listener.local_addr().unwrap()).unwrap();
        runtime.spawn(serve(api.clone(), TcpListenerStream::new(listener)));
        let running = Self {
            runtime: Some(runtime),
            path: None,
        };
        (running, endpoint)
    }

    /// Breaks every connection and leaves no socket behind.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
            if let Some(path) = &self.path {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn serve<S>(api: Arc<Api>, incoming: impl Stream<Item = io::Result<S>>)
where
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let service = SpiffeWorkloadApiServer::from_arc(api.clone());
    let counted = incoming.inspect(|_| {
        api.connections.fetch_add(1, Ordering::Relaxed);
    });
    let served = Server::builder().serve_with_incoming(service, counted);
    served.await.unwrap();
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// A place for a socket.
pub(crate) struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::unix(self.path()).unwrap()
    }
}
