//! Messages of the Workload API turned into SVIDs and bundles: Workload API §4.4, §4.5, §5, §6.
//!
//! A message is one whole state: it is taken as a whole or discarded as a whole, with one exception. A foreign trust
//! domain's bundle that cannot be read is that domain's affair: it is noticed, and the last readable bundle of the
//! domain stays until a message brings a readable one or none at all. A bundle whose bytes are known is not parsed
//! again, and an SVID that comes again unchanged stays the same value.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use prost::Message;
use spiffe_core::bundle::{Ignored, JwtAuthorities, X509Authorities};
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::key::{PrivateKey, SvidKey};
use spiffe_core::{Bundle, BundleSet, JwtSvid, SpiffeId, TrustDomain, X509Svid};
use spiffe_proto::workload::{
    JwtBundlesResponse, Jwtsvid, JwtsvidResponse, X509BundlesResponse, X509svid, X509svidResponse,
};
use zeroize::Zeroizing;

use crate::error::{ResponseError, one_line};

/// The most SVIDs of one message: each costs the loading of a private key.
pub const MAX_SVIDS: usize = 256;

/// The most bundles that one message brings by trust domain, beside those of its SVIDs. An entry costs a few bytes to send
/// and some hundred to keep, so a message within its size could hold millions; federations count trust domains in hundreds.
pub const MAX_TRUST_DOMAINS: usize = 16_384;

/// The longest hint: Workload API §8. A longer one is ignored and noticed.
pub const MAX_HINT_BYTES: usize = 1024;

/// The most notices kept of one message; the last then says that there were more.
const MAX_NOTICES: usize = 64;

/// Something in a message that was left out or passed over without discarding the message, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    text: String,
}

impl Notice {
    /// The line.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Debug, Default)]
struct Notices(Vec<Notice>);

impl Notices {
    fn add(&mut self, text: impl Into<String>) {
        if self.0.len() < MAX_NOTICES {
            let mut text = text.into();
            if self.0.len() == MAX_NOTICES - 1 {
                text = "there is more to notice than is kept".into();
            }
            self.0.push(Notice { text });
        }
    }
}

/// One whole state of a workload's X.509 identity.
#[derive(Clone, Debug)]
pub struct X509Context {
    svids: Vec<Arc<X509Svid>>,
    bundles: Arc<BundleSet>,
    crls: Vec<Vec<u8>>,
    notices: Vec<Notice>,
}

impl X509Context {
    /// Reads a message of FetchX509SVID from its protobuf bytes, as a stream's first.
    ///
    /// # Errors
    ///
    /// [`ResponseError`], among them [`ResponseError::Malformed`].
    pub fn decode(message: &[u8], crypto: Arc<dyn CryptoProvider>) -> Result<Self, ResponseError> {
        X509Reader::new(crypto).read(decode(message)?)
    }

    /// The SVIDs in the server's order, at least one; the first is the default identity (Workload API §8).
    pub fn svids(&self) -> &[Arc<X509Svid>] {
        &self.svids
    }

    /// The default identity.
    pub fn default_svid(&self) -> &Arc<X509Svid> {
        // A message without SVIDs is discarded.
        &self.svids[0]
    }

    /// The own bundle and the federated ones.
    pub fn bundles(&self) -> &Arc<BundleSet> {
        &self.bundles
    }

    /// Certificate revocation lists, each in DER as it came; nothing here applies them.
    pub fn crls(&self) -> &[Vec<u8>] {
        &self.crls
    }

    /// What was left out.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }
}

/// One whole state of the X.509 bundles a workload may use.
#[derive(Clone, Debug)]
pub struct X509Bundles {
    bundles: Arc<BundleSet>,
    crls: Vec<Vec<u8>>,
    notices: Vec<Notice>,
}

impl X509Bundles {
    /// The bundles.
    pub fn bundles(&self) -> &Arc<BundleSet> {
        &self.bundles
    }

    /// Certificate revocation lists, each in DER as it came; nothing here applies them.
    pub fn crls(&self) -> &[Vec<u8>] {
        &self.crls
    }

