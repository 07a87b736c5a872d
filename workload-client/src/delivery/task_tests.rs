//! The task on a virtual clock: every update delivered and told of, every failure reported and tried again.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use spiffe_core::{BoxFuture, BundleSet, Clock, Publisher, SystemClock};
use spiffe_testkit::VirtualClock;

use super::tests::{Fault, Faulty, Issuer, Place, serial};
use super::*;

/// Notes what it is told, and fails as often as it is said to.
#[derive(Clone, Debug, Default)]
struct Listener {
    told: Arc<Mutex<Vec<u64>>>,
    failures: Arc<Mutex<usize>>,
}

impl Listener {
    fn told(&self) -> Vec<u64> {
        self.told.lock().unwrap().clone()
    }

    fn fail(&self, times: usize) {
        *self.failures.lock().unwrap() = times;
    }
}

impl Notifier for Listener {
    fn notify<'a>(
        &'a self,
        _: &'a Path,
        revision: u64,
    ) -> BoxFuture<'a, Result<(), DeliveryError>> {
        let mut failures = self.failures.lock().unwrap();
        let told = match failures.checked_sub(1) {
            Some(left) => {
                *failures = left;
                Err(DeliveryError::Command {
                    command: "reload".into(),
                    reason: "exit status: 3".into(),
                })
            }
            None => {
                self.told.lock().unwrap().push(revision);
                Ok(())
            }
        };
        Box::pin(async { told })
    }
}

struct World {
    clock: VirtualClock,
    issuer: Issuer,
    publisher: Publisher,
    place: Place,
    listener: Listener,
}

impl World {
    async fn new() -> Self {
        // The authority keeps to the system's time: only waiting is virtual here.
        let clock = VirtualClock::start(SystemClock::new().now());
        Self {
            clock,
            issuer: Issuer::new().await,
            publisher: Publisher::new(),
            place: Place::new(),
            listener: Listener::default(),
        }
    }

    fn builder(&self, directory: DeliveryDirectory) -> DeliveryBuilder {
        Delivery::builder(directory, self.publisher.clone()).notifier(self.listener.clone())
    }

    fn start(&self) -> Delivery {
        self.start_in(self.place.directory())
    }

    fn start_in(&self, directory: DeliveryDirectory) -> Delivery {
        self.builder(directory)
            .start(Arc::new(self.clock.clone()))
            .unwrap()
    }

    /// Publishes a new SVID; its serial number.
    async fn update(&self) -> String {
        let material = self.issuer.material(&["web"]).await;
        let serial = material.svids[0].serial_hex();
        self.publisher
            .publish(material.svids, material.bundles)
            .unwrap();
        serial
    }
}

async fn until(
    delivery: &mut Delivery,
    condition: impl Fn(&DeliveryStatus) -> bool,
) -> DeliveryStatus {
    loop {
        let status = delivery.changed().await.unwrap();
        if condition(&status) {
            return status;
        }
    }
}

#[tokio::test]
async fn each_update_is_delivered_and_told_of_once() {
    let w = World::new().await;
    let mut delivery = w.start();
    for revision in 1..=3 {
        let published = w.update().await;
        let status = until(&mut delivery, |status| status.revision == Some(revision)).await;
        assert_eq!(status.told, Some(revision));
        assert_eq!((status.last_error, status.failures), (None, 0));
        assert_eq!(serial(&w.place), published);
    }
    w.clock.sleep(RECHECK * 10).await;
    assert_eq!(w.listener.told(), [1, 2, 3]);
    assert_eq!(delivery.status().revision, Some(3));
    delivery.shutdown().await;
}

#[tokio::test]
async fn one_delivery_without_a_task() {
    let w = World::new().await;
    let published = w.update().await;
    let status = w
        .builder(w.place.directory())
        .once(Arc::new(w.clock.clone()))
        .await
        .unwrap();
    assert_eq!((status.revision, status.told), (Some(1), Some(1)));
    assert_eq!(serial(&w.place), published);
    w.listener.fail(1);
    w.update().await;
    let error = w
        .builder(w.place.directory())
        .once(Arc::new(w.clock.clone()))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("exit status: 3"), "{error}");
}

#[tokio::test]
async fn what_an_earlier_process_delivered_stays_until_there_is_something_newer() {
    let w = World::new().await;
    w.place.directory().write(&w.issuer.files().await).unwrap();
    let before = serial(&w.place);
    let mut delivery = w.start();
    w.clock.sleep(RECHECK * 10).await;
    assert_eq!(delivery.status().revision, None);
    assert_eq!(serial(&w.place), before);
    let published = w.update().await;
    until(&mut delivery, |status| status.revision == Some(2)).await;
    assert_eq!(serial(&w.place), published);
}

