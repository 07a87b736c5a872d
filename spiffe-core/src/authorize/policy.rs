//! Policies as values and as text: which IDs are allowed.
//!
//! The text forms are `any`, `id:<ID>`, `ids:<ID>,<ID>`, `domain:<trust domain>`, `prefix:<ID>/`, `pattern:<ID with
//! * or ** segments>`, joined by `|` for "one of". They are compiled once; matching is linear and never backtracks.

use std::fmt;
use std::str::FromStr;

use super::{Authorizer, Denied, PeerFacts};
use crate::explain::{Explanation, Outcome};
use crate::{Rule, SpiffeId, SpiffeIdError, SpiffeIdRef, TrustDomain, TrustDomainRef};

/// The most alternatives of a policy; each is tried for every peer.
pub const MAX_ALTERNATIVES: usize = 4096;

/// The most bytes of a policy's text: every alternative with a long ID of its own, and a refusal repeats it.
pub const MAX_POLICY_BYTES: usize = 4 * 1024 * 1024;

/// Which SPIFFE IDs are allowed.
///
/// ```
/// use spiffe_core::{Policy, SpiffeIdRef};
///
/// let policy: Policy = "domain:example.org|pattern:spiffe://partner.example/ns/*/web".parse()?;
/// assert!(policy.allows(SpiffeIdRef::literal("spiffe://example.org/anything")));
/// assert!(policy.allows(SpiffeIdRef::literal("spiffe://partner.example/ns/prod/web")));
/// assert!(!policy.allows(SpiffeIdRef::literal("spiffe://partner.example/ns/prod/db")));
/// # Ok::<(), spiffe_core::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    alternatives: Vec<Alternative>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Alternative {
    Any,
    Domain(TrustDomain),
    Ids(Vec<SpiffeId>),
    Pattern {
        trust_domain: TrustDomain,
        segments: Vec<Segment>,
        /// Whether one or more segments may follow: a last segment `**`.
        open: bool,
    },
    /// The ID with the slash behind it.
    Prefix(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Any,
    Exactly(String),
}

impl Policy {
    /// Allows exactly this ID.
    pub fn id(id: impl Into<SpiffeId>) -> Self {
        Self::ids([id.into()])
    }

    /// Allows exactly these IDs; none of them means nobody.
    pub fn ids(ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        Self::of(Alternative::Ids(ids.into_iter().collect()))
    }

    /// Allows every ID of this trust domain.
    pub fn trust_domain(trust_domain: impl Into<TrustDomain>) -> Self {
        Self::of(Alternative::Domain(trust_domain.into()))
    }

    /// Allows every ID below this one by whole path segments, not the ID itself.
    pub fn below(id: impl Into<SpiffeId>) -> Self {
        Self::of(Alternative::Prefix(format!("{}/", id.into())))
    }

    /// Allows what any of these policies allows.
    pub fn one_of(policies: impl IntoIterator<Item = Self>) -> Self {
        Self {
            alternatives: policies
                .into_iter()
                .flat_map(|policy| policy.alternatives)
                .collect(),
        }
    }

    /// Whether `id` is allowed.
    pub fn allows(&self, id: SpiffeIdRef<'_>) -> bool {
        self.alternatives.iter().any(|one| one.allows(id))
    }

    /// The alternative that comes nearest to allowing `id`.
    fn nearest(&self, id: SpiffeIdRef<'_>) -> Option<&Alternative> {
        self.alternatives.iter().max_by_key(|one| one.likeness(id))
    }

    fn of(alternative: Alternative) -> Self {
        Self {
            alternatives: vec![alternative],
        }
    }
}

impl Authorizer for Policy {
    fn authorize(&self, peer: &PeerFacts<'_>) -> Result<(), Denied> {
        if self.allows(peer.id) {
            return Ok(());
        }
        Err(Denied {
            nearest: self.nearest(peer.id).map(|one| one.would_pass(peer.id)),
            ..Denied::new(peer.id, self.to_string())
        })
    }

    fn canonical_text(&self) -> Option<String> {
        Some(self.to_string())
    }

    fn may_allow(&self, trust_domain: TrustDomainRef<'_>) -> bool {
        self.alternatives
            .iter()
            .any(|one| one.may_allow(trust_domain))
    }

