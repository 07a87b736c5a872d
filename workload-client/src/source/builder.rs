//! The settings that all sources have in common.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use spiffe_core::crypto::CryptoProvider;
use spiffe_core::{Clock, Random};

use super::backoff::Jitter;
use super::cache::LastGood;
#[cfg(feature = "aws-lc-rs")]
use super::follow::runtime;
use super::stream::Settings;
use super::{DEFAULT_START_TIMEOUT, StartError};
use crate::client::WorkloadApiClient;
use crate::endpoint::Endpoint;
use crate::observe::{Metrics, Observer};

pub(super) struct Common {
    pub(super) client: Option<WorkloadApiClient>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) crypto: Option<Arc<dyn CryptoProvider>>,
    pub(super) random: Arc<dyn Random>,
    pub(super) timeout: Duration,
    pub(super) withdrawal_grace: Duration,
    pub(super) last_good: Option<LastGood>,
    pub(super) metrics: Option<Arc<dyn Metrics>>,
}

impl Common {
    /// The settings of a task; makes a client where none was given.
    pub(super) fn settings(self) -> Result<Settings, StartError> {
        let client = match (self.client, self.clock, self.crypto) {
            (Some(client), _, _) => client,
            #[cfg(feature = "aws-lc-rs")]
            (None, None, None) => WorkloadApiClient::shared(endpoint(self.endpoint)?, &runtime()?),
            (None, clock, crypto) => {
                let endpoint = endpoint(self.endpoint)?;
                let crypto = crypto.or_else(default_crypto).ok_or(StartError::NoCrypto)?;
                let mut builder = WorkloadApiClient::builder_with_crypto(endpoint, crypto);
                if let Some(clock) = clock {
                    builder = builder.clock(clock);
                }
                builder.build()
            }
        };
        Ok(Settings {
            client,
            random: self.random,
            grace: self.withdrawal_grace,
            last_good: self.last_good,
            observer: Observer::new("", self.metrics),
        })
    }
}

fn endpoint(given: Option<Endpoint>) -> Result<Endpoint, StartError> {
    given.map_or_else(|| Ok(Endpoint::from_env()?), Ok)
}

impl Default for Common {
    fn default() -> Self {
        Self {
            client: None,
            endpoint: None,
            clock: None,
            crypto: None,
            random: Arc::new(Jitter),
            timeout: DEFAULT_START_TIMEOUT,
            withdrawal_grace: Duration::ZERO,
            last_good: None,
            metrics: None,
        }
    }
}

impl fmt::Debug for Common {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Common")
            .field("client", &self.client)
            .field("endpoint", &self.endpoint)
            .field("timeout", &self.timeout)
            .field("withdrawal_grace", &self.withdrawal_grace)
            .finish_non_exhaustive()
    }
}

pub(super) fn default_crypto() -> Option<Arc<dyn CryptoProvider>> {
    #[cfg(feature = "aws-lc-rs")]
    return Some(spiffe_core::crypto::aws_lc_rs());
    #[cfg(not(feature = "aws-lc-rs"))]
    None
}

/// The builder methods that set a field of [`Common`], the same for every source.
macro_rules! common_settings {
    () => {
        /// The client to follow the stream with, and with it endpoint, clock and cryptography; sources that are given
        /// clones of one client share its connection, and its streams. Without a client, a clock and cryptography of
        /// their own, all sources of a process at one endpoint do.
        pub fn client(mut self, client: $crate::WorkloadApiClient) -> Self {
            self.common.client = Some(client);
            self
        }

        /// The endpoint; the one that `SPIFFE_ENDPOINT_SOCKET` names otherwise.
        pub fn endpoint(mut self, endpoint: $crate::Endpoint) -> Self {
            self.common.endpoint = Some(endpoint);
            self
        }

        /// The clock; the system's otherwise.
        pub fn clock(mut self, clock: std::sync::Arc<dyn spiffe_core::Clock>) -> Self {
            self.common.clock = Some(clock);
            self
        }

        /// The cryptography that reads and checks keys; AWS-LC otherwise, by the feature `aws-lc-rs`.
        pub fn crypto(
            mut self,
            crypto: std::sync::Arc<dyn spiffe_core::crypto::CryptoProvider>,
        ) -> Self {
            self.common.crypto = Some(crypto);
            self
        }

        /// The randomness that spreads reconnections.
        pub fn random(mut self, random: std::sync::Arc<dyn spiffe_core::Random>) -> Self {
            self.common.random = random;
            self
        }

        /// How long [`build`](Self::build) waits for the first good update;
        /// [`DEFAULT_START_TIMEOUT`](super::DEFAULT_START_TIMEOUT) otherwise.
        pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
            self.common.timeout = timeout;
            self
        }

        /// How long what was published stays in use after PERMISSION_DENIED; not at all otherwise, as the standard says
        /// (Workload API §5.2.1).
        pub fn withdrawal_grace(mut self, grace: std::time::Duration) -> Self {
            self.common.withdrawal_grace = grace;
            self
        }

        /// Where the events of the source are counted; nowhere otherwise.
        pub fn metrics(mut self, metrics: std::sync::Arc<dyn $crate::observe::Metrics>) -> Self {
            self.common.metrics = Some(metrics);
            self
        }
    };
}

/// The builder method for the last good state, of sources that follow one stream.
macro_rules! last_good_setting {
    () => {
        /// Where the last good state is kept on disk, sealed, so that a restart while the endpoint is away comes up with
        /// what is still valid; nowhere otherwise. It is written while an update is applied.
        pub fn last_good(mut self, last_good: super::LastGood) -> Self {
            self.common.last_good = Some(last_good);
            self
        }
    };
}

pub(super) use {common_settings, last_good_setting};
