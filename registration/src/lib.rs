//! Registration entries, selectors and matching, with an answer to "why not".
//!
//! An [`Entry`] says which workloads get a SPIFFE ID: those about which all of its [`Selector`]s are true. Entries are written
//! as text ([`Entry::from_text`], for command lines) or as SPIRE's JSON ([`entries_from_json`]). An [`EntrySet`] finds the
//! entries of a caller, and where there are none says which came nearest.
//!
//! ```
//! use spiffe_core::Timestamp;
//! use spiffe_registration::{Entry, EntrySet};
//!
//! let web = Entry::from_text("id=spiffe://example.org/web,selector=unix:uid:1000,ttl=1h", || "1".into())?;
//! let entries = EntrySet::new(vec![web])?;
//! let now = Timestamp::UNIX_EPOCH;
//!
//! let matches = entries.matching(&["unix:gid:7".parse()?, "unix:uid:1000".parse()?], now);
//! assert_eq!(matches[0].entry().spiffe_id().as_str(), "spiffe://example.org/web");
//!
//! let why_not = entries.why_not(&["unix:uid:0".parse()?], now);
//! assert_eq!(
//!     why_not.to_string(),
//!     "caller has unix:uid:0; nearest of 1 entry: spiffe://example.org/web lacks unix:uid:1000"
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Nothing here stores entries or draws IDs for them; the caller does. It has no features.
#![forbid(unsafe_code)]

mod dns;
mod duration;
mod entry;
mod json;
mod keys;
mod selector;
mod set;
mod text;

pub use entry::{Entry, EntryError, EntryParams, MAX_ENTRY_ID, MAX_HINT};
pub use json::entries_from_json;
pub use keys::{ParseEntryError, ParseEntryErrorKind};
pub use selector::{Selector, SelectorError};
pub use set::{EntrySet, EntrySetError, Match, NearMiss, WhyNot};
pub use spiffe_core;
