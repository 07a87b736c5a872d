//! Name constraints: RFC 5280 §4.2.1.10, all forms that X509-SVIDs meet, URIs among them.
//!
//! Path building knows no URI constraints and refuses whatever stands below one, so they are judged here, and with them
//! the forms that may stand beside them: DNS names and IP addresses. Whatever is not understood fails closed.

use super::der::{Reader, SEQUENCE, context_constructed};

/// The most comparisons of a name with a subtree that one path may cause. An issuer within a trust domain can sign
/// thousands of names below thousands of subtrees; 500 names below 30 subtrees fit.
pub const MAX_NAME_COMPARISONS: usize = 16_384;

/// How a name breaks the constraints above it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameConstraintError {
    /// A name lies in an excluded subtree.
    #[error("{name} lies in the excluded subtree {subtree}")]
    Excluded {
        /// The name, shortened.
        name: String,
        /// The subtree's base, shortened.
        subtree: String,
    },
    /// A form of constraint that is not understood meets a name of that form.
    #[error("{name} stands below a constraint of its kind that is not understood: {subtree}")]
    NotUnderstood {
        /// The name, shortened.
        name: String,
        /// The subtree's base, shortened.
        subtree: String,
    },
    /// A URI whose host is no DNS name can keep no URI constraint.
    #[error("{name} has no DNS name as its host, so no URI constraint can hold for it")]
    NotExpressible {
        /// The name, shortened.
        name: String,
    },
    /// The extension itself cannot be read.
    #[error("the constraints cannot be read")]
    Malformed,
    /// A name lies in none of the permitted subtrees of its kind.
    #[error("{name} lies outside the permitted subtrees, {permitted}")]
    Outside {
        /// The name, shortened.
        name: String,
        /// The permitted subtrees of its kind, shortened.
        permitted: String,
    },
    /// More than [`MAX_NAME_COMPARISONS`].
    #[error(
        "names and constraints are too many to compare; {MAX_NAME_COMPARISONS} comparisons are the limit"
    )]
    TooMany,
}

/// Judges the names of a certificate by one extension value above it. `names` is the content of its alternative names,
/// `subject` that of its subject; `comparisons` counts down across a path.
pub(crate) fn judge(
    constraints: &[u8],
    names: &[u8],
    subject: &[u8],
    comparisons: &mut usize,
) -> Result<(), NameConstraintError> {
    let subtrees = Subtrees::parse(constraints).ok_or(NameConstraintError::Malformed)?;
    if !subject.is_empty() {
        let name = Name {
            form: DIRECTORY,
            value: subject,
        };
        subtrees.judge(name, None, comparisons)?;
    }
    let mut list = Reader::new(names);
    while !list.is_at_end() {
        let (tag, value, _) = list.element().map_err(|_| NameConstraintError::Malformed)?;
        let form = tag & FORM;
        // Looked for once, however many subtrees it is compared with.
        let host = if form == URI { host(value) } else { None };
        subtrees.judge(Name { form, value }, host, comparisons)?;
    }
    Ok(())
}

/// Whether an extension value has the form of name constraints; what it says is judged when it meets names.
pub(crate) fn is_well_formed(constraints: &[u8]) -> bool {
    Subtrees::parse(constraints).is_some()
}

/// A GeneralName, of a certificate or the base of a subtree.
#[derive(Clone, Copy)]
struct Name<'a> {
    /// The number of its alternative in GeneralName.
    form: u8,
    value: &'a [u8],
}

impl Name<'_> {
    /// The name as text of bounded length.
    fn text(self) -> String {
        match self.form {
            RFC822 | DNS | URI => shortened(self.value),
            IP => format!("the IP address {}", hex(self.value)),
            DIRECTORY => "a directory name".into(),
            form => format!("a general name of form {form}"),
        }
    }
}

struct Subtrees<'a> {
    permitted: &'a [u8],
    excluded: &'a [u8],
}

impl<'a> Subtrees<'a> {
    fn parse(constraints: &'a [u8]) -> Option<Self> {
        let mut fields = Reader::new(Reader::new(constraints).only(SEQUENCE).ok()?);
        let permitted = fields.optional(context_constructed(0)).ok()?;
        let excluded = fields.optional(context_constructed(1)).ok()?;
        // RFC 5280: not an empty sequence, and a list that is present has at least one subtree.
        let lists = [permitted, excluded];
        if !fields.is_at_end()
            || lists == [None, None]
            || lists.into_iter().flatten().any(<[u8]>::is_empty)
        {
            return None;
        }
        let parsed = Self {
            permitted: permitted.unwrap_or_default(),
            excluded: excluded.unwrap_or_default(),
        };
        let readable = |list| bases(list).all(|base| base.is_some());
        (readable(parsed.permitted) && readable(parsed.excluded)).then_some(parsed)
    }

