//! What is known of the cluster's namespaces: their labels, for `namespaceSelector`, and their objects, for `namespaceObject`.
//!
//! In: namespaces as the API server has them, or why they are not known. Out: a [`Namespaces`], which whoever decides hands in with
//! [`Inputs`](super::Inputs). What is not known counts as a match, so that no rule is passed by while nobody can tell.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::overlap;
use crate::api::v1alpha1::{LabelOperator, LabelSelector};

/// The label that the API server gives to each namespace: its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The metadata that a ValidatingAdmissionPolicy shows of a namespace (k8s.io/apiserver, pkg/admission/plugin/cel,
/// `CreateNamespaceObject`).
const METADATA: [&str; 12] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "name",
    "namespace",
    "resourceVersion",
    "uid",
];

/// Why a namespace is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownNamespace {
    /// Nobody told of it, as in a test that names no namespaces.
    NotGiven,
    /// The API server has not listed the namespaces yet.
    NotListed,
    /// The API server refuses to list them.
    Forbidden,
    /// Their watch has been failing for a while.
    WatchFails,
    /// The API server has told of no such namespace. It may just have been created.
    Absent,
    /// It is larger than what is kept.
    TooLarge,
    /// The request is over all namespaces, so that there is no one namespace to look at.
    All,
}

impl fmt::Display for UnknownNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotGiven => "it is none of the namespaces that were given",
            Self::NotListed => "the API server has not listed the namespaces yet",
            Self::Forbidden => "the API server does not let Picket list namespaces",
            Self::WatchFails => "Picket cannot watch the namespaces at present",
            Self::Absent => "the API server has told of no such namespace",
            Self::TooLarge => "it is larger than Picket keeps",
            Self::All => "the request is over all namespaces",
        })
    }
}

/// Which parts of namespaces a set of policies looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum NamespaceUse {
    /// Nothing.
    #[default]
    Nothing,
    /// Their labels.
    Labels,
    /// All of them.
    Objects,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespaceFacts {
    labels: BTreeMap<String, String>,
    /// What an expression sees of it; `None` where the labels alone are kept.
    object: Option<Json>,
    /// Nothing of it is kept.
    is_too_large: bool,
}

impl NamespaceFacts {
    /// The name and the facts of a Namespace object; nothing where it has no name. Without `whole` its labels alone.
    #[must_use]
    pub fn of_object(object: &Json, whole: bool) -> Option<(String, Self)> {
        let metadata = object.get("metadata")?.as_object()?;
        let name = metadata.get("name")?.as_str()?.to_owned();
        let labels = metadata.get("labels").and_then(Json::as_object);
        let labels = labels.into_iter().flatten();
        let labels = labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()));
        let facts = Self {
            labels: labels.collect(),
            object: whole.then(|| shown(object, metadata)),
            is_too_large: false,
        };
        Some((name, facts))
    }

    /// A namespace that somebody describes: as an API server would have it, with the label of its name.
    #[must_use]
    pub fn described(
        name: &str,
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
    ) -> Self {
        let mut labels = labels.clone();
        labels.insert(NAME_LABEL.to_owned(), name.to_owned());
        let object = json!({
            "metadata": {"name": name, "labels": labels, "annotations": annotations},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        });
        Self {
            labels,
            object: Some(object),
            is_too_large: false,
        }
    }

    /// One that is too large to be kept.
    #[must_use]
    pub fn too_large() -> Self {
        Self {
            is_too_large: true,
            ..Self::default()
        }
    }

    /// How many bytes of text it holds, about.
    #[must_use]
    pub fn size(&self) -> usize {
        let labels = self.labels.iter().map(|(key, value)| key.len() + value.len());
        labels.sum::<usize>() + self.object.as_ref().map_or(0, text_of)
    }
}

/// What an expression sees of a namespace.
fn shown(object: &Json, metadata: &Map<String, Json>) -> Json {
    let kept = METADATA.iter();
    let kept = kept.filter_map(|name| Some(((*name).to_owned(), metadata.get(*name)?.clone())));
    let part = |name: &str| object.get(name).cloned().unwrap_or_else(|| json!({}));
    json!({"metadata": Json::Object(kept.collect()), "spec": part("spec"), "status": part("status")})
}

fn text_of(value: &Json) -> usize {
    match value {
        Json::String(text) => text.len(),
        Json::Array(list) => list.iter().map(text_of).sum(),
        Json::Object(map) => map.iter().map(|(key, value)| key.len() + text_of(value)).sum(),
        _ => 8,
    }
}

/// What is known of all namespaces at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces(State);

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// These are known, and others are not, for this reason.
    Known(HashMap<Box<str>, Arc<NamespaceFacts>>, UnknownNamespace),
    /// None is known.
    Unknown(UnknownNamespace),
    /// No rule that asks for a namespace fires. Only a replay judges so: it compares with what fires where nothing is known.
    Silent,
}

