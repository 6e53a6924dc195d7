//! The node's checkpoint: what the last agent knew that the next one needs before anybody answers it.
//!
//! In: the protected endpoints that are in force, and the configuration of an agent that serves. Out: both in the state folder, for a
//! start that cannot learn them: after a boot, while the API server cannot be asked or the configuration is not valid.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::cluster;
use crate::config::{Config, ConfigError};
use crate::endpoints::ProtectedEndpoints;
use crate::node_ca::KeptNodeCa;
use crate::runtime::phase::{Phase, PhaseWatch};
use crate::runtime::readiness::Readiness;
use crate::runtime::state::{StateDirectory, StateError};

/// The file with the protected endpoints.
const ENDPOINTS: &str = "protected-endpoints.json";

/// The file with the configuration of the last agent that served.
const CONFIGURATION: &str = "agent.yaml";

/// The version of the first file's form. A file of another version is not used.
const VERSION: u32 = 1;

/// The part of `/readyz` that says whether the checkpoint is written.
const CHECKPOINT: &str = "checkpoint";

/// The part of `/readyz` that names the Service's address.
const SERVICE: &str = "api-server-service";

/// What `/readyz` says while the Service's address is open.
const SERVICE_IS_OPEN: &str = "the address of the Service `kubernetes` is not known on this node yet: pods reach the API server by \
    that address, past Picket, until the API server reports it; list the address under protectedEndpoints.apiServer";

/// The shortest time between two writes: in a large cluster the protected endpoints change with each node that comes or goes. And
/// the pause after a write that failed.
const WRITE_GAP: Duration = Duration::from_secs(60);

