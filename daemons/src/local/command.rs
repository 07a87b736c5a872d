//! Commands to a running trust domain: what an operator, or a program that rehearses for one, tells it line by line.
//!
//! The verbs of authorities are those of SPIRE's `localauthority`; `x509 retire` and `reissue` are this library's own.

use std::fmt;
use std::io::{self, BufRead};
use std::str::FromStr;

use serde::Serialize;
use spiffe_core::{SpiffeId, SpiffeIdError};
use spiffe_svid_ca::Event;
use spiffe_svid_ca::authority::{Action, Kind, State, Status};
use spiffe_svid_ca::error::CaError;
use tokio::sync::mpsc;

use super::LocalTrustDomain;
use crate::batch::{Lines, Next};
use crate::ca::StatusReport;

/// The most bytes of a command: a verb and an ID of 2,048 bytes are far below.
pub const MAX_COMMAND_BYTES: usize = 4096;

/// What a running trust domain can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// `reissue`: [`LocalTrustDomain::reissue`].
    Reissue,
    /// `withdraw ID`: [`LocalTrustDomain::withdraw`].
    Withdraw {
        /// Whose entries go.
        id: SpiffeId,
    },
    /// `x509 activate [force]`: [`LocalTrustDomain::activate_x509_authority`] on the evidence of the moment, or without.
    Activate {
        /// Whether laggards are left behind.
        force: bool,
    },
    /// `x509 prepare`: [`LocalTrustDomain::prepare_x509_authority`].
    Prepare,
    /// `x509 retire`: [`LocalTrustDomain::retire_x509_authority`].
    Retire,
    /// `x509 revoke [ID] [force]`: [`LocalTrustDomain::revoke_x509_authority`].
    Revoke {
        /// Which authority; the tainted one unless named.
        authority: Option<String>,
        /// Whether those who still present what it signed are left behind.
        force: bool,
    },
    /// `x509 show`: the authorities, and nothing is changed.
    Show,
    /// `x509 taint [ID]`: [`LocalTrustDomain::taint_x509_authority`].
    Taint {
        /// Which authority; the old one unless named.
        authority: Option<String>,
    },
}

impl FromStr for Command {
    type Err = CommandError;

    fn from_str(text: &str) -> Result<Self, CommandError> {
        let words: Vec<_> = text.split_whitespace().collect();
        let named = |id: &&str| Some((*id).to_owned());
        Ok(match &words[..] {
            ["reissue"] => Self::Reissue,
            ["withdraw", id] => Self::Withdraw { id: id.parse()? },
            ["x509", "activate"] => Self::Activate { force: false },
            ["x509", "activate", "force"] => Self::Activate { force: true },
            ["x509", "prepare"] => Self::Prepare,
            ["x509", "retire"] => Self::Retire,
            ["x509", "revoke", ids @ .., "force"] if ids.len() < 2 => Self::Revoke {
                authority: ids.first().and_then(named),
                force: true,
            },
            ["x509", "revoke", ids @ ..] if ids.len() < 2 => Self::Revoke {
                authority: ids.first().and_then(named),
                force: false,
            },
            ["x509", "show"] => Self::Show,
            ["x509", "taint", ids @ ..] if ids.len() < 2 => Self::Taint {
                authority: ids.first().and_then(named),
            },
            _ => {
                return Err(CommandError::Unknown {
                    command: text.trim().chars().take(64).collect(),
                });
            }
        })
    }
}

/// Commands from a reader, one on a line; lines without a word are passed over. The reader is read on a thread of its
/// own, which ends with it.
#[derive(Debug)]
pub struct Commands {
    read: mpsc::Receiver<Result<Command, CommandError>>,
}

impl Commands {
    /// Begins to read. A line has at most [`MAX_COMMAND_BYTES`]; one that has more is answered as a wrong one.
    pub fn read(input: impl io::Read + Send + 'static) -> Self {
        // One ahead of the one that is carried out.
        let (to, read) = mpsc::channel(1);
        std::thread::spawn(move || {
            let mut lines = Lines::with_limit(io::BufReader::new(input), MAX_COMMAND_BYTES);
            while let Some(command) = next(&mut lines) {
                if to.blocking_send(command).is_err() {
                    return;
                }
            }
        });
        Self { read }
    }

    /// The next command, or what is wrong with it; `None` once there are no more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when this is dropped.
    pub async fn next(&mut self) -> Option<Result<Command, CommandError>> {
        self.read.recv().await
    }
}

