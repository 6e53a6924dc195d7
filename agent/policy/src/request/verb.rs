//! Verbs as the API server names them, and sets of them as one machine word.

use std::fmt;

/// A Kubernetes verb, or the lower-case HTTP method of a non-resource request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verb {
    /// `get`: read one object, or GET of a non-resource path.
    Get,
    /// `list`: read a collection.
    List,
    /// `watch`: follow a collection or an object.
    Watch,
    /// `create`.
    Create,
    /// `update`: replace an object.
    Update,
    /// `patch`: change an object, or PATCH of a non-resource path.
    Patch,
    /// `delete`: remove one object, or DELETE of a non-resource path.
    Delete,
    /// `deletecollection`: remove every object that a selector names.
    DeleteCollection,
    /// `head` of a non-resource path.
    Head,
    /// `post` of a non-resource path.
    Post,
    /// `put` of a non-resource path.
    Put,
    /// `options` of a non-resource path.
    Options,
}

impl Verb {
    /// Every verb there is.
    pub const ALL: [Self; 12] = [
        Self::Get,
        Self::List,
        Self::Watch,
        Self::Create,
        Self::Update,
        Self::Patch,
        Self::Delete,
        Self::DeleteCollection,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Options,
    ];

    /// The verb as RBAC and audit write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Head => "head",
            Self::Post => "post",
            Self::Put => "put",
            Self::Options => "options",
        }
    }

    /// The verb of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == name)
    }

    /// Whether the verb asks for a change.
    #[must_use]
    pub fn is_mutating(self) -> bool {
        !matches!(
            self,
            Self::Get | Self::List | Self::Watch | Self::Head | Self::Options
        )
    }

    /// Whether the verb works on a whole collection, so that a missing name means "all of them".
    #[must_use]
    pub fn is_collection(self) -> bool {
        matches!(self, Self::List | Self::Watch | Self::DeleteCollection)
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
    pub(crate) const ALL: Self = Self((1 << Verb::ALL.len()) - 1);

    /// The set with one more verb.
    pub(crate) const fn with(self, verb: Verb) -> Self {
        Self(self.0 | (1 << verb as u16))
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
    fn names_round_trip_and_sets_hold_what_they_were_given() {
        for verb in Verb::ALL {
            assert_eq!(Verb::parse(verb.as_str()), Some(verb));
            assert!(VerbSet::ALL.has(verb));
            assert!(!VerbSet::default().has(verb));
            let one = VerbSet::default().with(verb);
            assert!(
                Verb::ALL
                    .into_iter()
                    .all(|other| one.has(other) == (other == verb))
            );
        }
        assert_eq!(Verb::parse("GET"), None);
        assert!(
            !VerbSet::default()
                .with(Verb::Get)
                .meets(VerbSet::default().with(Verb::List))
        );
    }
}
