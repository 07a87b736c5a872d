//! A trust domain in one call: an authority in memory, SVIDs and sources from it, federation with another.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use spiffe_core::key::KeyType;
use spiffe_core::svid::JwtError;
use spiffe_core::{
    Bundle, BundleSet, Clock, JwtSvid, JwtVerifier, Publisher, Random, SpiffeId, SystemClock,
    TrustDomain as Name, X509Svid,
};
use spiffe_svid_ca::authority::Evidence;
use spiffe_svid_ca::error::CaError;
use spiffe_svid_ca::{Event, InProcessSource, JwtSvidParams, TrustDomainCa, X509SvidParams};

/// A trust domain for a test; clones are handles to the same one. Nothing of it touches disk or network.
///
/// ```
/// use spiffe_core::Source;
/// use spiffe_testkit::TrustDomain;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let domain = TrustDomain::ephemeral("test.example").await;
/// let source = domain.source("web").await;
/// assert_eq!(source.svid()?.id().as_str(), "spiffe://test.example/web");
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
///
/// # Panics
///
/// Its methods panic on names that are no SPIFFE IDs and when issuing fails: in a test, that is the failure.
#[derive(Clone, Debug)]
pub struct TrustDomain {
    ca: TrustDomainCa,
    clock: Arc<dyn Clock>,
    /// The sources that rotate by themselves, with whom each federates.
    rotating: Arc<Mutex<Vec<Rotating>>>,
}

impl TrustDomain {
    /// Boots a trust domain on the system's clock and randomness.
    pub async fn ephemeral(name: &str) -> Self {
        let random = spiffe_core::crypto::system_random();
        Self::ephemeral_with(name, Arc::new(SystemClock::new()), random).await
    }

    /// Boots a trust domain on a clock and a randomness of the test's, such as [`VirtualClock`](crate::VirtualClock)
    /// and [`SeededRandom`](crate::SeededRandom).
    pub async fn ephemeral_with(
        name: &str,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        let name = Name::parse(name).expect("the test names a trust domain");
        let ca = TrustDomainCa::builder_with(name, spiffe_core::crypto::aws_lc_rs(), random)
            .build(clock.now())
            .await
            .expect("an authority in memory can be made");
        Self {
            ca,
            clock,
            rotating: Arc::default(),
        }
    }

    /// The authority.
    pub fn ca(&self) -> &TrustDomainCa {
        &self.ca
    }

    /// The current bundle.
    pub fn bundle(&self) -> Arc<Bundle> {
        self.ca.bundle()
    }

    /// The ID with this path, given without its leading slash.
    pub fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::from_segments(self.ca.trust_domain().as_ref(), path.split('/'))
            .expect("the test names a path")
    }

    /// An X509-SVID for the workload at this path, valid for an hour.
    pub async fn svid(&self, path: &str) -> X509Svid {
        self.issue(&X509SvidParams::new(self.id(path))).await
    }

    /// An X509-SVID as the parameters say.
    pub async fn issue(&self, params: &X509SvidParams) -> X509Svid {
        let now = self.clock.now();
        let issued = self.ca.issue_x509_svid(params, KeyType::EcP256, now).await;
        issued.expect("the parameters can be issued")
    }

    /// A JWT-SVID for the workload at this path, valid for five minutes.
    pub async fn token(&self, path: &str, audience: &str) -> String {
        let params = JwtSvidParams::new(self.id(path), audience);
        let issued = self.ca.issue_jwt(&params, self.clock.now()).await;
        issued.expect("the token can be issued").token
    }

    /// A live source for the workload at this path. It rotates when told to; see [`InProcessSource`].
    pub async fn source(&self, path: &str) -> InProcessSource {
        let params = X509SvidParams::new(self.id(path));
        let source = InProcessSource::new(self.ca.clone(), params, self.clock.now()).await;
        source.expect("the first SVID can be issued")
    }

    /// A source for the workload at this path that rotates by itself as the clock moves, follows the bundles of its own
    /// and of the `federated` trust domains, and lets the authorities' life go on. Needs a tokio runtime, which it lives
    /// as long as.
    pub async fn rotating_source(&self, path: &str, federated: &[&Self]) -> InProcessSource {
        let source = self.source(path).await;
        for other in federated {
            let followed = source.federate(other.bundle());
            followed.expect("a bundle of this kit can be used");
        }
        let federated = federated.iter().copied().cloned().collect();
        let mut rotating = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        rotating.push((source.clone(), federated));
        if rotating.len() == 1 {
            tokio::spawn(live(self.clone()));
        }
        source
    }

    /// Tokens for the workload at this path, and verification by the bundles of this trust domain and the others.
    pub fn jwt_source(&self, path: &str, federated: &[&Self]) -> JwtSource {
        JwtSource {
            id: self.id(path),
            domains: std::iter::once(self)
                .chain(federated.iter().copied())
                .cloned()
                .collect(),
            verifier: JwtVerifier::new(&**self.ca.crypto()),
        }
    }

    /// A source that never changes: one SVID, and the bundles of this trust domain and the others.
    pub async fn fixed_source(&self, path: &str, federated: &[&Self]) -> Publisher {
        let bundles: BundleSet = std::iter::once(self)
            .chain(federated.iter().copied())
            .map(Self::bundle)
            .collect();
        Publisher::fixed([self.svid(path).await], bundles)
    }

    /// Lets the authorities' life go on to the clock's time.
    ///
    /// # Errors
    ///
    /// [`CaError`].
    pub async fn tick(&self, evidence: &Evidence) -> Result<Vec<Event>, CaError> {
        self.ca.tick(self.clock.now(), evidence).await
    }
}

