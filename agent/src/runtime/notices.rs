//! What a person who looks at a pod or a node with kubectl should find there: handed on without waiting, posted as Kubernetes
//! Events by whoever reads the other end.
//!
//! In: notices from wherever something calls for a person. Out: the same, through a bounded channel. The audit log and the
//! metrics are the record; a notice may be lost.

use tokio::sync::mpsc;

/// Notices that wait to be posted; a full channel loses further ones.
const WAITING: usize = 256;

/// What a notice is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum About {
    /// This node.
    Node,
    /// A pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID in the API.
        uid: String,
    },
}

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What it is about.
    pub about: About,
    /// What is told, as one of few.
    pub reason: Reason,
    /// The same in a sentence, with what to do where that is known.
    pub note: String,
}

/// What can be told; each is an Event's `reason`, which operators filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The kernel refused what the pod dialled.
    AccessRefused,
    /// A client in the pod does not accept Picket's certificate.
    CertificateRefused,
    /// A process of the pod's is outside its cgroup.
    ProcessMoved,
    /// The pod should be enforced and cannot be; it is closed.
    EnforcementFailed,
    /// Packets of the pod's that pass no socket's hook are not dropped.
    NotCovered,
    /// Somebody took a kernel program away, and it was put back.
    ProgramReplaced,
    /// A kernel program is missing and cannot be put back.
    ProgramMissing,
}

impl Reason {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccessRefused => "AccessRefused",
            Self::CertificateRefused => "CertificateRefused",
            Self::ProcessMoved => "ProcessMoved",
            Self::EnforcementFailed => "EnforcementFailed",
            Self::NotCovered => "NotCovered",
            Self::ProgramReplaced => "ProgramReplaced",
            Self::ProgramMissing => "ProgramMissing",
        }
    }
}

/// Where notices are left; cheap to clone.
#[derive(Debug, Clone)]
pub struct Notices(mpsc::Sender<Notice>);

impl Notices {
    /// A place to leave notices, and where they come out.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    /// Leaves one, or loses it where too many wait.
    pub fn tell(&self, about: About, reason: Reason, note: impl Into<String>) {
        let note = note.into();
        let _lost = self.0.try_send(Notice { about, reason, note });
    }
}
