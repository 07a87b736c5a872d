//! Issuing under one authority: X.509-SVIDs, and the authority's own certificate.
//!
//! Answers to X509-SVID §2–§4. Signing is asynchronous because keys may lie elsewhere; nothing is locked while it
//! waits, and an issuance that is dropped has changed nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use spiffe_core::bundle::X509Authority;
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::key::{Signer, ecdsa_to_der};
use spiffe_core::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use spiffe_core::{Random, RandomError, SpiffeId, Timestamp, TrustDomain};

use crate::certificate::Certificate;
use crate::csr::check_signature;
use crate::der::sequence;
use crate::error::{IssueError, IssuerError};
use crate::name::DistinguishedName;
use crate::params::{IntermediateParams, MAX_DNS_NAMES, X509SvidParams, constraint_host};
use crate::profile::{Fields, Profile, Reach, assemble};
use crate::public_key::{KeyPolicy, PublicKey};

/// What issuers share: how they write, what they certify, what they compute with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct IssuerSettings {
    /// Hashes and, for whoever needs them, keys.
    pub crypto: Arc<dyn CryptoProvider>,
    /// Serial numbers and token identifiers.
    pub random: Arc<dyn Random>,
    /// How leaves are written.
    pub profile: Profile,
    /// Which public keys are certified.
    pub key_policy: KeyPolicy,
    /// The lifetime of X.509-SVIDs that ask for none; an hour.
    pub x509_svid_ttl: Duration,
    /// The lifetime of JWT-SVIDs that ask for none; five minutes.
    pub jwt_svid_ttl: Duration,
    /// The lifetime of intermediate authorities that ask for none; a day.
    pub intermediate_ttl: Duration,
    /// Which claims JWT-SVIDs may carry beside the issuer's own; none. The issuer's own are never among them.
    pub jwt_claims: BTreeSet<String>,
    /// How far before now certificates become valid, for peers whose clocks are slow; ten seconds.
    pub backdate: Duration,
}

impl IssuerSettings {
    /// The defaults.
    pub fn new(crypto: Arc<dyn CryptoProvider>, random: Arc<dyn Random>) -> Self {
        Self {
            crypto,
            random,
            profile: Profile::new(),
            key_policy: KeyPolicy::default(),
            x509_svid_ttl: Duration::from_secs(3600),
            jwt_svid_ttl: Duration::from_secs(300),
            intermediate_ttl: Duration::from_secs(24 * 3600),
            jwt_claims: BTreeSet::new(),
            backdate: Duration::from_secs(10),
        }
    }
}

/// An X.509-SVID without its private key, which stays with whoever asked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct IssuedX509 {
    /// The SPIFFE ID it proves.
    pub id: SpiffeId,
    /// The leaf, then the intermediates up to, and without, the self-signed authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The first instant of its validity.
    pub not_before: Timestamp,
    /// The last instant of its validity.
    pub not_after: Timestamp,
    /// The serial number, big-endian.
    pub serial: [u8; SERIAL_BYTES],
    /// The authority that signed it: the lower-case hexadecimal of its subject key identifier.
    pub authority: String,
    /// Whether the lifetime asked for was cut to the authority's.
    pub capped: bool,
    /// The operator's hint.
    pub hint: Option<String>,
}

/// The certificate of an intermediate authority, whose private key stays with whoever asked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct IssuedIntermediate {
    /// Its ID: the lower-case hexadecimal of its subject key identifier.
    pub id: String,
    /// The intermediate, then those above it, without the self-signed authority: what follows each leaf it signs.
    pub chain: Vec<CertificateDer<'static>>,
    /// The first instant of its validity.
    pub not_before: Timestamp,
    /// The last instant of its validity.
    pub not_after: Timestamp,
    /// The serial number, big-endian.
    pub serial: [u8; SERIAL_BYTES],
    /// The ID of the authority that signed it.
    pub authority: String,
    /// Whether the lifetime asked for was cut to the authority's.
    pub capped: bool,
}

/// The bytes of a serial number. RFC 5280 §4.1.2.2 allows 20; 16 random ones never repeat.
pub const SERIAL_BYTES: usize = 16;

/// One X.509 authority with its key: what signs leaves.
pub struct X509Issuer {
    trust_domain: TrustDomain,
    id: String,
    signer: Arc<dyn Signer>,
    /// What follows a leaf in its chain.
    upstream: Vec<CertificateDer<'static>>,
    /// The Name in DER, exactly as the certificate has it.
    subject: Vec<u8>,
    authority: X509Authority,
    /// How many authorities may follow below this one.
    path_length: Option<u8>,
    settings: Arc<IssuerSettings>,
}