    fn explain(&self, peer: &PeerFacts<'_>) -> Explanation {
        let tried = |one: &Alternative| {
            let outcome = if one.allows(peer.id) {
                Outcome::Pass
            } else {
                Outcome::Fail
            };
            Explanation::leaf(Rule::PolicyAlternative, outcome, one.to_string())
        };
        let allowed = self.allows(peer.id);
        let (rule, outcome) = if allowed {
            (Rule::Authorize, Outcome::Pass)
        } else {
            (Rule::NotAuthorized, Outcome::Fail)
        };
        let nearest = self.nearest(peer.id).filter(|_| !allowed);
        Explanation {
            nearest: nearest.map(|one| one.would_pass(peer.id)),
            children: self.alternatives.iter().take(32).map(tried).collect(),
            ..Explanation::leaf(rule, outcome, format!("{} against {self}", peer.id))
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, one) in self.alternatives.iter().enumerate() {
            if index > 0 {
                f.write_str("|")?;
            }
            one.fmt(f)?;
        }
        Ok(())
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLong { bytes: text.len() });
        }
        let parts: Vec<_> = text.split('|').collect();
        if parts.len() > MAX_ALTERNATIVES {
            return Err(PolicyError::TooMany {
                alternatives: parts.len(),
            });
        }
        let alternatives = parts.into_iter().map(Alternative::parse);
        Ok(Self {
            alternatives: alternatives.collect::<Result<_, _>>()?,
        })
    }
}

impl Alternative {
    fn parse(text: &str) -> Result<Self, PolicyError> {
        if text == "any" {
            return Ok(Self::Any);
        }
        let unknown = || PolicyError::Form { text: text.into() };
        let (form, value) = text.split_once(':').ok_or_else(unknown)?;
        let bad_id = |source| PolicyError::Id {
            text: value.into(),
            source,
        };
        match form {
            "id" => Ok(Self::Ids(vec![SpiffeId::parse(value).map_err(bad_id)?])),
            "ids" => value
                .split(',')
                .map(SpiffeId::parse)
                .collect::<Result<_, _>>()
                .map(Self::Ids)
                .map_err(bad_id),
            "domain" => TrustDomain::parse(value).map(Self::Domain).map_err(bad_id),
            "prefix" => {
                let id = value
                    .strip_suffix('/')
                    .ok_or_else(|| PolicyError::Prefix { text: value.into() })?;
                SpiffeIdRef::parse(id).map_err(bad_id)?;
                Ok(Self::Prefix(value.into()))
            }
            "pattern" => Self::pattern(value),
            _ => Err(unknown()),
        }
    }

    /// A pattern is an ID in which whole segments may be `*`, and the last one `**`.
    fn pattern(value: &str) -> Result<Self, PolicyError> {
        let bad = |source| PolicyError::Id {
            text: value.into(),
            source,
        };
        let body = value.strip_suffix("/**");
        // Judged as the ID it would be with a letter for each star: the same limits, the same rules.
        let sample: Vec<_> = value
            .split('/')
            .map(|segment| match segment {
                "*" => "x",
                "**" if body.is_some() => "xx",
                other => other,
            })
            .collect();
        let sample = SpiffeId::parse(&sample.join("/")).map_err(bad)?;
        let pattern = body.unwrap_or(value);
        let segments = pattern
            .split('/')
            .skip(3)
            .map(|segment| match segment {
                "*" => Ok(Segment::Any),
                "**" => Err(PolicyError::DoubleStar { text: value.into() }),
                other => Ok(Segment::Exactly(other.into())),
            })
            .collect::<Result<_, _>>()?;
        // A star in the trust domain would have become a letter of the sample.
        if pattern.split('/').nth(2) != Some(sample.trust_domain().as_str()) {
            return Err(PolicyError::Form { text: value.into() });
        }
        Ok(Self::Pattern {
            trust_domain: sample.trust_domain().to_owned(),
            segments,
            open: body.is_some(),
        })
    }

