//! Why a connection never became a request: one enum over the kernel's reasons, the listeners' and this module's own.
//!
//! In: where the connection ended. Out: a code for metrics and records, and what the code means to a person.

use std::sync::Arc;

use crate::audit::Connection;
use crate::kernel::DenyReason;
use crate::listener::UnattributedCause;

/// Why a connection has a record of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum DenialCause {
    /// The kernel denied it; `None` where programs of another version gave a reason that this agent does not know.
    Kernel(Option<DenyReason>),
    /// A listener closed it unread.
    Unattributed(UnattributedCause),
    /// Its process is outside its pod's cgroup.
    CgroupEscape,
    /// The record stands for connections of several causes.
    Several,
}

impl DenialCause {
    /// The word in records and metrics.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Kernel(reason) => reason.map_or("unknown", DenyReason::as_str),
            Self::Unattributed(cause) => cause.code(),
            Self::CgroupEscape => "cgroup_escape",
            Self::Several => "several",
        }
    }

    /// What it means to a person.
    pub(crate) fn explain(self) -> &'static str {
        match self {
            Self::Kernel(Some(reason)) => reason.explain(),
            Self::Kernel(None) => {
                "the kernel programs are of another version and gave a reason that this agent does not know"
            }
            Self::Unattributed(cause) => cause.explain(),
            Self::CgroupEscape => "a process of the pod is outside the pod's cgroup",
            Self::Several => "the connections have several causes",
        }
    }
}

/// A connection that never became a request, and why.
#[derive(Debug)]
pub(crate) struct DeniedConnection {
    cause: DenialCause,
    connection: Connection,
}

impl DeniedConnection {
    /// The connection's record names the cause by its code.
    pub(crate) fn new(cause: DenialCause, connection: Connection) -> Self {
        let reason = cause.code();
        Self {
            cause,
            connection: Connection { reason, ..connection },
        }
    }

    /// Why it was denied.
    pub(crate) fn cause(&self) -> DenialCause {
        self.cause
    }

    /// What the record says.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The same, of a pod that is this AgentIdentity.
    pub(crate) fn of(mut self, identity: Option<Arc<str>>) -> Self {
        self.connection.identity = identity;
        self
    }

    /// The record itself.
    pub(crate) fn into_connection(self) -> Connection {
        self.connection
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_cause_has_a_code_and_words_of_its_own() {
        let kernel = (1..=u8::MAX).map_while(DenyReason::from_code).map(Some);
        let causes: Vec<_> = kernel
            .chain([None])
            .map(DenialCause::Kernel)
            .chain([
                DenialCause::Unattributed(UnattributedCause::Unknown),
                DenialCause::CgroupEscape,
                DenialCause::Several,
            ])
            .collect();
        let codes: HashSet<_> = causes.iter().map(|cause| cause.code()).collect();
        let words: HashSet<_> = causes.iter().map(|cause| cause.explain()).collect();
        assert_eq!((codes.len(), words.len()), (causes.len(), causes.len()));
    }

    #[test]
    fn each_end_at_a_listener_has_words_of_its_own() {
        use UnattributedCause::{Full, Internal, OtherPod, Unknown};
        let words = [Unknown, OtherPod, Full, Internal].map(UnattributedCause::explain);
        assert_eq!(HashSet::from(words).len(), words.len());
    }
}