impl X509Issuer {
    /// An issuer from an authority's certificate and its key. `upstream` are the certificates above one that is not
    /// self-signed, nearest first, without the root.
    ///
    /// # Errors
    ///
    /// [`IssuerError::NotAuthority`] and [`IssuerError::KeyMismatch`].
    pub fn new(
        trust_domain: TrustDomain,
        certificate: CertificateDer<'static>,
        upstream: Vec<CertificateDer<'static>>,
        signer: Arc<dyn Signer>,
        settings: Arc<IssuerSettings>,
    ) -> Result<Self, IssuerError> {
        let not_authority = |reason: String| IssuerError::NotAuthority { reason };
        let authority = X509Authority::from_der(certificate.clone())
            .map_err(|error| not_authority(error.to_string()))?;
        let anchor = webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|error| not_authority(error.to_string()))?;
        // The anchor holds the contents of both structures, which have one encoding in DER.
        let subject = sequence(&[&anchor.subject]);
        if sequence(&[&anchor.subject_public_key_info]) != signer.public_key().as_ref() {
            return Err(IssuerError::KeyMismatch);
        }
        let key_id = authority
            .subject_key_id()
            .ok_or_else(|| not_authority("it has no subject key identifier".into()))?;
        let id = hex(key_id);
        let parsed = Certificate::parse(&certificate)
            .map_err(|crate::der::NotDer| not_authority("it is not DER".into()))?;
        let path_length = parsed.path_length;
        let upstream = if parsed.is_self_issued() {
            Vec::new()
        } else {
            [certificate].into_iter().chain(upstream).collect()
        };
        Ok(Self {
            trust_domain,
            id,
            signer,
            upstream,
            subject,
            authority,
            path_length,
            settings,
        })
    }

    /// The authority's ID: the lower-case hexadecimal of its subject key identifier.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The trust domain whose workloads it certifies.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its public key.
    pub fn public_key(&self) -> &SubjectPublicKeyInfoDer<'static> {
        self.signer.public_key()
    }

    pub(crate) fn settings(&self) -> &IssuerSettings {
        &self.settings
    }

    /// The authority's certificate and validity.
    pub fn authority(&self) -> &X509Authority {
        &self.authority
    }

    /// Issues an X.509-SVID for a public key: SubjectPublicKeyInfo in DER, alone or from a
    /// [`Csr`](crate::csr::Csr).
    ///
    /// # Errors
    ///
    /// [`IssueError`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future has issued nothing.
    pub async fn issue(
        &self,
        params: &X509SvidParams,
        public_key: &SubjectPublicKeyInfoDer<'_>,
        now: Timestamp,
    ) -> Result<IssuedX509, IssueError> {
        let validity = self.validity(params, now)?;
        self.issue_for(params, public_key, validity).await
    }

    /// From when to when an SVID of these parameters would be valid.
    pub(crate) fn validity(
        &self,
        params: &X509SvidParams,
        now: Timestamp,
    ) -> Result<Validity, IssueError> {
        Validity::new(
            params.ttl.unwrap_or(self.settings.x509_svid_ttl),
            self.settings.backdate,
            self.authority.not_before(),
            self.authority.not_after(),
            now,
        )
    }

    pub(crate) async fn issue_for(
        &self,
        params: &X509SvidParams,
        public_key: &SubjectPublicKeyInfoDer<'_>,
        validity: Validity,
    ) -> Result<IssuedX509, IssueError> {
        check_id(&params.id, &self.trust_domain)?;
        if params.dns_names.len() > MAX_DNS_NAMES {
            return Err(IssueError::TooManyDnsNames);
        }
        let key = PublicKey::parse(public_key)?;
        self.settings
            .key_policy
            .judge_whole(public_key, &key, &*self.settings.crypto)?;
        let serial = serial(&*self.settings.random)?;
        let algorithm = self.signer.algorithm().x509_identifier();
        let tbs = Fields {
            serial: &serial,
            algorithm,
            issuer: &self.subject,
            not_before: validity.not_before,
            not_after: validity.not_after,
            spki: public_key,
            subject_key_id: &key_id(&*self.settings.crypto, key.bytes),
        }
        .leaf(
            &self.settings.profile,
            params.id.as_ref(),
            &params.dns_names,
            // Looked for when the issuer was made.
            self.authority.subject_key_id().unwrap_or_default(),
        );
        let signature = sign_x509(&*self.signer, &tbs).await?;
        let leaf = assemble(&tbs, algorithm, &signature);
        Ok(IssuedX509 {
            id: params.id.clone(),
            chain: [leaf].into_iter().chain(self.upstream.clone()).collect(),
            not_before: validity.not_before,
            not_after: validity.not_after,
            serial,
            authority: self.id.clone(),
            capped: validity.capped,
            hint: params.hint.clone(),
        })
    }
}