    fn allows(&self, id: SpiffeIdRef<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Domain(trust_domain) => id.trust_domain() == *trust_domain,
            Self::Ids(ids) => ids.iter().any(|one| *one == id),
            Self::Pattern {
                trust_domain,
                segments,
                open,
            } => {
                let mut actual = id.segments();
                id.trust_domain() == *trust_domain
                    && segments.iter().all(|expected| {
                        actual
                            .next()
                            .is_some_and(|segment| expected.allows(segment))
                    })
                    && actual.next().is_some() == *open
            }
            Self::Prefix(prefix) => id.as_str().starts_with(prefix.as_str()),
        }
    }

    fn may_allow(&self, name: TrustDomainRef<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Domain(trust_domain) | Self::Pattern { trust_domain, .. } => {
                *trust_domain == name
            }
            Self::Ids(ids) => ids.iter().any(|one| one.trust_domain() == name),
            Self::Prefix(prefix) => prefix
                .strip_prefix(name.id().as_str())
                .is_some_and(|path| path.starts_with('/')),
        }
    }

    /// How much of `id` this alternative agrees with: the trust domain first, then leading bytes.
    fn likeness(&self, id: SpiffeIdRef<'_>) -> usize {
        let shared = |text: &str| {
            let pairs = text.bytes().zip(id.as_str().bytes());
            pairs.take_while(|(a, b)| a == b).count()
        };
        let of_domain = |trust_domain: &TrustDomain| shared(trust_domain.id().as_str());
        match self {
            Self::Any => usize::MAX,
            Self::Domain(trust_domain) => of_domain(trust_domain),
            Self::Ids(ids) => ids
                .iter()
                .map(|one| shared(one.as_str()))
                .max()
                .unwrap_or(0),
            Self::Pattern {
                trust_domain,
                segments,
                ..
            } => {
                let agreeing = segments
                    .iter()
                    .zip(id.segments())
                    .take_while(|(expected, actual)| expected.allows(actual));
                of_domain(trust_domain)
                    + agreeing.map(|(_, actual)| actual.len() + 1).sum::<usize>()
            }
            Self::Prefix(prefix) => shared(prefix),
        }
    }

    /// What a peer like `id` would need to be allowed by this alternative.
    fn would_pass(&self, id: SpiffeIdRef<'_>) -> String {
        match self {
            Self::Any => "any verified ID".into(),
            Self::Domain(trust_domain) => format!("an ID of the trust domain {trust_domain}"),
            Self::Ids(ids) => {
                let likest = ids.iter().max_by_key(|one| {
                    let pairs = one.as_str().bytes().zip(id.as_str().bytes());
                    pairs.take_while(|(a, b)| a == b).count()
                });
                likest.map_or_else(
                    || "nothing: the policy lists no ID".into(),
                    SpiffeId::to_string,
                )
            }
            Self::Pattern { .. } => format!("an ID that fits {self}"),
            Self::Prefix(prefix) => format!("an ID below {prefix}"),
        }
    }
}

impl Segment {
    fn allows(&self, segment: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(expected) => expected == segment,
        }
    }
}

impl fmt::Display for Alternative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Domain(trust_domain) => write!(f, "domain:{trust_domain}"),
            Self::Ids(ids) if ids.len() == 1 => write!(f, "id:{}", ids[0]),
            Self::Ids(ids) => {
                let ids: Vec<_> = ids.iter().map(SpiffeId::as_str).collect();
                write!(f, "ids:{}", ids.join(","))
            }
            Self::Pattern {
                trust_domain,
                segments,
                open,
            } => {
                write!(f, "pattern:spiffe://{trust_domain}")?;
                for segment in segments {
                    match segment {
                        Segment::Any => f.write_str("/*")?,
                        Segment::Exactly(text) => write!(f, "/{text}")?,
                    }
                }
                f.write_str(if *open { "/**" } else { "" })
            }
            Self::Prefix(prefix) => write!(f, "prefix:{prefix}"),
        }
    }
}

/// Why a text is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// `**` stands elsewhere than last.
    #[error("in the policy {text:?} '**' is not the last segment")]
    DoubleStar {
        /// The pattern.
        text: String,
    },
    /// None of the documented forms.
    #[error(
        "{text:?} is no policy; write any, id:<ID>, ids:<ID>,<ID>, domain:<name>, prefix:<ID>/ or pattern:<ID with *>, joined by |"
    )]
    Form {
        /// The alternative.
        text: String,
    },
    /// The SPIFFE ID or name in it is none.
    #[error("the policy's {text:?} is wrong: {source}")]
    Id {
        /// What was taken for an ID or a name.
        text: String,
        /// What is wrong with it.
        source: SpiffeIdError,
    },
    /// A prefix does not end in a slash.
    #[error("the prefix {text:?} does not end in '/': it would match part of a segment")]
    Prefix {
        /// The prefix.
        text: String,
    },
    /// More than [`MAX_POLICY_BYTES`].
    #[error("the policy has {bytes} bytes; {MAX_POLICY_BYTES} is the limit")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// More than [`MAX_ALTERNATIVES`].
    #[error("the policy has {alternatives} alternatives; {MAX_ALTERNATIVES} is the limit")]
    TooMany {
        /// How many it has.
        alternatives: usize,
    },
}

