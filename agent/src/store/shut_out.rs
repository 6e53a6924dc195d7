//! Agents that files shut out while another object in them is faulty.
//!
//! In: the files' objects that stood together last, and what the files say now. Out: the same objects, with each identity suspended or
//! revoked that the files suspend, revoke or no longer have. Files come into force all together; an agent that must be stopped cannot
//! wait for that.

use std::collections::BTreeMap;

use picket_policy::Document;
use picket_policy::api::AnyObject;
use picket_policy::api::v1alpha1::{AgentIdentitySpec, Spec as _, State};

use super::Readings;
use super::stand_in::{stated, stricter};

/// Who must be shut out at once, and how, by the identities' names.
pub(super) type ShutOut = BTreeMap<String, ShutOutBy>;

/// How an agent is shut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShutOutBy {
    /// Its identity says this state.
    State(State),
    /// No file has its identity any more.
    Removal,
}

impl ShutOutBy {
    /// The state that the identity has meanwhile.
    pub(super) fn state(self) -> State {
        match self {
            Self::State(state) => state,
            Self::Removal => State::Revoked,
        }
    }
}

/// Which identities of `good` the files shut out now.
pub(super) fn shut_out(good: &[Document], readings: &Readings) -> ShutOut {
    let said = said(readings);
    let identities = good.iter().filter_map(|document| match &document.object {
        AnyObject::Identity(identity) => Some((document, identity)),
        AnyObject::Grant(_) | AnyObject::Policy(_) => None,
    });
    let shut = identities.filter_map(|(document, identity)| {
        let name = document.name();
        let by = match said.get(name) {
            Some(state) => ShutOutBy::State(stricter(identity.spec.state, *state)),
            None if is_removed(document, readings) => ShutOutBy::Removal,
            None => return None,
        };
        (by.state() != identity.spec.state).then(|| (name.to_owned(), by))
    });
    shut.collect()
}

/// The states that the files give identities, faulty ones too: a fault elsewhere in an object must not keep its agent going.
fn said(readings: &Readings) -> BTreeMap<&str, State> {
    let mut said = BTreeMap::new();
    let entries = readings.iter().flat_map(|(_, reading)| &reading.entries);
    for entry in entries.filter(|entry| entry.kind == AgentIdentitySpec::KIND) {
        let state = stated(entry.state.as_deref());
        // Two of one name are a fault of their own, and the stricter one counts.
        let known = said.entry(entry.name.as_str()).or_insert(state);
        *known = stricter(*known, state);
    }
    said
}

/// Whether an object that no file has any more was taken out. A file that cannot be read to its end may still have it.
fn is_removed(document: &Document, readings: &Readings) -> bool {
    let file = document.name_location().file;
    let of_file = readings.iter().find(|(name, _)| **name == *file);
    of_file.is_none_or(|(_, reading)| reading.errors.is_empty())
}

/// The objects with these states.
pub(super) fn with_states(good: &[Document], shut: &ShutOut) -> Vec<Document> {
    let mut documents = good.to_vec();
    for document in &mut documents {
        if let AnyObject::Identity(identity) = &mut document.object
            && let Some(by) = shut.get(&identity.metadata.name)
        {
            identity.spec.state = by.state();
        }
    }
    documents
}
