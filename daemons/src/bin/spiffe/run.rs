//! `spiffe run`: a program that finds its SVID in files.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;

use clap::Args;
use nix::sys::signal::Signal;
use spiffe_core::SystemClock;
use spiffe_daemons::program::{OnRotation, Program, private_directory};
use spiffe_workload_client::delivery::{Delivery, DeliveryDirectory, TokenRequest};
use spiffe_workload_client::{JwtSource, X509Source};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::input::WorkloadApi;
use super::output::{Failure, block_on};

/// Run a program that knows nothing of SPIFFE, with its SVID as files
///
/// The files are in a directory for this user alone, removed at the end; environment variables name them:
///   SPIFFE_DIR              the directory
///   SPIFFE_CERT_FILE        the chain, leaf first
///   SPIFFE_KEY_FILE         its key
///   SPIFFE_CREDENTIAL_FILE  key and chain in one file
///   SPIFFE_BUNDLE_FILE      the authorities of the own trust domain
///   SPIFFE_BUNDLES_DIR      those of each trust domain, TRUST_DOMAIN.pem and TRUST_DOMAIN.json
///   SPIFFE_JWT_FILE         the token of the first --audience
///
/// The program starts once they are there. When they change it is restarted (SIGTERM, after ten seconds SIGKILL) unless
/// --on-rotation says otherwise; the paths stay the same. When the identity is withdrawn the program is stopped, and started
/// again once there is one. Signals are passed on to it and to what it has started. The exit
/// status is the program's own, or 128 and the signal's number.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
#[command(after_help = "Examples:
  spiffe run -- sh -c 'openssl s_server -accept 8443 -cert $SPIFFE_CERT_FILE -key $SPIFFE_KEY_FILE -www'
  spiffe run --on-rotation HUP -- haproxy -W -f haproxy.cfg
  spiffe run --on-rotation nothing --audience reports -- ./nightly-report")]
pub(crate) struct Arguments {
    #[command(flatten)]
    api: WorkloadApi,
    /// Also keep a token for this audience; several names with commas between for one token of all
    #[arg(long, value_name = "NAME[,NAME]")]
    audience: Vec<String>,
    /// What happens to the program when its files change: restart, nothing, or a signal such as HUP
    #[arg(long, value_name = "WHAT", default_value = "restart", value_parser = on_rotation)]
    on_rotation: OnRotation,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    super::log_to_stderr("warn");
    block_on(arguments.supervise())
}

impl Arguments {
    async fn supervise(&self) -> Result<(), Failure> {
        let (program, rest) = self.command.split_first().expect("the parser requires one");
        let shares_terminal = io::stdin().is_terminal();
        let mut signals = signals().map_err(Failure::failed)?;
        let clock = Arc::new(SystemClock::new());
        let (client, timeout) = (self.api.client()?, self.api.timeout());
        let source = X509Source::builder()
            .client(client.clone())
            .timeout(timeout);
        let source = source.build().await.map_err(Failure::failed)?;
        let place = private_directory("spiffe-run-").map_err(Failure::failed)?;
        let directory = place.path().join("svid");
        let mut delivery = Delivery::builder(DeliveryDirectory::new(&directory), source);
        if !self.audience.is_empty() {
            let jwt = JwtSource::builder().client(client).timeout(timeout);
            let jwt = jwt.build().await.map_err(Failure::failed)?;
            let request = |names: &String| TokenRequest::new(names.split(','));
            delivery = delivery.tokens(jwt, self.audience.iter().map(request));
        }
        let mut delivery = delivery.start(clock.clone()).map_err(Failure::failed)?;
        let program = Program::new(program, rest.iter().cloned(), &directory, clock)
            .on_rotation(self.on_rotation)
            .own_group(!shares_terminal);
        let ended = program.supervise(&mut delivery, &mut signals).await;
        delivery.shutdown().await;
        match code(ended.map_err(Failure::failed)?) {
            0 => Ok(()),
            code => Err(Failure::passed_on(code)),
        }
    }
}

/// The signals that come.
fn signals() -> io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(16);
    for (kind, that) in [
        (SignalKind::hangup(), Signal::SIGHUP),
        (SignalKind::interrupt(), Signal::SIGINT),
        (SignalKind::quit(), Signal::SIGQUIT),
        (SignalKind::terminate(), Signal::SIGTERM),
        (SignalKind::user_defined1(), Signal::SIGUSR1),
        (SignalKind::user_defined2(), Signal::SIGUSR2),
    ] {
        let mut arriving = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while arriving.recv().await.is_some() {
                if sender.send(that).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

fn code(ended: ExitStatus) -> u8 {
    let code = ended.code().or_else(|| Some(128 + ended.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn on_rotation(text: &str) -> Result<OnRotation, String> {
    match text {
        "restart" => return Ok(OnRotation::Restart),
        "nothing" => return Ok(OnRotation::Nothing),
        _ => {}
    }
    let name = text.strip_prefix("SIG").unwrap_or(text);
    format!("SIG{name}")
        .parse()
        .map(OnRotation::Signal)
        .map_err(|_| "it is restart, nothing, or a signal's name such as HUP".into())
}
