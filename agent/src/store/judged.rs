//! What became of the objects of the cluster, when they were last judged.
//!
//! In: a [`Snapshot`] and the policy engine's verdict on each of its objects. Out: for each object whether its latest version is in
//! force, and why not, as its status and as its conditions at the API server.

use std::collections::BTreeMap;

use jiff::Timestamp;
use picket_policy::api::AnyObject;
use picket_policy::api::v1alpha1::{
    AgentIdentitySpec, MAX_NODE_NAMES, Mode, ObjectCondition, Spec as _, State,
};
use picket_policy::{Document, ObjectVerdict};

use super::cluster::{KINDS, Snapshot, SnapshotEntry, condition};

/// Most characters of a condition's message, as the CRDs have it.
const MAX_MESSAGE: usize = 4096;

/// The condition that says whether the latest version is in force.
pub(crate) const READY: &str = "Ready";

/// The reason where the object of the same name in a file is in force, with the stricter state and dates of both.
pub(crate) const LIMITS_FILE: &str = "LimitsFile";

/// The condition that says that one caller could be this agent and another one, that one agent would be two users, or that several
/// workloads claim an exclusive one.
pub(crate) const CONFLICT: &str = "Conflict";

/// The reason of [`CONFLICT`] where one caller could be several agents.
pub(crate) const AMBIGUOUS: &str = "AmbiguousIdentity";

/// The end of a policy's message that is not valid, and of which no valid version is known: it denies everything meanwhile.
pub(crate) const DENIES_EVERYONE: &str =
    ". No valid version is known, so every request of every agent is denied";

/// Likewise of a policy about some agents.
pub(crate) const DENIES_SUBJECTS: &str =
    ". No valid version is known, so every request of the policy's subjects is denied";

/// The objects of the cluster with their verdicts.
#[derive(Debug, Clone, Default)]
pub(super) struct Judged {
    pub(super) snapshot: Snapshot,
    pub(super) verdicts: Vec<ObjectVerdict>,
}

/// One object with its verdict.
#[derive(Debug, Clone, Copy)]
pub(super) struct JudgedObject<'j> {
    pub(super) entry: &'j SnapshotEntry,
    verdict: &'j ObjectVerdict,
    versions: &'j [Document],
}

impl Judged {
    /// The object at a place among [`Judged::objects`].
    pub(super) fn object(&self, place: usize) -> Option<JudgedObject<'_>> {
        Some(JudgedObject {
            entry: self.snapshot.entries.get(place)?,
            verdict: self.verdicts.get(place)?,
            versions: &self.snapshot.objects.get(place)?.versions,
        })
    }

    /// Whether an identity of this name is in force by the cluster.
    pub(super) fn has_identity(&self, name: &str) -> bool {
        let of_name = |object: &JudgedObject<'_>| object.entry.name == name;
        self.objects()
            .filter(of_name)
            .any(|object| object.kind() == AgentIdentitySpec::KIND && object.in_force().is_some())
    }

    /// Each object.
    pub(super) fn objects(&self) -> impl Iterator<Item = JudgedObject<'_>> {
        let all = self.snapshot.entries.iter().zip(&self.snapshot.objects);
        let all = all.zip(&self.verdicts);
        all.map(|((entry, object), verdict)| JudgedObject {
            entry,
            verdict,
            versions: &object.versions,
        })
    }
}