/// A source that rotates by itself, and with whom it federates.
type Rotating = (InProcessSource, Vec<TrustDomain>);

/// One workload's JWT-SVIDs: fetched from its trust domain's authority, and verified by the bundles of the moment.
#[derive(Clone, Debug)]
pub struct JwtSource {
    id: SpiffeId,
    /// Its own first.
    domains: Vec<TrustDomain>,
    verifier: JwtVerifier,
}

impl JwtSource {
    /// A new token for this audience, valid for five minutes.
    ///
    /// # Panics
    ///
    /// When issuing fails.
    pub async fn fetch(&self, audience: &str) -> String {
        let own = &self.domains[0];
        let params = JwtSvidParams::new(self.id.clone(), audience);
        let issued = own.ca.issue_jwt(&params, own.clock.now()).await;
        issued.expect("the token can be issued").token
    }

    /// Verifies a token at the clock's time.
    ///
    /// # Errors
    ///
    /// [`JwtError`], the rule that it breaks.
    pub fn verify(&self, token: &str, audience: &str) -> Result<JwtSvid, JwtError> {
        let bundles: BundleSet = self.domains.iter().map(TrustDomain::bundle).collect();
        let now = self.domains[0].clock.now();
        self.verifier.verify(token, audience, &bundles, now)
    }
}

/// Lets sources rotate and authorities follow each other as the clock moves.
async fn live(domain: TrustDomain) {
    let clock = domain.clock.clone();
    loop {
        let rotating = domain.rotating.lock();
        let sources = rotating.unwrap_or_else(PoisonError::into_inner).clone();
        let now = clock.now();
        let due = sources
            .iter()
            .filter_map(|(source, _)| source.renew_at())
            .min();
        let wait = due.map_or(LOOK, |due| due.saturating_since(now));
        let wait = wait.clamp(Duration::from_secs(1), LOOK);
        clock.sleep_until(clock.monotonic() + wait).await;

        let now = clock.now();
        let known = sources.iter().map(|(source, _)| source.acknowledgement());
        let ticked = domain.tick(&Evidence::complete(known)).await;
        ticked.expect("authorities in memory follow each other");
        for (source, federated) in &sources {
            let foreign = federated
                .iter()
                .map(|other| source.federate(other.bundle()));
            foreign
                .chain([source.refresh()])
                .collect::<Result<Vec<_>, _>>()
                .expect("bundles of this kit can be used");
            if source.renew_at().is_some_and(|due| due <= now) {
                let rotated = source.rotate(now).await;
                rotated.expect("an SVID can be issued again");
            }
        }
    }
}

/// The longest wait between two looks: a fraction of every span that a life of 24 hours plans with.
const LOOK: Duration = Duration::from_secs(300);
