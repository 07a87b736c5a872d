//! A trust domain of our own making for one case: `spiffe up` on a socket in a private folder, and our server and client in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::lab::{Lab, short_temporary_folder};
use crate::ours::{self, Entry, Ours};
use crate::outcome::{Trouble, ensure};
use crate::process::{Finished, Process};

pub(crate) const TRUST_DOMAIN: &str = "example.org";
pub(crate) const ANYONE_HERE: &str = "domain:example.org";

pub(crate) const SERVER: &str = "spiffe://example.org/server";
pub(crate) const CLIENT: &str = "spiffe://example.org/client";
/// The identity of the foreign program.
pub(crate) const PEER: &str = "spiffe://example.org/peer";
/// A well-formed identity that nobody has.
pub(crate) const NOBODY: &str = "spiffe://example.org/nobody";

/// The DNS name in the server's SVID, for peers that check one.
pub(crate) const SERVER_NAME: &str = "server.example.org";

/// Any single exchange between running programs. Generous, because the machine may be busy; reached only in failures.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The shortest lifetime that still leaves whole seconds between rotations.
pub(crate) const ROTATING: &str = "4s";

/// A running trust domain.
#[derive(Debug)]
pub(crate) struct World<'a> {
    ours: &'a Ours,
    up: Process,
    folder: TempDir,
    socket: PathBuf,
}

/// Our server, running.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: String,
}

impl<'a> World<'a> {
    /// Runs `case` in a new trust domain with these entries, then ends it in the orderly way and checks that it went so.
    ///
    /// # Errors
    ///
    /// What `case` found, or that the trust domain does not start or end as it should.
    pub(crate) fn with(
        lab: &'a Lab,
        entries: &[Entry],
        case: impl FnOnce(&Self) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let world = Self::start(lab.ours()?, entries)?;
        case(&world)?;
        world.stop()
    }

    fn start(ours: &'a Ours, entries: &[Entry]) -> Result<Self, Trouble> {
        let folder = short_temporary_folder()?;
        let socket = folder.path().join("s");
        let mut up = Process::spawn("spiffe up", ours.up(TRUST_DOMAIN, &socket, entries))?;
        up.wait_for_stdout("that it is ready", SOON, |line| {
            ours::is_ready(line).then_some(())
        })?;
        Ok(Self {
            ours,
            up,
            folder,
            socket,
        })
    }

    fn stop(self) -> Result<(), Trouble> {
        self.up.interrupt()?;
        self.up.finish(SOON)?.expect_success()?;
        ensure(!self.socket.exists(), || {
            "spiffe up has left its socket behind".into()
        })
    }

    /// A folder for the files of this case.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The same command as a workload of this trust domain.
    pub(crate) fn workload(&self, mut command: Command) -> Command {
        command.env(
            "SPIFFE_ENDPOINT_SOCKET",
            format!("unix://{}", self.socket.display()),
        );
        command
    }

    /// Starts our server for clients that `authorize` admits.
    ///
    /// # Errors
    ///
    /// When it does not say where it listens.
    pub(crate) fn server(&self, authorize: &str) -> Result<Server, Trouble> {
        Server::start(self.workload(self.ours.server(authorize)))
    }

    /// The same, speaking HTTP.
    ///
    /// # Errors
    ///
    /// When it does not say where it listens.
    pub(crate) fn http_server(&self, authorize: &str) -> Result<Server, Trouble> {
        Server::start(self.workload(self.ours.http_server(authorize)))
    }

    /// Runs our client against a server that `authorize` admits.
    ///
    /// # Errors
    ///
    /// When it does not end. Its verdict is the caller's to judge.
    pub(crate) fn client(&self, address: &str, authorize: &str) -> Result<Finished, Trouble> {
        let command = self.workload(self.ours.client(address, authorize));
        Process::run("helloworld_client", command, SOON)
    }
}

impl Server {
    fn start(command: Command) -> Result<Self, Trouble> {
        let mut process = Process::spawn("helloworld_server", command)?;
        let address = process.wait_for_stdout("where it listens", SOON, ours::listening_address)?;
        Ok(Self { process, address })
    }
}