    fn judge(
        &self,
        name: Name<'_>,
        host: Option<&[u8]>,
        comparisons: &mut usize,
    ) -> Result<(), NameConstraintError> {
        let mut count = || {
            *comparisons = comparisons
                .checked_sub(1)
                .ok_or(NameConstraintError::TooMany)?;
            Ok(())
        };
        let mut constrained = false;
        let mut inside = false;
        for base in bases(self.permitted).flatten() {
            count()?;
            if base.form == name.form {
                constrained = true;
                inside = inside || holds(name, host, base, List::Permitted)?;
            }
        }
        if constrained && !inside {
            let permitted: Vec<_> = bases(self.permitted)
                .flatten()
                .filter(|base| base.form == name.form)
                .take(4)
                .map(Name::text)
                .collect();
            return Err(NameConstraintError::Outside {
                name: name.text(),
                permitted: permitted.join(" or "),
            });
        }
        for base in bases(self.excluded).flatten() {
            count()?;
            if base.form == name.form && holds(name, host, base, List::Excluded)? {
                return Err(NameConstraintError::Excluded {
                    name: name.text(),
                    subtree: base.text(),
                });
            }
        }
        Ok(())
    }
}

/// The bases of a list of subtrees; `None` for one that is not understood, which ends it.
fn bases(list: &[u8]) -> impl Iterator<Item = Option<Name<'_>>> {
    let mut list = Some(Reader::new(list));
    std::iter::from_fn(move || {
        let reader = list.as_mut().filter(|reader| !reader.is_at_end())?;
        let base = (|| {
            let mut subtree = Reader::new(reader.value(SEQUENCE).ok()?);
            let (tag, value, _) = subtree.element().ok()?;
            let form = tag & FORM;
            // RFC 5280: minimum is zero, which DER leaves out, and maximum is absent.
            subtree.is_at_end().then_some(Name { form, value })
        })();
        if base.is_none() {
            list = None;
        }
        Some(base)
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Permitted,
    Excluded,
}

/// Whether `name`, a URI of `host` if it is one, lies in the subtree of `base`, which is of the same form.
fn holds(
    name: Name<'_>,
    host: Option<&[u8]>,
    base: Name<'_>,
    list: List,
) -> Result<bool, NameConstraintError> {
    let not_understood = || NameConstraintError::NotUnderstood {
        name: name.text(),
        subtree: base.text(),
    };
    match name.form {
        URI => {
            let host =
                host.ok_or_else(|| NameConstraintError::NotExpressible { name: name.text() })?;
            match base.value.strip_prefix(b".") {
                // A leading period: one label or more in front, never the domain itself.
                Some(domain) if is_dns_name(domain) => Ok(is_below(host, domain)),
                // Without it: this host only.
                None if is_dns_name(base.value) => Ok(host.eq_ignore_ascii_case(base.value)),
                _ => Err(not_understood()),
            }
        }
        DNS => {
            let (wildcard, host) = match name.value.strip_prefix(b"*.") {
                Some(parent) => (true, parent),
                None => (false, name.value),
            };
            // DNS names are constrained by zero labels or more in front; an empty base covers all.
            if !is_dns_name(host) || !(base.value.is_empty() || is_dns_name(base.value)) {
                return Err(not_understood());
            }
            let base = base.value;
            Ok(base.is_empty()
                || host.eq_ignore_ascii_case(base)
                || is_below(host, base)
                // A wildcard reaches into every subtree below its parent.
                || (wildcard && list == List::Excluded && is_below(base, host)))
        }
        IP => {
            let (address, mask) = base.value.split_at(base.value.len() / 2);
            if !matches!(base.value.len(), 8 | 32) || !is_prefix_mask(mask) {
                return Err(not_understood());
            }
            Ok(name.value.len() == address.len()
                && name
                    .value
                    .iter()
                    .zip(address)
                    .zip(mask)
                    .all(|((ours, theirs), mask)| (ours ^ theirs) & mask == 0))
        }
        _ => Err(not_understood()),
    }
}

/// Whether `name` is `domain` with labels in front.
fn is_below(name: &[u8], domain: &[u8]) -> bool {
    let Some(front) = name.len().checked_sub(domain.len() + 1) else {
        return false;
    };
    front > 0 && name[front] == b'.' && name[front + 1..].eq_ignore_ascii_case(domain)
}

/// The host of a URI's authority, where it is a DNS name: RFC 3986 §3.2.
fn host(uri: &[u8]) -> Option<&[u8]> {
    let colon = uri.iter().position(|byte| *byte == b':')?;
    let (scheme, rest) = uri.split_at(colon);
    let is_scheme = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    let rest = rest.strip_prefix(b"://").filter(|_| is_scheme)?;
    let end = rest
        .iter()
        .position(|byte| b"/?#".contains(byte))
        .unwrap_or(rest.len());
    let authority = &rest[..end];
    let start = authority
        .iter()
        .rposition(|byte| *byte == b'@')
        .map_or(0, |at| at + 1);
    let mut parts = authority[start..].splitn(2, |byte| *byte == b':');
    let host = parts.next()?;
    let port = parts.next().unwrap_or_default();
    (port.iter().all(u8::is_ascii_digit) && is_dns_name(host)).then_some(host)
}

/// Whether `name` is a DNS name and does not look like an IPv4 address: RFC 1034 §3.5, RFC 1123 §2.1. Underscores are
/// let in, since DNS and trust domains have them.
fn is_dns_name(name: &[u8]) -> bool {
    if name.len() > 253 {
        return false;
    }
    let is_label = |label: &[u8]| {
        matches!(label.len(), 1..=63)
            && label
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
            && label[0] != b'-'
            && label[label.len() - 1] != b'-'
    };
    let mut labels = name.rsplit(|byte| *byte == b'.');
    let top = labels.next().unwrap_or_default();
    // `127.1` and `0x7f000001` are addresses to many a resolver.
    let looks_like_an_address = top.iter().all(u8::is_ascii_digit)
        || (top.len() > 1
            && top[..2].eq_ignore_ascii_case(b"0x")
            && top[2..].iter().all(u8::is_ascii_hexdigit));
    is_label(top) && !looks_like_an_address && labels.all(is_label)
}

/// Whether a mask is ones, then zeros.
fn is_prefix_mask(mask: &[u8]) -> bool {
    let mut rest = mask.iter().skip_while(|byte| **byte == 0xff);
    rest.next()
        .is_none_or(|byte| byte.leading_ones() + byte.trailing_zeros() >= 8)
        && rest.all(|byte| *byte == 0)
}

/// Foreign bytes for a message: escaped, at most 64 of them.
fn shortened(bytes: &[u8]) -> String {
    let mut text = bytes[..bytes.len().min(64)].escape_ascii().to_string();
    if bytes.len() > 64 {
        text.push('…');
    }
    text
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(32)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The bits of a tag that number the alternatives of GeneralName.
const FORM: u8 = 0x1f;

// The alternatives of GeneralName: RFC 5280 §4.2.1.6.
const RFC822: u8 = 1;
const DNS: u8 = 2;
const DIRECTORY: u8 = 4;
const URI: u8 = 6;
const IP: u8 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    /// A subtree list of one base each, wrapped as the extension's value.
    fn constraints(permitted: &[(u8, &[u8])], excluded: &[(u8, &[u8])]) -> Vec<u8> {
        let wrap = |tag: u8, content: Vec<u8>| {
            let length = u8::try_from(content.len()).unwrap();
            let header = if length < 0x80 {
                vec![tag, length]
            } else {
                vec![tag, 0x81, length]
            };
            [header, content].concat()
        };
        let list = |tag, bases: &[(u8, &[u8])]| {
            if bases.is_empty() {
                return Vec::new();
            }
            let subtrees = bases
                .iter()
                .flat_map(|(tag, base)| wrap(0x30, wrap(*tag, base.to_vec())))
                .collect();
            wrap(tag, subtrees)
        };
        wrap(0x30, [list(0xa0, permitted), list(0xa1, excluded)].concat())
    }

    fn verdict(constraints: &[u8], names: &[(u8, &[u8])], subject: &[u8]) -> Result<(), char> {
        let names: Vec<u8> = names
            .iter()
            .flat_map(|(tag, name)| {
                let mut element = vec![*tag, u8::try_from(name.len()).unwrap()];
                element.extend_from_slice(name);
                element
            })
            .collect();
        judge(constraints, &names, subject, &mut 1000).map_err(|error| match error {
            NameConstraintError::Excluded { .. } => 'x',
            NameConstraintError::NotUnderstood { .. } => '?',
            NameConstraintError::NotExpressible { .. } => 'h',
            NameConstraintError::Malformed => 'm',
            NameConstraintError::Outside { .. } => 'o',
            NameConstraintError::TooMany => '#',
        })
    }

    #[track_caller]
    fn uri(permitted: &[&str], excluded: &[&str], name: &str, expected: Result<(), char>) {
        let list = |bases: &[&'static str]| -> Vec<(u8, &'static [u8])> {
            bases.iter().map(|base| (0x86, base.as_bytes())).collect()
        };
        let leak = |bases: &[&str]| -> Vec<&'static str> {
            bases.iter().map(|base| &*base.to_string().leak()).collect()
        };
        let value = constraints(&list(&leak(permitted)), &list(&leak(excluded)));
        assert_eq!(verdict(&value, &[(0x86, name.as_bytes())], &[]), expected);
    }

    #[test]
    fn a_host_covers_itself_and_a_period_covers_what_is_below() {
        uri(&["a.org"], &[], "spiffe://a.org/x", Ok(()));
        uri(&["A.ORG"], &[], "spiffe://a.org/x", Ok(()));
        uri(&["a.org"], &[], "spiffe://a.org", Ok(()));
        uri(&["a.org"], &[], "spiffe://a.org/", Ok(()));
        uri(&["a.org"], &[], "spiffe://x.a.org/x", Err('o'));
        uri(&["a.org"], &[], "spiffe://ba.org/x", Err('o'));
        uri(&["a.org"], &[], "spiffe://a.org.b/x", Err('o'));
        uri(&[".a.org"], &[], "spiffe://a.org/x", Err('o'));
        uri(&[".a.org"], &[], "spiffe://x.a.org/x", Ok(()));
        uri(&[".a.org"], &[], "spiffe://x.y.a.org/x", Ok(()));
        uri(&[".a.org"], &[], "spiffe://xa.org/x", Err('o'));
        uri(&["b.org", "a.org"], &[], "spiffe://a.org/x", Ok(()));
        uri(&["a"], &[], "spiffe://a/x", Ok(()));
        uri(&["my_td"], &[], "spiffe://my_td/x", Ok(()));
    }

    #[test]
    fn exclusion_beats_permission() {
        uri(&[], &["b.org"], "spiffe://a.org/x", Ok(()));
        uri(&[], &["a.org"], "spiffe://a.org/x", Err('x'));
        uri(&[".a.org"], &["x.a.org"], "spiffe://x.a.org/x", Err('x'));
        uri(&[".a.org"], &["x.a.org"], "spiffe://y.a.org/x", Ok(()));
        uri(&[], &[".a.org"], "spiffe://x.a.org/x", Err('x'));
        uri(&[], &[".a.org"], "spiffe://a.org/x", Ok(()));
    }

    #[test]
    fn hosts_that_are_no_dns_names_keep_no_uri_constraint() {
        for host in [
            "127.0.0.1",
            "1.2",
            "0x7f.0x1",
            "[::1]",
            "",
            ".",
            "a..org",
            "a.org.",
            "-a.org",
            "a-.org",
            "%61.org",
            "[fe80::1%25a.org]",
            "a.org:x",
        ] {
            let name = format!("spiffe://{host}/x");
            uri(&["a.org"], &[], &name, Err('h'));
            uri(&[], &["b.org"], &name, Err('h'));
        }
        for name in [
            "urn:a.org",
            "spiffe:a.org",
            "mailto:x@a.org",
            "a.org",
            "//a.org/",
            "1a://a.org",
        ] {
            uri(&["a.org"], &[], name, Err('h'));
        }
        uri(&["a.org"], &[], "https://user@a.org:443/x", Ok(()));
        uri(&["a.org"], &[], "https://a.org@b.org/x", Err('o'));
        uri(&["a.org"], &[], "https://b.org?a.org", Err('o'));
        uri(&["a.org"], &[], "https://b.org#@a.org", Err('o'));
        let label = |length| format!("spiffe://{}.org/x", "a".repeat(length));
        uri(&[], &["b.org"], &label(63), Ok(()));
        uri(&[], &["b.org"], &label(64), Err('h'));
    }

    #[test]
    fn bases_that_are_no_dns_names_are_not_understood() {
        for base in [
            "",
            ".",
            "..a.org",
            "*.a.org",
            "a.org.",
            "spiffe://a.org",
            "a.org:1",
            "127.0.0.1",
            ".1",
        ] {
            uri(&[base], &[], "spiffe://a.org/x", Err('?'));
            uri(&[], &[base], "spiffe://a.org/x", Err('?'));
        }
    }

    #[test]
    fn forms_are_judged_apart() {
        let spiffe: (u8, &[u8]) = (0x86, b"spiffe://a.org/x");
        let dns = constraints(&[(0x82, b"a.org")], &[]);
        assert_eq!(verdict(&dns, &[spiffe], &[1]), Ok(()));
        assert_eq!(verdict(&dns, &[spiffe, (0x82, b"a.org")], &[]), Ok(()));
        assert_eq!(verdict(&dns, &[spiffe, (0x82, b"x.a.org")], &[]), Ok(()));
        assert_eq!(verdict(&dns, &[spiffe, (0x82, b"*.a.org")], &[]), Ok(()));
        assert_eq!(verdict(&dns, &[spiffe, (0x82, b"*.org")], &[]), Err('o'));
        assert_eq!(verdict(&dns, &[spiffe, (0x82, b"b.org")], &[]), Err('o'));
        assert_eq!(verdict(&dns, &[spiffe, (0x82, b"a.org\0")], &[]), Err('?'));
        let not_dns = constraints(&[], &[(0x82, b"y.a.org")]);
        assert_eq!(verdict(&not_dns, &[(0x82, b"*.a.org")], &[]), Err('x'));
        assert_eq!(verdict(&not_dns, &[(0x82, b"*.b.org")], &[]), Ok(()));
        let ip = constraints(&[(0x87, &[10, 0, 0, 0, 255, 0, 0, 0])], &[]);
        assert_eq!(verdict(&ip, &[(0x87, &[10, 1, 2, 3])], &[]), Ok(()));
        assert_eq!(verdict(&ip, &[(0x87, &[11, 1, 2, 3])], &[]), Err('o'));
        assert_eq!(verdict(&ip, &[(0x87, &[0; 16])], &[]), Err('o'));
        let holes = constraints(&[(0x87, &[10, 0, 0, 0, 255, 0, 255, 0])], &[]);
        assert_eq!(verdict(&holes, &[(0x87, &[10, 1, 0, 3])], &[]), Err('?'));
        let directory = constraints(&[(0xa4, &[0x30, 0])], &[]);
        assert_eq!(verdict(&directory, &[spiffe], &[]), Ok(()));
        assert_eq!(verdict(&directory, &[spiffe], &[0x31, 0]), Err('?'));
        let mail = constraints(&[], &[(0x81, b"b.org")]);
        assert_eq!(verdict(&mail, &[spiffe], &[]), Ok(()));
        assert_eq!(verdict(&mail, &[spiffe, (0x81, b"x@a.org")], &[]), Err('?'));
    }

    #[test]
    fn extensions_that_say_nothing_or_too_much_are_malformed() {
        for value in [
            &[0x30, 0][..],
            &[],
            &[0x30, 2, 0xa0, 0],
            // minimum 0 written out; minimum 1; maximum 0.
            &[
                0x30, 12, 0xa0, 10, 0x30, 8, 0x86, 3, b'a', b'.', b'b', 0x80, 1, 0,
            ],
            &[
                0x30, 12, 0xa0, 10, 0x30, 8, 0x86, 3, b'a', b'.', b'b', 0x80, 1, 1,
            ],
            &[
                0x30, 12, 0xa0, 10, 0x30, 8, 0x86, 3, b'a', b'.', b'b', 0x81, 1, 0,
            ],
            // Excluded before permitted.
            &[
                0x30, 18, 0xa1, 7, 0x30, 5, 0x86, 3, b'a', b'.', b'b', 0xa0, 7, 0x30, 5, 0x86, 3,
                b'a', b'.', b'b',
            ],
        ] {
            assert_eq!(verdict(value, &[], &[]), Err('m'), "{value:?}");
            assert!(!is_well_formed(value));
        }
        let plain = [0x30, 9, 0xa0, 7, 0x30, 5, 0x86, 3, b'a', b'.', b'b'];
        assert_eq!(verdict(&plain, &[(0x86, b"spiffe://a.b/x")], &[]), Ok(()));
    }

    #[test]
    fn comparisons_are_counted() {
        let value = constraints(&[(0x86, b"a.org"), (0x86, b"b.org")], &[]);
        let names = b"\x86\x10spiffe://a.org/x";
        assert_eq!(judge(&value, names, &[], &mut 2), Ok(()));
        assert_eq!(
            judge(&value, names, &[], &mut 1),
            Err(NameConstraintError::TooMany)
        );
    }
}
