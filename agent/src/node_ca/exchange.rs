//! One exchange with the API server: a new key, a CertificateSigningRequest, and what comes of it.
//!
//! In: a client of the cluster. Out: a new CA in the state folder, or why there is none. One agent of a node does so at a time, by a lock
//! on the folder: in an upgrade there are two, and both would ask.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use picket_controller::lenient::Lenient;
use picket_controller::names::node_ca_subject;
use tokio::time::timeout;

use super::keep::{KeepError, KeptNodeCa, KeptTimes};
use super::metrics::NodeCaMetrics;
use super::request::{Answer, LIFETIME, answer, object};
use crate::cluster::{ClusterError, Connector, printable};
use crate::pki::{CaRequest, IssuedCa, IssuedCaError, LeafNames, PkiError};
use crate::runtime::backoff::Backoff;
use crate::runtime::state::StateError;

/// How long one request to the API server may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The first and the longest pause between two looks at a request that is open. The controller may be away for days.
const LOOKS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Between two looks whether another agent of the node got one.
const TURNS: Duration = Duration::from_secs(1);

/// Why no new CA came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// Somebody said no.
    #[error("CertificateSigningRequest {name} was refused: {reason}")]
    Denied {
        /// The object.
        name: String,
        /// What was said.
        reason: String,
    },
    /// What came is not what was asked for.
    #[error("what was issued for CertificateSigningRequest {name} is not used: {source}")]
    Refused {
        /// The object.
        name: String,
        /// What is wrong with it.
        source: IssuedCaError,
    },
    /// The API server removed the request before anybody decided.
    #[error("CertificateSigningRequest {0} is gone, and nobody decided on it")]
    Gone(String),
    /// The API server refuses, or does not answer.
    #[error("the API server takes no CertificateSigningRequest: {0}")]
    Api(String),
    /// There is no client.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// No key can be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

impl ExchangeError {
    fn result(&self) -> &'static str {
        match self {
            Self::Denied { .. } => "denied",
            Self::Refused { .. } => "refused",
            _ => "failure",
        }
    }
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exchanged {
    /// A new CA is in the folder.
    New,
    /// One that is new enough is there already.
    Current,
    /// Another agent of the node is at it.
    Elsewhere,
}

/// Gets node CAs; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct NodeCaExchange {
    pub(super) kept: KeptNodeCa,
    pub(super) node: String,
    names: LeafNames,
    connector: Connector,
    metrics: NodeCaMetrics,
    /// The request that is open now.
    waiting: Arc<Mutex<Option<String>>>,
    pub(super) looks: (Duration, Duration),
}

impl NodeCaExchange {
    /// For a node whose leaves have these names.
    pub(crate) fn new(
        kept: KeptNodeCa,
        node: &str,
        names: LeafNames,
        connector: Connector,
        metrics: NodeCaMetrics,
    ) -> Self {
        Self {
            kept,
            node: node.to_owned(),
            names,
            connector,
            metrics,
            waiting: Arc::default(),
            looks: LOOKS,
        }
    }

    /// The request that nobody has decided on yet.
    pub(super) fn waiting(&self) -> Option<String> {
        self.waiting.lock().clone()
    }

    /// What is kept now.
    pub(super) fn look(&self) -> Result<Option<KeptTimes>, KeepError> {
        self.kept.look(&self.node, SystemTime::now())
    }

    /// Waits until there is a CA that can be used, for so long. An agent calls this that must not take over without one.
    pub(crate) async fn first(&self, limit: Duration) {
        let got = timeout(limit, async {
            while !matches!(self.look(), Ok(Some(_))) {
                match self.exchange(None).await {
                    Ok(Exchanged::New | Exchanged::Current) => return,
                    Ok(Exchanged::Elsewhere) => {}
                    Err(error) => tracing::warn!(%error, "the node gets no CA yet"),
                }
                tokio::time::sleep(TURNS).await;
            }
        });
        if got.await.is_err() {
            tracing::warn!(request = self.waiting(), "the node got no CA in time");
        }
    }

    /// Gets a new CA, unless one is there that is new enough and not the one that is distrusted. Waits as long as nobody decides.
    pub(super) async fn exchange(&self, distrusted: Option<KeptTimes>) -> Result<Exchanged, ExchangeError> {
        let Some(_turn) = self.kept.turn()? else {
            return Ok(Exchanged::Elsewhere);
        };
        // The other agent had its turn meanwhile.
        let now = SystemTime::now();
        let is_new = |kept: KeptTimes| now < kept.renew_at && distrusted != Some(kept);
        if matches!(self.look(), Ok(Some(kept)) if is_new(kept)) {
            return Ok(Exchanged::Current);
        }
        let exchanged = async {
            let issued = self.issued().await?;
            self.kept.keep(&issued)?;
            Ok(issued)
        };
        let exchanged: Result<IssuedCa, ExchangeError> = exchanged.await;
        *self.waiting.lock() = None;
        let result = exchanged
            .as_ref()
            .map_or_else(ExchangeError::result, |_| "success");
        self.metrics.ended(result);
        let issued = exchanged?;
        let not_after = jiff::Timestamp::try_from(issued.not_after).unwrap_or_default();
        tracing::info!(%not_after, file = %self.kept.path().display(), "the node has a new CA");
        Ok(Exchanged::New)
    }

    async fn issued(&self) -> Result<IssuedCa, ExchangeError> {
        let request = CaRequest::new(&node_ca_subject(&self.node))?;
        let client = self.connector.connect().await?;
        let requests: Api<Lenient<CertificateSigningRequest>> = Api::all(client);
        let (parameters, object) = (PostParams::default(), Lenient(object(&request.pem)));
        let creating = requests.create(&parameters, &object);
        let created = match timeout(LIMIT, creating).await {
            Ok(created) => created.map_err(|error| ExchangeError::Api(printable(&error)))?,
            Err(_) => return Err(ExchangeError::Api("it does not answer".to_owned())),
        };
        let name = created.0.metadata.name.unwrap_or_default();
        tracing::info!(name, "the agent asks Picket's controller for a node CA");
        *self.waiting.lock() = Some(name.clone());
        match self.decided(&name).await? {
            Ok(issued) => request
                .check(&issued, LIFETIME, &self.names, SystemTime::now())
                .map_err(|source| ExchangeError::Refused { name, source }),
            Err(reason) => Err(ExchangeError::Denied { name, reason }),
        }
    }

    /// The certificates, or why there are none, once somebody has decided. What the API server does not answer is asked again.
    async fn decided(&self, name: &str) -> Result<Result<Vec<u8>, String>, ExchangeError> {
        let mut pauses = Backoff::jittered(self.looks.0, self.looks.1);
        let mut client: Option<Client> = None;
        loop {
            tokio::time::sleep(pauses.pause()).await;
            let connected = match client.take() {
                Some(client) => Ok(client),
                None => self.connector.connect().await,
            };
            // The kubeconfig may be replaced at this moment.
            let Ok(connected) = connected else { continue };
            let requests: Api<Lenient<CertificateSigningRequest>> = Api::all(connected.clone());
            let Ok(found) = timeout(LIMIT, requests.get(name)).await else {
                continue;
            };
            match found {
                Ok(Lenient(found)) => match answer(&found) {
                    Answer::Open => client = Some(connected),
                    Answer::Issued(issued) => return Ok(Ok(issued)),
                    Answer::Refused(reason) => return Ok(Err(reason)),
                },
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    return Err(ExchangeError::Gone(name.to_owned()));
                }
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    return Err(ExchangeError::Api(status.message));
                }
                Err(_) => {}
            }
        }
    }
}