#[tokio::test]
async fn whoever_could_not_be_told_is_told_later_and_of_the_newest() {
    let w = World::new().await;
    w.listener.fail(4);
    let mut delivery = w.start();
    let begun = w.clock.monotonic();
    w.update().await;
    let status = until(&mut delivery, |status| status.failures == 3).await;
    assert_eq!((status.revision, status.told), (Some(1), None));
    let error = status.last_error.unwrap().to_string();
    assert!(
        error.contains("reload") && error.contains("exit status: 3"),
        "{error}"
    );
    assert!(
        status.retry_in.unwrap() >= Duration::from_secs(1),
        "{:?}",
        status.retry_in
    );
    w.update().await;
    let status = until(&mut delivery, |status| status.last_error.is_none()).await;
    assert_eq!(
        (status.revision, status.told, status.failures),
        (Some(2), Some(2), 0)
    );
    assert_eq!(w.listener.told(), [2]);
    assert!(
        w.clock.monotonic() - begun >= Duration::from_secs(1),
        "it has backed off"
    );
}

#[tokio::test]
async fn whoever_was_not_told_before_a_restart_is_told_after_it() {
    let w = World::new().await;
    w.listener.fail(usize::MAX);
    let mut first = w.start();
    w.update().await;
    until(&mut first, |status| status.failures > 0).await;
    first.shutdown().await;
    w.listener.fail(0);
    for _ in 0..2 {
        let mut again = w.start();
        let status = until(&mut again, |status| status.told.is_some()).await;
        assert_eq!(status.revision, Some(1));
        again.shutdown().await;
        assert_eq!(
            w.listener.told(),
            [1],
            "told once, and not again by the next"
        );
    }
}

#[tokio::test]
async fn a_full_disk_is_reported_and_tried_again() {
    let w = World::new().await;
    let published = w.update().await;
    let disk = Faulty::new(8, Fault::Once);
    let mut delivery = w.start_in(DeliveryDirectory::with_disk(w.place.path(), disk));
    let status = until(&mut delivery, |status| status.failures == 1).await;
    assert_eq!(status.revision, None);
    let error = status.last_error.unwrap().to_string();
    assert!(
        error.contains("cannot write") && error.contains("make room"),
        "{error}"
    );
    assert!(w.listener.told().is_empty());
    until(&mut delivery, |status| status.revision.is_some()).await;
    assert_eq!(serial(&w.place), published);
}

#[tokio::test]
async fn a_target_that_is_no_directory_is_reported_until_it_is_one() {
    let w = World::new().await;
    fs::write(w.place.path(), "in the way").unwrap();
    w.update().await;
    let mut delivery = w.start();
    let status = until(&mut delivery, |status| status.failures == 2).await;
    let error = status.last_error.unwrap().to_string();
    assert!(error.contains("Not a directory"), "{error}");
    fs::remove_file(w.place.path()).unwrap();
    let status = until(&mut delivery, |status| status.last_error.is_none()).await;
    assert_eq!(status.revision, Some(1));
}

#[tokio::test]
async fn what_others_remove_is_back_within_a_minute_and_told_of() {
    let w = World::new().await;
    let published = w.update().await;
    let mut delivery = w.start();
    until(&mut delivery, |status| status.told == Some(1)).await;
    fs::remove_file(w.place.path().join("current/svid.0.key")).unwrap();
    let since = w.clock.monotonic();
    until(&mut delivery, |status| status.told == Some(2)).await;
    assert!(w.clock.monotonic() - since <= RECHECK);
    fs::remove_dir_all(w.place.path()).unwrap();
    until(&mut delivery, |status| status.told == Some(1)).await;
    assert_eq!(serial(&w.place), published);
}

#[tokio::test]
async fn what_is_withdrawn_is_removed_and_told_of() {
    let w = World::new().await;
    w.update().await;
    let mut delivery = w.start();
    until(&mut delivery, |status| status.told == Some(1)).await;
    w.publisher.publish([], BundleSet::new()).unwrap();
    until(&mut delivery, |status| status.told == Some(2)).await;
    let left = w.place.everything();
    assert!(!left.iter().any(|path| path.contains("svid")), "{left:?}");
}

