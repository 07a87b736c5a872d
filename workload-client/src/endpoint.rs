//! Where the Workload API listens: Workload Endpoint §4.
//!
//! Two forms exist, `unix:///absolute/path` (or `unix:/absolute/path`) and `tcp://IP:PORT`. Everything else is refused
//! with the part that is wrong, before anything is connected to.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The environment variable that names the endpoint where the program does not: Workload Endpoint §4.
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// The longest path of a Unix socket: `sun_path` without its final NUL.
pub const MAX_SOCKET_PATH_BYTES: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// The address of a Workload API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    address: Address,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Endpoint {
    /// The endpoint that `SPIFFE_ENDPOINT_SOCKET` names.
    ///
    /// # Errors
    ///
    /// [`EndpointError::NotSet`], or [`EndpointError::Variable`] with what is wrong with the value: Workload Endpoint §4.
    pub fn from_env() -> Result<Self, EndpointError> {
        Self::from_variable(std::env::var_os(ENDPOINT_VARIABLE))
    }

    fn from_variable(value: Option<OsString>) -> Result<Self, EndpointError> {
        let value = value
            .filter(|value| !value.is_empty())
            .ok_or(EndpointError::NotSet)?;
        let parsed = match value.to_str() {
            Some(text) => text.parse(),
            None => Err(EndpointError::IllegalByte),
        };
        parsed.map_err(|problem| EndpointError::Variable {
            value: value.to_string_lossy().into_owned(),
            problem: Box::new(problem),
        })
    }

    /// A Unix socket by its path.
    ///
    /// # Errors
    ///
    /// A path that is not absolute, names no file or is too long for a socket.
    pub fn unix(path: impl Into<PathBuf>) -> Result<Self, EndpointError> {
        let path = path.into();
        let bytes = path.as_os_str().as_bytes();
        if bytes.first() != Some(&b'/') {
            return Err(EndpointError::PathNotAbsolute);
        }
        if bytes.last() == Some(&b'/') {
            return Err(EndpointError::PathIsDirectory);
        }
        if bytes.contains(&0) {
            return Err(EndpointError::PathNul);
        }
        if bytes.len() > MAX_SOCKET_PATH_BYTES {
            return Err(EndpointError::PathTooLong {
                length: bytes.len(),
            });
        }
        Ok(Self {
            address: Address::Unix(path),
        })
    }

    /// A TCP socket.
    ///
    /// # Errors
    ///
    /// [`EndpointError::Port`] for port 0.
    pub fn tcp(address: SocketAddr) -> Result<Self, EndpointError> {
        if address.port() == 0 {
            return Err(EndpointError::Port { found: "0".into() });
        }
        Ok(Self {
            address: Address::Tcp(address),
        })
    }

    /// The path, of a Unix socket.
    pub fn unix_path(&self) -> Option<&Path> {
        match &self.address {
            Address::Unix(path) => Some(path),
            Address::Tcp(_) => None,
        }
    }

    /// The address, of a TCP socket.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        if !text.bytes().all(is_uri_byte) {
            return Err(EndpointError::IllegalByte);
        }
        let (scheme, rest) = text.split_once(':').ok_or(EndpointError::NoScheme)?;
        let is_unix = scheme.eq_ignore_ascii_case("unix");
        if !is_unix && !scheme.eq_ignore_ascii_case("tcp") {
            return Err(if scheme.contains('/') {
                EndpointError::NoScheme
            } else {
                EndpointError::Scheme {
                    found: scheme.into(),
                }
            });
        }
        let (rest, fragment) = split_at_byte(rest, '#');
        let (hierarchy, query) = split_at_byte(rest, '?');
        if let Some(extra) = query.or(fragment) {
            return Err(EndpointError::Extra {
                found: extra.into(),
            });
        }
        if is_unix {
            unix(hierarchy)
        } else {
            tcp(hierarchy)
        }
    }
}

