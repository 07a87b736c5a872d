//! Sources for programs without an async runtime.
//!
//! A [`Blocking`] source is the same source, whose tasks run on a thread of the library's own: one for the whole process,
//! for as long as a source or client of this module lives. Its waiting calls block the calling thread, also inside
//! somebody's runtime, where they are out of place.
//!
//! ```no_run
//! use spiffe_workload_client::X509Source;
//! use spiffe_workload_client::blocking::Blocking;
//! use spiffe_workload_client::spiffe_core::Source;
//!
//! # fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let source = Blocking::x509(X509Source::builder())?;
//! println!("I am {}", source.svid()?.id());
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};

use spiffe_core::snapshot::Revision;
use spiffe_core::{JwtSvid, Publisher, Source, SpiffeId, Watch};
use tokio::runtime::Runtime;

use crate::client::WorkloadApiClient;
use crate::error::ClientError;
use crate::source::{
    BundleSource, BundleSourceBuilder, FileSource, FileSourceBuilder, JwtSource, JwtSourceBuilder,
    StartError, X509Source, X509SourceBuilder,
};
use crate::update::{JwtBundles, X509Bundles, X509Context};

/// A source that needs no runtime. What does not wait is reached through it directly: `status()`, `survives_until()`,
/// `svid()`. Clones are handles to the same source.
#[derive(Clone)]
pub struct Blocking<S> {
    source: S,
    background: Arc<Background>,
}

impl Blocking<X509Source> {
    /// Starts an X.509 source and waits for its first good update.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub fn x509(builder: X509SourceBuilder) -> Result<Self, StartError> {
        Self::started(builder.build())
    }

    /// Stops following and returns once nothing runs any more.
    pub fn shutdown(&self) {
        let source = self.source.clone();
        self.background.run(async move { source.shutdown().await });
    }
}

impl Blocking<JwtSource> {
    /// Starts a JWT source and waits for its first bundles.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub fn jwt(builder: JwtSourceBuilder) -> Result<Self, StartError> {
        Self::started(builder.build())
    }

    /// As [`JwtSource::fetch`].
    ///
    /// # Errors
    ///
    /// [`ClientError`], when there is no valid token to hand out.
    pub fn fetch<A: Into<String>>(
        &self,
        audiences: impl IntoIterator<Item = A>,
    ) -> Result<Arc<JwtSvid>, ClientError> {
        let (source, audiences) = (self.source.clone(), texts(audiences));
        self.asked(async move { source.fetch(audiences).await })
    }

    /// As [`JwtSource::fetch_as`].
    ///
    /// # Errors
    ///
    /// [`ClientError`], when there is no valid token to hand out.
    pub fn fetch_as<A: Into<String>>(
        &self,
        id: &SpiffeId,
        audiences: impl IntoIterator<Item = A>,
    ) -> Result<Arc<JwtSvid>, ClientError> {
        let (source, id, audiences) = (self.source.clone(), id.clone(), texts(audiences));
        self.asked(async move { source.fetch_as(&id, audiences).await })
    }

    /// Stops following and returns once nothing runs any more.
    pub fn shutdown(&self) {
        let source = self.source.clone();
        self.background.run(async move { source.shutdown().await });
    }
}

impl Blocking<BundleSource> {
    /// Starts a bundle source and waits for the first bundles of each profile.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub fn bundles(builder: BundleSourceBuilder) -> Result<Self, StartError> {
        Self::started(builder.build())
    }

    /// Stops following and returns once nothing runs any more.
    pub fn shutdown(&self) {
        let source = self.source.clone();
        self.background.run(async move { source.shutdown().await });
    }
}

impl Blocking<FileSource> {
    /// Starts a file source and waits for files that fit together.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub fn files(builder: FileSourceBuilder) -> Result<Self, StartError> {
        Self::started(builder.build())
    }

    /// Stops watching and returns once nothing runs any more.
    pub fn shutdown(&self) {
        let source = self.source.clone();
        self.background.run(async move { source.shutdown().await });
    }
}