impl PolicyError {
    /// The rule that was broken.
    pub const fn rule(&self) -> Rule {
        Rule::BadPolicy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[track_caller]
    fn check(policy: &str, good: &[&'static str], bad: &[&'static str]) {
        let policy: Policy = policy.parse().unwrap();
        for id in good {
            assert!(
                policy.allows(SpiffeIdRef::parse(id).unwrap()),
                "{policy} {id}"
            );
        }
        for id in bad {
            assert!(
                !policy.allows(SpiffeIdRef::parse(id).unwrap()),
                "{policy} {id}"
            );
        }
        assert_eq!(policy.to_string().parse::<Policy>().unwrap(), policy);
    }

    #[test]
    fn one_id_of_a_list_is_written_as_an_id() {
        for (read, written) in [
            ("ids:spiffe://a/x", "id:spiffe://a/x"),
            (
                "ids:spiffe://a/x,spiffe://a/y",
                "ids:spiffe://a/x,spiffe://a/y",
            ),
        ] {
            assert_eq!(read.parse::<Policy>().unwrap().to_string(), written);
        }
    }

    #[test]
    fn forms_allow_what_they_say() {
        check("any", &["spiffe://a/x", "spiffe://a"], &[]);
        check(
            "id:spiffe://a/x",
            &["spiffe://a/x"],
            &["spiffe://a/X", "spiffe://a/x/y", "spiffe://b/x"],
        );
        check(
            "ids:spiffe://a/x,spiffe://b/y",
            &["spiffe://a/x", "spiffe://b/y"],
            &["spiffe://a/y"],
        );
        check(
            "domain:a",
            &["spiffe://a", "spiffe://a/x"],
            &["spiffe://aa/x"],
        );
        check(
            "prefix:spiffe://a/ns/",
            &["spiffe://a/ns/x", "spiffe://a/ns/x/y"],
            &["spiffe://a/ns", "spiffe://a/nsx/y", "spiffe://b/ns/x"],
        );
        check(
            "prefix:spiffe://a/",
            &["spiffe://a/x"],
            &["spiffe://a", "spiffe://ab/x"],
        );
        check(
            "pattern:spiffe://a/ns/*/sa/*",
            &["spiffe://a/ns/p/sa/w"],
            &[
                "spiffe://a/ns/p/sa",
                "spiffe://a/ns/p/sa/w/x",
                "spiffe://b/ns/p/sa/w",
            ],
        );
        check(
            "pattern:spiffe://a/ns/**",
            &["spiffe://a/ns/p", "spiffe://a/ns/p/q"],
            &["spiffe://a/ns"],
        );
        check(
            "pattern:spiffe://a/*/**",
            &["spiffe://a/x/y", "spiffe://a/x/y/z"],
            &["spiffe://a/x"],
        );
        check(
            "id:spiffe://a/x|domain:b",
            &["spiffe://a/x", "spiffe://b/q"],
            &["spiffe://a/q"],
        );
    }

    #[test]
    fn anything_else_is_no_policy() {
        for text in [
            "",
            "Any",
            "any ",
            " any",
            "id:",
            "id:x",
            "ids:",
            "ids:spiffe://a/x,",
            "domain:spiffe://a",
            "domain:A",
            "prefix:spiffe://a/x",
            "prefix:spiffe://a//",
            "pattern:spiffe://*/x",
            "pattern:spiffe://a/**/x",
            "pattern:spiffe://a/x*",
            "pattern:spiffe://a/",
            "pattern:spiffe://a/***",
            "any|",
            "|any",
            "exact:spiffe://a/x",
            "pattern:**",
        ] {
            assert!(text.parse::<Policy>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_text_beyond_the_limits_is_no_policy() {
        let ids = |bytes: usize| {
            let list = "spiffe://a/x,".repeat((bytes - 4) / 13);
            format!("ids:{}", list.trim_end_matches(','))
        };
        assert!(ids(MAX_POLICY_BYTES).parse::<Policy>().is_ok());
        assert!(matches!(
            ids(MAX_POLICY_BYTES + 100).parse::<Policy>(),
            Err(PolicyError::TooLong { .. })
        ));
        assert!(matches!(
            "any|".repeat(MAX_ALTERNATIVES).parse::<Policy>(),
            Err(PolicyError::TooMany { .. })
        ));
    }

    #[test]
    fn a_refusal_names_the_nearest_alternative() {
        let policy: Policy = "id:spiffe://b/x|id:spiffe://a/server|domain:c"
            .parse()
            .unwrap();
        let id = SpiffeIdRef::literal("spiffe://a/client");
        let facts = PeerFacts::new(id, Timestamp::UNIX_EPOCH, Timestamp::MAX, 1);
        let denied = policy.authorize(&facts).unwrap_err();
        assert_eq!(denied.nearest.as_deref(), Some("spiffe://a/server"));
        let tree = policy.explain(&facts);
        assert_eq!(tree.first_failure().unwrap().rule, Rule::PolicyAlternative);
        assert_eq!((tree.outcome, tree.children.len()), (Outcome::Fail, 3));
        assert_eq!(tree.nearest, denied.nearest);
    }
}
