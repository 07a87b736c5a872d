//! Why something was not issued, not loaded or not done: one enum per kind of operation.

use std::path::PathBuf;

use spiffe_core::key::{KeyError, SignError};
use spiffe_core::{RandomError, SpiffeId, Timestamp, TrustDomain};

use crate::log::LogMark;
use crate::public_key::PublicKeyKind;

/// Why a public key is not certified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublicKeyError {
    /// Not one SubjectPublicKeyInfo in DER.
    #[error("the public key is not a well-formed SubjectPublicKeyInfo in DER")]
    Malformed,
    /// An EC key whose coordinates are no point of its curve: SEC 1 §3.2.2.1.
    #[error("the public key is no point of its curve; make a new key")]
    NotOnCurve,
    /// The issuer's policy does not allow such a key.
    #[error("the issuer's key policy does not allow {kind} keys")]
    Refused {
        /// What the key is.
        kind: PublicKeyKind,
    },
    /// An exponent that other implementations do not accept.
    #[error("the RSA key's public exponent is not an odd number of 17 to 33 bits, such as 65537")]
    RsaExponent,
    /// A kind of key that no X.509-SVID has.
    #[error("the public key is neither EC on P-256, P-384 or P-521, nor Ed25519, nor RSA")]
    Unsupported,
}

/// Why a certificate signing request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// The signature is not by the key in the request, so its sender need not hold that key.
    #[error("the signing request's signature is not by the key it names")]
    BadSignature,
    /// Its key is refused.
    #[error(transparent)]
    Key(#[from] PublicKeyError),
    /// Not one PKCS#10 request in DER.
    #[error("the signing request is not a well-formed PKCS#10 structure in DER")]
    Malformed,
    /// More than [`MAX_CSR_BYTES`](crate::csr::MAX_CSR_BYTES).
    #[error(
        "the signing request has more than {} bytes",
        crate::csr::MAX_CSR_BYTES
    )]
    TooLarge,
    /// The provider has no such algorithm for such a key.
    #[error(
        "the signing request is signed with an algorithm that is unknown or does not fit its key"
    )]
    UnsupportedSignature,
}

/// Why a text is no DNS name for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no DNS name: {reason}")]
#[non_exhaustive]
pub struct DnsNameError {
    /// The text, shortened to 64 characters.
    pub name: String,
    /// The rule it breaks.
    pub reason: &'static str,
}