#[tokio::test]
async fn the_task_ends_with_its_handle() {
    let w = World::new().await;
    w.update().await;
    let mut delivery = w.start();
    until(&mut delivery, |status| status.told == Some(1)).await;
    drop(delivery);
    w.clock.sleep(RECHECK).await;
    w.place.directory().write(&w.issuer.files().await).unwrap();
}

fn command(line: &str) -> RunCommand {
    RunCommand::shell(line, Arc::new(SystemClock::new()))
}

#[tokio::test]
async fn a_command_gets_paths_and_no_secret() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let line = format!("env > {0} && cat /proc/$$/cmdline >> {0}", out.display());
    command(&line)
        .notify(Path::new("/run/svid"), 7)
        .await
        .unwrap();
    let said = fs::read_to_string(out).unwrap();
    for expected in [
        "SPIFFE_DIR=/run/svid\n",
        "SPIFFE_CERT_FILE=/run/svid/svid.0.pem\n",
        "SPIFFE_KEY_FILE=/run/svid/svid.0.key\n",
        "SPIFFE_CREDENTIAL_FILE=/run/svid/credential_bundle.0.pem\n",
        "SPIFFE_BUNDLE_FILE=/run/svid/bundle.0.pem\n",
        "SPIFFE_BUNDLES_DIR=/run/svid/bundles\n",
        "SPIFFE_JWT_FILE=/run/svid/jwt.0.token\n",
        "SPIFFE_REVISION=7\n",
    ] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    assert!(!said.contains("PRIVATE KEY"));
}

#[tokio::test]
async fn a_command_that_fails_or_is_missing_or_hangs_is_an_error_of_one_line() {
    let dir = Path::new("/run/svid");
    let failed = |error: DeliveryError| {
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    };
    let text = failed(command("exit 3").notify(dir, 1).await.unwrap_err());
    assert!(
        text.contains("\"exit 3\"") && text.contains("exit status: 3"),
        "{text}"
    );
    let text = failed(command("kill -9 $$").notify(dir, 1).await.unwrap_err());
    assert!(text.contains("signal: 9"), "{text}");
    let none: [&str; 0] = [];
    let missing = RunCommand::new("/no/such/program", none, Arc::new(SystemClock::new()));
    let text = failed(missing.notify(dir, 1).await.unwrap_err());
    assert!(
        text.contains("/no/such/program") && text.contains("No such file"),
        "{text}"
    );
    // The clock jumps to the deadline once nothing else is left to do.
    let clock = Arc::new(VirtualClock::start(SystemClock::new().now()));
    let hanging = RunCommand::shell("sleep 1000 & wait", clock);
    let text = failed(hanging.notify(dir, 1).await.unwrap_err());
    assert!(text.contains("longer than 30s"), "{text}");
}

#[tokio::test]
async fn a_process_is_signalled_by_number_or_by_file() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("pid");
    let dir = Path::new("/run/svid");
    let by_file = SendSignal::parse(&format!("{}:SIGTERM", file.display())).unwrap();
    let missing = by_file.notify(dir, 1).await.unwrap_err().to_string();
    assert!(missing.contains("No such file"), "{missing}");
    assert!(missing.contains(file.to_str().unwrap()), "{missing}");
    for (text, says) in [
        ("x", "no process number"),
        ("0", "no process number"),
        ("-1", "no process number"),
    ] {
        fs::write(&file, text).unwrap();
        let error = by_file.notify(dir, 1).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(&file, format!("{}\n", child.id())).unwrap();
    by_file.notify(dir, 1).await.unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let by_number = SendSignal::parse(&child.id().to_string()).unwrap();
    by_number.notify(dir, 1).await.unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(1));
    let gone = by_number.notify(dir, 1).await.unwrap_err().to_string();
    assert!(gone.contains("No such process"), "{gone}");
}

#[test]
fn whom_to_signal_is_checked_before_anything_runs() {
    for good in ["1", "4711:USR1", "/run/nginx.pid", "run/x.pid:SIGUSR2"] {
        SendSignal::parse(good).unwrap();
    }
    for (bad, says) in [
        ("", SendSignalError::Nobody),
        ("0", SendSignalError::Nobody),
        ("-4711", SendSignalError::Nobody),
        (":HUP", SendSignalError::Nobody),
        (
            "1:KILL",
            SendSignalError::Unknown {
                name: "KILL".into(),
            },
        ),
        (
            "/run/x:y.pid",
            SendSignalError::Unknown {
                name: "y.pid".into(),
            },
        ),
    ] {
        assert_eq!(SendSignal::parse(bad).unwrap_err(), says, "{bad}");
    }
}