/// Intermediate authorities.
impl X509Issuer {
    /// Issues the certificate of an intermediate authority of the same trust domain for a public key, alone or from a
    /// [`Csr`](crate::csr::Csr). Its subject is SPIRE's: `C=US,O=SPIFFE,OU=DOWNSTREAM-<n>` below `n` authorities.
    ///
    /// # Errors
    ///
    /// [`IssueError`]; [`IssueError::NotConfinable`] and [`IssueError::PathLength`] are its own.
    ///
    /// # Cancel safety
    ///
    /// A dropped future has issued nothing.
    pub async fn issue_intermediate(
        &self,
        params: &IntermediateParams,
        public_key: &SubjectPublicKeyInfoDer<'_>,
        now: Timestamp,
    ) -> Result<IssuedIntermediate, IssueError> {
        let validity = self.intermediate_validity(params, now)?;
        self.issue_intermediate_for(params, public_key, validity)
            .await
    }

    pub(crate) fn intermediate_validity(
        &self,
        params: &IntermediateParams,
        now: Timestamp,
    ) -> Result<Validity, IssueError> {
        Validity::new(
            params.ttl.unwrap_or(self.settings.intermediate_ttl),
            self.settings.backdate,
            self.authority.not_before(),
            self.authority.not_after(),
            now,
        )
    }

    pub(crate) async fn issue_intermediate_for(
        &self,
        params: &IntermediateParams,
        public_key: &SubjectPublicKeyInfoDer<'_>,
        validity: Validity,
    ) -> Result<IssuedIntermediate, IssueError> {
        let path_length = self.path_length_below(params.path_length)?;
        let permitted_host = if params.confined {
            let host = constraint_host(&self.trust_domain);
            Some(host.map_err(|reason| IssueError::NotConfinable {
                trust_domain: self.trust_domain.clone(),
                reason,
            })?)
        } else {
            None
        };
        let key = PublicKey::parse(public_key)?;
        self.settings
            .key_policy
            .judge_whole(public_key, &key, &*self.settings.crypto)?;
        let serial = serial(&*self.settings.random)?;
        let key_id = key_id(&*self.settings.crypto, key.bytes);
        let number = u128::from_be_bytes(serial).to_string();
        let spiffe = DistinguishedName::spiffe();
        let unit = format!("DOWNSTREAM-{}", self.upstream.len() + 1);
        let subject = spiffe
            .clone()
            .with_organizational_unit(&unit)
            .unwrap_or(spiffe)
            .with_serial_number(&number)
            .to_der();
        let algorithm = self.signer.algorithm().x509_identifier();
        let tbs = Fields {
            serial: &serial,
            algorithm,
            issuer: &self.subject,
            not_before: validity.not_before,
            not_after: validity.not_after,
            spki: public_key,
            subject_key_id: &key_id,
        }
        .authority(
            &subject,
            self.trust_domain.id().as_ref(),
            &Reach {
                authority_key_id: self.authority.subject_key_id(),
                path_length,
                permitted_host,
            },
        );
        let signature = sign_x509(&*self.signer, &tbs).await?;
        let certificate = assemble(&tbs, algorithm, &signature);
        Ok(IssuedIntermediate {
            id: hex(&key_id),
            chain: [certificate]
                .into_iter()
                .chain(self.upstream.clone())
                .collect(),
            not_before: validity.not_before,
            not_after: validity.not_after,
            serial,
            authority: self.id.clone(),
            capped: validity.capped,
        })
    }

    /// Written down even where it was not asked for: many verifiers ignore the constraint of the root itself.
    fn path_length_below(&self, asked: Option<u8>) -> Result<Option<u8>, IssueError> {
        let Some(room) = self.path_length else {
            return Ok(asked);
        };
        let most = room.checked_sub(1).ok_or_else(|| IssueError::PathLength {
            room,
            asked: "this one signs leaves alone".into(),
        })?;
        match asked {
            Some(asked) if asked > most => Err(IssueError::PathLength {
                room,
                asked: format!("an intermediate with {asked} below it needs more"),
            }),
            asked => Ok(asked.or(Some(most))),
        }
    }
}

