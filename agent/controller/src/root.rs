//! Keeps the root CA: in the Secret `picket-root-ca`, or read from where somebody else keeps it.
//!
//! In: the Secret, the source of a root that is given, and what every bundle holds. Out: a [`Trust`] for the signer and the bundles,
//! and the Secret written. Writes name the version that was read, so that two controllers never make two roots.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;

use crate::authority::{Authority, CaPem, KeyPem};
use crate::kubernetes::{self, printable};
use crate::lenient::Lenient;
use crate::metrics::{ControllerMetrics, Part};
use crate::names::{FIELD_MANAGER, ROOT_SECRET, ROTATE};
use crate::roots::{RootFacts, RootsError, StoredRoots};
use crate::rotation::RotationState;

/// How often the Secret is read. The controller then needs no right to list Secrets, and a person who asks for another root waits
/// a few seconds.
const PERIOD: Duration = Duration::from_secs(5);

/// The same while there is none: nodes wait, and on an enforced node the controller's first request comes before its agent knows this pod.
const FIRST_PERIOD: Duration = Duration::from_secs(1);

/// Where the root comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// The controller makes it.
    Own,
    /// A Secret of the controller's namespace, with the keys tls.crt and tls.key (as cert-manager writes them) or ca.crt and ca.key.
    Secret(String),
    /// A folder with files of these names.
    Folder(PathBuf),
}

/// What the node CAs are signed by, and what clients are told to trust.
#[derive(Debug)]
pub(crate) struct Trust {
    pub(crate) signing: Authority,
    pub(crate) bundle: String,
}

impl Trust {
    fn is_same(&self, other: &Self) -> bool {
        self.bundle == other.bundle && self.signing.is_same(&other.signing)
    }
}

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    #[error("{}", printable(.0))]
    Api(#[from] kube::Error),
    #[error("Secret {ROOT_SECRET}: {0}")]
    Roots(RootsError),
    #[error("{0}: {1}")]
    Given(String, RootsError),
    #[error(
        "there is no Secret {0} in the controller's namespace: make it, or give another one with --root-secret"
    )]
    NoSecret(String),
    #[error("{0} has neither tls.crt and tls.key nor ca.crt and ca.key")]
    NoKeys(String),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

/// Keeps the root for as long as it is polled.
pub(crate) struct RootKeeper {
    secrets: Api<Lenient<Secret>>,
    source: RootSource,
    /// What clients were told to trust last.
    trusted: Option<String>,
    age_warning: AgeWarning,
    metrics: ControllerMetrics,
}

/// Warns once of each root that somebody else has to replace.
#[derive(Debug, Default)]
struct AgeWarning {
    is_given: bool,
}

impl AgeWarning {
    /// Whether the warning is due now.
    fn is_due(&mut self, is_old: bool) -> bool {
        let was_given = std::mem::replace(&mut self.is_given, is_old);
        is_old && !was_given
    }
}

impl RootKeeper {
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        source: RootSource,
        metrics: ControllerMetrics,
    ) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace),
            source,
            trusted: None,
            age_warning: AgeWarning::default(),
            metrics,
        }
    }

    /// Publishes each change of the root until it is dropped; `fault` is why there is none, for people.
    pub(crate) async fn keep(
        mut self,
        trust: watch::Sender<Option<Arc<Trust>>>,
        mut published: watch::Receiver<Option<Arc<str>>>,
        fault: watch::Sender<Option<String>>,
    ) {
        loop {
            let everywhere = published.borrow_and_update().clone();
            match self.pass(everywhere.as_deref()).await {
                Ok(found) => {
                    fault.send_replace(None);
                    self.metrics.succeeded(Part::Root);
                    trust.send_if_modified(|before| {
                        let is_new = before.as_ref().is_none_or(|before| !before.is_same(&found));
                        if is_new {
                            tracing::info!(
                                valid_until = crate::authority::shown(found.signing.not_after),
                                "the root CA is in use"
                            );
                            *before = Some(Arc::new(found));
                        }
                        is_new
                    });
                }
                Err(error) => {
                    self.metrics.failed(Part::Root);
                    let text = error.to_string();
                    if fault.borrow().as_ref() != Some(&text) {
                        tracing::error!(
                            error = text,
                            "there is no root CA to sign with; the controller tries again"
                        );
                    }
                    fault.send_replace(Some(text));
                }
            }
            // Every bundle that was written is news for a rotation.
            let pause = match trust.borrow().is_some() {
                true => PERIOD,
                false => FIRST_PERIOD,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = published.changed() => {}
            }
        }
    }

    /// Reads, takes the steps that are due, and writes.
    async fn pass(&mut self, published: Option<&str>) -> Result<Trust, RootError> {
        let found = self.secrets.get_opt(ROOT_SECRET).await?.map(|secret| secret.0);
        let given = self.given().await?;
        let no_data = BTreeMap::new();
        let data = found.as_ref().and_then(|secret| secret.data.as_ref());
        let stored = StoredRoots::read(data.unwrap_or(&no_data)).map_err(RootError::Roots)?;
        let annotations = found
            .as_ref()
            .and_then(|secret| secret.metadata.annotations.as_ref());
        let facts = RootFacts {
            given: given.as_ref(),
            trusted_before: self.trusted.as_deref(),
            requested: annotations.is_some_and(|all| all.contains_key(ROTATE)),
            published,
        };
        let advanced = stored
            .clone()
            .advance(&facts, SystemTime::now())
            .map_err(|error| self.at_source(error))?;
        if self.age_warning.is_due(advanced.state == RotationState::Overdue) {
            tracing::warn!(
                source = self.source.name(),
                "two thirds of the root's life are over: replace it; the earlier one stays in the bundles while it is needed"
            );
        }
        if advanced.stored != stored || facts.requested {
            self.write(found, &advanced.stored).await?;
            for change in &advanced.changes {
                tracing::info!(secret = ROOT_SECRET, "{change}");
            }
        }
        self.metrics.set_root(&advanced.signing, advanced.state);
        self.trusted = Some(advanced.signing.anchors.clone());
        Ok(Trust {
            signing: advanced.signing,
            bundle: advanced.bundle,
        })
    }

    /// The CA that signs now, for a replica that does not lead: nothing is made or written.
    pub(crate) async fn signing(&self) -> Result<Option<Authority>, RootError> {
        let found = self.secrets.get_opt(ROOT_SECRET).await?;
        let given = self.given().await?;
        let data = found.and_then(|secret| secret.0.data).unwrap_or_default();
        let stored = StoredRoots::read(&data).map_err(RootError::Roots)?;
        stored
            .signing(given.as_ref())
            .map_err(|error| self.at_source(error))
    }

    /// Says of a fault where the root is kept.
    fn at_source(&self, error: RootsError) -> RootError {
        match &self.source {
            RootSource::Own => RootError::Roots(error),
            source => RootError::Given(source.name(), error),
        }
    }

    /// A conflict is an error: the next pass reads what another controller or a person wrote.
    async fn write(&self, found: Option<Secret>, stored: &StoredRoots) -> Result<(), kube::Error> {
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let Some(mut secret) = found else {
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(ROOT_SECRET.to_owned()),
                    labels: Some(kubernetes::labels()),
                    ..ObjectMeta::default()
                },
                type_: Some("Opaque".to_owned()),
                data: Some(stored.data()),
                ..Secret::default()
            };
            return self.secrets.create(&parameters, &Lenient(secret)).await.map(drop);
        };
        if let Some(annotations) = &mut secret.metadata.annotations {
            annotations.remove(ROTATE);
        }
        secret.data = Some(stored.data());
        self.secrets
            .replace(ROOT_SECRET, &parameters, &Lenient(secret))
            .await
            .map(drop)
    }

    /// The root that somebody else keeps.
    async fn given(&self) -> Result<Option<CaPem>, RootError> {
        match &self.source {
            RootSource::Own => Ok(None),
            RootSource::Secret(name) => {
                let secret = self.secrets.get_opt(name).await?;
                let Lenient(secret) = secret.ok_or_else(|| RootError::NoSecret(name.clone()))?;
                let text = |key: &str| {
                    let bytes: Option<&ByteString> = secret.data.as_ref().and_then(|data| data.get(key));
                    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()))
                };
                given_from(&self.source.name(), text).map(Some)
            }
            RootSource::Folder(folder) => {
                given_from(&self.source.name(), |key| read(&folder.join(key))).map(Some)
            }
        }
    }
}

