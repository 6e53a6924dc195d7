//! `spec.upstream.onBehalfOf` of an AgentGrant: the people for whom an agent may ask.
//!
//! In: the field of a document. Out: an [`OnBehalfOf`], its part of the schema, and errors that no schema can express.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::field::FieldErrors;
use crate::glob::Glob;
use crate::yaml::FieldPath;

/// The people for whom an agent may ask. The agent sends a person's token in place of its own; the API server is asked as
/// that person, with the user name and the groups that the issuer's claim mappings make of the token.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("anyOf" = [{"required": ["users"]}, {"required": ["groups"]}]))]
pub struct OnBehalfOf {
    /// The issuers whose tokens count, by the URLs that the node's `authentication.configFile` gives them.
    #[schemars(
        length(min = 1),
        inner(regex(pattern = r"^https://[!-~]+$")),
        extend("uniqueItems" = true)
    )]
    pub issuers: Vec<String>,
    /// People by their user names (globs); `*` for everyone of the issuers. With `groups` too, either suffices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1),
        extend("uniqueItems" = true),
        extend("items" = {"type": "string", "minLength": 1, "not": {"pattern": r"^(system:|\s)|\s$"}})
    )]
    pub users: Vec<String>,
    /// People by one of their groups (globs). All groups of such a person are sent, not these alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1),
        extend("uniqueItems" = true),
        extend("items" = {"type": "string", "minLength": 1, "not": {"pattern": r"^(system:|\s)|\s$"}})
    )]
    pub groups: Vec<String>,
}

impl OnBehalfOf {
    /// The people in a few words: `alice@example.com, group sre`.
    #[must_use]
    pub fn in_words(&self) -> String {
        let groups = self.groups.iter().map(|group| format!("group {group}"));
        let people: Vec<_> = self.users.iter().cloned().chain(groups).collect();
        people.join(", ")
    }

    /// Notes what no schema can express.
    pub(super) fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        if self.users.is_empty() && self.groups.is_empty() {
            let reason = format!(
                "field `{path}` names nobody: give users, groups or both; users [\"*\"] is everyone of the issuers"
            );
            errors.add(path.clone(), reason);
        }
        let issuers = path.field("issuers");
        if self.issuers.is_empty() {
            let reason = format!("field `{issuers}` must name at least one issuer by its URL");
            errors.add(issuers.clone(), reason);
        }
        errors.add_each(&issuers, &self.issuers, |issuer| {
            let rest = issuer.strip_prefix("https://").unwrap_or_default();
            let is_url = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic());
            (!is_url).then(|| format!("issuer {issuer:?} is no https URL"))
        });
        for (field, names) in [("users", &self.users), ("groups", &self.groups)] {
            let path = path.field(field);
            errors.add_each(&path, names, |name| match Glob::text(name) {
                Err(error) => Some(format!("field `{path}`: {error}")),
                Ok(_) if name.starts_with("system:") => Some(format!(
                    "{name:?}: no agent asks for the API server's own {field}, which begin with `system:`"
                )),
                Ok(_) => None,
            });
        }
    }
}
