//! Which objects of a list or watch an agent does not get to see.
//!
//! In: the Filter rules that are about a request for many objects, and the built-in that keeps Picket's own Secrets. Out: an
//! [`ItemFilter`], which tells of each object by its namespace and name whether it is hidden.

use std::fmt;
use std::sync::Arc;

use super::match_input::{MatchInput, MatchTarget, Scope};
use super::namespaces::Namespaces;
use super::rules::CompiledRule;
use super::shown_namespaces::ShownNamespaces;
use crate::api::v1alpha1::LabelSelector;
use crate::glob::Glob;
use crate::request::{KubeRequest, Target, Verb};

/// What is taken out of the answer to a list or watch. Two are equal where they hide the same objects by the same rules, as long as
/// no namespace's labels change: see [`ItemFilter::is_outdated`].
#[derive(Debug)]
pub struct ItemFilter {
    hidden: Box<[Arc<Hidden>]>,
    /// The namespace that was asked for, which is that of objects that name none.
    namespace: Option<Box<str>>,
    /// Whether the objects are namespaces, each of which counts as being in itself.
    of_namespaces: bool,
    /// What a client was shown, where rules select namespaces by labels.
    shown: Option<ShownNamespaces>,
}

impl PartialEq for ItemFilter {
    fn eq(&self, other: &Self) -> bool {
        fn parts(filter: &ItemFilter) -> (&[Arc<Hidden>], Option<&str>, bool) {
            (&filter.hidden, filter.namespace.as_deref(), filter.of_namespaces)
        }
        parts(self) == parts(other)
    }
}

impl Eq for ItemFilter {}

/// The objects that one rule hides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hidden {
    /// `policy/rule`, or a built-in's name.
    pub(super) rule: Box<str>,
    /// `None` matches anything, as in a rule.
    pub(super) namespaces: Option<Box<[Glob]>>,
    /// By their labels.
    pub(super) selector: Option<Box<LabelSelector>>,
    pub(super) names: Option<Box<[Glob]>>,
    pub(super) except_namespaces: Box<[Glob]>,
    pub(super) except_names: Box<[Glob]>,
}

impl Hidden {
    /// What is in one namespace, whatever its name.
    pub(super) fn namespace(rule: &str, namespace: &str) -> Self {
        Self {
            rule: rule.into(),
            namespaces: Some(Box::new([Glob::Exact(namespace.into())])),
            selector: None,
            names: None,
            except_namespaces: Box::default(),
            except_names: Box::default(),
        }
    }

    /// Whether it hides an object, by what `selects` says of the labels of the object's namespace.
    fn hides(&self, namespace: &str, name: &str, selects: impl Fn(&LabelSelector) -> bool) -> bool {
        let has = |globs: &[Glob], text: &str| globs.iter().any(|glob| glob.matches(text));
        let is_in = |globs: &[Glob]| !namespace.is_empty() && has(globs, namespace);
        self.namespaces.as_deref().is_none_or(is_in)
            && self.names.as_deref().is_none_or(|globs| has(globs, name))
            && !is_in(&self.except_namespaces)
            && !has(&self.except_names, name)
            && self
                .selector
                .as_ref()
                .is_none_or(|selector| !namespace.is_empty() && selects(selector))
    }
}

impl ItemFilter {
    /// The filter of a request; nothing where no rule hides anything.
    pub(super) fn new(
        request: &KubeRequest,
        mut hidden: Vec<Arc<Hidden>>,
        namespaces: &Arc<Namespaces>,
    ) -> Option<Arc<Self>> {
        if hidden.is_empty() {
            return None;
        }
        // The order of files must not make another filter of it.
        hidden.sort_by(|one, other| one.rule.cmp(&other.rule));
        hidden.dedup();
        let selects = hidden.iter().any(|hidden| hidden.selector.is_some());
        Some(Arc::new(Self {
            shown: selects.then(|| ShownNamespaces::new(namespaces)),
            hidden: hidden.into(),
            namespace: request
                .namespace()
                .map(|namespace| namespace.to_ascii_lowercase().into()),
            of_namespaces: is_of_namespaces(request),
        }))
    }

    /// Whether an object with this name is hidden, by the labels of namespaces that the decision had. `namespace` is empty for one that
    /// names none.
    #[must_use]
    pub fn hides(&self, namespace: &str, name: &str) -> bool {
        self.hides_now(None, namespace, name)
    }

    /// Whether rules select namespaces by labels, so that [`ItemFilter::hides_now`] is given them.
    #[must_use]
    pub fn reads_namespaces(&self) -> bool {
        self.shown.is_some()
    }

    /// Whether labels changed by which the client was shown objects, or was not: it would keep what it may no longer see, or has missed
    /// what it may.
    #[must_use]
    pub fn is_outdated(&self, now: &Namespaces) -> bool {
        let selectors = || self.hidden.iter().filter_map(|hidden| hidden.selector.as_deref());
        self.shown
            .as_ref()
            .is_some_and(|shown| shown.differ(selectors, now))
    }

