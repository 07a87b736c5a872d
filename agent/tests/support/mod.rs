//! What the tests share: a clock moved by hand, an authority of their own, an attestor that says what it is told.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "fixtures of tests, each of which uses its part"
)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use spiffe_agent::attest::{AttestError, WorkloadAttestor};
use spiffe_agent::caller::Caller;
use spiffe_agent::{AuthorityError, AuthorityState, SvidAuthority};
use spiffe_core::bundle::{JwtAuthorities, JwtAuthority, X509Authorities, X509Authority};
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::key::{KeyType, Signer};
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::{BoxFuture, Bundle, BundleSet, Clock, Timestamp, TrustDomain};
use spiffe_registration::{Entry, EntryParams, EntrySet, Selector};
use tokio::sync::watch;

pub const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock {
    elapsed: watch::Sender<Duration>,
}

impl ManualClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            elapsed: watch::Sender::new(Duration::ZERO),
        })
    }

    pub fn advance(&self, by: Duration) {
        self.elapsed.send_modify(|elapsed| *elapsed += by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        START + *self.elapsed.borrow()
    }

    fn monotonic(&self) -> Duration {
        *self.elapsed.borrow()
    }

    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        let mut elapsed = self.elapsed.subscribe();
        Box::pin(async move {
            elapsed
                .wait_for(|elapsed| *elapsed >= deadline)
                .await
                .map(drop)
                .unwrap_or(())
        })
    }
}

/// An authority over one self-signed root, whose state the test sets.
#[derive(Debug)]
pub struct TestAuthority {
    trust_domain: TrustDomain,
    clock: Arc<ManualClock>,
    state: watch::Sender<AuthorityState>,
    life: Duration,
    root: Root,
    serial: AtomicU64,
    /// Whether attempts fail.
    broken: AtomicBool,
    /// Whether attempts never end.
    stuck: AtomicBool,
    /// Whether attempts panic.
    defective: AtomicBool,
    attempts: Mutex<Vec<String>>,
}

/// The authorities of some trust domain, one of each kind.
pub struct Root {
    pub certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    jwt: Arc<dyn Signer>,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Root")
    }
}

impl Root {
    pub fn of(trust_domain: &TrustDomain) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, trust_domain.as_str());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names = vec![uri(trust_domain.id().as_str())];
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let crypto = aws_lc_rs();
        let jwt_key = crypto.generate_key(KeyType::EcP256).unwrap();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
            jwt: crypto.load_key(&jwt_key).unwrap(),
        }
    }

    pub fn jwt_authority(&self, key_id: &str) -> JwtAuthority {
        JwtAuthority::new(key_id, self.jwt.public_key().clone()).unwrap()
    }

    /// A token signed under `key_id`, with these claims besides subject and expiry in an hour.
    pub async fn token(&self, key_id: &str, subject: &str, now: Timestamp, claims: &str) -> String {
        let header = format!(r#"{{"alg":"ES256","kid":"{key_id}","typ":"JWT"}}"#);
        let expiry = now.unix_seconds() + 3600;
        let claims = format!(r#"{{"sub":"{subject}","exp":{expiry},{claims}}}"#);
        let encode = |text: String| Base64UrlUnpadded::encode_string(text.as_bytes());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.jwt.sign(signed.as_bytes()).await.unwrap();
        format!("{signed}.{}", Base64UrlUnpadded::encode_string(&signature))
    }
}

impl TestAuthority {
    /// One of `example.org` that issues for an hour, without entries yet.
    pub fn new(clock: &Arc<ManualClock>) -> Arc<Self> {
        let trust_domain = trust_domain("example.org");
        let root = Root::of(&trust_domain);
        let bundles = BundleSet::from_iter([bundle("example.org", &[&root])]);
        Arc::new(Self {
            trust_domain,
            clock: Arc::clone(clock),
            state: watch::Sender::new(AuthorityState::new(1, 1, Arc::default(), bundles.into())),
            life: Duration::from_secs(3600),
            root,
            serial: AtomicU64::new(1),
            broken: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            defective: AtomicBool::new(false),
            attempts: Mutex::default(),
        })
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    pub fn set_entries(&self, entries: Vec<Entry>) {
        let entries = Arc::new(EntrySet::new(entries).unwrap());
        self.change(|state| state.entries = entries);
    }

    pub fn set_bundles(&self, bundles: impl IntoIterator<Item = Bundle>) {
        let bundles = Arc::new(bundles.into_iter().collect());
        self.change(|state| state.bundles = bundles);
    }

    /// Wants everything issued anew.
    pub fn rotate(&self) {
        self.change(|state| state.generation += 1);
    }

    pub fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    pub fn set_stuck(&self, stuck: bool) {
        self.stuck.store(stuck, Ordering::SeqCst);
    }

    pub fn set_defective(&self, defective: bool) {
        self.defective.store(defective, Ordering::SeqCst);
    }

    /// The IDs of the entries that an X509-SVID was asked for since the last call.
    pub fn take_attempts(&self) -> Vec<String> {
        std::mem::take(&mut self.attempts.lock().unwrap())
    }

    fn change(&self, change: impl FnOnce(&mut AuthorityState)) {
        self.state.send_modify(|state| {
            state.revision += 1;
            change(state);
        });
    }

    fn issue(
        &self,
        entry: &Entry,
        key: &dyn Signer,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(AuthorityError::unavailable("out of order"));
        }
        assert!(!self.defective.load(Ordering::SeqCst), "a defect");
        let now = self.clock.now();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.not_before = date(now - Duration::from_secs(10));
        params.not_after = date(now + entry.params().x509_svid_ttl.unwrap_or(self.life));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![uri(entry.spiffe_id().as_str())];
        params.serial_number = Some(SerialNumber::from(
            self.serial.fetch_add(1, Ordering::SeqCst),
        ));
        let leaf = params
            .signed_by(&Point(key.public_key().as_ref()), &self.root.issuer)
            .unwrap();
        Ok(vec![leaf.der().clone()])
    }
}

impl SvidAuthority for TestAuthority {
    fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    fn state(&self) -> AuthorityState {
        self.state.borrow().clone()
    }

    fn changed(&self, seen: u64) -> BoxFuture<'_, ()> {
        let mut state = self.state.subscribe();
        Box::pin(async move {
            state
                .wait_for(|state| state.revision != seen)
                .await
                .map(drop)
                .unwrap_or(())
        })
    }

    fn issue_x509<'a>(
        &'a self,
        entry: &'a Entry,
        key: &'a dyn Signer,
    ) -> BoxFuture<'a, Result<Vec<CertificateDer<'static>>, AuthorityError>> {
        self.attempts.lock().unwrap().push(entry.id().to_owned());
        if self.stuck.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        Box::pin(async { self.issue(entry, key) })
    }

    fn issue_jwt<'a>(
        &'a self,
        entry: &'a Entry,
        audience: &'a [String],
    ) -> BoxFuture<'a, Result<String, AuthorityError>> {
        Box::pin(async move {
            if self.broken.load(Ordering::SeqCst) {
                return Err(AuthorityError::unavailable("out of order"));
            }
            if self.stuck.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let claims = format!(r#""aud":["{}"]"#, audience.join(r#"",""#));
            let subject = entry.spiffe_id().as_str();
            Ok(self
                .root
                .token("j1", subject, self.clock.now(), &claims)
                .await)
        })
    }
}

