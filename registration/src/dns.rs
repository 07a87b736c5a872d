//! Which DNS names may be put into an SVID: RFC 1123 §2.1 host names, with a wildcard as RFC 9525 §6.3 has it.

/// Whether `name` is a host name, or `*.` before one of at least two labels.
pub(crate) fn is_valid(name: &str) -> bool {
    let (host, labels) = match name.strip_prefix("*.") {
        Some(host) => (host, 2),
        None => (name, 1),
    };
    name.len() <= MAX_NAME
        && host.split('.').count() >= labels
        && host.split('.').all(is_label)
        // RFC 1123 §2.1: what ends in a number is an address, and verifiers would not read it as a name.
        && !host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_label(label: &str) -> bool {
    // Underscores are no host name's, but common in service names, and SPIRE takes them.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// RFC 1035 §2.3.4, less the bytes that only the wire form needs.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_and_wildcards_are_valid() {
        for name in [
            "localhost",
            "web.example.org",
            "*.example.org",
            "xn--bcher-kva.example",
            "_grpc.x",
            "10.example",
            "a-b",
        ] {
            assert!(is_valid(name), "{name}");
        }
        assert!(is_valid(&"a".repeat(63)));
    }

    #[test]
    fn other_texts_are_not() {
        for name in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a b",
            "bücher.example",
            "*",
            "*.org",
            "a.*.org",
            "*a.example.org",
            "10.0.0.1",
            "a/b",
            "a:443",
            "1",
        ] {
            assert!(!is_valid(name), "{name}");
        }
        assert!(!is_valid(&"a".repeat(64)));
        assert!(!is_valid(&["a"; 128].join(".")));
        assert!(is_valid(&["a"; 127].join(".")));
    }
}