    /// What was left out.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }
}

/// Reads the messages of FetchX509SVID, remembering the last good one.
#[derive(Debug)]
pub(crate) struct X509Reader {
    crypto: Arc<dyn CryptoProvider>,
    svids: Vec<Arc<X509Svid>>,
    bundles: Memory,
}

impl X509Reader {
    pub(crate) fn new(crypto: Arc<dyn CryptoProvider>) -> Self {
        Self {
            bundles: Memory::new(crypto.clone(), x509_bundle),
            svids: Vec::new(),
            crypto,
        }
    }

    /// Forgets everything: what was withdrawn must not come back as the last good one.
    pub(crate) fn forget(&mut self) {
        self.svids.clear();
        self.bundles.forget();
    }

    pub(crate) fn read(
        &mut self,
        mut response: X509svidResponse,
    ) -> Result<X509Context, ResponseError> {
        let mut notices = Notices::default();
        let found = response.svids.len();
        if found == 0 {
            return Err(empty("svids"));
        }
        if found > MAX_SVIDS {
            return Err(ResponseError::TooManySvids {
                found,
                limit: MAX_SVIDS,
            });
        }
        let mut svids: Vec<Arc<X509Svid>> = Vec::with_capacity(found);
        let mut draft = self.bundles.draft(response.federated_bundles.len())?;
        for (index, wire) in response.svids.iter_mut().enumerate() {
            let svid = self.svid(index, wire, &mut notices)?;
            if let Some(hint) = svid.hint()
                && svids.iter().any(|earlier| earlier.hint() == Some(hint))
            {
                notices.add(format!(
                    "svids[{index}] repeats an earlier hint; the first SVID that carries it counts"
                ));
            }
            let trust_domain = svid.trust_domain().to_owned();
            match draft.add(trust_domain.clone(), &wire.bundle, &mut notices) {
                Ok(()) => {}
                Err(NotAdded::Differs) => notices.add(format!(
                    "svids[{index}] brings another bundle of {trust_domain} than an earlier SVID; the first counts"
                )),
                Err(NotAdded::Unreadable(reason)) => {
                    return Err(ResponseError::Bundle {
                        trust_domain,
                        reason,
                    });
                }
            }
            svids.push(svid);
        }
        for (key, raw) in &response.federated_bundles {
            draft.add_foreign(key, raw, &mut notices);
        }
        let bundles = draft.finish();
        let bundles = self.bundles.keep(bundles);
        self.svids.clone_from(&svids);
        Ok(X509Context {
            svids,
            bundles,
            crls: response.crl,
            notices: notices.0,
        })
    }

    fn svid(
        &self,
        index: usize,
        wire: &mut X509svid,
        notices: &mut Notices,
    ) -> Result<Arc<X509Svid>, ResponseError> {
        let key = wire.take_key();
        for (field, is_empty) in [
            ("spiffe_id", wire.spiffe_id.is_empty()),
            ("x509_svid", wire.x509_svid.is_empty()),
            ("x509_svid_key", key.is_empty()),
        ] {
            if is_empty {
                return Err(empty(format!("svids[{index}].{field}")));
            }
        }
        let hint = if wire.hint.len() > MAX_HINT_BYTES {
            notices.add(format!(
                "the hint of svids[{index}] has more than {MAX_HINT_BYTES} bytes and is ignored"
            ));
            None
        } else {
            Some(std::mem::take(&mut wire.hint))
        };
        let svid = match self.known(&wire.x509_svid, &key, hint.as_deref()) {
            Some(svid) => svid,
            None => {
                let key = PrivateKey::from_pkcs8_der(key);
                let svid = X509Svid::from_concatenated_der(&wire.x509_svid, key, &*self.crypto)
                    .map_err(|source| ResponseError::Svid { index, source })?;
                Arc::new(svid.with_hint(hint))
            }
        };
        let stated = id(format!("svids[{index}].spiffe_id"), &wire.spiffe_id)?;
        if stated != *svid.id() {
            return Err(ResponseError::IdMismatch {
                field: format!("svids[{index}].spiffe_id"),
                stated,
                found: svid.id().clone(),
            });
        }
        Ok(svid)
    }