impl TryFrom<&str> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: &str) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp(address) => write!(f, "tcp://{address}"),
            Address::Unix(path) => {
                f.write_str("unix://")?;
                for byte in path.as_os_str().as_bytes() {
                    if is_uri_byte(*byte) && !b"%?#[]".contains(byte) {
                        write!(f, "{}", char::from(*byte))?;
                    } else {
                        write!(f, "%{byte:02X}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// What stands behind `unix:`.
fn unix(hierarchy: &str) -> Result<Endpoint, EndpointError> {
    let path = match hierarchy.strip_prefix("//") {
        Some(rest) => {
            let authority = rest.split('/').next().unwrap_or_default();
            if !authority.is_empty() {
                return Err(EndpointError::UnixAuthority {
                    found: authority.into(),
                });
            }
            rest
        }
        None => hierarchy,
    };
    if path.contains(['[', ']']) {
        return Err(EndpointError::IllegalByte);
    }
    Endpoint::unix(OsString::from_vec(percent_decoded(path)?))
}

/// What stands behind `tcp:`.
fn tcp(hierarchy: &str) -> Result<Endpoint, EndpointError> {
    let authority = hierarchy
        .strip_prefix("//")
        .ok_or(EndpointError::TcpAuthorityMissing)?;
    if let Some(at) = authority.find('/') {
        return Err(EndpointError::Extra {
            found: authority[at..].into(),
        });
    }
    if let Some((user, _)) = authority.rsplit_once('@') {
        return Err(EndpointError::Extra {
            found: format!("{user}@"),
        });
    }
    let (host, port) = if authority.starts_with('[') {
        match authority.find(']') {
            Some(end) => authority.split_at(end + 1),
            None => (authority, ""),
        }
    } else {
        authority.split_at(authority.find(':').unwrap_or(authority.len()))
    };
    let ip: Option<IpAddr> = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(host) => host.parse::<Ipv6Addr>().ok().map(Into::into),
        None => host.parse::<Ipv4Addr>().ok().map(Into::into),
    };
    let ip = ip.ok_or_else(|| EndpointError::TcpHost { found: host.into() })?;
    let digits = port.strip_prefix(':').unwrap_or(port);
    if digits.is_empty() {
        return Err(EndpointError::PortMissing);
    }
    // `parse` alone would take a sign.
    Some(digits)
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|_| port.starts_with(':'))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| EndpointError::Port {
            found: digits.into(),
        })
        .and_then(|port| Endpoint::tcp(SocketAddr::new(ip, port)))
}

/// Splits before the first `mark`, which stays with the second part.
fn split_at_byte(text: &str, mark: char) -> (&str, Option<&str>) {
    match text.find(mark) {
        Some(at) => (&text[..at], Some(&text[at..])),
        None => (text, None),
    }
}

/// The characters that an RFC 3986 URI may hold at all (§2).
fn is_uri_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte)
}

/// RFC 3986 §2.1.
fn percent_decoded(path: &str) -> Result<Vec<u8>, EndpointError> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(EndpointError::PercentEncoding);
        };
        decoded.push((high * 16 + low) as u8);
    }
    Ok(decoded)
}

