//! What takes effect while the latest version of a cluster's object is not valid, where its last good version is none or would
//! allow too much.
//!
//! In: the object as the API server has it, and the last version that was in force. Out: for an AgentPolicy a policy that denies
//! everything to its subjects; for an AgentIdentity its last good version, shut out as the faulty one says.
//!
//! Likewise an identity of files is shut out as the cluster's identity of the same name says: whoever revokes either of them ends the
//! agent.

use std::borrow::Cow;
use std::collections::HashMap;

use jiff::Timestamp;
use picket_policy::api::AnyObject;
use picket_policy::api::v1alpha1::{AgentIdentitySpec, State, WhenOverdue};
use picket_policy::{Document, INVALID_POLICY, INVALID_POLICY_PATHS};
use serde_json::{Value, json};

use super::cluster::Snapshot;
use super::status::standing;

/// What a refused agent reads.
const MESSAGE: &str = "the AgentPolicy is not valid, and no valid version of it is known: everything is denied until it is corrected or deleted";

/// A policy that denies everything to the subjects of a faulty one of which no version is known to be good, or to every agent where
/// the subjects cannot be read either. `read` makes a document of a spec.
///
/// It does not matter whether there ever was a good version. An agent that has just started cannot know, and what one version of
/// Picket cannot read another one may have in force.
pub(super) fn barrier(spec: &Value, read: impl Fn(&Value) -> Option<Document>) -> Option<Document> {
    let rule = |rule: &str, matched: Value| json!({"name": rule, "match": matched, "action": "Deny", "message": MESSAGE});
    let mut everyone = json!({"rules": [
        rule(INVALID_POLICY, json!({"resources": ["*"]})),
        rule(INVALID_POLICY_PATHS, json!({"nonResourceURLs": ["*"]})),
    ]});
    // Such a policy refuses nothing when it is valid either.
    if spec.get("mode").is_some_and(|mode| mode == "Audit") {
        everyone["mode"] = json!("Audit");
    }
    let of_subjects = spec.get("subjects").and_then(|subjects| {
        let mut spec = everyone.clone();
        spec["subjects"] = subjects.clone();
        read(&spec)
    });
    of_subjects.or_else(|| read(&everyone))
}

/// The last good version of an identity, where the faulty version shuts its agent out: suspended, revoked, in a state that is not
/// known here, expiring sooner, or suspended sooner by an overdue review. A fault elsewhere in the object must not keep the agent going.
pub(super) fn shut_out(good: &Document, spec: &Value) -> Option<Document> {
    let AnyObject::Identity(identity) = &good.object else {
        return None;
    };
    // The review's date of the version before counts where the faulty one's cannot be read.
    let review_by = identity.spec.review_by;
    limited(good, spec, review_by)
}

/// The identity with the stricter state and dates of it and of `spec`, where these are stricter. `review_by` is the review's date where
/// `spec` has none.
fn limited(good: &Document, spec: &Value, review_by: Option<Timestamp>) -> Option<Document> {
    let mut shut = good.clone();
    let AnyObject::Identity(identity) = &mut shut.object else {
        return None;
    };
    let said = state_of(spec);
    let limits = |spec: &AgentIdentitySpec| (spec.state, spec.expires_at, spec.suspended_from());
    let before = limits(&identity.spec);
    let (state, expires_at, suspended_from) = before;
    identity.spec.state = stricter(state, said);
    identity.spec.expires_at = expires_at.into_iter().chain(moment(spec, "expiresAt")).min();
    // A word that is not known here may shut out too.
    let suspends = spec.get("whenOverdue").is_some_and(|word| word != "Warn");
    let review_by = moment(spec, "reviewBy").or(review_by);
    let suspended = review_by.filter(|_| suspends);
    if let Some(from) = suspended_from.into_iter().chain(suspended).min() {
        identity.spec.review_by = Some(from);
        identity.spec.when_overdue = WhenOverdue::Suspend;
    }
    (limits(&identity.spec) != before).then_some(shut)
}

/// The fields of an identity by which it may shut its agent out.
const LIMITS: [&str; 4] = ["state", "expiresAt", "reviewBy", "whenOverdue"];

/// These fields of an identity, which may be faulty; `None` where it has none of them.
pub(super) fn limits(spec: &Value) -> Option<Value> {
    let said = LIMITS
        .iter()
        .filter_map(|field| Some(((*field).to_owned(), spec.get(field)?.clone())));
    let said: serde_json::Map<_, _> = said.collect();
    (!said.is_empty()).then_some(Value::Object(said))
}

/// The files' objects beside those of the cluster: an identity of both has the stricter state and dates. Notes at the cluster's
/// which they are.
pub(super) fn beside<'d>(files: &'d [Document], snapshot: &mut Snapshot) -> Cow<'d, [Document]> {
    let limiting = snapshot.entries.iter_mut().filter(|entry| entry.limits.is_some());
    let mut limiting = limiting.peekable();
    let mut documents = Cow::Borrowed(files);
    if limiting.peek().is_none() {
        return documents;
    }
    let identities = files.iter().enumerate();
    let identities = identities.filter(|(_, document)| matches!(document.object, AnyObject::Identity(_)));
    let places: HashMap<_, _> = identities
        .map(|(place, document)| (document.name(), place))
        .collect();
    for entry in limiting {
        let place = places.get(entry.name.as_str()).copied();
        let (Some(place), Some(limits)) = (place, &entry.limits) else {
            continue;
        };
        // The dates of one object are read together: a review of the file's is not suspended by the cluster's word.
        if let Some(shut) = limited(&files[place], limits, None) {
            entry.limits_file = standing(&shut);
            documents.to_mut()[place] = shut;
        } else if state_of(limits) != State::Active {
            // The file shuts the agent out as well, or more: it is as the cluster's object says.
            entry.limits_file = standing(&files[place]);
        }
    }
    documents
}

/// A field's moment, where it can be read.
fn moment(spec: &Value, field: &str) -> Option<Timestamp> {
    spec.get(field).and_then(Value::as_str)?.parse().ok()
}

/// The state that a spec says, which may be faulty.
fn state_of(spec: &Value) -> State {
    let said = spec.get("state");
    stated(said.map(|state| state.as_str().unwrap_or_default()))
}

/// The state that a faulty identity gives its agent. One that is not known here shuts it out.
pub(super) fn stated(state: Option<&str>) -> State {
    match state {
        None | Some("Active") => State::Active,
        Some("Revoked") => State::Revoked,
        Some(_) => State::Suspended,
    }
}

/// The state that allows less.
pub(super) fn stricter(one: State, other: State) -> State {
    match (one, other) {
        (State::Revoked, _) | (_, State::Revoked) => State::Revoked,
        (State::Suspended, _) | (_, State::Suspended) => State::Suspended,
        (State::Active, State::Active) => State::Active,
    }
}