    /// The SVID of the last message that these bytes are.
    fn known(
        &self,
        chain: &[u8],
        key: &Zeroizing<Vec<u8>>,
        hint: Option<&str>,
    ) -> Option<Arc<X509Svid>> {
        let hint = hint.filter(|hint| !hint.is_empty());
        self.svids
            .iter()
            .find(|svid| {
                svid.hint() == hint
                    && matches!(svid.key(), SvidKey::Local(known) if known.secret_pkcs8_der() == key.as_slice())
                    && svid.to_concatenated_der() == chain
            })
            .cloned()
    }
}

/// Reads the messages of FetchX509Bundles, remembering the last good one.
#[derive(Debug)]
pub(crate) struct X509BundleReader {
    bundles: Memory,
}

impl X509BundleReader {
    pub(crate) fn new(crypto: Arc<dyn CryptoProvider>) -> Self {
        Self {
            bundles: Memory::new(crypto, x509_bundle),
        }
    }

    /// As [`X509Reader::forget`].
    pub(crate) fn forget(&mut self) {
        self.bundles.forget();
    }

    pub(crate) fn read(
        &mut self,
        response: X509BundlesResponse,
    ) -> Result<X509Bundles, ResponseError> {
        let (bundles, notices) = self.bundles.read_map(&response.bundles)?;
        Ok(X509Bundles {
            bundles,
            crls: response.crl,
            notices,
        })
    }
}

/// One whole state of the JWT bundles a workload may use.
#[derive(Clone, Debug)]
pub struct JwtBundles {
    bundles: Arc<BundleSet>,
    notices: Vec<Notice>,
}

impl JwtBundles {
    /// Reads a message of FetchJWTBundles from its protobuf bytes, as a stream's first.
    ///
    /// # Errors
    ///
    /// [`ResponseError`], among them [`ResponseError::Malformed`].
    pub fn decode(message: &[u8], crypto: Arc<dyn CryptoProvider>) -> Result<Self, ResponseError> {
        JwtBundleReader::new(crypto).read(decode(message)?)
    }

    /// The bundles; they hold JWT authorities only.
    pub fn bundles(&self) -> &Arc<BundleSet> {
        &self.bundles
    }

    /// What was left out.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }
}

/// Reads the messages of FetchJWTBundles, remembering the last good one.
#[derive(Debug)]
pub(crate) struct JwtBundleReader {
    bundles: Memory,
}

impl JwtBundleReader {
    pub(crate) fn new(crypto: Arc<dyn CryptoProvider>) -> Self {
        Self {
            bundles: Memory::new(crypto, jwt_bundle),
        }
    }

    /// As [`X509Reader::forget`].
    pub(crate) fn forget(&mut self) {
        self.bundles.forget();
    }

    pub(crate) fn read(
        &mut self,
        response: JwtBundlesResponse,
    ) -> Result<JwtBundles, ResponseError> {
        let (bundles, notices) = self.bundles.read_map(&response.bundles)?;
        Ok(JwtBundles { bundles, notices })
    }
}

/// Turns the answer of FetchJWTSVID into tokens, each checked against what was asked for.
pub(crate) fn jwt_svids(
    response: JwtsvidResponse,
    audiences: &[String],
    asked: Option<&SpiffeId>,
) -> Result<Vec<JwtSvid>, ResponseError> {
    let found = response.svids.len();
    if found == 0 {
        return Err(empty("svids"));
    }
    if found > MAX_SVIDS {
        return Err(ResponseError::TooManySvids {
            found,
            limit: MAX_SVIDS,
        });
    }
    let read = |(index, wire): (usize, Jwtsvid)| {
        for (field, text) in [("spiffe_id", &wire.spiffe_id), ("svid", &wire.svid)] {
            if text.is_empty() {
                return Err(empty(format!("svids[{index}].{field}")));
            }
        }
        let svid = JwtSvid::parse_insecure(&wire.svid)
            .map_err(|source| ResponseError::Jwt { index, source })?;
        let field = || format!("svids[{index}].spiffe_id");
        let stated = id(field(), &wire.spiffe_id)?;
        if stated != *svid.id() {
            return Err(ResponseError::IdMismatch {
                field: field(),
                stated,
                found: svid.id().clone(),
            });
        }
        if let Some(asked) = asked.filter(|asked| *asked != svid.id()) {
            return Err(ResponseError::JwtIdentity {
                index,
                asked: asked.clone(),
                found: svid.id().clone(),
            });
        }
        if let Some(missing) = audiences.iter().find(|it| !svid.audience().contains(it)) {
            return Err(ResponseError::JwtAudience {
                index,
                audience: missing.clone(),
            });
        }
        // There is nobody to notice a hint that is too long: the token counts without it.
        let hint = Some(wire.hint).filter(|hint| hint.len() <= MAX_HINT_BYTES);
        Ok(svid.with_hint(hint))
    };
    response.svids.into_iter().enumerate().map(read).collect()
}

/// Reads one trust domain's bundle from the bytes of a message.
type ReadBundle = fn(TrustDomain, &[u8]) -> Result<(Bundle, Vec<Ignored>), String>;

/// The bundles of the last good message with the digests of their bytes.
pub(crate) struct Memory {
    crypto: Arc<dyn CryptoProvider>,
    read: ReadBundle,
    known: HashMap<TrustDomain, Known>,
    set: Arc<BundleSet>,
}

#[derive(Clone)]
struct Known {
    digest: [u8; 32],
    bundle: Arc<Bundle>,
}

impl Memory {
    pub(crate) fn new(crypto: Arc<dyn CryptoProvider>, read: ReadBundle) -> Self {
        Self {
            crypto,
            read,
            known: HashMap::new(),
            set: Arc::default(),
        }
    }