/// Whether a selector selects a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Selected {
    Yes,
    No,
    /// It counts as selected.
    Unknown(UnknownNamespace),
}

/// What an expression has for `namespaceObject`.
pub(super) enum NamespaceObject<'n> {
    Known(&'n Json),
    /// The expression has no outcome.
    Unknown(UnknownNamespace),
    /// The rule does not fire.
    Silent,
}

impl Namespaces {
    /// None is known, for this reason.
    #[must_use]
    pub fn unknown(why: UnknownNamespace) -> Self {
        Self(State::Unknown(why))
    }

    /// All namespaces of a cluster.
    #[must_use]
    pub fn listed(all: impl IntoIterator<Item = (String, NamespaceFacts)>) -> Self {
        Self::known(all, UnknownNamespace::Absent)
    }

    /// Those that somebody described; others are not known.
    #[must_use]
    pub fn given(some: impl IntoIterator<Item = (String, NamespaceFacts)>) -> Self {
        Self::known(some, UnknownNamespace::NotGiven)
    }

    fn known(some: impl IntoIterator<Item = (String, NamespaceFacts)>, otherwise: UnknownNamespace) -> Self {
        let some = some.into_iter();
        let some = some.map(|(name, facts)| (name.into_boxed_str(), Arc::new(facts)));
        Self(State::Known(some.collect(), otherwise))
    }

    /// As if no rule that asks for a namespace fired.
    pub(crate) fn silent() -> Self {
        Self(State::Silent)
    }

    /// The same with another state of one namespace; nothing where that changes nothing, or none is known at all.
    #[must_use]
    pub fn with(&self, name: &str, facts: Option<NamespaceFacts>) -> Option<Self> {
        let State::Known(known, otherwise) = &self.0 else {
            return None;
        };
        if known.get(name).map(|known| &**known) == facts.as_ref() {
            return None;
        }
        let mut known = known.clone();
        match facts {
            Some(facts) => drop(known.insert(name.into(), Arc::new(facts))),
            None => drop(known.remove(name)),
        }
        Some(Self(State::Known(known, *otherwise)))
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            State::Known(known, _) => known.len(),
            State::Unknown(_) | State::Silent => 0,
        }
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes of text they hold, about.
    #[must_use]
    pub fn size(&self) -> usize {
        match &self.0 {
            State::Known(known, _) => known.values().map(|facts| facts.size()).sum(),
            State::Unknown(_) | State::Silent => 0,
        }
    }

    /// Why none is known.
    #[must_use]
    pub fn why_unknown(&self) -> Option<UnknownNamespace> {
        match &self.0 {
            State::Unknown(why) => Some(*why),
            State::Known(..) | State::Silent => None,
        }
    }

    /// The names of those that are known.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let known = match &self.0 {
            State::Known(known, _) => Some(known.keys()),
            State::Unknown(_) | State::Silent => None,
        };
        known.into_iter().flatten().map(|name| &**name)
    }

    fn facts(&self, name: &str) -> Result<&NamespaceFacts, Option<UnknownNamespace>> {
        match &self.0 {
            State::Known(known, otherwise) => {
                let found = match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    // API servers write them in lower case; another spelling must find the same one.
                    true => known.get(&*name.to_ascii_lowercase()),
                    false => known.get(name),
                };
                match found {
                    Some(facts) if facts.is_too_large => Err(Some(UnknownNamespace::TooLarge)),
                    Some(facts) => Ok(facts),
                    None => Err(Some(*otherwise)),
                }
            }
            State::Unknown(why) => Err(Some(*why)),
            State::Silent => Err(None),
        }
    }

    /// Whether a selector selects a namespace.
    pub(super) fn selected(&self, selector: &LabelSelector, name: &str) -> Selected {
        match self.facts(name) {
            Ok(facts) if overlap::matches(Some(selector), &facts.labels) => Selected::Yes,
            Ok(_) | Err(None) => Selected::No,
            Err(Some(why)) => Selected::Unknown(why),
        }
    }

    /// A namespace as an expression has it.
    pub(super) fn object(&self, name: &str) -> NamespaceObject<'_> {
        match self.facts(name).map(|facts| facts.object.as_ref()) {
            Ok(Some(object)) => NamespaceObject::Known(object),
            // Their labels alone were needed until now.
            Ok(None) => NamespaceObject::Unknown(UnknownNamespace::NotListed),
            Err(Some(why)) => NamespaceObject::Unknown(why),
            Err(None) => NamespaceObject::Silent,
        }
    }
}

