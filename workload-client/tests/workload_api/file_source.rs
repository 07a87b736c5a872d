//! The file source on what other programs write, and on what they leave half written.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use spiffe_proto::workload::X509svid;
use spiffe_workload_client::source::{
    EndpointState, Ends, FileSourceBuilder, Readiness, StartError,
};
use spiffe_workload_client::spiffe_core::{Source, TrustDomain, TrustDomainRef};
use spiffe_workload_client::{FileSource, Files};

use crate::support::ca::Ca;
use crate::support::clock::{START, VirtualClock};
use crate::support::until;

const EAST: TrustDomainRef<'_> = TrustDomainRef::literal("east.example");
const WEST: TrustDomainRef<'_> = TrustDomainRef::literal("west.example");

/// Longer than a look, and than all retries of a torn one.
const LOOK: Duration = Duration::from_secs(1);

struct Fixture {
    clock: Arc<VirtualClock>,
    directory: tempfile::TempDir,
    ca: Ca,
}

impl Fixture {
    fn new() -> Self {
        Self {
            clock: Arc::new(VirtualClock::new()),
            directory: tempfile::tempdir().unwrap(),
            ca: Ca::new("east.example"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn builder(&self, files: Files) -> FileSourceBuilder {
        FileSource::builder(files).clock(self.clock.clone())
    }

    /// A source that holds `/web`, written as `spiffe ca` does.
    async fn source(&self) -> FileSource {
        write(self.directory.path(), &self.ca.svid("/web"), &HERE);
        let files = Files::spiffe_ca(self.directory.path());
        let source = self.builder(files).build().await.unwrap();
        assert_eq!(id(&source), "/web");
        source
    }

    /// Lets looks pass until `condition` holds.
    async fn looks_until(&self, condition: impl Fn() -> bool) {
        while !condition() {
            self.clock.pass(LOOK).await;
            tokio::task::yield_now().await;
        }
    }
}

const HERE: [&str; 3] = ["svid.pem", "key.pem", "bundle.pem"];

fn id(source: &FileSource) -> String {
    source.svid().unwrap().id().path().into()
}

fn pem(kind: &str, der: &[u8]) -> String {
    let text = Base64::encode_string(der);
    format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
}

fn write(directory: &Path, svid: &X509svid, [certificate, key, bundle]: &[&str; 3]) {
    let chain = pem("CERTIFICATE", &svid.x509_svid);
    fs::write(directory.join(certificate), chain).unwrap();
    fs::write(directory.join(key), pem("PRIVATE KEY", &svid.x509_svid_key)).unwrap();
    let authorities = pem("CERTIFICATE", &svid.bundle);
    fs::write(directory.join(bundle), authorities).unwrap();
}

#[tokio::test]
async fn the_names_of_those_who_write_are_known() {
    let f = Fixture::new();
    type Layout = (fn(&Path) -> Files, [&'static str; 3]);
    let layouts: [Layout; 4] = [
        (
            |at| Files::spiffe_helper(at),
            ["svid.pem", "svid_key.pem", "svid_bundle.pem"],
        ),
        (
            |at| Files::cert_manager(at),
            ["tls.crt", "tls.key", "ca.crt"],
        ),
        (|at| Files::spiffe_ca(at), HERE),
        (
            |at| Files::spire_fetch(at),
            ["svid.0.pem", "svid.0.key", "bundle.0.pem"],
        ),
    ];
    for (number, (files, names)) in layouts.into_iter().enumerate() {
        let directory = f.path(&number.to_string());
        fs::create_dir(&directory).unwrap();
        write(&directory, &f.ca.svid("/web"), &names);
        let source = f.builder(files(&directory)).build().await.unwrap();
        assert_eq!(id(&source), "/web");
        assert!(source.bundle(EAST).is_ok());
        let status = source.status();
        assert_eq!(status.endpoint, EndpointState::Following);
        assert_eq!(status.last_update, Some(START));
        assert_eq!(status.readiness, Readiness::Ready);
        source.shutdown().await;
        assert_eq!(source.status().endpoint, EndpointState::Stopped);
    }
}

#[tokio::test]
async fn one_file_may_hold_certificates_and_key() {
    let f = Fixture::new();
    let svid = f.ca.svid("/web");
    write(f.directory.path(), &svid, &HERE);
    let both = format!(
        "{}{}",
        pem("PRIVATE KEY", &svid.x509_svid_key),
        pem("CERTIFICATE", &svid.x509_svid)
    );
    fs::write(f.path("both.pem"), both).unwrap();
    let both = f.path("both.pem");
    let files = Files::new(&both, &both, f.path("bundle.pem"));
    assert_eq!(id(&f.builder(files).build().await.unwrap()), "/web");
}

#[tokio::test]
async fn a_certificate_beside_an_old_key_is_never_published() {
    let f = Fixture::new();
    let source = f.source().await;
    let held = source.current().revision();
    let next = f.ca.svid("/next");
    fs::write(f.path("svid.pem"), pem("CERTIFICATE", &next.x509_svid)).unwrap();
    f.looks_until(|| source.status().last_error.is_some()).await;
    let error = source.status().last_error.unwrap();
    assert!(error.contains("svid.pem and"), "{error}");
    assert_eq!(source.status().endpoint, EndpointState::Waiting);
    assert_eq!(source.current().revision(), held);
    assert_eq!(id(&source), "/web");

    fs::write(f.path("key.pem"), pem("PRIVATE KEY", &next.x509_svid_key)).unwrap();
    f.looks_until(|| source.current().revision() > held).await;
    assert_eq!(id(&source), "/next");
    until(|| source.status().last_error.is_none()).await;
}

#[tokio::test]
async fn half_a_file_and_an_emptied_one_are_never_published() {
    let f = Fixture::new();
    let source = f.source().await;
    let held = source.current().revision();
    for name in HERE {
        let whole = fs::read_to_string(f.path(name)).unwrap();
        for part in [&whole[..whole.len() / 2], ""] {
            fs::write(f.path(name), part).unwrap();
            let says_so = || {
                let error = source.status().last_error;
                error.is_some_and(|error| error.contains(name))
            };
            f.looks_until(says_so).await;
            assert_eq!(source.current().revision(), held);
            fs::write(f.path(name), &whole).unwrap();
            f.looks_until(|| source.status().last_error.is_none()).await;
        }
    }
    assert_eq!(id(&source), "/web");
}

#[tokio::test]
async fn a_directory_that_is_switched_by_a_link_is_followed() {
    let f = Fixture::new();
    let generation = |name: &str, path: &str| {
        fs::create_dir(f.path(name)).unwrap();
        write(&f.path(name), &f.ca.svid(path), &HERE);
    };
    generation("one", "/web");
    symlink("one", f.path("..data")).unwrap();
    for name in HERE {
        symlink(Path::new("..data").join(name), f.path(name)).unwrap();
    }
    let files = Files::spiffe_ca(f.directory.path());
    let source = f.builder(files).build().await.unwrap();
    let held = source.current().revision();
    generation("two", "/next");
    symlink("two", f.path("..new")).unwrap();
    fs::rename(f.path("..new"), f.path("..data")).unwrap();
    f.looks_until(|| source.current().revision() > held).await;
    assert_eq!(id(&source), "/next");
}

#[tokio::test]
async fn unchanged_files_are_not_published_again() {
    let f = Fixture::new();
    let source = f.source().await;
    let held = source.current();
    for _ in 0..3 {
        f.clock.pass(LOOK).await;
    }
    // Written again, they are read, and say the same.
    for name in HERE {
        fs::write(f.path(name), fs::read(f.path(name)).unwrap()).unwrap();
    }
    f.clock.pass(LOOK).await;
    f.clock.somebody_waits(LOOK).await;
    assert_eq!(source.current().revision(), held.revision());
}

#[tokio::test]
async fn missing_files_end_the_start_and_are_found_later() {
    let f = Fixture::new();
    let files = Files::spiffe_ca(f.directory.path());
    let source = f.builder(files).start().unwrap();
    until(|| source.status().last_error.is_some()).await;
    let (ready, ()) = tokio::join!(source.ready(LOOK * 7), async {
        f.clock.somebody_waits(LOOK * 7).await;
        f.clock.advance(LOOK * 7);
    });
    let StartError::TimedOut { last_error, .. } = ready.unwrap_err() else {
        panic!("another error");
    };
    assert!(
        last_error.contains("svid.pem cannot be read"),
        "{last_error}"
    );
    assert_eq!(source.status().readiness, Readiness::Empty);
    write(f.directory.path(), &f.ca.svid("/web"), &HERE);
    f.looks_until(|| source.svid().is_ok()).await;
    // What is held stays without its files.
    fs::remove_file(f.path("svid.pem")).unwrap();
    f.looks_until(|| source.status().last_error.is_some()).await;
    assert_eq!(id(&source), "/web");
}

#[tokio::test]
async fn an_authority_that_is_gone_is_not_trusted_for_the_svids_sake() {
    let f = Fixture::new();
    let source = f.source().await;
    let held = source.current();
    let other = Ca::new("east.example").bundle();
    fs::write(f.path("bundle.pem"), pem("CERTIFICATE", &other)).unwrap();
    f.looks_until(|| source.current().revision() > held.revision())
        .await;
    assert!(Arc::ptr_eq(
        held.svid().unwrap(),
        source.current().svid().unwrap()
    ));
    let own = source.bundle(EAST).unwrap();
    let authority = own.x509_authorities().iter().next().unwrap();
    assert_eq!(authority.certificate().as_ref(), other);
    until(|| source.status().last_error.is_some()).await;
}

#[tokio::test]
async fn a_foreign_bundle_that_cannot_be_read_holds_nothing_up() {
    let f = Fixture::new();
    write(f.directory.path(), &f.ca.svid("/web"), &HERE);
    let west = pem("CERTIFICATE", &Ca::new("west.example").bundle());
    fs::write(f.path("west.pem"), west).unwrap();
    let west: TrustDomain = "west.example".parse().unwrap();
    let files = Files::spiffe_ca(f.directory.path()).federated(west, f.path("west.pem"));
    let source = f.builder(files).build().await.unwrap();
    let held = source.bundle(WEST).unwrap();
    fs::write(f.path("west.pem"), "{").unwrap();
    write(f.directory.path(), &f.ca.svid("/next"), &HERE);
    f.looks_until(|| id(&source) == "/next").await;
    assert!(Arc::ptr_eq(&held, &source.bundle(WEST).unwrap()));
    until(|| source.status().last_error.is_some()).await;
    let error = source.status().last_error.unwrap();
    assert!(error.contains("west.pem is no bundle"), "{error}");
}

#[tokio::test]
async fn it_says_until_when_it_lasts() {
    let f = Fixture::new();
    let source = f.source().await;
    let survival = source.survives_until().unwrap();
    assert_eq!(survival.until(), START + Duration::from_secs(3600));
    let svid = Ends::Svid {
        id: source.svid().unwrap().id().clone(),
    };
    assert_eq!(survival.ends(), &svid);
    f.clock.advance(Duration::from_secs(3601));
    let since = survival.until();
    assert_eq!(source.status().readiness, Readiness::Expired { since });
}
