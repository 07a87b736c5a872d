//! A supervised program whose end takes a while, and what comes meanwhile.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spiffe_core::{
    BoxFuture, BundleSet, Clock, Publisher, Source, SystemClock, Timestamp, X509Svid,
};
use spiffe_daemons::program::{Program, ProgramError};
use spiffe_workload_client::delivery::{Delivery, DeliveryDirectory};
use spiffe_workload_client::{Endpoint, X509Source};
use support::{PATIENCE, Up, own_entry};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A clock by which nobody has waited long enough to be killed.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        SystemClock::new().now()
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep_until(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// A program that notes its starts, and whether it has an identity then, and that ends only once it is allowed to.
struct World {
    place: TempDir,
    publisher: Publisher,
    /// One after the other.
    identities: Vec<(Vec<Arc<X509Svid>>, Arc<BundleSet>)>,
    signals: mpsc::Sender<Signal>,
    supervised: JoinHandle<Result<ExitStatus, ProgramError>>,
}

impl World {
    async fn new(own_group: bool) -> Self {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("s");
        let mut identities = Vec::new();
        for _ in 0..3 {
            let _up = Up::start(&socket, &["--entry", &own_entry("web", "")]);
            let source = X509Source::builder()
                .endpoint(Endpoint::unix(&socket).unwrap())
                .timeout(PATIENCE);
            let current = source.build().await.unwrap().current();
            identities.push((current.svids().to_vec(), current.bundles().clone()));
        }
        let publisher = Publisher::new();
        let files = place.path().join("files");
        let delivery = Delivery::builder(DeliveryDirectory::new(&files), publisher.clone());
        let mut delivery = delivery.start(Arc::new(SystemClock::new())).unwrap();
        let line = "echo $$ > $0/pid; trap 'echo stopping >> $0/log; while ! test -e $0/end; do sleep 0.05; done; rm $0/end; exit 5' TERM; \
            test -f $SPIFFE_KEY_FILE && echo with >> $0/log || echo without >> $0/log; \
            while :; do sleep 0.05; done";
        let arguments = ["-c".into(), line.into(), place.path().into()];
        let program = Program::new("sh", arguments, &files, Arc::new(Still)).own_group(own_group);
        let (signals, mut receiver) = mpsc::channel(1);
        let supervised =
            tokio::spawn(async move { program.supervise(&mut delivery, &mut receiver).await });
        Self {
            place,
            publisher,
            identities,
            signals,
            supervised,
        }
    }

    fn publish(&self, number: usize) {
        let (svids, bundles) = self.identities[number].clone();
        self.publisher.publish(svids, bundles).unwrap();
    }

    /// Withdraws the identity, and returns once the delivery has said so: it has, when the next one is made.
    async fn withdraw(&self) {
        let bundles = self.identities[0].1.clone();
        self.publisher.publish([], bundles).unwrap();
        until(|| !self.file("files/current/svid.0.key").exists()).await;
        self.publisher.publish([], BundleSet::new()).unwrap();
        let bundle = self.file("files/current/bundles/example.org.pem");
        until(|| !bundle.exists()).await;
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.file("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    async fn logged(&self, lines: &[&str]) {
        until(|| self.log().len() >= lines.len()).await;
        assert_eq!(self.log(), lines);
    }

    fn let_it_end(&self) {
        fs::write(self.file("end"), "").unwrap();
    }

    /// Sends a signal, and returns once it was taken.
    async fn send(&self, signal: Signal) {
        self.signals.send(signal).await.unwrap();
        until(|| self.signals.capacity() == 1).await;
    }

    async fn end(self) -> Option<i32> {
        let ended = tokio::time::timeout(PATIENCE, self.supervised).await;
        ended.unwrap().unwrap().unwrap().code()
    }
}

async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

#[tokio::test]
async fn an_identity_that_goes_during_a_restart_is_waited_for() {
    let w = World::new(true).await;
    w.publish(0);
    w.logged(&["with"]).await;
    assert!(w.file("files/current/bundles/example.org.pem").exists());
    w.publish(1);
    w.logged(&["with", "stopping"]).await;
    w.withdraw().await;
    let pid = fs::read_to_string(w.file("pid")).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap());
    w.let_it_end();
    until(|| kill(pid, None).is_err()).await;
    w.publish(2);
    w.logged(&["with", "stopping", "with"]).await;
    w.send(Signal::SIGTERM).await;
    w.let_it_end();
    assert_eq!(w.end().await, Some(5));
}

#[tokio::test]
async fn an_interruption_during_a_restart_is_the_end() {
    for own_group in [false, true] {
        let w = World::new(own_group).await;
        w.publish(0);
        w.logged(&["with"]).await;
        w.publish(1);
        w.logged(&["with", "stopping"]).await;
        w.send(Signal::SIGINT).await;
        w.let_it_end();
        let code = w.end().await;
        // In its own group it is sent the signal, and may die of it unless whoever started this test ignores it; else it
        // has it from its terminal, and here there is none.
        assert!(code == Some(5) || own_group && code.is_none(), "{code:?}");
    }
}
