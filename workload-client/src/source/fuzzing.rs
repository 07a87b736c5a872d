//! What a source makes of messages, without a stream and its task: for the fuzz targets, built with `--cfg fuzzing` only.

use std::sync::Arc;

use spiffe_core::crypto::CryptoProvider;
use spiffe_core::snapshot::Published;
use spiffe_core::verify::X509Verifier;
use spiffe_core::{BundleSet, JwtSvid, Publisher, SpiffeId, Timestamp};

use super::stream::Consumer;
use super::survival::Survival;
use super::x509::X509Feed;
use crate::error::ResponseError;
use crate::update::{JwtBundleReader, X509BundleReader, X509Reader, decode, jwt_svids};

/// The messages of FetchX509SVID as an `X509Source` takes them.
#[expect(missing_debug_implementations, reason = "only fuzz targets hold it")]
pub struct X509Messages {
    reader: X509Reader,
    feed: X509Feed,
    publisher: Publisher,
}

impl X509Messages {
    /// Nothing has come yet.
    pub fn new(crypto: Arc<dyn CryptoProvider>) -> Self {
        let publisher = Publisher::new();
        let verifier = X509Verifier::new(&*crypto);
        Self {
            reader: X509Reader::new(crypto),
            feed: X509Feed::new(verifier, publisher.clone(), None),
            publisher,
        }
    }

    /// Takes a message; what of it could not be used.
    ///
    /// # Errors
    ///
    /// Why the message is discarded.
    pub fn take(&mut self, message: &[u8], now: Timestamp) -> Result<Vec<String>, ResponseError> {
        let update = self.reader.read(decode(message)?)?;
        let applied = self.feed.apply(&update, now);
        let applied = applied.expect("nothing is derived that could refuse");
        let notices = applied
            .notices
            .iter()
            .map(|notice| notice.text().to_owned());
        Ok(notices.chain(applied.problem).collect())
    }

    /// What is served.
    pub fn published(&self) -> Arc<Published> {
        self.publisher.load()
    }

    /// How long it lasts.
    pub fn survival(&self, now: Timestamp) -> Option<Survival> {
        self.feed.survival(now)
    }
}

/// The messages of a stream of bundles.
#[expect(missing_debug_implementations, reason = "only fuzz targets hold it")]
pub struct BundleMessages(Box<dyn FnMut(&[u8]) -> Result<Arc<BundleSet>, ResponseError>>);

impl BundleMessages {
    /// FetchX509Bundles.
    pub fn x509(crypto: Arc<dyn CryptoProvider>) -> Self {
        let mut reader = X509BundleReader::new(crypto);
        Self(Box::new(move |message| {
            Ok(reader.read(decode(message)?)?.bundles().clone())
        }))
    }

    /// FetchJWTBundles.
    pub fn jwt(crypto: Arc<dyn CryptoProvider>) -> Self {
        let mut reader = JwtBundleReader::new(crypto);
        Self(Box::new(move |message| {
            Ok(reader.read(decode(message)?)?.bundles().clone())
        }))
    }

    /// Takes a message.
    ///
    /// # Errors
    ///
    /// Why it is discarded.
    pub fn take(&mut self, message: &[u8]) -> Result<Arc<BundleSet>, ResponseError> {
        (self.0)(message)
    }
}

/// The tokens of an answer to FetchJWTSVID.
///
/// # Errors
///
/// Why it is discarded.
pub fn tokens(
    message: &[u8],
    audience: &str,
    asked: Option<&SpiffeId>,
) -> Result<Vec<JwtSvid>, ResponseError> {
    jwt_svids(decode(message)?, &[audience.to_owned()], asked)
}
