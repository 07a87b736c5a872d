//! Why a delivery failed, each in one line with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use spiffe_core::SpiffeId;

/// Why files were not delivered, or nobody was told of them. The revision before stays in place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The command that is run after a switch failed.
    #[error("the files are in place, but the command {command:?} failed: {reason}")]
    Command {
        /// The program.
        command: String,
        /// Its exit status, or why there is none.
        reason: String,
    },
    /// Something of somebody else has a name that is needed.
    #[error(
        "{path} is not this writer's and is left alone; move it away, or deliver into another directory"
    )]
    InTheWay {
        /// What is there.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {doing} {path}: {reason}; {remedy}")]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        reason: String,
        /// What may help.
        remedy: &'static str,
    },
    /// The key is held by a signer that does not give it away.
    #[error(
        "the key of {id} cannot be written to a file: a signer holds it; deliver an identity whose key is local"
    )]
    KeyNotLocal {
        /// Whose key.
        id: SpiffeId,
    },
    /// Another process delivers into the directory.
    #[error(
        "{path} is locked: {holder} delivers into it; stop that one, or give each a directory of its own"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who holds the lock, such as `process 4711`.
        holder: String,
    },
    /// The writer's own directory could be changed by others.
    #[error(
        "{path} is not this user's alone to write in, so nothing in it can be relied on; remove it"
    )]
    NotPrivate {
        /// The directory.
        path: PathBuf,
    },
    /// The process to be told could not be signalled.
    #[error("the files are in place, but {whom} could not be signalled: {reason}")]
    Signal {
        /// The process, or the file that names it.
        whom: String,
        /// What is wrong.
        reason: String,
    },
    /// A token could not be had.
    #[error("no token for {audience}: {reason}")]
    Token {
        /// The audiences asked for.
        audience: String,
        /// What the Workload API says.
        reason: String,
    },
}

impl DeliveryError {
    pub(super) fn io(doing: &'static str, path: &Path, error: &io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there",
            io::ErrorKind::PermissionDenied => "let this user do so, or deliver elsewhere",
            io::ErrorKind::ReadOnlyFilesystem => "deliver to a file system that can be written",
            io::ErrorKind::NotFound => "make its directory",
            io::ErrorKind::NotADirectory => "name a directory",
            _ => "look at that directory and its file system",
        };
        Self::Io {
            doing,
            path: path.into(),
            reason: error.to_string(),
            remedy,
        }
    }
}
