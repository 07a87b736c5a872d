//! The X.509 profile's calls: Workload API §5.

use spiffe_proto::workload::{
    X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};

use super::{Responses, WorkloadApiClient};
use crate::error::ClientError;
use crate::update::{X509BundleReader, X509Bundles, X509Context, X509Reader};

impl WorkloadApiClient {
    /// The workload's X509-SVIDs and bundles now: the first message of FetchX509SVID.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; [`ClientError::PermissionDenied`] when the workload has no identity (Workload API §5.2.1).
    pub async fn fetch_x509(&self) -> Result<X509Context, ClientError> {
        self.watch_x509().await?.next().await
    }

    /// Follows the workload's X509-SVIDs and bundles: FetchX509SVID.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch_x509`].
    pub async fn watch_x509(&self) -> Result<X509Updates, ClientError> {
        Ok(X509Updates {
            responses: self.open_x509().await?,
            reader: X509Reader::new(self.crypto().clone()),
        })
    }

    /// The X.509 bundles now: the first message of FetchX509Bundles.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn fetch_x509_bundles(&self) -> Result<X509Bundles, ClientError> {
        self.watch_x509_bundles().await?.next().await
    }

    /// Follows the X.509 bundles without SVIDs: FetchX509Bundles.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn watch_x509_bundles(&self) -> Result<X509BundleUpdates, ClientError> {
        Ok(X509BundleUpdates {
            responses: self.open_x509_bundles().await?,
            reader: X509BundleReader::new(self.crypto().clone()),
        })
    }

    pub(crate) async fn open_x509(&self) -> Result<Responses<X509svidResponse>, ClientError> {
        let mut stub = self.stub();
        let answer = stub.fetch_x509svid(X509svidRequest {});
        self.open("FetchX509SVID", answer).await
    }

    pub(crate) async fn open_x509_bundles(
        &self,
    ) -> Result<Responses<X509BundlesResponse>, ClientError> {
        let mut stub = self.stub();
        let answer = stub.fetch_x509_bundles(X509BundlesRequest {});
        self.open("FetchX509Bundles", answer).await
    }
}

/// A stream of X509-SVIDs and bundles; each update replaces the one before it whole.
#[derive(Debug)]
pub struct X509Updates {
    responses: Responses<X509svidResponse>,
    reader: X509Reader,
}

impl X509Updates {
    /// The next update.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no update.
    ///
    /// # Errors
    ///
    /// After [`ClientError::Response`] the stream goes on, after any other error it has ended.
    pub async fn next(&mut self) -> Result<X509Context, ClientError> {
        let response = self.responses.next().await?;
        Ok(self.reader.read(response)?)
    }
}

/// A stream of X.509 bundles; each update replaces the one before it whole.
#[derive(Debug)]
pub struct X509BundleUpdates {
    responses: Responses<X509BundlesResponse>,
    reader: X509BundleReader,
}

impl X509BundleUpdates {
    /// The next update.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no update.
    ///
    /// # Errors
    ///
    /// After [`ClientError::Response`] the stream goes on, after any other error it has ended.
    pub async fn next(&mut self) -> Result<X509Bundles, ClientError> {
        let response = self.responses.next().await?;
        Ok(self.reader.read(response)?)
    }
}