/// Why an SVID was not issued.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// An audience is empty: JWT-SVID §3.2.
    #[error("an audience is empty; name the receiving service")]
    AudienceEmpty,
    /// No audience: JWT-SVID §3.2.
    #[error("a JWT-SVID needs at least one audience")]
    AudienceMissing,
    /// More than [`MAX_AUDIENCE_BYTES`](crate::params::MAX_AUDIENCE_BYTES).
    #[error(
        "the audiences have more than {} bytes together",
        crate::params::MAX_AUDIENCE_BYTES
    )]
    AudienceTooLong,
    /// A further claim that the issuer does not allow, or one that it writes itself.
    #[error(
        "the issuer's policy does not allow the claim {name:?}; allow it for this trust domain, or leave it out"
    )]
    ClaimNotAllowed {
        /// The claim, shortened to 64 characters.
        name: String,
    },
    /// More than [`MAX_CLAIMS_BYTES`](crate::params::MAX_CLAIMS_BYTES).
    #[error(
        "the further claims have more than {} bytes together",
        crate::params::MAX_CLAIMS_BYTES
    )]
    ClaimsTooLong,
    /// The authority's time is over.
    #[error("the signing authority expired at {not_after}; let the authorities roll over")]
    AuthorityExpired {
        /// When it expired.
        not_after: Timestamp,
    },
    /// The clock stands before the authority's validity.
    #[error(
        "the clock says {now}, but the signing authority is valid from {not_before}; set the clock"
    )]
    AuthorityNotYetValid {
        /// What the clock says.
        now: Timestamp,
        /// The first instant of the authority's validity.
        not_before: Timestamp,
    },
    /// The trust domain cannot be expressed in URI name constraints: RFC 5280 §4.2.1.10.
    #[error(
        "name constraints cannot confine an authority to {trust_domain}: {reason}; issue it unconfined"
    )]
    NotConfinable {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// Why it is no host name.
        reason: &'static str,
    },
    /// The issuing authority's path length constraint leaves no room: RFC 5280 §4.2.1.9.
    #[error(
        "the signing authority may have {} authorities below it; {asked}",
        room
    )]
    PathLength {
        /// How many may follow below the signing authority.
        room: u8,
        /// What was asked for.
        asked: String,
    },
    /// The ID belongs to another trust domain: X509-SVID §3.2.
    #[error("{id} is not in the trust domain {trust_domain} of this authority")]
    ForeignTrustDomain {
        /// The ID.
        id: SpiffeId,
        /// The authority's trust domain.
        trust_domain: TrustDomain,
    },
    /// The public key is refused.
    #[error(transparent)]
    Key(#[from] PublicKeyError),
    /// It was not recorded, so it was not released.
    #[error(transparent)]
    Log(#[from] LogError),
    /// No authority is active: SPIFFE-ID §3.1.
    #[error("the trust domain has no active authority to sign with")]
    NoAuthority,
    /// The ID is its trust domain's own, which belongs to authorities: X509-SVID §3.1.
    #[error("{id} has no path; such an ID belongs to an authority, not to a workload")]
    PathMissing {
        /// The ID.
        id: SpiffeId,
    },
    /// No randomness for a serial number.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The authority's key did not sign.
    #[error("the authority's key did not sign: {reason}")]
    Signer {
        /// What the signer says.
        reason: String,
    },
    /// More than [`MAX_DNS_NAMES`](crate::params::MAX_DNS_NAMES).
    #[error("more than {} DNS names", crate::params::MAX_DNS_NAMES)]
    TooManyDnsNames,
    /// A lifetime below a second.
    #[error("a lifetime below one second cannot be encoded")]
    TtlTooShort,
}

impl From<SignError> for IssueError {
    fn from(error: SignError) -> Self {
        Self::Signer {
            reason: error.reason,
        }
    }
}

/// Why an authority's key and certificate make no issuer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// No JWT-SVID algorithm signs with such a key: JWT-SVID §2.1.
    #[error("no JWT-SVID algorithm signs with an Ed25519 key; use EC or RSA")]
    JwtAlgorithm,
    /// The certificate is not one of a signing authority: X509-SVID §3.2.
    #[error("the certificate is no authority's: {reason}")]
    NotAuthority {
        /// What is wrong with it.
        reason: String,
    },
    /// The key is not the certificate's.
    #[error("the authority's key is not the one in its certificate")]
    KeyMismatch,
}

/// Why a key manager did not do as asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyManagerError {
    /// A stored key, or the file of keys, cannot be used.
    #[error(
        "the key file {path} is damaged: {reason}; restore it from a backup, or remove it to give up its keys"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without secrets.
        reason: String,
    },
    /// The provider could not make or load the key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Others can read the keys.
    #[error("the key file {path} may be read by others (mode {mode:03o}); run: chmod 600 {path}")]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A PKCS#11 token refused, or cannot be reached.
    #[error("the token {token} cannot {action}: {reason}")]
    Token {
        /// The token's URI, without a PIN.
        token: String,
        /// What was asked of it, such as `make a key`.
        action: &'static str,
        /// What it or its module says, and what to do.
        reason: String,
    },
    /// The store refused.
    #[error("the key file {path} cannot be {action}: {reason}")]
    Storage {
        /// The file.
        path: PathBuf,
        /// What was tried: `read` or `written`.
        action: &'static str,
        /// What the system says.
        reason: String,
    },
}

/// Why a text is no PKCS#11 URI that keys can be found by: RFC 7512.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenUriError {
    /// An attribute that is not used here, or not in this place.
    #[error(
        "a PKCS#11 URI for keys has no attribute {name:?} there; use pkcs11:token=...;serial=...;object=...?module-path=...&pin-source=..."
    )]
    Attribute {
        /// The attribute.
        name: String,
    },
    /// An attribute that is needed.
    #[error("the PKCS#11 URI has no {name}; add {name}=...")]
    Missing {
        /// The attribute.
        name: &'static str,
    },
    /// An attribute, or what it says, comes twice.
    #[error("the PKCS#11 URI says {name} twice; leave one out")]
    Repeated {
        /// The attribute.
        name: String,
    },
    /// Another kind of URI.
    #[error("a PKCS#11 URI begins with pkcs11:")]
    Scheme,
    /// Longer than any that is meant.
    #[error("a PKCS#11 URI has at most 4096 bytes")]
    TooLong,
    /// An empty value, or one that is not UTF-8 with percent escapes.
    #[error(
        "the value of {name} in the PKCS#11 URI is empty or broken; escape special characters as %20"
    )]
    Value {
        /// The attribute.
        name: String,
    },
}