    pub(crate) fn forget(&mut self) {
        self.known.clear();
        self.set = Arc::default();
    }

    /// A message that is nothing but bundles by trust domain.
    pub(crate) fn read_map(
        &mut self,
        bundles: &BTreeMap<String, Vec<u8>>,
    ) -> Result<(Arc<BundleSet>, Vec<Notice>), ResponseError> {
        let mut notices = Notices::default();
        let mut draft = self.draft(bundles.len())?;
        for (key, raw) in bundles {
            draft.add_foreign(key, raw, &mut notices);
        }
        if draft.next.is_empty() {
            return Err(notices.0.into_iter().next().map_or_else(
                || empty("bundles"),
                |first| ResponseError::Bundles { reason: first.text },
            ));
        }
        let next = draft.finish();
        Ok((self.keep(next), notices.0))
    }

    /// For a message that holds so many bundles by trust domain.
    fn draft(&self, found: usize) -> Result<Draft<'_>, ResponseError> {
        if found > MAX_TRUST_DOMAINS {
            return Err(ResponseError::TooManyTrustDomains {
                found,
                limit: MAX_TRUST_DOMAINS,
            });
        }
        Ok(Draft {
            memory: self,
            next: HashMap::new(),
        })
    }

    /// Makes a draft the last good state; the same bundles stay the same set.
    fn keep(&mut self, next: HashMap<TrustDomain, Known>) -> Arc<BundleSet> {
        let unchanged = next.len() == self.set.len()
            && next.values().all(|known| {
                self.set
                    .get(known.bundle.trust_domain().as_ref())
                    .is_some_and(|before| Arc::ptr_eq(before, &known.bundle))
            });
        if !unchanged {
            self.set = Arc::new(next.values().map(|known| known.bundle.clone()).collect());
        }
        self.known = next;
        self.set.clone()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("set", &self.set)
            .finish_non_exhaustive()
    }
}

/// The bundles of a message while it is being read; dropped with a message that is discarded.
struct Draft<'m> {
    memory: &'m Memory,
    next: HashMap<TrustDomain, Known>,
}

enum NotAdded {
    /// The message holds other bytes for the same trust domain already.
    Differs,
    Unreadable(String),
}

