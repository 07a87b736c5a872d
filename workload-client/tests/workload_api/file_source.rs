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

pub(crate) const HERE: [&str; 3] = ["svid.pem", "key.pem", "bundle.pem"];
const CERT_MANAGER: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// What reads a directory, and the names that are written there.
type Layout = (fn(&Path) -> Files, [&'static str; 3]);

fn id(source: &FileSource) -> String {
    source.svid().unwrap().id().path().into()
}

fn pem(kind: &str, der: &[u8]) -> String {
    let text = Base64::encode_string(der);
    format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
}

pub(crate) fn write(directory: &Path, svid: &X509svid, [certificate, key, bundle]: &[&str; 3]) {
    let chain = pem("CERTIFICATE", &svid.x509_svid);
    fs::write(directory.join(certificate), chain).unwrap();
    fs::write(directory.join(key), pem("PRIVATE KEY", &svid.x509_svid_key)).unwrap();
    let authorities = pem("CERTIFICATE", &svid.bundle);
    fs::write(directory.join(bundle), authorities).unwrap();
}

#[tokio::test]
async fn the_names_of_those_who_write_are_known() {
    let f = Fixture::new();
    let layouts: [Layout; 4] = [
        (
            |at| Files::spiffe_helper(at),
            ["svid.pem", "svid_key.pem", "svid_bundle.pem"],
        ),
        (|at| Files::cert_manager(at), CERT_MANAGER),
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
    let layouts: [Layout; 2] = [
        (|at| Files::spiffe_ca(at), HERE),
        // cert-manager's driver writes by kubelet's atomic writer, whose link this is.
        (|at| Files::cert_manager(at), CERT_MANAGER),
    ];
    for (files, names) in layouts {
        let f = Fixture::new();
        let generation = |name: &str, path: &str| {
            fs::create_dir(f.path(name)).unwrap();
            write(&f.path(name), &f.ca.svid(path), &names);
        };
        generation("..one", "/web");
        symlink("..one", f.path("..data")).unwrap();
        for name in names {
            symlink(Path::new("..data").join(name), f.path(name)).unwrap();
        }
        let files = files(f.directory.path());
        let source = f.builder(files).build().await.unwrap();
        assert_eq!(id(&source), "/web");
        let held = source.current().revision();
        generation("..two", "/next");
        symlink("..two", f.path("..data_tmp")).unwrap();
        fs::rename(f.path("..data_tmp"), f.path("..data")).unwrap();
        fs::remove_dir_all(f.path("..one")).unwrap();
        f.looks_until(|| source.current().revision() > held).await;
        assert_eq!(id(&source), "/next");
    }
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
async fn the_task_ends_with_the_last_handle() {
    let f = Fixture::new();
    let source = f.source().await;
    let publisher = source.publisher().clone();
    let twin = source.clone();
    drop(source);
    write(f.directory.path(), &f.ca.svid("/next"), &HERE);
    f.looks_until(|| publisher.svid().unwrap().id().path() == "/next")
        .await;
    drop(twin);
    // The task held the clock as well.
    until(|| Arc::strong_count(&f.clock) == 1).await;
    assert_eq!(publisher.svid().unwrap().id().path(), "/next");
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

/// `spiffe fetch --write` and what reads it.
#[cfg(feature = "delivery")]
mod delivered {
    use rustix::fs::{CWD, Mode, mkfifoat};
    use spiffe_workload_client::delivery::{DeliveryDirectory, FileSet, Material};
    use spiffe_workload_client::spiffe_core::bundle::{JwtAuthorities, X509Authorities};
    use spiffe_workload_client::spiffe_core::crypto::aws_lc_rs;
    use spiffe_workload_client::spiffe_core::key::PrivateKey;
    use spiffe_workload_client::spiffe_core::verify::{PeerRole, X509Verifier};
    use spiffe_workload_client::spiffe_core::{Bundle, BundleSet, Clock, X509Svid};

    use super::*;
    use crate::support::jwt::JwtCa;

    fn svid(svid: &X509svid) -> Arc<X509Svid> {
        let key = PrivateKey::from_pkcs8_der(svid.x509_svid_key.clone());
        let svid = X509Svid::from_concatenated_der(&svid.x509_svid, key, &*aws_lc_rs());
        Arc::new(svid.unwrap())
    }

    fn bundle(ca: &Ca) -> Bundle {
        let authorities = X509Authorities::from_concatenated_der(&ca.bundle()).unwrap();
        let name: TrustDomain = ca.trust_domain.parse().unwrap();
        Bundle::new(name).with_x509_authorities(authorities)
    }

    fn material(svids: impl IntoIterator<Item = Arc<X509Svid>>, bundles: BundleSet) -> Material {
        let mut material = Material::default();
        material.svids = svids.into_iter().collect();
        material.bundles = Arc::new(bundles);
        material
    }

    fn deliver(directory: &mut DeliveryDirectory, material: &Material) {
        let files = FileSet::new(material).unwrap();
        assert!(directory.write(&files).unwrap().is_new);
    }

    #[tokio::test]
    async fn all_that_was_delivered_comes_back() {
        let f = Fixture::new();
        let west = Ca::new("west.example");
        let (_, jwks) = JwtCa::new("east.example").bundle();
        let jwt = JwtAuthorities::from_workload_api_jwks(&jwks).unwrap();
        let bundles = || -> BundleSet {
            [
                bundle(&f.ca).with_jwt_authorities(jwt.clone()),
                bundle(&west),
            ]
            .into_iter()
            .collect()
        };
        let svids = ["/web", "/db"].map(|path| svid(&f.ca.svid(path)));
        let mut directory = DeliveryDirectory::new(f.path("svid"));
        deliver(&mut directory, &material(svids.clone(), bundles()));

        let files = Files::delivered(f.path("svid"));
        let source = f.builder(files).build().await.unwrap();
        let chains = |source: &FileSource| -> Vec<_> {
            let current = source.current();
            current
                .svids()
                .iter()
                .map(|one| one.chain().to_vec())
                .collect()
        };
        assert_eq!(chains(&source), svids.map(|one| one.chain().to_vec()));
        assert!(source.current().bundles().same_authorities(&bundles()));
        assert_eq!(source.status().last_error, None);

        // A rotation of one of them: the other one is still the same value.
        let held = source.current().svids()[1].clone();
        let next = [svid(&f.ca.svid("/web")), held.clone()];
        let revision = source.current().revision();
        deliver(&mut directory, &material(next.clone(), bundles()));
        f.looks_until(|| source.current().revision() > revision)
            .await;
        assert_eq!(chains(&source), next.map(|one| one.chain().to_vec()));
        assert!(Arc::ptr_eq(&held, &source.current().svids()[1]));

        // Defederated.
        let revision = source.current().revision();
        deliver(
            &mut directory,
            &material([held.clone()], [bundle(&f.ca)].into_iter().collect()),
        );
        f.looks_until(|| source.current().revision() > revision)
            .await;
        assert!(source.bundle(WEST).is_err());
        assert_eq!(id(&source), "/db");
    }

    #[tokio::test]
    async fn a_revision_without_svids_is_a_withdrawal_and_files_that_are_gone_are_none() {
        let f = Fixture::new();
        let bundles = || -> BundleSet { [bundle(&f.ca)].into_iter().collect() };
        let mut directory = DeliveryDirectory::new(f.path("svid"));
        deliver(
            &mut directory,
            &material([svid(&f.ca.svid("/web"))], bundles()),
        );
        let files = Files::delivered(f.path("svid"));
        let source = f.builder(files).build().await.unwrap();

        let link = f.path("svid").join("current");
        let to = fs::read_link(&link).unwrap();
        fs::remove_file(&link).unwrap();
        f.looks_until(|| source.status().last_error.is_some()).await;
        let error = source.status().last_error.unwrap();
        assert!(error.contains("current cannot be read"), "{error}");
        assert_eq!(id(&source), "/web");
        symlink(to, &link).unwrap();
        f.looks_until(|| source.status().last_error.is_none()).await;

        deliver(&mut directory, &Material::default());
        f.looks_until(|| source.status().withdrawn).await;
        assert!(source.svid().is_err());
        assert!(source.bundle(EAST).is_err());
        assert_eq!(source.status().readiness, Readiness::Empty);

        deliver(
            &mut directory,
            &material([svid(&f.ca.svid("/back"))], bundles()),
        );
        f.looks_until(|| source.status().is_ready()).await;
        assert_eq!(id(&source), "/back");
        assert!(!source.status().withdrawn);
    }

    #[tokio::test]
    async fn an_svid_that_cannot_be_used_does_not_hold_up_the_others() {
        let f = Fixture::new();
        let bundles = || -> BundleSet { [bundle(&f.ca)].into_iter().collect() };
        let until = |path: &str, end| svid(&f.ca.svid_until(path, end));
        let (expired, day) = (START - LOOK, Duration::from_secs(86_400));
        let mut directory = DeliveryDirectory::new(f.path("svid"));
        let first = [until("/a", START + day), until("/b", expired)];
        deliver(&mut directory, &material(first, bundles()));
        let files = Files::delivered(f.path("svid"));
        let source = f.builder(files.clone()).build().await.unwrap();
        let ids = |source: &FileSource| -> Vec<String> {
            let current = source.current();
            let svids = current.svids().iter();
            svids.map(|one| one.id().path().into()).collect()
        };
        assert_eq!(ids(&source), ["/a"]);
        let error = source.status().last_error.unwrap();
        assert!(error.contains("/b expired"), "{error}");

        // One rotates, and the other one is back, and then has expired again: what was good stands in.
        let good = until("/b", START + day);
        for other in [good.clone(), until("/b", expired)] {
            let next = until("/a", START + day * 2);
            deliver(&mut directory, &material([next.clone(), other], bundles()));
            f.looks_until(|| source.svid().unwrap().chain() == next.chain())
                .await;
            assert_eq!(source.current().svids()[1].chain(), good.chain());
        }
        assert!(source.status().last_error.is_some());

        // Where another identity would be the default one, what is held stays, and a start waits.
        let next = [until("/c", expired), until("/a", START + day * 3)];
        deliver(&mut directory, &material(next, bundles()));
        let names_c = || {
            source
                .status()
                .last_error
                .is_some_and(|it| it.contains("/c"))
        };
        f.looks_until(names_c).await;
        assert_eq!(ids(&source), ["/a", "/b"]);
        let other = f.builder(files).start().unwrap();
        f.looks_until(|| other.status().last_error.is_some()).await;
        assert_eq!(ids(&other), [""; 0]);
        assert!(!other.status().is_ready());
        deliver(
            &mut directory,
            &material([until("/c", START + day)], bundles()),
        );
        f.looks_until(|| other.status().is_ready() && ids(&source) == ["/c"])
            .await;
        assert_eq!(source.status().last_error, None);
    }

    /// The machine's clock was ahead, and is set right without another revision.
    #[tokio::test]
    async fn what_could_not_be_used_is_read_again() {
        let f = Fixture::new();
        let bundles: BundleSet = [bundle(&f.ca)].into_iter().collect();
        let mut directory = DeliveryDirectory::new(f.path("svid"));
        deliver(
            &mut directory,
            &material([svid(&f.ca.svid("/web"))], bundles),
        );
        let day = Duration::from_secs(86_400);
        f.clock.set_ahead(day);
        let files = Files::delivered(f.path("svid"));
        let source = f.builder(files).start().unwrap();
        f.looks_until(|| source.status().last_error.is_some()).await;
        assert!(source.svid().is_err());
        f.clock.set_back(day);
        f.looks_until(|| source.status().is_ready()).await;
        assert_eq!(source.status().last_error, None);
    }

    /// The reader waits at the first SVID, a pipe, while the revision is switched and the second one is removed.
    #[tokio::test]
    async fn a_revision_that_goes_while_it_is_read_is_not_used() {
        let f = Fixture::new();
        let bundles = || -> BundleSet { [bundle(&f.ca)].into_iter().collect() };
        let both = |paths: [&str; 2]| paths.map(|path| svid(&f.ca.svid(path)));
        let mut directory = DeliveryDirectory::new(f.path("svid"));
        deliver(&mut directory, &material(both(["/a", "/b"]), bundles()));
        let link = f.path("svid").join("current");
        let revision = fs::canonicalize(&link).unwrap();
        let first = revision.join("credential_bundle.0.pem");
        let text = fs::read(&first).unwrap();
        fs::remove_file(&first).unwrap();
        mkfifoat(CWD, &first, Mode::RUSR | Mode::WUSR).unwrap();

        let source = f.builder(Files::delivered(f.path("svid"))).start().unwrap();
        // Opens once the reader does.
        let open = move || fs::OpenOptions::new().write(true).open(first);
        let pipe = tokio::task::spawn_blocking(open).await.unwrap();
        let elsewhere = f.path("svid").join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::remove_file(&link).unwrap();
        symlink("elsewhere", &link).unwrap();
        fs::remove_file(revision.join("credential_bundle.1.pem")).unwrap();
        std::io::Write::write_all(&mut pipe.unwrap(), &text).unwrap();
        until(|| source.status().last_error.is_some() || source.status().last_update.is_some())
            .await;
        let error = source.status().last_error.unwrap_or_default();
        assert!(error.contains("was switched while it was read"), "{error}");
        assert!(source.svid().is_err());

        // One that stays is read whole.
        let whole = f.path("other");
        let mut directory = DeliveryDirectory::new(whole.clone());
        deliver(&mut directory, &material(both(["/c", "/d"]), bundles()));
        fs::remove_file(&link).unwrap();
        symlink(whole.join("current"), &link).unwrap();
        f.looks_until(|| source.status().is_ready()).await;
        assert_eq!(source.current().svids().len(), 2);
    }

    /// The link that is looked at stays the same.
    #[tokio::test]
    async fn a_foreign_bundle_that_could_not_be_read_is_read_again() {
        let f = Fixture::new();
        let west = Ca::new("west.example");
        let bundles: BundleSet = [bundle(&f.ca), bundle(&west)].into_iter().collect();
        let mut directory = DeliveryDirectory::new(f.path("svid"));
        deliver(
            &mut directory,
            &material([svid(&f.ca.svid("/web"))], bundles),
        );
        let revision = f.path("svid").join("current");
        let foreign = fs::canonicalize(revision.join("bundles/west.example.json")).unwrap();
        let text = fs::read(&foreign).unwrap();
        fs::write(&foreign, "{").unwrap();
        let files = Files::delivered(f.path("svid"));
        let source = f.builder(files).build().await.unwrap();
        assert!(source.bundle(EAST).is_ok());
        assert!(source.bundle(WEST).is_err());
        fs::write(&foreign, text).unwrap();
        f.looks_until(|| source.status().last_error.is_none()).await;
        assert!(source.bundle(WEST).is_ok());
    }

    /// A writer that does nothing else than switch, each revision with a trust domain's authority and SVIDs of its own: a
    /// reader that took two files of two revisions would hold an SVID that does not verify, or too few of them.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_torn_while_revisions_are_switched() {
        // The last one is not as the first.
        const REVISIONS: usize = 101;
        let f = Fixture::new();
        let worlds: Vec<_> = (0..4)
            .map(|_| {
                let ca = Ca::new("east.example");
                // A look is a second, and there may be many.
                let end = START + Duration::from_secs(86_400 * 300);
                let svids = ["/a", "/b"].map(|path| svid(&ca.svid_until(path, end)));
                FileSet::new(&material(svids, [bundle(&ca)].into_iter().collect())).unwrap()
            })
            .collect();
        let mut directory = DeliveryDirectory::new(f.path("svid"));
        directory.write(&worlds[0]).unwrap();
        let files = Files::delivered(f.path("svid"));
        let source = f.builder(files).build().await.unwrap();
        let writer = tokio::task::spawn_blocking(move || {
            for number in 1..=REVISIONS {
                directory.write(&worlds[number % worlds.len()]).unwrap();
            }
        });
        let verifier = X509Verifier::new(&*aws_lc_rs());
        let mut seen = 0;
        while !writer.is_finished() || seen == 0 {
            let held = source.current().revision();
            f.clock.pass(LOOK).await;
            tokio::task::yield_now().await;
            let current = source.current();
            seen += usize::from(current.revision() > held);
            assert_eq!(current.svids().len(), 2);
            for svid in current.svids() {
                let bundles = current.bundles();
                let verified =
                    verifier.verify(svid.chain(), bundles, f.clock.now(), PeerRole::Unspecified);
                assert!(verified.is_ok(), "{verified:?}");
            }
        }
        writer.await.unwrap();
        f.looks_until(|| source.status().last_error.is_none()).await;
    }
}