/// Why a checkpoint is not used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file itself.
    #[error(transparent)]
    State(#[from] StateError),
    /// Another version of Picket wrote the configuration, or somebody changed it.
    #[error(transparent)]
    Configuration(#[from] ConfigError),
    /// It holds something else.
    #[error("{ENDPOINTS} of the state folder: {0}")]
    Form(#[from] serde_json::Error),
    /// Another version of Picket wrote it.
    #[error("{ENDPOINTS} of the state folder has version {0}; this agent reads {VERSION}")]
    Version(u32),
}

/// The protected endpoints as the file has them.
#[derive(Debug, Serialize, Deserialize)]
struct SavedEndpoints {
    version: u32,
    redirect: BTreeSet<SocketAddr>,
    deny: BTreeSet<SocketAddr>,
}

/// What is read before the rest, since another version may have other fields.
#[derive(Deserialize)]
struct SavedVersion {
    version: u32,
}

/// The checkpoint of a node; cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeCheckpoint {
    folder: StateDirectory,
    /// The text of this agent's own configuration.
    configuration: Option<Arc<str>>,
}

impl NodeCheckpoint {
    /// The checkpoint in this folder.
    #[must_use]
    pub fn new(folder: StateDirectory) -> Self {
        Self {
            folder,
            configuration: None,
        }
    }

    /// The node CA that is kept beside it.
    pub(super) fn node_ca(&self) -> KeptNodeCa {
        KeptNodeCa::new(self.folder.clone())
    }

    /// Says what configuration is kept once an agent serves by it.
    #[must_use]
    pub fn keeping(self, configuration: &str) -> Self {
        Self {
            configuration: Some(Arc::from(configuration)),
            ..self
        }
    }

    /// The configuration of the last agent that served; `None` where none did, or nothing is left of it.
    ///
    /// # Errors
    /// [`CheckpointError`] where the file cannot be used.
    pub fn configuration(&self) -> Result<Option<Config>, CheckpointError> {
        let Some(bytes) = self.folder.read(CONFIGURATION)? else {
            return Ok(None);
        };
        let file = self.folder.file(CONFIGURATION).display().to_string();
        Ok(Some(Config::parse(&file, &String::from_utf8_lossy(&bytes))?))
    }

    /// The protected endpoints that were in force last, where an agent has learned them from the cluster.
    pub(crate) fn endpoints(&self) -> Result<Option<ProtectedEndpoints>, CheckpointError> {
        let Some(bytes) = self.folder.read(ENDPOINTS)? else {
            return Ok(None);
        };
        let SavedVersion { version } = serde_json::from_slice(&bytes)?;
        if version != VERSION {
            return Err(CheckpointError::Version(version));
        }
        let SavedEndpoints { redirect, deny, .. } = serde_json::from_slice(&bytes)?;
        Ok(Some(ProtectedEndpoints {
            redirect,
            deny,
            ..ProtectedEndpoints::default()
        }))
    }

    /// Writes the configuration, and the protected endpoints where the cluster has told them all.
    fn write(&self, endpoints: &ProtectedEndpoints) -> Result<(), CheckpointError> {
        if let Some(text) = &self.configuration {
            self.folder.write(CONFIGURATION, text.as_bytes())?;
        }
        if !endpoints.whole {
            return Ok(());
        }
        let saved = SavedEndpoints {
            version: VERSION,
            redirect: endpoints.redirect.clone(),
            deny: endpoints.deny.clone(),
        };
        Ok(self.folder.write(ENDPOINTS, &serde_json::to_vec(&saved)?)?)
    }

    /// Removes it, and the node CA: no start closes a node by what an agent knew that is not there any more, and signs by its key.
    ///
    /// # Errors
    /// [`StateError`] where a file stays.
    pub fn remove(&self) -> Result<(), StateError> {
        self.folder.remove(CONFIGURATION)?;
        self.folder.remove(ENDPOINTS)?;
        self.node_ca().remove()
    }

    /// Writes the checkpoint once this agent serves and no other does, and again whenever the protected endpoints have changed. What
    /// cannot be written is tried again, and `/readyz` says so meanwhile: the next boot may depend on it.
    pub(super) async fn follow(
        self,
        mut endpoints: watch::Receiver<ProtectedEndpoints>,
        phase: PhaseWatch,
        readiness: Readiness,
    ) {
        let service = service_is_known(endpoints.clone(), &readiness);
        let written = async {
            let serves = [Phase::Established, Phase::PredecessorStopped];
            for awaited in serves {
                if phase.reached(awaited).await.is_err() {
                    return;
                }
            }
            // An agent that stops leaves the files to its successor.
            while !phase.has_ended() {
                let now = endpoints.borrow_and_update().clone();
                let whole = now.whole;
                let failed = self.write_or_tell(now, &readiness).await;
                if whole {
                    tokio::time::sleep(WRITE_GAP).await;
                }
                if failed && whole {
                    continue;
                }
                let changed = endpoints.changed();
                let changed = match failed {
                    true => timeout(WRITE_GAP, changed).await.unwrap_or(Ok(())),
                    false => changed.await,
                };
                if changed.is_err() {
                    return;
                }
            }
        };
        tokio::join!(service, written);
        std::future::pending::<()>().await;
    }

    /// Writes the checkpoint, and tells where that fails; whether it does.
    async fn write_or_tell(&self, endpoints: ProtectedEndpoints, readiness: &Readiness) -> bool {
        let checkpoint = self.clone();
        let written = tokio::task::spawn_blocking(move || checkpoint.write(&endpoints)).await;
        let error = match written {
            Ok(Ok(())) => {
                if readiness.works(CHECKPOINT) {
                    tracing::info!("the checkpoint is written");
                }
                return false;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let reason = format!(
            "the agent cannot write the checkpoint, which closes the node after a boot; it tries again: {error}"
        );
        if readiness.fails(CHECKPOINT, reason.clone()) {
            tracing::error!("{reason}");
        }
        true
    }
}

/// Waits until the cluster has told the Service's address with the rest.
async fn service_is_known(mut endpoints: watch::Receiver<ProtectedEndpoints>, readiness: &Readiness) {
    if endpoints.wait_for(|endpoints| endpoints.whole).await.is_ok() {
        readiness.works(SERVICE);
    }
}

/// Says that nothing closes the Service's address, until [`NodeCheckpoint::follow`] knows better.
pub(super) fn service_is_open(readiness: &Readiness) {
    tracing::warn!("{SERVICE_IS_OPEN}");
    readiness.fails(SERVICE, SERVICE_IS_OPEN.to_owned());
}

/// The Service's address as a kubelet tells it to each container (KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT), where the
/// agent runs in one.
pub(super) fn service_of_environment(variable: impl Fn(&str) -> Option<String>) -> Option<SocketAddr> {
    let host = cluster::address::address(&variable("KUBERNETES_SERVICE_HOST")?)?;
    let port = variable("KUBERNETES_SERVICE_PORT")?.parse().ok()?;
    (port != 0 && !host.is_unspecified()).then(|| SocketAddr::new(host, port))
}

/// Adds what was in force last to what is known now. The configuration wins: what it allows is not denied, and what it denies is
/// not redirected.
pub(super) fn add_last_known(
    known: &mut ProtectedEndpoints,
    last: ProtectedEndpoints,
    allow: &BTreeSet<SocketAddr>,
) {
    let redirect = last.redirect.into_iter();
    known
        .redirect
        .extend(redirect.filter(|address| !known.deny.contains(address)));
    let is_open = |address: &SocketAddr| !known.redirect.contains(address) && !allow.contains(address);
    let deny: Vec<_> = last.deny.into_iter().filter(is_open).collect();
    known.deny.extend(deny);
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