/// A selector as `kubectl get --selector` writes it.
pub(super) fn selector_in_words(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter();
    let labels = labels.map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().map(|requirement| {
        let (key, values) = (&requirement.key, requirement.values.join(","));
        match requirement.operator {
            LabelOperator::In => format!("{key} in ({values})"),
            LabelOperator::NotIn => format!("{key} notin ({values})"),
            LabelOperator::Exists => key.clone(),
            LabelOperator::DoesNotExist => format!("!{key}"),
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(value: &str) -> NamespaceFacts {
        let labels = BTreeMap::from([("env".to_owned(), value.to_owned())]);
        NamespaceFacts::described("shop", &labels, &BTreeMap::new())
    }

    fn prod() -> LabelSelector {
        LabelSelector {
            match_labels: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
            ..LabelSelector::default()
        }
    }

    #[test]
    fn a_namespace_is_selected_by_its_labels_and_what_is_not_known_is_told_apart() {
        let known = Namespaces::listed([("shop".to_owned(), facts("prod"))]);
        assert_eq!(known.selected(&prod(), "shop"), Selected::Yes);
        assert_eq!(known.selected(&prod(), "SHOP"), Selected::Yes);
        let absent = Selected::Unknown(UnknownNamespace::Absent);
        assert_eq!(known.selected(&prod(), "other"), absent);
        let changed = known.with("shop", Some(facts("dev"))).expect("a change");
        assert_eq!(changed.selected(&prod(), "shop"), Selected::No);
        assert_eq!(changed.with("shop", Some(facts("dev"))), None);
        let gone = changed.with("shop", None).expect("a change");
        assert_eq!(gone.selected(&prod(), "shop"), absent);
        let unknown = Namespaces::unknown(UnknownNamespace::Forbidden);
        let why = Selected::Unknown(UnknownNamespace::Forbidden);
        assert_eq!(unknown.selected(&prod(), "shop"), why);
        assert_eq!(unknown.with("shop", Some(facts("dev"))), None);
        assert_eq!(Namespaces::silent().selected(&prod(), "shop"), Selected::No);
        let large = Namespaces::listed([("shop".to_owned(), NamespaceFacts::too_large())]);
        let why = Selected::Unknown(UnknownNamespace::TooLarge);
        assert_eq!(large.selected(&prod(), "shop"), why);
    }

    #[test]
    fn an_expression_sees_what_an_admission_policy_sees() {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "shop", "uid": "u", "resourceVersion": "7", "labels": {"env": "prod"},
                         "managedFields": [{"manager": "m"}], "ownerReferences": []},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        });
        let (name, whole) = NamespaceFacts::of_object(&object, true).expect("a namespace");
        let seen = json!({
            "metadata": {"name": "shop", "uid": "u", "resourceVersion": "7", "labels": {"env": "prod"}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        });
        assert_eq!((name.as_str(), whole.object), ("shop", Some(seen)));
        let (_, labels) = NamespaceFacts::of_object(&object, false).expect("a namespace");
        assert_eq!(labels.object, None);
        let known = Namespaces::listed([("shop".to_owned(), labels)]);
        assert_eq!(known.selected(&prod(), "shop"), Selected::Yes);
        assert!(matches!(
            known.object("shop"),
            NamespaceObject::Unknown(UnknownNamespace::NotListed)
        ));
        assert!(NamespaceFacts::of_object(&json!({"metadata": {}}), true).is_none());
    }

    /// By it a node's memory is bounded, so that all that may be long counts.
    #[test]
    fn the_size_of_a_namespace_counts_labels_and_all_of_its_object() {
        let object = json!({"metadata": {
            "name": "shop", "generation": 1, "labels": {"env": "prod"}, "finalizers": ["a/b"],
        }});
        let (_, labels) = NamespaceFacts::of_object(&object, false).expect("a namespace");
        assert_eq!(labels.size(), "env".len() + "prod".len());
        let (_, whole) = NamespaceFacts::of_object(&object, true).expect("a namespace");
        let texts = "metadata name shop generation labels env prod finalizers a/b spec status";
        let texts: usize = texts.split(' ').map(str::len).sum();
        assert_eq!(whole.size(), labels.size() + texts + 8);
        assert_eq!(NamespaceFacts::too_large().size(), 0);
    }

    #[test]
    fn a_selector_reads_as_kubectl_writes_it() {
        let selector: LabelSelector = serde_json::from_value(json!({
            "matchLabels": {"env": "prod"},
            "matchExpressions": [
                {"key": "team", "operator": "In", "values": ["a", "b"]},
                {"key": "tier", "operator": "NotIn", "values": ["c"]},
                {"key": "x", "operator": "Exists"},
                {"key": "y", "operator": "DoesNotExist"},
            ],
        }))
        .expect("a selector");
        let words = "env=prod,team in (a,b),tier notin (c),x,!y";
        assert_eq!(selector_in_words(&selector), words);
    }
}
