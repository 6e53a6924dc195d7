//! The one table of verbs, as the API server names them, and sets of verbs as one machine word.
//!
//! In: a verb's name. Out: a [`Verb`], the verbs of equal effect, and sets of them.

use std::fmt;

/// A Kubernetes verb, or the lower-case HTTP method of a non-resource request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verb {
    /// `get`: read one object, or GET of a non-resource path.
    Get,
    /// `head` of a non-resource path.
    Head,
    /// `list`: read a collection.
    List,
    /// `watch`: follow a collection or an object.
    Watch,
    /// `create`.
    Create,
    /// `post` of a non-resource path.
    Post,
    /// `update`: replace an object.
    Update,
    /// `put` of a non-resource path.
    Put,
    /// `patch`: change an object, or PATCH of a non-resource path.
    Patch,
    /// `delete`: remove one object, or DELETE of a non-resource path.
    Delete,
    /// `deletecollection`: remove every object that a selector names.
    DeleteCollection,
    /// `options` of a non-resource path.
    Options,
}

/// What is to be known of a verb.
struct Row {
    verb: Verb,
    /// As RBAC and audit write it.
    name: &'static str,
    /// Requests for resources have it.
    resources: bool,
    /// Requests for other paths have it.
    paths: bool,
    /// It asks for a change.
    mutating: bool,
    /// It works on a whole collection.
    collection: bool,
    /// Further verbs that have its effect, so that a Deny rule about it is about them too: reading one object is also done
    /// by listing or watching it, the first answer of a watch is a list, a patch is an update, and deleting a collection
    /// deletes.
    same_effect: &'static [Verb],
}

/// Every verb, in the order of the enumeration, which is the one that people read them in.
#[rustfmt::skip]
const TABLE: [Row; 12] = {
    use Verb::*;
    const fn row(
        verb: Verb, name: &'static str, [resources, paths, mutating, collection]: [u8; 4], same_effect: &'static [Verb],
    ) -> Row {
        Row {
            verb, name, resources: resources == 1, paths: paths == 1, mutating: mutating == 1, collection: collection == 1,
            same_effect,
        }
    }
    [
        //                                    resources, paths, mutating, collection
        row(Get,              "get",              [1, 1, 0, 0], &[List, Watch, Head]),
        row(Head,             "head",             [0, 1, 0, 0], &[]),
        row(List,             "list",             [1, 0, 0, 1], &[Watch]),
        row(Watch,            "watch",            [1, 0, 0, 1], &[]),
        row(Create,           "create",           [1, 0, 1, 0], &[]),
        row(Post,             "post",             [0, 1, 1, 0], &[]),
        row(Update,           "update",           [1, 0, 1, 0], &[Patch]),
        row(Put,              "put",              [0, 1, 1, 0], &[]),
        row(Patch,            "patch",            [1, 1, 1, 0], &[Update]),
        row(Delete,           "delete",           [1, 1, 1, 0], &[DeleteCollection]),
        row(DeleteCollection, "deletecollection", [1, 0, 1, 1], &[]),
        row(Options,          "options",          [0, 1, 0, 0], &[]),
    ]
};

/// Verbs of roles that no request has, in the order of the alphabet. The API server asks its authorizer for them besides the
/// request's own verb: for `escalate` when a role is written, say. It does so for the impersonated user, and Picket for nobody.
/// `proxy` was a verb of requests up to Kubernetes 1.9, and Kubernetes' own roles still have it.
const ROLE_VERBS: [&str; 9] = [
    "approve",
    "attest",
    "bind",
    "escalate",
    "impersonate",
    "proxy",
    "request-serviceaccounts-token-audience",
    "sign",
    "use",
];

/// The modes of constrained impersonation (KEP-5284). A credential that may impersonate has `impersonate:MODE`, and for each request
/// `impersonate-on:MODE:VERB`. Like [`ROLE_VERBS`] they are verbs of no request.
const IMPERSONATION_MODES: [&str; 4] = ["arbitrary-node", "associated-node", "serviceaccount", "user-info"];