impl<'j> JudgedObject<'j> {
    pub(super) fn kind(&self) -> &'static str {
        KINDS[self.entry.place].kind
    }

    /// Whether the latest version is in force.
    pub(super) fn is_ready(&self) -> bool {
        self.entry.errors.is_empty() && self.verdict.in_force == Some(0)
    }

    /// The version in force.
    pub(super) fn in_force(&self) -> Option<&'j Document> {
        self.versions.get(self.verdict.in_force?)
    }

    /// Why the latest version is not in force and what is instead, or what is worth knowing of it.
    pub(super) fn message(&self) -> String {
        let ObjectVerdict {
            faults,
            conflicts,
            two_users,
            dangling,
            ..
        } = self.verdict;
        let reasons: Vec<_> = if self.is_ready() {
            conflicts.iter().chain(two_users).chain(dangling).collect()
        } else {
            self.entry.errors.iter().chain(faults).collect()
        };
        let reasons: Vec<_> = reasons.into_iter().map(String::as_str).collect();
        let instead = match self.in_force() {
            _ if self.is_ready() => "",
            Some(barrier) if self.entry.has_barrier => denied_instead(barrier),
            Some(last) => last_instead(last),
            None if self.entry.limits_file.is_some() => {
                ". The one in the file stays in force, with the stricter state and dates of both"
            }
            None => ". No version of it is in force",
        };
        let mut message = reasons.join("; ");
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE - instead.len()) {
            message.truncate(end);
        }
        message + instead
    }

    /// Whether the version in force is an exclusive identity.
    fn is_exclusive(&self) -> bool {
        let in_force = self.in_force().map(|document| &document.object);
        matches!(in_force, Some(AnyObject::Identity(identity)) if identity.spec.exclusive)
    }

    /// The conditions that the object should have, where these workloads claim it, each on that node among others.
    pub(super) fn conditions(
        &self,
        workloads: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Vec<ObjectCondition> {
        let ready = self.is_ready();
        let reason = match (ready, self.entry.limits_file) {
            (true, _) => "InForce",
            (false, Some(_)) => LIMITS_FILE,
            (false, None) => "Invalid",
        };
        let generation = self.entry.generation;
        let mut conditions = vec![condition(READY, ready, generation, reason, self.message(), now)];
        let ObjectVerdict {
            conflicts, two_users, ..
        } = self.verdict;
        let contested = contested(workloads).filter(|_| self.is_exclusive());
        let reason = match (conflicts.is_empty(), two_users.is_empty(), &contested) {
            (true, true, None) => return conditions,
            (_, false, _) => "TwoUpstreamUsers",
            (false, true, _) => AMBIGUOUS,
            (true, true, Some(_)) => "SeveralWorkloads",
        };
        let all = two_users.iter().chain(conflicts).chain(&contested);
        let all: Vec<_> = all.map(String::as_str).collect();
        let mut message = all.join("; ");
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(end);
        }
        conditions.push(condition(CONFLICT, true, generation, reason, message, now));
        conditions
    }
}

/// That several workloads claim an exclusive identity.
fn contested(workloads: &BTreeMap<String, String>) -> Option<String> {
    if workloads.len() < 2 {
        return None;
    }
    let named = workloads.iter().take(MAX_NODE_NAMES);
    let named: Vec<_> = named
        .map(|(workload, node)| format!("{workload} on node {node}"))
        .collect();
    Some(format!(
        "the identity is exclusive, and several workloads claim it: {}. On a node with two of them every request of the agent is denied",
        named.join(", ")
    ))
}

/// What is in force in place of a faulty version that is not the first one.
fn last_instead(last: &Document) -> &'static str {
    match &last.object {
        AnyObject::Identity(identity) => match identity.spec.state {
            State::Active => ". The last valid version stays in force",
            State::Suspended => ". The last valid version stays in force, and is suspended",
            State::Revoked => ". The last valid version stays in force, and is revoked",
        },
        AnyObject::Grant(_) | AnyObject::Policy(_) => ". The last valid version stays in force",
    }
}

/// What a policy denies in place of a faulty one.
fn denied_instead(barrier: &Document) -> &'static str {
    let AnyObject::Policy(policy) = &barrier.object else {
        return "";
    };
    match (&policy.spec.subjects, policy.spec.mode) {
        (_, Mode::Audit) => ". No valid version is known, and in mode Audit it denies nothing",
        (Some(_), Mode::Enforce) => DENIES_SUBJECTS,
        (None, Mode::Enforce) => DENIES_EVERYONE,
    }
}
