//! `spiffe up`: one trust domain for a developer's machine.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use spiffe_agent::attest::UnixAttestor;
use spiffe_agent::listener::ListenOptions;
use spiffe_core::{TrustDomain, crypto::system_random};
use spiffe_daemons::local::{Answer, CommandError, Commands, LocalTrustDomain};
use spiffe_registration::{Entry, entries_from_json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::output::Output;
use crate::{Usage, input};

/// Runs a whole trust domain in one process: an authority, and the Workload API on a Unix socket.
///
/// Example:
///   spiffe up --trust-domain example.org --socket /tmp/spiffe.sock --entry "id=spiffe://example.org/web,selector=unix:uid:$(id -u)"
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Up {
    /// Name of the trust domain.
    #[arg(long)]
    trust_domain: TrustDomain,
    /// Path of the Workload API's socket.
    #[arg(long)]
    socket: PathBuf,
    /// Who gets which identity, as key=value pairs: id, selector and dns (both may repeat), ttl, jwt_ttl, hint,
    /// federates_with; `\,` is a comma. May be given several times; the first entry that matches a caller is its default.
    #[arg(long = "entry", value_name = "KEY=VALUE,…")]
    entries: Vec<String>,
    /// File with entries in the JSON of SPIRE's `entry create -data`.
    #[arg(long = "entries", value_name = "FILE")]
    entries_file: Option<PathBuf>,
    /// Directory that keeps keys and authorities across restarts; without it they end with the process.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The clock is right, though it is more than a week past the end of the authorities in --state, or before what was
    /// recorded there last.
    #[arg(long, requires = "state")]
    believe_clock: bool,
    /// Mode of the socket file, octal.
    #[arg(long, default_value = "777", value_parser = input::octal)]
    socket_mode: u32,
    /// Owner of the socket file, as UID or UID:GID.
    #[arg(long, value_name = "UID[:GID]", value_parser = input::owner)]
    socket_owner: Option<(u32, Option<u32>)>,
    /// Take commands from standard input, one on a line, and answer each with one line once it is done.
    ///
    ///   reissue                             replace every X509-SVID before its time
    ///   withdraw ID                         take all entries with this SPIFFE ID away
    ///   x509 show                           show the X.509 authorities
    ///   x509 prepare                        make the next X.509 authority, and publish it in the bundle
    ///   x509 activate [force]               let it sign, once every open stream was sent that bundle; at once, if forced
    ///   x509 taint [AUTHORITY]              mark the old one: what it signed is replaced within five minutes
    ///   x509 revoke [AUTHORITY] [force]     take the tainted one out of the bundle, once no open stream has an SVID of it
    ///   x509 retire                         take the old one out of the bundle, whoever still has an SVID of it
    ///
    /// An answer begins with 'ok: ' or 'error: '. Read them: commands wait for that, nothing else does.
    /// The end of input ends nothing. In the background of a terminal, redirect standard input (`</dev/null` or a pipe):
    /// reading the terminal there stops the whole process (SIGTTIN).
    #[arg(long, verbatim_doc_comment)]
    commands: bool,
}

impl Up {
    /// Runs until Ctrl-C or SIGTERM, then drains.
    pub(crate) fn run(self, output: Output) -> Result<(), Box<dyn std::error::Error>> {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(self.serve(output))
    }

    async fn serve(self, output: Output) -> Result<(), Box<dyn std::error::Error>> {
        raise_descriptor_limit();
        let entries = self.read_entries()?;
        let mut builder = LocalTrustDomain::builder(self.trust_domain.clone()).entries(entries);
        if let Some(directory) = &self.state {
            builder = builder.state(directory);
        }
        if self.believe_clock {
            builder = builder.longest_stop(Duration::MAX);
        }
        let domain = builder.build().await?;
        let (uid, gid) = self
            .socket_owner
            .map_or((None, None), |(uid, gid)| (Some(uid), gid));
        let options = ListenOptions::new().mode(self.socket_mode).owner(uid, gid);
        // Before anybody can be told that the socket is there. A terminal that closes sends the last one.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut api = domain.serve_with(&self.socket, options)?;
        // Whoever read this may have gone: that ends nothing.
        let _ = output.raw(self.announcement(&domain, &output)?.as_bytes());
        if self.commands {
            let commands = Commands::read(io::stdin());
            tokio::spawn(obey(domain, commands, write_answers(output)));
        }
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {}
            ended = api.ended() => return Ok(ended?),
        }
        tracing::info!("stopping");
        Ok(api.stop().await?)
    }

    fn read_entries(&self) -> Result<Vec<Entry>, Box<dyn std::error::Error>> {
        let mut entries = Vec::new();
        for text in &self.entries {
            let entry = Entry::from_text(text, draw_id)
                .map_err(|error| Usage(format!("--entry {text:?}: {error}")))?;
            entries.push(entry);
        }
        if let Some(path) = &self.entries_file {
            let bytes = std::fs::read(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let read = entries_from_json(&bytes, draw_id)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            entries.extend(read);
        }
        Ok(entries)
    }

    /// What is up, for whom, and how to reach it; the last line says that it is ready.
    fn announcement(
        &self,
        domain: &LocalTrustDomain,
        output: &Output,
    ) -> Result<String, Box<dyn std::error::Error>> {
        let socket = format!("unix://{}", std::path::absolute(&self.socket)?.display());
        if output.is_json() {
            let entries = domain.entries();
            let entries = entries.entries().iter().map(|entry| {
                let selectors: Vec<_> = entry.selectors().iter().map(|one| one.as_str()).collect();
                json!({ "spiffe_id": entry.spiffe_id().to_string(), "selectors": selectors })
            });
            let ready = json!({
                "ready": true,
                "trust_domain": self.trust_domain.to_string(),
                "socket": socket,
                "state": self.state,
                "entries": entries.collect::<Vec<_>>(),
                "warnings": self.warnings(domain),
            });
            return Ok(format!("{ready}\n"));
        }
        let mut text = match &self.state {
            Some(directory) => format!(
                "trust domain {} is up; keys and authorities are kept in {}\n",
                self.trust_domain,
                directory.display()
            ),
            None => format!(
                "trust domain {} is up, ephemeral: keys and authorities end with this process; --state DIR keeps them\n",
                self.trust_domain
            ),
        };
        let entries = domain.entries();
        if entries.entries().is_empty() {
            text.push_str(
                "no entries: every caller gets PERMISSION_DENIED; give --entry or --entries\n",
            );
        }
        for entry in entries.entries() {
            let selectors: Vec<_> = entry.selectors().iter().map(|one| one.as_str()).collect();
            writeln!(
                text,
                "  {} for {}",
                entry.spiffe_id(),
                selectors.join(" and ")
            )?;
        }
        for warning in self.warnings(domain) {
            writeln!(text, "warning: {warning}")?;
        }
        writeln!(text, "SPIFFE_ENDPOINT_SOCKET={socket}")?;
        text.push_str("ready\n");
        Ok(text)
    }

    /// What the entries ask for and cannot get here.
    fn warnings(&self, domain: &LocalTrustDomain) -> Vec<String> {
        let mut warnings = Vec::new();
        for entry in domain.entries().entries() {
            let id = entry.spiffe_id();
            for selector in entry.selectors() {
                if let Some(why) = UnixAttestor::never_gives(selector) {
                    warnings.push(format!(
                        "{id} matches nobody: no caller has {selector}: {why}"
                    ));
                }
            }
            for foreign in &entry.params().federates_with {
                warnings.push(format!(
                    "{id} federates with {foreign}, whose bundle 'spiffe up' has no way to get: its peers stay untrusted"
                ));
            }
        }
        warnings
    }
}

/// Carries out each command and answers it; a command is taken only once there is room for its answer.
async fn obey(domain: LocalTrustDomain, mut commands: Commands, answers: mpsc::Sender<Answered>) {
    while let Ok(room) = answers.reserve().await
        && let Some(command) = commands.next().await
    {
        room.send(match command {
            Ok(command) => domain.obey(&command).await,
            Err(error) => Err(error),
        });
    }
}

/// What came of a command, or why it was not carried out.
type Answered = Result<Answer, CommandError>;

/// Takes answers and writes them on a thread of its own: whoever does not read them stalls neither what is served nor the
/// end of the process, which waits for no such thread. Whoever gave the commands may have gone: that ends nothing.
fn write_answers(output: Output) -> mpsc::Sender<Answered> {
    // One ahead of the one that is written.
    let (answers, mut given) = mpsc::channel::<Answered>(1);
    std::thread::spawn(move || {
        while let Some(answer) = given.blocking_recv() {
            let _ = match &answer {
                Ok(answer) => output.line(&json!({ "ok": true, "value": answer }), |_| {
                    format!("ok: {}", answer.done)
                }),
                Err(error) => output.line(
                    &json!({ "ok": false, "error": { "message": error.to_string() } }),
                    |_| format!("error: {error}"),
                ),
            };
        }
    });
    answers
}

/// Lets this process have as many descriptors as it may: each caller takes two, its connection and its pidfd, and the
/// usual soft limit of 1024 would end at some five hundred callers.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open descriptors stays as it was");
    }
}

/// A random entry ID in the form of a UUID of version 4: RFC 9562 §5.4.
fn draw_id() -> String {
    let mut bytes = [0; 16];
    // Without randomness nothing is issued either, and an entry's ID is no secret.
    let _ = system_random().fill(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}
