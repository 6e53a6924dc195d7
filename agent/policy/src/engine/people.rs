//! The people of a grant on behalf of others, compiled.
//!
//! In: `spec.upstream.onBehalfOf` of an AgentGrant, then persons. Out: whether the grant is for a person, and which names it has
//! in full.

use std::fmt;

use crate::api::v1alpha1::OnBehalfOf;
use crate::glob::Glob;
use crate::person::Person;

/// The people of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct People {
    issuers: Vec<String>,
    users: Vec<Glob>,
    groups: Vec<Glob>,
}

impl People {
    /// Those of an API object. A glob that fails here all the same names nobody.
    pub(super) fn of(people: &OnBehalfOf) -> Self {
        let globs = |texts: &[String]| texts.iter().filter_map(|text| Glob::text(text).ok()).collect();
        Self {
            issuers: people.issuers.clone(),
            users: globs(&people.users),
            groups: globs(&people.groups),
        }
    }

    /// Whether a person is one of them.
    pub(super) fn has(&self, person: &Person) -> bool {
        let is_of_issuer = self.issuers.iter().any(|issuer| issuer == person.issuer());
        let by_name = || self.users.iter().any(|glob| glob.matches(person.username()));
        let by_group = || {
            let mut groups = person.groups().iter();
            groups.any(|group| self.groups.iter().any(|glob| glob.matches(group)))
        };
        is_of_issuer && (by_name() || by_group())
    }

    /// Whether each of them is named, so that no person is one by a glob or by a group.
    #[must_use]
    pub fn are_named(&self) -> bool {
        self.groups.is_empty() && self.users.iter().all(|glob| glob.exact().is_some())
    }

    /// The users that are named without globs.
    pub fn named_users(&self) -> impl Iterator<Item = &str> {
        self.users.iter().filter_map(Glob::exact)
    }

    /// The groups that are named without globs.
    pub fn named_groups(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().filter_map(Glob::exact)
    }
}

impl fmt::Display for People {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = self.users.iter().map(|glob| format!("{glob:?}"));
        let groups = self.groups.iter().map(|glob| format!("group {glob:?}"));
        let all: Vec<_> = users.chain(groups).collect();
        f.write_str(&all.join(", "))
    }
}