impl fmt::Debug for X509Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Issuer")
            .field("trust_domain", &self.trust_domain)
            .field("id", &self.id)
            .field("not_after", &self.authority.not_after())
            .finish_non_exhaustive()
    }
}

/// Signs the certificate of an authority with its own key: X509-SVID §3.2, with the trust domain's own SPIFFE ID
/// (SPIFFE-ID §3.1). The subject gets the serial number as an attribute, so that the names of successive authorities
/// differ and verifiers need not try each of them.
///
/// # Errors
///
/// [`IssueError::Random`], [`IssueError::Signer`] and [`IssueError::Key`].
pub async fn self_signed_authority(
    trust_domain: &TrustDomain,
    subject: &DistinguishedName,
    signer: &dyn Signer,
    not_before: Timestamp,
    not_after: Timestamp,
    settings: &IssuerSettings,
) -> Result<CertificateDer<'static>, IssueError> {
    let serial = serial(&*settings.random)?;
    let number = u128::from_be_bytes(serial).to_string();
    let name = subject.clone().with_serial_number(&number).to_der();
    let algorithm = signer.algorithm().x509_identifier();
    let key = PublicKey::parse(signer.public_key())?;
    let tbs = Fields {
        serial: &serial,
        algorithm,
        issuer: &name,
        not_before: not_before.truncated(),
        not_after: not_after.truncated(),
        spki: signer.public_key(),
        subject_key_id: &key_id(&*settings.crypto, key.bytes),
    }
    .authority(&name, trust_domain.id().as_ref(), &Reach::default());
    let signature = sign_x509(signer, &tbs).await?;
    // A key that signs wrongly is found out before anybody trusts it; tag and length go before the content.
    check_signature(&*settings.crypto, &key, &algorithm[2..], &tbs, &signature).map_err(|_| {
        IssueError::Signer {
            reason: "its first signature does not verify".into(),
        }
    })?;
    Ok(assemble(&tbs, algorithm, &signature))
}

/// From when to when something is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// Whether the authority's end came before the end asked for.
    pub(crate) capped: bool,
}

impl Validity {
    /// Whole seconds, which is what certificates and tokens can say; fractions are cut, so nothing lives longer than
    /// asked for.
    pub(crate) fn new(
        ttl: Duration,
        backdate: Duration,
        authority_not_before: Timestamp,
        authority_not_after: Timestamp,
        now: Timestamp,
    ) -> Result<Self, IssueError> {
        if ttl < Duration::from_secs(1) {
            return Err(IssueError::TtlTooShort);
        }
        if now < authority_not_before {
            return Err(IssueError::AuthorityNotYetValid {
                now,
                not_before: authority_not_before,
            });
        }
        // An SVID needs at least one instant after now.
        if now >= authority_not_after {
            return Err(IssueError::AuthorityExpired {
                not_after: authority_not_after,
            });
        }
        let asked = (now + ttl).truncated();
        Ok(Self {
            not_before: (now - backdate).truncated().max(authority_not_before),
            not_after: asked.min(authority_not_after),
            capped: asked > authority_not_after,
        })
    }
}

/// X509-SVID §3.1 and §3.2: a workload's ID has a path and lies in the authority's trust domain.
pub(crate) fn check_id(id: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), IssueError> {
    if !id.is_member_of(trust_domain.as_ref()) {
        return Err(IssueError::ForeignTrustDomain {
            id: id.clone(),
            trust_domain: trust_domain.clone(),
        });
    }
    if id.path().is_empty() {
        return Err(IssueError::PathMissing { id: id.clone() });
    }
    Ok(())
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn serial(random: &dyn Random) -> Result<[u8; SERIAL_BYTES], RandomError> {
    let mut serial = [0; SERIAL_BYTES];
    random.fill(&mut serial)?;
    // RFC 5280 §4.1.2.2 wants a positive number; a generator that returns nothing but zeros is broken.
    if serial == [0; SERIAL_BYTES] {
        return Err(RandomError::new());
    }
    Ok(serial)
}

/// RFC 7093 §2, method 1: the first 160 bits of the SHA-256 of the key's bits.
fn key_id(crypto: &dyn CryptoProvider, key: &[u8]) -> [u8; 20] {
    let mut id = [0; 20];
    id.copy_from_slice(&crypto.sha256(key)[..20]);
    id
}

pub(crate) async fn sign_x509(signer: &dyn Signer, tbs: &[u8]) -> Result<Vec<u8>, IssueError> {
    let raw = signer.sign(tbs).await?;
    Ok(if signer.algorithm().is_ecdsa() {
        ecdsa_to_der(&raw)
    } else {
        raw
    })
}