impl RootSource {
    fn name(&self) -> String {
        match self {
            Self::Own => format!("Secret {ROOT_SECRET}"),
            Self::Secret(name) => format!("Secret {name}"),
            Self::Folder(folder) => folder.display().to_string(),
        }
    }
}

/// The CA under one of the two pairs of names.
fn given_from(
    source: &str,
    text: impl Fn(&str) -> Result<Option<String>, RootError>,
) -> Result<CaPem, RootError> {
    if let (Some(certificates), Some(key)) = (text("tls.crt")?, text("tls.key")?) {
        return Ok(CaPem {
            certificates,
            key: KeyPem(key),
            roots: text("ca.crt")?,
        });
    }
    match (text("ca.crt")?, text("ca.key")?) {
        (Some(certificates), Some(key)) => Ok(CaPem {
            // Those above the signing CA may stand in the same file.
            roots: Some(certificates.clone()),
            certificates,
            key: KeyPem(key),
        }),
        _ => Err(RootError::NoKeys(source.to_owned())),
    }
}

/// A file's text; nothing where there is no such file.
fn read(path: &Path) -> Result<Option<String>, RootError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RootError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::make_root;

    #[test]
    fn both_pairs_of_names_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let ca = make_root(SystemTime::now()).unwrap();
        let source = RootSource::Folder(folder.path().to_owned());
        let found = || given_from(&source.name(), |key| read(&folder.path().join(key)));
        assert!(matches!(found(), Err(RootError::NoKeys(_))));
        for (certificate, key) in [("ca.crt", "ca.key"), ("tls.crt", "tls.key")] {
            std::fs::write(folder.path().join(certificate), &ca.certificates).unwrap();
            std::fs::write(folder.path().join(key), &ca.key.0).unwrap();
            let read = found().unwrap();
            assert!(Authority::read(&read).is_ok());
            std::fs::remove_file(folder.path().join(key)).unwrap();
        }
    }

    #[test]
    fn another_key_or_another_bundle_is_another_root() {
        let trust = |ca: &CaPem, bundle: &str| Trust {
            signing: Authority::read(ca).unwrap(),
            bundle: bundle.to_owned(),
        };
        let [one, two] = [(); 2].map(|()| make_root(SystemTime::now()).unwrap());
        let held = trust(&one, "a");
        assert!(held.is_same(&trust(&one, "a")));
        assert!(!held.is_same(&trust(&one, "b")), "another bundle");
        assert!(!held.is_same(&trust(&two, "a")), "another key");
    }

    #[test]
    fn each_root_that_grows_old_is_warned_of_once() {
        let mut warning = AgeWarning::default();
        let passes = [false, true, true, false, true, true];
        let warned = passes.map(|is_old| warning.is_due(is_old));
        assert_eq!(warned, [false, true, false, false, true, false]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tls.crt")).unwrap();
        let error = given_from("x", |key| read(&folder.path().join(key))).unwrap_err();
        assert!(error.to_string().contains("tls.crt: "), "{error}");
    }
}
