//! A trust domain for one case: `spiffe up`, or SPIRE, on a socket in a private folder, and our server and client in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::lab::{Lab, short_temporary_folder};
use crate::ours::{self, Entry, Ours};
use crate::outcome::{Trouble, ensure};
use crate::process::{Finished, Process};
use crate::spire::RunningSpire;

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
    folder: TempDir,
    socket: PathBuf,
    provider: Provider<'a>,
}

/// Who serves the Workload API.
#[derive(Debug)]
enum Provider<'a> {
    Spire(RunningSpire<'a>),
    Up(Process),
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
        case: impl FnOnce(&mut Self) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let ours = lab.ours()?;
        let folder = short_temporary_folder()?;
        let socket = folder.path().join("s");
        let mut up = Process::spawn("spiffe up", ours.up(TRUST_DOMAIN, &socket, entries))?;
        up.wait_for_stdout("that it is ready", SOON, |line| {
            ours::is_ready(line).then_some(())
        })?;
        let mut world = Self {
            ours,
            folder,
            socket,
            provider: Provider::Up(up),
        };
        case(&mut world)?;
        world.stop()
    }

    /// The same with SPIRE's server and agent in place of ours.
    ///
    /// # Errors
    ///
    /// What `case` found, or that SPIRE is not to be had or does not start.
    pub(crate) fn with_spire(
        lab: &'a Lab,
        entries: &[Entry],
        case: impl FnOnce(&mut Self) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let ours = lab.ours()?;
        let folder = short_temporary_folder()?;
        let socket = folder.path().join("s");
        let spire = RunningSpire::start(lab.spire()?, folder.path(), &socket, entries)?;
        let mut world = Self {
            ours,
            folder,
            socket,
            provider: Provider::Spire(spire),
        };
        case(&mut world)
    }

    fn stop(self) -> Result<(), Trouble> {
        if let Provider::Up(up) = self.provider {
            up.interrupt()?;
            up.finish(SOON)?.expect_success()?;
            ensure(!self.socket.exists(), || {
                "spiffe up has left its socket behind".into()
            })?;
        }
        Ok(())
    }

    /// SPIRE, where that is what serves the Workload API.
    ///
    /// # Errors
    ///
    /// Where it is not.
    pub(crate) fn spire(&mut self) -> Result<&mut RunningSpire<'a>, Trouble> {
        match &mut self.provider {
            Provider::Spire(spire) => Ok(spire),
            Provider::Up(_) => Err(Trouble::failed("there is no SPIRE in this world")),
        }
    }

    /// Gives our trust domain a command; where somebody is not ready for it yet, again until it is done.
    ///
    /// # Errors
    ///
    /// When it is refused, or not done in time; and where SPIRE serves the Workload API.
    pub(crate) fn tell(&mut self, command: &str) -> Result<(), Trouble> {
        let Provider::Up(up) = &mut self.provider else {
            return Err(Trouble::failed("SPIRE takes no such commands"));
        };
        let deadline = Instant::now() + SOON;
        loop {
            up.send(&format!("{command}\n"))?;
            match up.wait_for_stdout("an answer", SOON, ours::answered)? {
                Ok(_) => return Ok(()),
                Err(why) if ours::is_too_early(&why) && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(why) => return Err(Trouble::Failed(format!("`{command}`: {why}"))),
            }
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
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

    /// A server that tells of the revisions that it goes by.
    ///
    /// # Errors
    ///
    /// When it does not say where it listens.
    pub(crate) fn telling_server(&self, authorize: &str, http: bool) -> Result<Server, Trouble> {
        let mut command = match http {
            true => self.ours.http_server(authorize),
            false => self.ours.server(authorize),
        };
        command.env("RUST_LOG", ours::TELLS_REVISIONS);
        Server::start(self.workload(command))
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

    /// Starts our client, to come so many times.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub(crate) fn returning_client(
        &self,
        address: &str,
        authorize: &str,
        times: usize,
    ) -> Result<Process, Trouble> {
        let mut command = self.ours.client(address, authorize);
        command.args(["--times", &times.to_string()]);
        Process::spawn("helloworld_client", self.workload(command))
    }
}

impl Server {
    fn start(command: Command) -> Result<Self, Trouble> {
        let mut process = Process::spawn("helloworld_server", command)?;
        let address = process.wait_for_stdout("where it listens", SOON, ours::listening_address)?;
        Ok(Self { process, address })
    }
}
