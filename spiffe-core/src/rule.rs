//! The rules this library enforces: one table of stable codes, standard sections and statements.
//!
//! Errors, explanations, `spiffe batch`, logs and the quickstart all name rules from here.

/// Declares [`Rule`] with its table.
macro_rules! rules {
    ($($(#[$meta:meta])* $rule:ident, $code:literal, $section:literal, $statement:literal;)*) => {
        /// One rule of a standard, or one decision of this library where the standards are silent.
        ///
        /// Codes are kebab-case and stable. Sections read `<standard> §<number>` or `RFC <number> §<number>`; rules
        /// of this library alone have none.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $(#[doc = $statement] $(#[$meta])* $rule,)*
        }

        impl Rule {
            /// Every rule, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$rule,)*];

            /// The stable code, kebab-case.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$rule => $code,)* }
            }

            /// The standard's section, where a standard has the rule.
            pub const fn section(self) -> Option<&'static str> {
                let section = match self { $(Self::$rule => $section,)* };
                if section.is_empty() { None } else { Some(section) }
            }

            /// What the rule demands, as a sentence without a full stop.
            pub const fn statement(self) -> &'static str {
                match self { $(Self::$rule => $statement,)* }
            }
        }
    };
}

rules! {
    IdScheme, "id-scheme", "SPIFFE-ID §2", "the scheme is spiffe";
    IdTrustDomainMissing, "id-trust-domain-missing", "SPIFFE-ID §2", "a trust domain is named";
    IdTrustDomainByte, "id-trust-domain-byte", "SPIFFE-ID §2.1", "a trust domain name holds lower-case letters, digits, '.', '-' and '_' only";
    IdTrustDomainTooLong, "id-trust-domain-too-long", "SPIFFE-ID §2.3", "a trust domain name has at most 255 bytes";
    IdPathByte, "id-path-byte", "SPIFFE-ID §2.2", "a path holds letters, digits, '.', '-' and '_' only";
    IdEmptySegment, "id-empty-segment", "SPIFFE-ID §2.2", "a path has no empty segment";
    IdDotSegment, "id-dot-segment", "SPIFFE-ID §2.2", "a path has no dot segment";
    IdTrailingSlash, "id-trailing-slash", "SPIFFE-ID §2.2", "a path does not end in a slash";
    IdTooLong, "id-too-long", "SPIFFE-ID §2.3", "an ID has at most 2048 bytes";

    VerifyX509, "x509-verify", "X509-SVID §5", "the chain proves a SPIFFE ID";
    VerifyJwt, "jwt-verify", "JWT-SVID §4", "the token proves a SPIFFE ID";
    Authorize, "authorize", "", "the policy allows the proven SPIFFE ID";
    PolicyAlternative, "policy-alternative", "", "an alternative of the policy covers the SPIFFE ID";
    BadPolicy, "bad-policy", "", "a policy is written in one of the documented forms";
    NotAuthorized, "not-authorized", "", "the peer's verified SPIFFE ID is one the policy allows";

    CertMalformed, "x509-malformed", "RFC 5280 §4.1", "a certificate is well-formed DER of version 3";
    CertDuplicateExtension, "x509-duplicate-extension", "RFC 5280 §4.2", "a certificate holds an extension once";
    CertUnknownCriticalExtension, "x509-unknown-critical-extension", "RFC 5280 §4.2", "every critical extension is understood";
    CertAlgorithm, "x509-algorithm", "", "keys and signatures use P-256, P-384, P-521, Ed25519 or RSA of 2048 bits and more, with SHA-2";
    ChainEmpty, "x509-chain-empty", "X509-SVID §5.1", "a chain has a leaf";
    ChainNotLinked, "x509-chain-not-linked", "X509-SVID §5.1", "each certificate of an SVID's chain is issued by the next";
    ChainIssuerNotSigning, "x509-chain-not-signing", "X509-SVID §3.2", "every certificate above the leaf is a signing certificate";
    ChainTooLarge, "x509-chain-too-large", "", "a chain stays within the configured limits";
    LeafUriCount, "x509-uri-san-count", "X509-SVID §2", "a certificate has exactly one URI name, its SPIFFE ID";
    LeafUriScheme, "x509-uri-scheme", "X509-SVID §5.2", "the leaf's URI name is a SPIFFE ID";
    LeafPathMissing, "x509-leaf-path-missing", "X509-SVID §5.2", "the leaf's SPIFFE ID has a path";
    LeafIsCa, "x509-leaf-is-ca", "X509-SVID §5.2", "a leaf is no CA";
    LeafKeyCertSign, "x509-leaf-key-cert-sign", "X509-SVID §5.2", "a leaf's key usage lacks keyCertSign";
    LeafCrlSign, "x509-leaf-crl-sign", "X509-SVID §5.2", "a leaf's key usage lacks cRLSign";
    LeafDigitalSignature, "x509-leaf-digital-signature", "X509-SVID §4.3", "a leaf's key usage, where present, holds digitalSignature";
    KeyUsageMissing, "x509-key-usage-missing", "X509-SVID §4.3", "key usage is present and critical, where the verifier demands it";
    LeafExtendedKeyUsage, "x509-extended-key-usage", "X509-SVID §4.4", "an extended key usage that is present allows the peer's role";
    TrustDomainUnknown, "x509-trust-domain-unknown", "Federation §4.2", "the peer's trust domain is one whose bundle is known";
    NoX509Authorities, "x509-no-authorities", "X509-SVID §6.2", "the trust domain's bundle holds X.509 authorities";
    PathUntrusted, "x509-untrusted", "X509-SVID §5.1", "a path of valid signatures leads from the leaf to an authority of its trust domain";
    PathBadSignature, "x509-bad-signature", "RFC 5280 §6.1.3", "every signature of the path is good";
    PathExpired, "x509-expired", "RFC 5280 §4.1.2.5", "no certificate of the path has expired";
    PathNotYetValid, "x509-not-yet-valid", "RFC 5280 §4.1.2.5", "every certificate of the path is already valid";
    PathIssuerNotCa, "x509-issuer-not-ca", "RFC 5280 §6.1.4", "every issuer of the path is a CA that may sign certificates";
    PathIssuerAdmitted, "x509-issuer-admitted", "RFC 5280 §6.1", "an intermediate certificate is issued from an authority, and every rule above it holds";
    PathLength, "x509-path-length", "RFC 5280 §4.2.1.9", "path length constraints hold";
    PathNameConstraints, "x509-name-constraints", "X509-SVID §4.2", "the SPIFFE ID lies within the name constraints above it";
    PathExtendedKeyUsage, "x509-issuer-extended-key-usage", "RFC 5280 §4.2.1.12", "the extended key usages above the leaf allow the peer's role";
    PathRevoked, "x509-revoked", "RFC 5280 §6.3", "no certificate of the path is revoked";
    RevocationList, "x509-revocation-list", "RFC 5280 §5.1", "a list of revoked certificates is well-formed and whole";
    AuthorityTainted, "x509-authority-tainted", "", "where tainted authorities are refused, the path ends at another";
    PathTooComplex, "x509-path-too-complex", "", "a path is found within the configured limits";

    KeyMalformed, "key-malformed", "Workload API §5.1", "a private key is one unencrypted PKCS#8 structure in DER";
    KeyMismatch, "key-mismatch", "Workload API §5.1", "the private key is the leaf's";

    PemMalformed, "pem-malformed", "RFC 7468 §2", "PEM blocks are well-formed";
    PemNoCertificate, "pem-no-certificate", "", "a PEM document that holds blocks holds a certificate";
    DocumentTooLarge, "document-too-large", "", "a document stays within the configured size";
    BundleJson, "bundle-json", "Trust Domain and Bundle §4", "a bundle document is a JSON object";
    BundleDuplicateMember, "bundle-duplicate-member", "Trust Domain and Bundle §6.3", "no member name is repeated";
    BundleKeys, "bundle-keys", "Trust Domain and Bundle §4.1.3", "a bundle document has an array of keys";
    BundleSequence, "bundle-sequence", "Trust Domain and Bundle §4.1.1", "spiffe_sequence is an unsigned integer";
    BundleRefreshHint, "bundle-refresh-hint", "Trust Domain and Bundle §4.1.2", "spiffe_refresh_hint is an unsigned integer of seconds";
    BundleMap, "bundle-map", "Trust Domain and Bundle §5.1.1", "a bundle map has an object of trust domains";
    BundleTrustDomain, "bundle-trust-domain", "Trust Domain and Bundle §5.1.1", "bundles are keyed by trust domain";
    JwkKty, "jwk-kty", "Trust Domain and Bundle §4.2.1", "a key has a known key type";
    JwkUse, "jwk-use", "Trust Domain and Bundle §4.2.2", "a key has a known use";
    JwkKid, "jwk-kid", "JWT-SVID §6.1", "a JWT authority has a key ID";
    JwkKidClash, "jwk-kid-clash", "WIT-SVID §6.1", "a key ID names one key";
    JwkKey, "jwk-key", "RFC 7517 §4", "a key's members are well-formed";
    JwkAlgorithm, "jwk-algorithm", "JWT-SVID §2.1", "a key is of a curve and size that an algorithm of the standard uses";
    JwkX5c, "jwk-x5c", "X509-SVID §6.2", "an X.509 authority has a certificate";
    JwkX5cKey, "jwk-x5c-key", "RFC 7517 §4.7", "an X.509 authority's key members are its certificate's";
    AuthorityNotCa, "authority-not-ca", "X509-SVID §3.2", "an authority is a CA that may sign certificates";
    AuthorityRepeated, "authority-repeated", "", "an authority is listed once";

    JwtMalformed, "jwt-malformed", "JWT-SVID §5.1", "a token is three base64url parts in compact serialisation";
    JwtJson, "jwt-json", "RFC 7519 §7.2", "header and claims are JSON objects without repeated members";
    JwtTooLarge, "jwt-too-large", "", "a token stays within the configured size";
    JwtBearer, "jwt-bearer", "JWT-SVID §5.2", "an authorization value is the scheme Bearer and one token";
    JwtAlgorithm, "jwt-algorithm", "JWT-SVID §2.1", "the algorithm is one of the nine of the standard";
    JwtAlgorithmUnsupported, "jwt-algorithm-unsupported", "", "the cryptography provider has the token's algorithm";
    JwtHeader, "jwt-header", "JWT-SVID §2", "the header holds nothing that changes how the token is processed";
    JwtType, "jwt-type", "JWT-SVID §2.3", "typ, where present, is JWT or JOSE";
    JwtKeyId, "jwt-key-id", "JWT-SVID §2.2", "kid, where present, is a string";
    JwtSubject, "jwt-subject", "JWT-SVID §3.1", "sub is a SPIFFE ID";
    JwtSubjectPath, "jwt-subject-path", "", "sub has a path, where the verifier demands one";
    JwtAudienceMissing, "jwt-audience-missing", "JWT-SVID §3.2", "aud is present and not empty";
    JwtExpectedAudience, "jwt-expected-audience", "JWT-SVID §3.2", "a verifier names the audience that it expects";
    JwtAudience, "jwt-audience", "JWT-SVID §3.2", "the expected audience is among the token's";
    JwtExpiryMissing, "jwt-expiry-missing", "JWT-SVID §3.3", "exp is present";
    JwtClaimType, "jwt-claim-type", "RFC 7519 §4.1", "registered claims have the types the standard gives them";
    JwtLeeway, "jwt-leeway", "", "the leeway for differing clocks is at most 300 seconds";
    JwtExpired, "jwt-expired", "JWT-SVID §3.3", "the token has not expired";
    JwtNotYetValid, "jwt-not-yet-valid", "RFC 7519 §4.1.5", "the token is already valid";
    JwtTrustDomainUnknown, "jwt-trust-domain-unknown", "JWT-SVID §6.2", "the subject's trust domain is one whose bundle is known";
    NoJwtAuthorities, "jwt-no-authorities", "JWT-SVID §6.2", "the trust domain's bundle holds JWT authorities";
    JwtKeyUnknown, "jwt-key-unknown", "JWT-SVID §6.2", "the token's key is one of its trust domain's JWT authorities";
    JwtKeyAlgorithm, "jwt-key-algorithm", "JWT-SVID §2.1", "the algorithm fits the key";
    JwtSignature, "jwt-signature", "JWT-SVID §4", "the signature is good";

    NoIdentity, "no-identity", "Workload API §5.2.1", "the workload holds an identity";
    NoSuchHint, "no-such-hint", "Workload API §8", "an identity carries the hint that was asked for";
    OwnSvidExpired, "own-svid-expired", "RFC 5280 §4.1.2.5", "the workload's own SVID has not expired";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::Rule;

    #[test]
    fn codes_are_unique_and_kebab_case() {
        let codes: HashSet<_> = Rule::ALL.iter().map(|rule| rule.code()).collect();
        assert_eq!(codes.len(), Rule::ALL.len());
        assert!(codes.iter().all(|code| {
            code.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        }));
    }
}
