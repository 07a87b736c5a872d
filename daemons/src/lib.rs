//! The SPIFFE programs, and the local trust domain they run.
//!
//! - [`local`]: one trust domain in a process, authority and Workload API together. It is what `spiffe up` runs, and
//!   the only place where the issuing side and the agent meet without a wire between them.
//! - [`verdict`] and [`batch`]: the library's decisions as data, for people and for pipes.
//! - [`workload`]: what a workload holds, as data; [`program`]: a program that finds its SVID in files; [`drill`]: an
//!   outage rehearsed.
//!
//! ```no_run
//! use spiffe_daemons::local::LocalTrustDomain;
//! use spiffe_daemons::spiffe_registration::Entry;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let entry = Entry::from_text("id=spiffe://example.org/web,selector=unix:uid:1000", || "1".into())?;
//! let domain = LocalTrustDomain::builder("example.org".parse()?)
//!     .entries([entry])
//!     .build()
//!     .await?;
//! let api = domain.serve("/tmp/spiffe.sock")?;
//! // Workloads of user 1000 fetch their SVIDs from the socket until it is stopped.
//! api.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! What this crate will not do: decide anything of its own about SPIFFE, which is the libraries' affair. It has no
//! features.
#![forbid(unsafe_code)]

pub mod batch;
pub mod ca;
pub mod drill;
pub mod local;
pub mod program;
pub mod verdict;
pub mod workload;

pub use {spiffe_core, spiffe_registration};