impl Draft<'_> {
    fn add(
        &mut self,
        trust_domain: TrustDomain,
        raw: &[u8],
        notices: &mut Notices,
    ) -> Result<(), NotAdded> {
        let digest = self.memory.crypto.sha256(raw);
        if let Some(earlier) = self.next.get(&trust_domain) {
            return if earlier.digest == digest {
                Ok(())
            } else {
                Err(NotAdded::Differs)
            };
        }
        let known = match self.memory.known.get(&trust_domain) {
            Some(known) if known.digest == digest => known.clone(),
            _ => {
                let (bundle, ignored) =
                    (self.memory.read)(trust_domain.clone(), raw).map_err(NotAdded::Unreadable)?;
                for entry in ignored {
                    notices.add(format!(
                        "entry {} of the bundle of {trust_domain} is left out: {}",
                        entry.index,
                        one_line(&entry.reason)
                    ));
                }
                Known {
                    digest,
                    bundle: Arc::new(bundle),
                }
            }
        };
        self.next.insert(trust_domain, known);
        Ok(())
    }

    /// A bundle by the SPIFFE ID of its trust domain; what cannot be used is noticed and goes no further.
    fn add_foreign(&mut self, key: &str, raw: &[u8], notices: &mut Notices) {
        let trust_domain = match SpiffeId::parse(key) {
            Ok(id) if id.path().is_empty() => id.trust_domain().to_owned(),
            Ok(_) => {
                notices.add(format!(
                    "a bundle is left out, since its key {:?} names more than a trust domain",
                    one_line(key)
                ));
                return;
            }
            Err(error) => {
                notices.add(format!(
                    "a bundle is left out, since its key {:?} is no SPIFFE ID: {error}",
                    one_line(key)
                ));
                return;
            }
        };
        match self.add(trust_domain.clone(), raw, notices) {
            Ok(()) => {}
            Err(NotAdded::Differs) => notices.add(format!(
                "a second bundle of {trust_domain} differs from the SVID's own, which counts"
            )),
            Err(NotAdded::Unreadable(reason)) => {
                let reason = one_line(&reason);
                match self.memory.known.get(&trust_domain) {
                    Some(last_good) => {
                        notices.add(format!(
                            "the bundle of {trust_domain} cannot be read and its last good one stays: {reason}"
                        ));
                        self.next.insert(trust_domain, last_good.clone());
                    }
                    None => notices.add(format!(
                        "the bundle of {trust_domain} cannot be read and its workloads are not trusted: {reason}"
                    )),
                }
            }
        }
    }

    fn finish(self) -> HashMap<TrustDomain, Known> {
        self.next
    }
}

/// A bundle of X.509 authorities. Without bytes the trust domain is known and trusts nobody, which is what an empty
/// bundle means (Trust Domain and Bundle §4.1.3); bytes without any usable certificate are a mistake.
fn x509_bundle(trust_domain: TrustDomain, der: &[u8]) -> Result<(Bundle, Vec<Ignored>), String> {
    let authorities =
        X509Authorities::from_concatenated_der(der).map_err(|error| error.to_string())?;
    let ignored = authorities.ignored().to_vec();
    if let (true, Some(first)) = (authorities.is_empty(), ignored.first()) {
        return Err(format!("it holds no usable certificate: {}", first.reason));
    }
    let bundle = Bundle::new(trust_domain).with_x509_authorities(authorities);
    Ok((bundle, ignored))
}

/// A bundle of JWT authorities. Keys that cannot be used are left out one by one, as the standard has it, even all of them.
fn jwt_bundle(trust_domain: TrustDomain, jwks: &[u8]) -> Result<(Bundle, Vec<Ignored>), String> {
    let authorities = if jwks.is_empty() {
        JwtAuthorities::default()
    } else {
        JwtAuthorities::from_workload_api_jwks(jwks).map_err(|error| error.to_string())?
    };
    let ignored = authorities.ignored().to_vec();
    let bundle = Bundle::new(trust_domain).with_jwt_authorities(authorities);
    Ok((bundle, ignored))
}

/// A message from its protobuf bytes.
pub(crate) fn decode<M: Message + Default>(message: &[u8]) -> Result<M, ResponseError> {
    M::decode(message).map_err(|error| ResponseError::Malformed {
        reason: error.to_string(),
    })
}

pub(crate) fn empty(field: impl Into<String>) -> ResponseError {
    ResponseError::EmptyField {
        field: field.into(),
    }
}

pub(crate) fn id(field: String, text: &str) -> Result<SpiffeId, ResponseError> {
    SpiffeId::parse(text).map_err(|source| ResponseError::Id { field, source })
}