/// Why a text names no Workload API endpoint, and what would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// No text.
    #[error("the endpoint is empty; write unix:///path/to/socket or tcp://IP:PORT")]
    Empty,
    /// A part that this form of endpoint does not have.
    #[error("the endpoint must end before {found:?}: nothing but the address may be named")]
    Extra {
        /// The part.
        found: String,
    },
    /// A character that no URI holds.
    #[error("the endpoint holds a character that a URI does not; write it percent-encoded")]
    IllegalByte,
    /// No `unix:` or `tcp:` in front.
    #[error("the endpoint has no scheme; write unix:///path/to/socket or tcp://IP:PORT")]
    NoScheme,
    /// The environment does not name an endpoint.
    #[error(
        "{ENDPOINT_VARIABLE} is not set; set it to the Workload API's address, such as unix:///run/spiffe/workload.sock"
    )]
    NotSet,
    /// The path ends in a slash.
    #[error("the endpoint's path ends in a slash; name the socket itself")]
    PathIsDirectory,
    /// The path of a Unix socket is missing or relative.
    #[error("the endpoint's path must be absolute, as in unix:///path/to/socket")]
    PathNotAbsolute,
    /// The path holds a NUL byte.
    #[error("the endpoint's path holds a NUL byte")]
    PathNul,
    /// The system takes no socket path as long.
    #[error(
        "the endpoint's path has {length} bytes, but a socket's may have {MAX_SOCKET_PATH_BYTES}; use a shorter directory"
    )]
    PathTooLong {
        /// Its bytes.
        length: usize,
    },
    /// A `%` without two hexadecimal digits behind it.
    #[error("the endpoint's percent-encoding is incomplete; write a percent sign itself as %25")]
    PercentEncoding,
    /// The port is no number from 1 to 65535.
    #[error("the endpoint's port {found:?} is no number from 1 to 65535")]
    Port {
        /// What stands in its place.
        found: String,
    },
    /// A TCP endpoint without its port.
    #[error("the endpoint names no port; write tcp://IP:PORT")]
    PortMissing,
    /// Another scheme.
    #[error("the endpoint's scheme is {found:?}, but only unix and tcp are defined")]
    Scheme {
        /// The scheme.
        found: String,
    },
    /// `tcp:` without `//`.
    #[error("the endpoint must be written tcp://IP:PORT, with two slashes")]
    TcpAuthorityMissing,
    /// The host of a TCP endpoint is no IP address.
    #[error(
        "the endpoint's host {found:?} is no IP address; names are not resolved (IPv6 stands in brackets)"
    )]
    TcpHost {
        /// The host.
        found: String,
    },
    /// A host before the path of a Unix socket.
    #[error(
        "the endpoint has {found:?} where a host would stand; write three slashes, unix:///path/to/socket"
    )]
    UnixAuthority {
        /// What stands there.
        found: String,
    },
    /// What the environment names is no endpoint.
    #[error("{ENDPOINT_VARIABLE} is {value:?}: {problem}")]
    Variable {
        /// The variable's value.
        value: String,
        /// What is wrong with it.
        problem: Box<Self>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn unix(text: &str, path: &str) {
        let endpoint: Endpoint = text.parse().unwrap();
        assert_eq!(endpoint.unix_path(), Some(Path::new(path)), "{text}");
        assert_eq!(endpoint.tcp_address(), None);
        assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
    }

    #[track_caller]
    fn tcp(text: &str, address: &str) {
        let endpoint: Endpoint = text.parse().unwrap();
        assert_eq!(endpoint.tcp_address(), Some(address.parse().unwrap()));
        assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
    }

    #[track_caller]
    fn refused(text: &str, error: EndpointError) {
        assert_eq!(text.parse::<Endpoint>(), Err(error), "{text}");
    }

    fn extra(found: &str) -> EndpointError {
        EndpointError::Extra {
            found: found.into(),
        }
    }

    fn host(found: &str) -> EndpointError {
        EndpointError::TcpHost {
            found: found.into(),
        }
    }

    fn port(found: &str) -> EndpointError {
        EndpointError::Port {
            found: found.into(),
        }
    }

    fn scheme(found: &str) -> EndpointError {
        EndpointError::Scheme {
            found: found.into(),
        }
    }

    fn authority(found: &str) -> EndpointError {
        EndpointError::UnixAuthority {
            found: found.into(),
        }
    }

    #[test]
    fn unix_endpoints_name_an_absolute_path() {
        unix("unix:///run/s.sock", "/run/s.sock");
        unix("unix:/run/s.sock", "/run/s.sock");
        unix("UNIX:///run/s.sock", "/run/s.sock");
        unix("unix:////run//s.sock", "//run//s.sock");
        unix("unix:///run/a%20b%23c%3Fd%25.sock", "/run/a b#c?d%.sock");
        unix("unix:///run/%c3%a9", "/run/é");
        unix("unix:///run/a:b@c;d=e,f", "/run/a:b@c;d=e,f");
    }

    #[test]
    fn malformed_unix_endpoints_are_refused() {
        refused("unix:run/s.sock", EndpointError::PathNotAbsolute);
        refused("unix://", EndpointError::PathNotAbsolute);
        refused("unix:", EndpointError::PathNotAbsolute);
        refused("unix:///", EndpointError::PathIsDirectory);
        refused("unix:///run/", EndpointError::PathIsDirectory);
        refused("unix://host/p.sock", authority("host"));
        refused("unix://run/p.sock", authority("run"));
        refused("unix://u@/p", authority("u@"));
        refused("unix://:80/p", authority(":80"));
        refused("unix:///s.sock?x=1", extra("?x=1"));
        refused("unix:///s.sock?", extra("?"));
        refused("unix:///s.sock#f", extra("#f"));
        refused("unix:///s.sock#", extra("#"));
        refused("unix:///a b", EndpointError::IllegalByte);
        refused("unix:///é", EndpointError::IllegalByte);
        refused("unix:///a[0]", EndpointError::IllegalByte);
        refused("unix:///a%2", EndpointError::PercentEncoding);
        refused("unix:///a%zz", EndpointError::PercentEncoding);
        refused("unix:///a%+1", EndpointError::PercentEncoding);
        refused("unix:///a%00b", EndpointError::PathNul);
    }

    #[test]
    fn a_path_is_as_long_as_a_socket_allows() {
        let longest = format!("/{}", "a".repeat(MAX_SOCKET_PATH_BYTES - 1));
        unix(&format!("unix://{longest}"), &longest);
        // Encoded, the text is longer than the path that counts.
        unix(&format!("unix:///%61{}", &longest[2..]), &longest);
        refused(
            &format!("unix://{longest}a"),
            EndpointError::PathTooLong {
                length: MAX_SOCKET_PATH_BYTES + 1,
            },
        );
    }

    #[test]
    fn tcp_endpoints_name_an_ip_address_and_a_port() {
        tcp("tcp://127.0.0.1:8000", "127.0.0.1:8000");
        tcp("tcp://[::1]:8000", "[::1]:8000");
        tcp("TCP://10.0.0.1:65535", "10.0.0.1:65535");
    }

    #[test]
    fn malformed_tcp_endpoints_are_refused() {
        refused("tcp://localhost:8000", host("localhost"));
        refused("tcp://:8000", host(""));
        refused("tcp://", host(""));
        refused("tcp://::1:8000", host(""));
        refused("tcp://[::1", host("[::1"));
        refused("tcp://[127.0.0.1]:1", host("[127.0.0.1]"));
        refused("tcp://[fe80::1%25lo]:1", host("[fe80::1%25lo]"));
        refused("tcp://127.1:8000", host("127.1"));
        refused("tcp://127.0.0.1", EndpointError::PortMissing);
        refused("tcp://127.0.0.1:", EndpointError::PortMissing);
        refused("tcp://[::1]", EndpointError::PortMissing);
        refused("tcp://[::1]80", port("80"));
        refused("tcp://127.0.0.1:65536", port("65536"));
        refused("tcp://127.0.0.1:0", port("0"));
        refused("tcp://127.0.0.1:+80", port("+80"));
        refused("tcp://127.0.0.1:80a", port("80a"));
        refused("tcp://127.0.0.1:1:2", port("1:2"));
        refused("tcp://127.0.0.1:8000/foo", extra("/foo"));
        refused("tcp://127.0.0.1:8000/", extra("/"));
        refused("tcp://127.0.0.1:8000?x", extra("?x"));
        refused("tcp://127.0.0.1:8000#f", extra("#f"));
        refused("tcp://u@127.0.0.1:8000", extra("u@"));
        refused("tcp:127.0.0.1:8000", EndpointError::TcpAuthorityMissing);
        refused("tcp:", EndpointError::TcpAuthorityMissing);
    }

    #[test]
    fn other_schemes_are_refused() {
        refused("", EndpointError::Empty);
        refused("/run/x.sock", EndpointError::NoScheme);
        refused("/run/x:1.sock", EndpointError::NoScheme);
        refused("http://127.0.0.1:1", scheme("http"));
        refused("vsock://2:1", scheme("vsock"));
        refused("npipe:spire", scheme("npipe"));
        refused("://x", scheme(""));
    }

    #[test]
    fn the_environment_must_name_an_endpoint() {
        assert_eq!(
            Endpoint::from_variable(Some("unix:///s".into())),
            Endpoint::unix("/s")
        );
        assert_eq!(Endpoint::from_variable(None), Err(EndpointError::NotSet));
        assert_eq!(
            Endpoint::from_variable(Some(String::new().into())),
            Err(EndpointError::NotSet)
        );
        let wrong = |value: &[u8]| {
            let value = OsString::from_vec(value.to_vec());
            match Endpoint::from_variable(Some(value)) {
                Err(error @ EndpointError::Variable { .. }) => error.to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            wrong(b"/s"),
            "SPIFFE_ENDPOINT_SOCKET is \"/s\": the endpoint has no scheme; write unix:///path/to/socket or tcp://IP:PORT"
        );
        assert!(wrong(b"unix:///\xff").contains("percent-encoded"));
    }
}