/// A reader that fails has ended.
fn next(lines: &mut Lines<impl BufRead>) -> Option<Result<Command, CommandError>> {
    loop {
        return match lines.next().ok()?? {
            Next::Line(line) if line.trim_ascii().is_empty() => continue,
            Next::Line(line) => Some(String::from_utf8_lossy(line).parse()),
            Next::TooLong => Some(Err(CommandError::TooLong)),
        };
    }
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Answer {
    /// What was done, in words.
    pub done: String,
    /// The authorities now.
    #[serde(flatten)]
    pub status: StatusReport,
}

impl LocalTrustDomain {
    /// Carries out a command. It has been done when this returns, and workloads learn of it by their streams.
    ///
    /// # Errors
    ///
    /// [`CommandError`]; nothing has changed then.
    pub async fn obey(&self, command: &Command) -> Result<Answer, CommandError> {
        let done = match command {
            Command::Activate { force } => {
                let (now, evidence) = (self.shared.clock.now(), self.evidence());
                let activated = self.ca().activate(Kind::X509, &evidence, *force, now);
                told(&activated.await?)
            }
            Command::Prepare => told(&self.prepare_x509_authority().await?),
            Command::Reissue => {
                self.reissue();
                "every X509-SVID is being replaced".to_owned()
            }
            Command::Retire => {
                self.authority(None, Status::Old)?;
                told(&self.retire_x509_authority().await?)
            }
            Command::Revoke { authority, force } => {
                let id = self.authority(authority.as_deref(), Status::Tainted)?;
                told(&self.revoke_x509_authority(&id, *force).await?)
            }
            Command::Show => shown(&self.ca().state()),
            Command::Taint { authority } => {
                let id = self.authority(authority.as_deref(), Status::Old)?;
                told(&self.taint_x509_authority(&id).await?)
            }
            Command::Withdraw { id } => match self.withdraw(id) {
                0 => return Err(CommandError::NoEntry { id: id.clone() }),
                1 => format!("the entry with {id} is gone"),
                gone => format!("the {gone} entries with {id} are gone"),
            },
        };
        let now = self.shared.clock.now();
        let status = StatusReport::new(self.trust_domain(), &self.ca().state(), now);
        Ok(Answer { done, status })
    }

    /// The X.509 authority that was named, or else the first with this status.
    fn authority(&self, named: Option<&str>, status: Status) -> Result<String, CommandError> {
        if let Some(id) = named {
            return Ok(id.to_owned());
        }
        let state = self.ca().state();
        let first = |status| {
            let mut slots = state.slots(Kind::X509).iter();
            let found = slots.find(|authority| authority.status() == status)?;
            Some(found.id().to_owned())
        };
        first(status).ok_or_else(|| match first(Status::Tainted) {
            Some(id) => CommandError::Tainted { id, status },
            None => CommandError::NoAuthority { status },
        })
    }
}

/// The X.509 authorities on one line.
fn shown(state: &State) -> String {
    let authorities = state.slots(Kind::X509).iter().map(|one| {
        let (id, status, end) = (one.id(), one.status(), one.not_after());
        format!("{id} is {status} until {end}")
    });
    authorities.collect::<Vec<_>>().join(", ")
}

/// What happened, on one line.
fn told(events: &[Event]) -> String {
    let told = events.iter().filter_map(|event| match &event.action {
        Action::Activated { id, laggards } => Some(format!(
            "{id} is active{}",
            behind(laggards, "not known to")
        )),
        Action::Published { id } => Some(format!("{id} is prepared")),
        Action::Removed { id, holders } => Some(format!(
            "{id} is out of the bundle{}",
            behind(holders, "still presented by")
        )),
        Action::Tainted { id } => Some(format!("{id} is tainted")),
        _ => None,
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Who was left behind.
fn behind(names: &[String], how: &str) -> String {
    if names.is_empty() {
        return String::new();
    }
    format!(", {how} {}", names.join(", "))
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The authorities refuse it.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The ID to withdraw is none.
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
    /// No authority was named, and none is in the state that the command begins from.
    #[error("no X.509 authority is {status}; {}", before(*status))]
    NoAuthority {
        /// That state.
        status: Status,
    },
    /// Nobody has the ID to withdraw.
    #[error("no entry has {id}")]
    NoEntry {
        /// That ID.
        id: SpiffeId,
    },
    /// No authority was named, and the one that is on its way out is past the state that the command begins from.
    #[error("no X.509 authority is {status}; {id} is tainted: revoke it")]
    Tainted {
        /// That authority.
        id: String,
        /// That state.
        status: Status,
    },
    /// More than [`MAX_COMMAND_BYTES`].
    #[error("a command has at most {MAX_COMMAND_BYTES} bytes")]
    TooLong,
    /// Not a command.
    #[error(
        "{command:?} is no command; there are: reissue, withdraw ID, x509 show, x509 prepare, x509 activate [force], x509 taint [AUTHORITY], x509 revoke [AUTHORITY] [force], x509 retire"
    )]
    Unknown {
        /// What was read, shortened to 64 characters.
        command: String,
    },
}

/// What brings an authority into this state.
fn before(status: Status) -> impl fmt::Display {
    match status {
        Status::Tainted => "taint an old one first",
        _ => "prepare and activate the next one first",
    }
}