    /// As [`ItemFilter::hides`], by the labels that namespaces have now.
    #[must_use]
    pub fn hides_now(&self, now: Option<&Namespaces>, namespace: &str, name: &str) -> bool {
        let namespace = match (self.of_namespaces, namespace) {
            (true, _) => name,
            (false, "") => self.namespace.as_deref().unwrap_or_default(),
            (false, namespace) => namespace,
        };
        let selects = |selector: &LabelSelector, namespace: &str| match &self.shown {
            Some(shown) => shown.selects(selector, now, namespace),
            None => true,
        };
        let hides = |namespace: &str| {
            let mut hidden = self.hidden.iter();
            hidden.any(|hidden| hidden.hides(namespace, name, |selector| selects(selector, namespace)))
        };
        // Rules have them in lower case, and so has every API server of Kubernetes.
        match namespace.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => hides(&namespace.to_ascii_lowercase()),
            false => hides(namespace),
        }
    }

    /// The rules that it is made of, in order: `policy/rule`, or a built-in's name.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.hidden.iter().map(|hidden| &*hidden.rule)
    }
}

impl fmt::Display for ItemFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rules().collect::<Vec<_>>().join(", "))
    }
}

fn is_of_namespaces(request: &KubeRequest) -> bool {
    matches!(&request.target, Target::Resource { group, resource, .. }
        if group.is_empty() && resource.eq_ignore_ascii_case("namespaces"))
}

/// Whether the answer to a request is a list or a watch whose objects can be taken out. A WebSocket's frames are not read.
pub(super) fn can_be_filtered(request: &KubeRequest) -> bool {
    matches!(request.verb, Verb::List | Verb::Watch)
        && !request.upgrade
        && matches!(
            &request.target,
            Target::Resource {
                subresource: None,
                ..
            }
        )
}

/// A list or watch of namespaces, as a list over all namespaces: what Filter rules hide of a namespace includes the namespace itself. That
/// holds for one that cannot be filtered too, such as a watch over a WebSocket, which such a rule refuses.
pub(super) fn as_over_all_namespaces(request: &KubeRequest) -> Option<MatchInput<'_>> {
    if !is_of_namespaces(request) {
        return None;
    }
    let mut input = MatchInput::new(request);
    match &mut input.target {
        MatchTarget::Resource { namespace, .. } if matches!(namespace, Scope::None) => {
            *namespace = Scope::All
        }
        _ => return None,
    }
    Some(input)
}

impl CompiledRule {
    /// Whether what a rule hides can be told from the rest: a rule about labels hides everything while none are known, and such a list
    /// would look empty.
    pub(super) fn can_hide(&self, namespaces: &Namespaces) -> bool {
        self.selector().is_none() || namespaces.why_unknown().is_none()
    }

    /// Whether a rule that is about a list or watch may be about some of its objects only: the request does not name what the rule does.
    pub(super) fn is_about_some_of(&self, input: &MatchInput<'_>) -> bool {
        let MatchTarget::Resource { namespace, name, .. } = &input.target else {
            return false;
        };
        let open = |scope: &Scope<'_>| matches!(scope, Scope::All);
        (open(namespace) && self.is_about_namespaces()) || (open(name) && self.is_about_names_of_objects())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(texts: &[&str]) -> Box<[Glob]> {
        texts
            .iter()
            .map(|text| Glob::name(text).expect("a glob"))
            .collect()
    }

    fn filter(hidden: Hidden, namespace: Option<&str>, of_namespaces: bool) -> ItemFilter {
        ItemFilter {
            hidden: Box::new([Arc::new(hidden)]),
            namespace: namespace.map(Into::into),
            of_namespaces,
            shown: None,
        }
    }

    #[test]
    fn an_object_is_hidden_by_all_that_the_rule_says() {
        let hidden = Hidden {
            names: Some(globs(&["db-*"])),
            except_names: globs(&["db-public"]),
            except_namespaces: globs(&["lab"]),
            ..Hidden::namespace("p/r", "payments")
        };
        let hidden = Hidden {
            namespaces: Some(globs(&["payments", "lab"])),
            ..hidden
        };
        let filter = filter(hidden, None, false);
        for (namespace, name, hides) in [
            ("payments", "db-1", true),
            ("Payments", "db-1", true),
            ("payments", "web", false),
            ("payments", "db-public", false),
            ("lab", "db-1", false),
            ("other", "db-1", false),
            ("", "db-1", false),
        ] {
            assert_eq!(filter.hides(namespace, name), hides, "{namespace}/{name}");
        }
    }

    #[test]
    fn what_is_in_no_namespace_is_in_none_that_a_glob_names() {
        let all = Hidden {
            namespaces: Some(globs(&["*"])),
            names: Some(globs(&["db"])),
            ..Hidden::namespace("p/r", "")
        };
        assert!(!filter(all, None, false).hides("", "db"));
        let excepted = Hidden {
            namespaces: None,
            names: Some(globs(&["db"])),
            except_namespaces: globs(&["*"]),
            ..Hidden::namespace("p/r", "")
        };
        assert!(filter(excepted, None, false).hides("", "db"));
    }

    #[test]
    fn an_object_without_a_namespace_is_in_the_one_that_was_asked_for_and_a_namespace_is_in_itself() {
        let hidden = || Hidden::namespace("p/r", "payments");
        assert!(filter(hidden(), Some("payments"), false).hides("", "x"));
        assert!(!filter(hidden(), None, false).hides("", "payments"));
        assert!(filter(hidden(), None, true).hides("", "payments"));
        assert!(!filter(hidden(), None, true).hides("", "lab"));
    }
}