/// Why a state directory cannot be used. Nothing in it was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The journal cannot be read.
    #[error(
        "the journal {path} is damaged: {reason}; restore it from a backup, or choose another state directory to begin a new trust domain"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The journal belongs to another trust domain.
    #[error(
        "the state directory {path} belongs to the trust domain {found}, not {expected}; choose another directory"
    )]
    ForeignTrustDomain {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: TrustDomain,
    },
    /// Another process holds the lock.
    #[error(
        "the state directory {path} is in use by {holder}; stop that process or choose another directory"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who holds it, such as `process 4711`.
        holder: String,
    },
    /// The file system refused.
    #[error("{path} cannot be {action}: {reason}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, such as `created`.
        action: &'static str,
        /// What the system says.
        reason: String,
    },
    /// A key that the journal counts on is not there or another one.
    #[error(
        "the key {key} of the authority {authority} in {path} is {what}; restore the key file from a backup, or choose another state directory to begin a new trust domain"
    )]
    KeyLost {
        /// The directory.
        path: PathBuf,
        /// The key manager's name of the key.
        key: &'static str,
        /// The authority's ID.
        authority: String,
        /// `missing` or `another one`.
        what: &'static str,
    },
    /// Keys of these names are there already, and no journal says whose they are: a new CA would destroy them.
    #[error(
        "{location} holds keys of the same names already ({keys}); name another object in its URI, or destroy them"
    )]
    KeysTaken {
        /// Where they lie.
        location: String,
        /// Their names.
        keys: String,
    },
    /// The trust domain's keys lie elsewhere.
    #[error(
        "the keys of the trust domain in {path} lie in {recorded}, not in {given}; use them there"
    )]
    KeysElsewhere {
        /// The directory.
        path: PathBuf,
        /// Where the journal says that they lie.
        recorded: String,
        /// Where they were to be looked for.
        given: String,
    },
    /// Keys without the journal that says what they are.
    #[error(
        "the state directory {path} holds keys but no journal; restore the journal from a backup, or choose another directory"
    )]
    JournalMissing {
        /// The directory.
        path: PathBuf,
    },
    /// Somebody else's directory, who could change what is in it.
    #[error(
        "the state directory {path} belongs to the user {owner}, and this program runs as {user}; run it as that user, or run: chown -R {user} {path}"
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// The owner's user ID.
        owner: u32,
        /// The user ID that this process acts as.
        user: u32,
    },
    /// Others have access to the directory.
    #[error(
        "the state directory {path} is open to others (mode {mode:03o}); run: chmod 700 {path}"
    )]
    Permissions {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A journal of a format that this version does not know.
    #[error(
        "the journal {path} has the format {found}; this version knows {known}; use the version that wrote it"
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What is known.
        known: u32,
    },
}

/// Why the issuance log takes no record, or does not hold together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The log is not as long as the journal knows it, or another one.
    #[error(
        "the issuance log {path} ends with record {records}, and the journal knows record {} with the hash {}; restore the log from a backup, or, if it is lost for good, take \"log\" out of the journal",
        mark.records, mark.head
    )]
    Behind {
        /// The file.
        path: PathBuf,
        /// The number of its last record; 0 where there is none.
        records: u64,
        /// What the journal knows.
        mark: LogMark,
    },
    /// A record does not follow from the one before.
    #[error("the issuance log {path} is broken at line {line}: {reason}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// It does not end with a record, so it cannot be continued.
    #[error("the issuance log {path} does not hold records; move it away to begin a new one")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("the issuance log {path} cannot be {action}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, such as `written`.
        action: &'static str,
        /// What the system says.
        reason: String,
    },
    /// A sync failed earlier.
    #[error(
        "the issuance log {path} may have lost records, and nothing is issued until they are written again; see to the disk: every tick tries it"
    )]
    Lost {
        /// The file.
        path: PathBuf,
    },
}

