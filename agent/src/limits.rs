//! Bounds on what callers can make the server hold or do.

/// How much of the server callers may use. Every value has a default, named beside its setter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(crate) requests: usize,
    pub(crate) requests_per_connection: u32,
    pub(crate) request_bytes: usize,
    pub(crate) attestations: usize,
}

impl Limits {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            requests: DEFAULT_REQUESTS,
            requests_per_connection: DEFAULT_REQUESTS_PER_CONNECTION,
            request_bytes: DEFAULT_REQUEST_BYTES,
            attestations: DEFAULT_ATTESTATIONS,
        }
    }

    /// How many requests may be open at once in total, streams included; further ones are answered UNAVAILABLE.
    /// [`DEFAULT_REQUESTS`] unless set.
    #[must_use]
    pub const fn requests(mut self, requests: usize) -> Self {
        self.requests = requests;
        self
    }

    /// How many requests may be open at once on one connection; clients wait before sending further ones.
    /// At least 1; [`DEFAULT_REQUESTS_PER_CONNECTION`] unless set.
    #[must_use]
    pub const fn requests_per_connection(mut self, requests: u32) -> Self {
        self.requests_per_connection = requests;
        self
    }

    /// How long a request's message may be; longer ones are refused unread. [`DEFAULT_REQUEST_BYTES`] unless set.
    #[must_use]
    pub const fn request_bytes(mut self, bytes: usize) -> Self {
        self.request_bytes = bytes;
        self
    }

    /// How many callers may be attested at once; further requests wait their turn. At least 1;
    /// [`DEFAULT_ATTESTATIONS`] unless set.
    #[must_use]
    pub const fn attestations(mut self, attestations: usize) -> Self {
        self.attestations = attestations;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}

/// Twice the listener's connections: a workload that has all three streams open is rare, thousands of workloads are too.
pub const DEFAULT_REQUESTS: usize = 32_768;

/// A workload has three streams and a few calls for tokens; proxies that share a connection have tens.
pub const DEFAULT_REQUESTS_PER_CONNECTION: u32 = 128;

/// The longest request is one token to validate. HTTP servers commonly refuse header fields of a quarter of this.
pub const DEFAULT_REQUEST_BYTES: usize = 64 * 1024;

/// Attestation reads files and may hash a program: enough to keep a disk busy, far below tokio's 512 blocking threads.
pub const DEFAULT_ATTESTATIONS: usize = 64;

/// The most bytes of a request's header fields once decoded. Those of all known clients take less than 1 KiB.
pub(crate) const MAX_HEADER_BYTES: u32 = 16 * 1024;