impl Blocking<WorkloadApiClient> {
    /// A client for single requests.
    ///
    /// # Errors
    ///
    /// [`StartError::NoRuntime`], when the system gives no thread.
    pub fn client(client: WorkloadApiClient) -> Result<Self, StartError> {
        Ok(Self {
            source: client,
            background: Background::get()?,
        })
    }

    /// As [`WorkloadApiClient::fetch_x509`].
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn fetch_x509(&self) -> Result<X509Context, ClientError> {
        let client = self.source.clone();
        self.asked(async move { client.fetch_x509().await })
    }

    /// As [`WorkloadApiClient::fetch_x509_bundles`].
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn fetch_x509_bundles(&self) -> Result<X509Bundles, ClientError> {
        let client = self.source.clone();
        self.asked(async move { client.fetch_x509_bundles().await })
    }

    /// As [`WorkloadApiClient::fetch_jwt_bundles`].
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn fetch_jwt_bundles(&self) -> Result<JwtBundles, ClientError> {
        let client = self.source.clone();
        self.asked(async move { client.fetch_jwt_bundles().await })
    }

    /// As [`WorkloadApiClient::fetch_jwt_svids`].
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn fetch_jwt_svids<A: Into<String>>(
        &self,
        audiences: impl IntoIterator<Item = A>,
        id: Option<&SpiffeId>,
    ) -> Result<Vec<JwtSvid>, ClientError> {
        let (client, id, audiences) = (self.source.clone(), id.cloned(), texts(audiences));
        self.asked(async move { client.fetch_jwt_svids(audiences, id.as_ref()).await })
    }
}

impl<S: Source> Blocking<S> {
    /// Blocks until there is a revision later than `seen`, and returns it.
    pub fn wait_for_change(&self, seen: Revision) -> Revision {
        let changed = self.source.changed(seen);
        self.background.run(changed).unwrap_or(seen)
    }
}

impl<S: Send + 'static> Blocking<S> {
    fn started(
        build: impl Future<Output = Result<S, StartError>> + Send + 'static,
    ) -> Result<Self, StartError> {
        let background = Background::get()?;
        let source = background.run(build).unwrap_or(Err(StartError::ShutDown))?;
        Ok(Self { source, background })
    }
}

impl<S> Blocking<S> {
    fn asked<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, ClientError>> + Send + 'static,
    ) -> Result<T, ClientError> {
        let gone = Err(ClientError::StreamEnded);
        self.background.run(call).unwrap_or(gone)
    }
}

impl<S> Deref for Blocking<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.source
    }
}

impl<S: Source> Source for Blocking<S> {
    fn publisher(&self) -> &Publisher {
        self.source.publisher()
    }
}

impl<S: fmt::Debug> fmt::Debug for Blocking<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Blocking").field(&self.source).finish()
    }
}

fn texts<A: Into<String>>(texts: impl IntoIterator<Item = A>) -> Vec<String> {
    texts.into_iter().map(Into::into).collect()
}

/// The thread that tasks of this module run on.
struct Background {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Background {
    /// The process's one, begun where there is none.
    fn get() -> Result<Arc<Self>, StartError> {
        static CURRENT: Mutex<Weak<Background>> = Mutex::new(Weak::new());
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(background) = current.upgrade() {
            return Ok(background);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("spiffe")
            .enable_all()
            .build()
            .map_err(|_| StartError::NoRuntime)?;
        let background = Arc::new(Self {
            runtime: Some(runtime),
        });
        *current = Arc::downgrade(&background);
        Ok(background)
    }

    /// Runs a future over there and waits for it here; `None` when it panicked. Unlike `block_on` it may be called
    /// anywhere.
    fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (done, result) = mpsc::sync_channel(1);
        self.runtime.as_ref()?.spawn(async move {
            let _ = done.send(future.await);
        });
        result.recv().ok()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime that is dropped waits for its threads, which inside another one is not allowed.
            runtime.shutdown_background();
        }
    }
}