/// Says of every caller what it was told last.
#[derive(Debug, Default)]
pub struct TestAttestor {
    selectors: Mutex<Vec<Selector>>,
}

impl TestAttestor {
    pub fn new(selectors: &str) -> Arc<Self> {
        let attestor = Self::default();
        attestor.set(selectors);
        Arc::new(attestor)
    }

    /// What is true of whoever asks from now on.
    pub fn set(&self, selectors: &str) {
        *self.selectors.lock().unwrap() = parse_selectors(selectors);
    }
}

impl WorkloadAttestor for TestAttestor {
    fn attest(&self, _: &Caller) -> Result<Vec<Selector>, AttestError> {
        Ok(self.selectors.lock().unwrap().clone())
    }
}

pub fn trust_domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

/// A bundle of these roots' X.509 authorities, and of their JWT authorities under `j1`, `j2` and so on.
pub fn bundle(name: &str, roots: &[&Root]) -> Bundle {
    let authorities: X509Authorities = roots
        .iter()
        .map(|root| X509Authority::from_der(root.certificate.clone()).unwrap())
        .collect();
    let keys: JwtAuthorities = (1..)
        .zip(roots)
        .map(|(number, root)| root.jwt_authority(&format!("j{number}")))
        .collect();
    Bundle::new(trust_domain(name))
        .with_x509_authorities(authorities)
        .with_jwt_authorities(keys)
}

/// An entry called `name` for `spiffe://example.org/NAME`.
pub fn entry(name: &str, selectors: &str) -> Entry {
    entry_with(name, selectors, |_| {})
}

pub fn entry_with(name: &str, selectors: &str, change: impl FnOnce(&mut EntryParams)) -> Entry {
    let id = format!("spiffe://example.org/{name}").parse().unwrap();
    let mut params = EntryParams::new(id, parse_selectors(selectors));
    change(&mut params);
    Entry::new(params, || name.into()).unwrap()
}

fn parse_selectors(text: &str) -> Vec<Selector> {
    text.split_whitespace()
        .map(|selector| selector.parse().unwrap())
        .collect()
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn date(at: Timestamp) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(at.unix_seconds()).unwrap()
}

/// A P-256 key given as SubjectPublicKeyInfo.
struct Point<'a>(&'a [u8]);

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        // The uncompressed point is what such a structure ends with.
        &self.0[self.0.len() - 65..]
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}
