//! A client that is kept for as long as the API server answers it.
//!
//! In: requests. Out: their answers, each within a limit. After a failure the next request has a client of its own, for which the
//! kubeconfig is read anew: the credential may have been rotated.

use std::future::Future;
use std::time::Duration;

use kube::Client;
use tokio::time::timeout;

use super::{ClusterError, Connector, printable};

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// There is no client.
    #[error("{0}")]
    Client(#[from] ClusterError),
    /// The API server refused, or is away.
    #[error("{}", printable(.0))]
    Api(#[from] kube::Error),
    /// It did not answer in time.
    #[error("the API server does not answer")]
    Silent,
}

/// The client.
pub(crate) struct KeptClient {
    connector: Connector,
    client: Option<Client>,
}

impl KeptClient {
    pub(crate) fn new(connector: Connector) -> Self {
        Self {
            connector,
            client: None,
        }
    }

    /// Asks the API server something.
    ///
    /// # Errors
    /// There is no client, or no answer.
    pub(crate) async fn ask<T, F: Future<Output = kube::Result<T>>>(
        &mut self,
        request: impl FnOnce(Client) -> F,
    ) -> Result<T, RequestError> {
        let asked = timeout(LIMIT, async {
            let client = match &self.client {
                Some(client) => client.clone(),
                None => self.client.insert(self.connector.connect().await?).clone(),
            };
            Ok(request(client).await?)
        });
        let answer = asked.await.unwrap_or(Err(RequestError::Silent));
        if answer.is_err() {
            self.client = None;
        }
        answer
    }
}
