//! When a change of a file is in force on this node.
//!
//! In: the agent's socket, the object that changed and what it should say. Out: a sentence for the person who changed it: that
//! the agent has it in force, why not, or that no agent answers here.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::admin::Client;
use crate::admin::api::ObjectList;
use crate::store::{IdentityState, ObjectStatus, StatusReason};

/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(20);

/// Whether the agent's objects are as a change wants them.
pub(in crate::cli) type InForce = Box<dyn Fn(&[ObjectStatus]) -> bool>;

/// Whether an object is in force.
pub(in crate::cli) fn is_there(kind: &str, name: &str) -> InForce {
    let (kind, name) = (kind.to_owned(), name.to_owned());
    Box::new(move |objects| {
        objects
            .iter()
            .any(|object| object.ready && object.kind == kind && object.name == name)
    })
}

/// Whether an object is in force no more.
pub(in crate::cli) fn is_gone(kind: &str, name: &str) -> InForce {
    let (kind, name) = (kind.to_owned(), name.to_owned());
    Box::new(move |objects| {
        !objects
            .iter()
            .any(|object| object.kind == kind && object.name == name)
    })
}

/// Whether an identity is in force with this state. One that is shut out is so even where a fault keeps its new version out of
/// force.
pub(in crate::cli) fn has_state(name: &str, state: IdentityState) -> InForce {
    let name = name.to_owned();
    Box::new(move |objects| {
        let is = |object: &ObjectStatus| object.kind == "AgentIdentity" && object.name == name;
        objects.iter().any(|object| {
            is(object) && (object.ready || state != IdentityState::Active) && object.state == Some(state)
        })
    })
}

/// A change that may be written, or is and may not stay: no failure, since what it asks for may hold.
#[derive(Debug, Error)]
#[error("{0}")]
pub(in crate::cli) struct Unsure(pub(in crate::cli) String);

/// What became of a change.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) enum Waited {
    /// The agent has it in force.
    InForce(Duration),
    /// The agent reads the file, and refuses what it says.
    Refused(String),
    /// The agent reads the file, and did not take up the change in time.
    Late,
    /// No agent of this node reads that file.
    Elsewhere(PathBuf),
    /// An agent of the cluster says that it is in force, and what a person should read of it besides.
    InCluster(Duration, Vec<String>),
    /// An agent of the cluster says that of an AgentIdentity, which a file has too, the state and dates are in force.
    LimitsInCluster(Duration, String),
    /// An agent of the cluster says why it is not.
    RefusedByCluster(String),
    /// No agent of the cluster said anything in time.
    LateInCluster,
    /// It is gone from the API server.
    GoneFromCluster,
    /// It is written, and nobody could be asked whether it is in force.
    Unknown(String),
}

impl Waited {
    /// What the person is warned of besides.
    pub(in crate::cli) fn warnings(&self) -> &[String] {
        match self {
            Self::InCluster(_, warnings) => warnings,
            _ => &[],
        }
    }

    /// What the person is told.
    pub(in crate::cli) fn sentence(&self) -> String {
        match self {
            Self::InForce(after) => format!("In force on this node after {} ms.", after.as_millis()),
            Self::Refused(message) => {
                format!("NOT in force on this node: the agent refuses its objects: {message}")
            }
            Self::Late => "NOT in force on this node yet: look at `picket policy status`.".to_owned(),
            Self::Elsewhere(file) => format!(
                "No agent on this node reads {}. Agents that read it take it up within a second or so.",
                file.display()
            ),
            Self::InCluster(after, _) => format!(
                "In force in the cluster after {} ms; each agent takes it up as soon as the API server tells it.",
                after.as_millis()
            ),
            Self::LimitsInCluster(after, message) => format!(
                "Its state and dates are in force in the cluster after {} ms, and nothing else of it: {message}",
                after.as_millis()
            ),
            Self::RefusedByCluster(message) => format!("NOT in force in the cluster: {message}"),
            Self::LateInCluster => {
                "NOT known to be in force yet: no agent has written the object's condition Ready. Does one run with \
                 `objects: {cluster: true}`?"
                    .to_owned()
            }
            Self::GoneFromCluster => {
                "Agents take it out of force as soon as the API server tells them.".to_owned()
            }
            Self::Unknown(error) => format!("Written, and NOT known to be in force: {error}"),
        }
    }
}

/// Whether an agent reads files of a folder, as far as its objects tell: one that has none may.
fn may_read(list: &ObjectList, folder: &Path) -> bool {
    let is_there = |status: &ObjectStatus| {
        let (file, _line) = status.source.rsplit_once(':').unwrap_or((&status.source, ""));
        let of = Path::new(file).canonicalize();
        of.is_ok_and(|file| file.parent() == Some(folder))
    };
    list.objects.is_empty() || list.objects.iter().any(is_there)
}

/// Waits until the agent's objects are as `is_changed` wants them.
pub(in crate::cli) async fn wait(
    socket: &Path,
    file: &Path,
    limit: Duration,
    is_changed: &dyn Fn(&[ObjectStatus]) -> bool,
) -> Waited {
    let client = Client::new(socket.to_owned());
    let elsewhere = || Waited::Elsewhere(file.to_owned());
    let folder = file.parent().map(Path::canonicalize);
    let Some(Ok(folder)) = folder else {
        return elsewhere();
    };
    let began = Instant::now();
    loop {
        let Ok(list) = client.objects().await else {
            return elsewhere();
        };
        if !may_read(&list, &folder) {
            return elsewhere();
        }
        if is_changed(&list.objects) {
            return Waited::InForce(began.elapsed());
        }
        if began.elapsed() > limit {
            let fault = list
                .objects
                .iter()
                .find(|status| status.reason == StatusReason::Invalid);
            return match (list.last_error, fault) {
                (Some(_), Some(fault)) => Waited::Refused(fault.message.clone()),
                (Some(error), None) => Waited::Refused(error),
                (None, _) => Waited::Late,
            };
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_an_agent_nothing_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let (socket, file) = (folder.path().join("none.sock"), folder.path().join("a.yaml"));
        std::fs::write(&file, "").expect("written");
        let waited = wait(&socket, &file, Duration::from_secs(60), &|_| true).await;
        assert_eq!(waited, Waited::Elsewhere(file));
        assert!(
            waited.sentence().starts_with("No agent on this node reads "),
            "{waited:?}"
        );
    }

    #[test]
    fn an_agent_reads_the_folders_that_its_objects_are_from() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("a folder");
        std::fs::write(
            path.join("a.yaml"),
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: a}\nspec: \
             {owner: o, attest: {pod: {namespace: n, serviceAccount: s}}}\n",
        )
        .expect("written");
        let store = crate::store::Store::open(std::slice::from_ref(&path)).expect("valid");
        let list = ObjectList::from(&store);
        assert!(may_read(&list, &path));
        assert!(!may_read(&list, Path::new("/elsewhere")));
        assert!(may_read(&ObjectList::default(), Path::new("/elsewhere")));
    }
}
