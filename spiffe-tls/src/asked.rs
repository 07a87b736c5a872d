//! What a peer asks for before an SVID is shown to it.

use rustls::DistinguishedName;
use spiffe_core::X509Svid;

/// What the peer said of whom it wants to meet, in the clear and unproven: good for choosing among one's own SVIDs, and
/// for nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub(crate) server_name: Option<&'a str>,
    /// Names of authorities in DER, each a whole `Name`.
    pub(crate) authorities: Authorities<'a>,
}

/// The two forms in which rustls gives them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Authorities<'a> {
    OfClient(&'a [DistinguishedName]),
    OfServer(&'a [&'a [u8]]),
}

impl<'a> Asked<'a> {
    /// The name that a client wants, if it sends one: RFC 6066 §3. Clients that know servers by SPIFFE ID need none.
    pub fn server_name(&self) -> Option<&'a str> {
        self.server_name
    }

    /// The names of the authorities that the peer says it knows, each the DER of a `Name`: RFC 8446 §4.2.4 for clients,
    /// §4.3.2 and RFC 5246 §7.4.4 for servers. Many peers send none.
    pub fn authorities(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (of_client, of_server) = match self.authorities {
            Authorities::OfClient(names) => (names, &[][..]),
            Authorities::OfServer(names) => (&[][..], names),
        };
        let of_client = of_client.iter().map(AsRef::as_ref);
        of_client.chain(of_server.iter().copied())
    }

    /// Whether the peer says that it knows an authority above this SVID, or does not say whom it knows.
    ///
    /// Names are compared, not keys: this chooses, and proves nothing.
    pub fn accepts(&self, svid: &X509Svid) -> bool {
        self.authorities().next().is_none()
            || svid.issuer_names().any(|issuer| {
                let issuer = DistinguishedName::in_sequence(issuer);
                self.authorities().any(|name| name == issuer.as_ref())
            })
    }
}