/// Why the life of authorities does not take the step asked for. The state is as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LifecycleError {
    /// A prepared authority is already there.
    #[error("the authority {id} is already prepared; activate it")]
    AlreadyPrepared {
        /// The prepared authority's ID.
        id: String,
    },
    /// Another JWT key has this ID.
    #[error("the trust domain has another JWT key with the ID {id}; draw a new one")]
    KeyIdTaken {
        /// The key ID.
        id: String,
    },
    /// More than [`MAX_SHARED_KEYS`](crate::authority::MAX_SHARED_KEYS) JWT keys were published from below.
    #[error(
        "servers below have published {} JWT keys, and more are not taken",
        crate::authority::MAX_SHARED_KEYS
    )]
    TooManyKeys,
    /// Consumers have not acknowledged the bundle that contains the authority.
    #[error("the authority {id} is not yet known to {}; wait, or force it and break them", laggards.join(", "))]
    Laggards {
        /// The prepared authority's ID.
        id: String,
        /// Who has not acknowledged it.
        laggards: Vec<String>,
    },
    /// No authority is prepared.
    #[error("no authority is prepared; prepare one first")]
    NothingPrepared,
    /// The authority is not in the state that the step begins from.
    #[error("the authority {id} is {found}; only an authority that is {expected} can be {verb}")]
    WrongStatus {
        /// The authority's ID.
        id: String,
        /// Its status.
        found: crate::authority::Status,
        /// The status it should have.
        expected: &'static str,
        /// What was asked for.
        verb: &'static str,
    },
    /// An upstream signed the authority, so what is to be marked is there.
    #[error("the authority {id} is signed by an upstream; taint it there")]
    SignedUpstream {
        /// The authority's ID.
        id: String,
    },
    /// Something that the authority signed is still valid, or still presented.
    #[error(
        "what the authority {id} signed is valid until {until}{}; wait, or force it and break its holders",
        presented(holders)
    )]
    StillInUse {
        /// The authority's ID.
        id: String,
        /// Until when it must stay in the bundle, whoever presents what it signed.
        until: Timestamp,
        /// Who is known to present it.
        holders: Vec<String>,
    },
    /// No authority of this ID.
    #[error("the trust domain has no authority {id}")]
    Unknown {
        /// What was asked for.
        id: String,
    },
}

fn presented(holders: &[String]) -> String {
    if holders.is_empty() {
        return String::new();
    }
    format!(" and presented by {}", holders.join(", "))
}

/// Why a trust domain's CA was not built or did not change its state.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The clock stands so far past the end of every authority that it is not believed.
    #[error(
        "the clock says {now}, but the last authority, {authority}, expired at {not_after}; set the clock, or, if it is right, believe it (--believe-clock)"
    )]
    ClockAhead {
        /// What the clock says.
        now: Timestamp,
        /// The authority.
        authority: String,
        /// The last instant of its validity.
        not_after: Timestamp,
    },
    /// The clock stands before something that was recorded earlier.
    #[error(
        "the clock says {now}, but something was recorded at {recorded} already; set the clock, or, if it is right, believe it (--believe-clock)"
    )]
    ClockBehind {
        /// What the clock says.
        now: Timestamp,
        /// When the newest authority was published, or the last SVID issued.
        recorded: Timestamp,
    },
    /// Signing the authority's own certificate failed.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The key and certificate do not make an issuer.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The key manager failed.
    #[error(transparent)]
    Keys(#[from] KeyManagerError),
    /// The issuance log cannot be continued.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The life cycle does not allow it.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// A consumer in this process cannot use the new bundle.
    #[error("the new bundle was rejected: {0}")]
    Rejected(#[from] spiffe_core::snapshot::Rejection),
    /// A setting that cannot work.
    #[error("{what} cannot be {value}: {reason}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// An SVID that was just issued cannot be loaded.
    #[error(transparent)]
    Svid(#[from] spiffe_core::svid::SvidError),
    /// The upstream authority gave no certificate that can be used.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// Why an upstream authority signed nothing that can be used.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// The signing request was refused.
    #[error("the upstream authority refuses the request: {0}")]
    Csr(#[from] CsrError),
    /// One of the upstream's files cannot be used.
    #[error("the upstream authority's file {path} cannot be used: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without secrets.
        reason: String,
    },
    /// The upstream's authority did not issue.
    #[error("the upstream authority does not issue: {0}")]
    Issue(#[from] IssueError),
    /// It cannot be reached, or it failed.
    #[error("the upstream authority cannot be reached: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },
    /// The upstream does not take a JWT key.
    #[error("the upstream authority does not publish the JWT key: {reason}")]
    JwtKey {
        /// Why.
        reason: String,
    },
    /// What would be issued below it does not verify under its roots.
    #[error("what the upstream authority certifies does not verify under its roots: {reason}")]
    Unusable {
        /// The verdict.
        reason: String,
    },
}
