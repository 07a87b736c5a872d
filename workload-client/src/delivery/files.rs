//! What a revision holds: names and contents, without a word about disks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use spiffe_core::key::SvidKey;
use spiffe_core::{Bundle, BundleSet, JwtSvid, TrustDomain, X509Svid};
use zeroize::Zeroizing;

use super::DeliveryError;

/// What there is to deliver.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Material {
    /// X509-SVIDs in their order; the first is the default identity.
    pub svids: Vec<Arc<X509Svid>>,
    /// Bundles whose X.509 authorities, and JWT authorities where they hold some, are delivered.
    pub bundles: Arc<BundleSet>,
    /// Bundles of which the JWT authorities are delivered, where `bundles` holds none.
    pub jwt_bundles: Arc<BundleSet>,
    /// JWT-SVIDs in their order; `None` keeps the number of a token that could not be had.
    pub tokens: Vec<Option<Arc<JwtSvid>>>,
}

impl Material {
    /// Whether nothing of it becomes a file.
    pub fn is_empty(&self) -> bool {
        self.svids.is_empty()
            && self.bundles.is_empty()
            && self.jwt_bundles.is_empty()
            && self.tokens.iter().all(Option::is_none)
    }
}

/// The files of one revision.
#[derive(Default)]
pub struct FileSet {
    entries: BTreeMap<String, Content>,
}

/// One file.
#[derive(Clone)]
pub(super) enum Content {
    Public(Vec<u8>),
    Secret(Zeroizing<Vec<u8>>),
    /// A link to another file of the same revision.
    Link(String),
}

impl FileSet {
    /// The files of this material.
    ///
    /// The keys of `svids` must be at hand. A trust domain whose name is too long for the name of a file has no file in
    /// `bundles/`; its authorities are in the numbered files.
    ///
    /// # Errors
    ///
    /// [`DeliveryError::KeyNotLocal`].
    pub fn new(material: &Material) -> Result<Self, DeliveryError> {
        let mut files = Self::default();
        let mut x509 = BTreeMap::new();
        for bundle in merged(material) {
            let name = bundle.trust_domain();
            let pem = bundle.x509_authorities().to_pem();
            let place = files.bundle(name, bundle.to_spiffe_json(), &pem);
            if !bundle.x509_authorities().is_empty() {
                x509.insert(
                    name.clone(),
                    place.map_or(Content::Public(pem.into()), Content::Link),
                );
            }
        }
        for (number, svid) in material.svids.iter().enumerate() {
            files.svid(number, svid)?;
            let mut foreign = 0;
            for (trust_domain, content) in &x509 {
                let name = if trust_domain.as_ref() == svid.trust_domain() {
                    format!("bundle.{number}.pem")
                } else {
                    foreign += 1;
                    format!("federated_bundle.{number}.{}.pem", foreign - 1)
                };
                files.add(name, content.clone());
            }
        }
        for (number, token) in material.tokens.iter().enumerate() {
            if let Some(token) = token {
                let bytes = Zeroizing::new(token.secret_token().as_bytes().to_vec());
                files.add(format!("jwt.{number}.token"), Content::Secret(bytes));
            }
        }
        Ok(files)
    }

    /// The names, in order; those in a directory with its name and a slash before.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Content)> {
        self.entries
            .iter()
            .map(|(name, content)| (name.as_str(), content))
    }

    /// The names in the directory itself, each once.
    pub(super) fn top_level(&self) -> impl Iterator<Item = &str> {
        let mut last = None;
        self.names().filter_map(move |name| {
            let top = name.split_once('/').map_or(name, |(top, _)| top);
            (last.replace(top) != Some(top)).then_some(top)
        })
    }

    /// Adds a trust domain's own files and says where its PEM is.
    fn bundle(&mut self, trust_domain: &TrustDomain, json: String, pem: &str) -> Option<String> {
        let stem = trust_domain.as_str();
        if stem.len() > MAX_STEM_BYTES {
            return None;
        }
        self.add(format!("bundles/{stem}.json"), Content::Public(json.into()));
        let place = format!("bundles/{stem}.pem");
        if !pem.is_empty() {
            self.add(place.clone(), Content::Public(pem.into()));
        }
        Some(place)
    }

    fn svid(&mut self, number: usize, svid: &X509Svid) -> Result<(), DeliveryError> {
        let SvidKey::Local(key) = svid.key() else {
            let id = svid.id().clone();
            return Err(DeliveryError::KeyNotLocal { id });
        };
        let key = key.secret_pkcs8_pem();
        let chain = svid.to_pem();
        // Of its final size at once, so that no copy of the secret is left behind.
        let mut both = Zeroizing::new(Vec::with_capacity(key.len() + chain.len()));
        both.extend_from_slice(key.as_bytes());
        both.extend_from_slice(chain.as_bytes());
        let key = Zeroizing::new(key.as_bytes().to_vec());
        self.add(format!("svid.{number}.pem"), Content::Public(chain.into()));
        self.add(format!("svid.{number}.key"), Content::Secret(key));
        let name = format!("credential_bundle.{number}.pem");
        self.add(name, Content::Secret(both));
        Ok(())
    }

    fn add(&mut self, name: String, content: Content) {
        self.entries.insert(name, content);
    }
}

impl fmt::Debug for FileSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// Whether a file of this name is a secret.
pub(super) fn is_secret(name: &str) -> bool {
    name.ends_with(".key") || name.ends_with(".token") || name.starts_with("credential_bundle.")
}

/// One bundle for each trust domain, in their order, with all its authorities.
fn merged(material: &Material) -> impl Iterator<Item = Bundle> {
    let mut bundles: BTreeMap<TrustDomain, Bundle> = BTreeMap::new();
    for bundle in material.bundles.iter() {
        bundles.insert(bundle.trust_domain().clone(), Bundle::clone(bundle));
    }
    for jwt in material.jwt_bundles.iter() {
        let name = jwt.trust_domain();
        let bundle = bundles
            .remove(name)
            .unwrap_or_else(|| Bundle::new(name.clone()));
        let authorities = if bundle.jwt_authorities().is_empty() {
            jwt.jwt_authorities().clone()
        } else {
            bundle.jwt_authorities().clone()
        };
        bundles.insert(name.clone(), bundle.with_jwt_authorities(authorities));
    }
    bundles.into_values()
}

/// What leaves room for `.json` in the 255 bytes that a file's name may have.
const MAX_STEM_BYTES: usize = 250;