/// Whether roles have a verb that no request has, in a rule about resources or, where `paths` says so, about other paths.
pub(crate) fn is_role_verb(word: &str, paths: bool) -> bool {
    let is_mode = |mode: &str| IMPERSONATION_MODES.contains(&mode);
    if let Some(on) = word.strip_prefix("impersonate-on:") {
        return on.split_once(':').is_some_and(|(mode, verb)| {
            let verb = Verb::parse(verb).map(Verb::row);
            is_mode(mode) && verb.is_some_and(|row| if paths { row.paths } else { row.resources })
        });
    }
    !paths && (ROLE_VERBS.contains(&word) || word.strip_prefix("impersonate:").is_some_and(is_mode))
}

/// Every word that [`is_role_verb`] knows.
pub(crate) fn role_verbs() -> impl Iterator<Item = String> {
    let modes = IMPERSONATION_MODES.into_iter();
    let constrained = modes.flat_map(|mode| {
        let on = Verb::all().map(move |verb| format!("impersonate-on:{mode}:{}", verb.as_str()));
        std::iter::once(format!("impersonate:{mode}")).chain(on)
    });
    ROLE_VERBS.into_iter().map(str::to_owned).chain(constrained)
}

impl Verb {
    /// Whether requests of this verb have an object in admission: a new one, or the one that goes away.
    #[must_use]
    pub fn has_object(self) -> bool {
        matches!(
            self,
            Self::Create | Self::Update | Self::Patch | Self::Delete | Self::DeleteCollection
        )
    }

    /// Every verb there is.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.verb)
    }

    /// The verbs of requests for resources.
    pub fn of_resources() -> impl Iterator<Item = Self> {
        TABLE.iter().filter(|row| row.resources).map(|row| row.verb)
    }

    /// The verbs of requests for other paths: HTTP's methods in lower case.
    pub fn of_paths() -> impl Iterator<Item = Self> {
        TABLE.iter().filter(|row| row.paths).map(|row| row.verb)
    }

    const fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The verb as RBAC and audit write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().name
    }

    /// The verb of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().find(|verb| verb.as_str() == name)
    }

    /// Whether the verb asks for a change.
    #[must_use]
    pub fn is_mutating(self) -> bool {
        self.row().mutating
    }

    /// Whether the verb works on a whole collection, so that a missing name means "all of them".
    #[must_use]
    pub fn is_collection(self) -> bool {
        self.row().collection
    }

    /// The verb and those that have its effect.
    pub(crate) fn with_same_effect(self) -> VerbSet {
        let others = self.row().same_effect.iter();
        others.fold(VerbSet::default().with(self), |set, verb| set.with(*verb))
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of verbs, one bit each, so that a rule that is about other verbs costs one test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct VerbSet(u16);

impl VerbSet {
    /// Every verb.
    pub(crate) const ALL: Self = Self((1 << TABLE.len()) - 1);

    /// The set with one more verb.
    pub(crate) const fn with(self, verb: Verb) -> Self {
        Self(self.0 | (1 << verb as u16))
    }

    /// The verbs of either set.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The verbs that are not in the other set.
    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether a verb is in the set.
    pub(crate) const fn has(self, verb: Verb) -> bool {
        self.0 & (1 << verb as u16) != 0
    }

    /// Whether the two sets share a verb.
    pub(crate) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_the_row_of_its_number_and_is_about_something() {
        for (number, row) in TABLE.iter().enumerate() {
            assert_eq!(row.verb as usize, number, "{}", row.name);
            assert!(row.resources || row.paths, "{}", row.name);
        }
        let names =
            |verbs: &mut dyn Iterator<Item = Verb>| verbs.map(Verb::as_str).collect::<Vec<_>>().join(" ");
        assert_eq!(
            names(&mut Verb::of_resources()),
            "get list watch create update patch delete deletecollection"
        );
        assert_eq!(
            names(&mut Verb::of_paths()),
            "get head post put patch delete options"
        );
        assert_eq!(
            names(&mut Verb::all().filter(|verb| !verb.is_mutating())),
            "get head list watch options"
        );
    }

    #[test]
    fn names_round_trip_and_sets_hold_what_they_were_given() {
        for verb in Verb::all() {
            assert_eq!(Verb::parse(verb.as_str()), Some(verb));
            assert!(VerbSet::ALL.has(verb));
            assert!(!VerbSet::default().has(verb));
            let one = VerbSet::default().with(verb);
            assert!(Verb::all().all(|other| one.has(other) == (other == verb)));
        }
        assert_eq!(Verb::parse("GET"), None);
        assert!(
            !VerbSet::default()
                .with(Verb::Get)
                .meets(VerbSet::default().with(Verb::List))
        );
    }
}
