//! `spec.upstream` of an AgentGrant: as whom the API server is asked, and by which credential.
//!
//! In: the field of a document. Out: a [`GrantUpstream`], its part of the schema, and errors that no schema can express.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::on_behalf_of::OnBehalfOf;
use crate::api::field::FieldErrors;
use crate::kubernetes::resources::is_subdomain;
use crate::yaml::FieldPath;

/// The one `system:` group a grant may name: the API server adds it by itself, so it gives nothing more.
const AUTHENTICATED: &str = "system:authenticated";

/// As whom the API server is asked: exactly one of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct GrantUpstream {
    /// The user and groups that the API server is asked to act as, by the node's own credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impersonate: Option<ImpersonatedUser>,
    /// The service account whose short-lived token the request carries. The node's credential gets the token by a TokenRequest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<UpstreamServiceAccount>,
    /// The people for whom the agent may ask. Requests by this grant carry a person's token to Picket, and the API server is asked
    /// to act as that person, by the node's own credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<OnBehalfOf>,
}

/// The user and groups that the API server is asked to act as.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImpersonatedUser {
    /// The user. Of the `system:` users only `system:serviceaccount:NAMESPACE:NAME` can be impersonated.
    #[schemars(
        length(min = 1),
        regex(pattern = r"^[!-~]([ -~]*[!-~])?$"),
        extend("anyOf" = [{"pattern": "^system:serviceaccount:[^:]+:[^:]+$"}, {"not": {"pattern": "^system:"}}])
    )]
    pub user: String,
    /// The groups. Of the `system:` groups only `system:authenticated` can be impersonated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1),
        extend("uniqueItems" = true),
        extend("items" = {
            "type": "string",
            "pattern": r"^[!-~]([ -~]*[!-~])?$",
            "anyOf": [{"pattern": "^system:authenticated$"}, {"not": {"pattern": "^system:"}}],
        })
    )]
    pub groups: Vec<String>,
}

/// A service account whose token requests carry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpstreamServiceAccount {
    /// The service account's namespace, exactly.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub namespace: String,
    /// The service account's name, exactly.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// Whether a header can carry a text, so that what it cannot hold is refused here and not at the first request.
fn fits_header(text: &str) -> bool {
    text.trim() == text && !text.is_empty() && text.bytes().all(|b| (0x20..0x7f).contains(&b))
}

impl GrantUpstream {
    /// As whom the API server is asked, for people: the user's name, or for whom the agent asks; empty where nobody is named.
    #[must_use]
    pub fn in_words(&self) -> String {
        match (&self.impersonate, &self.service_account, &self.on_behalf_of) {
            (Some(user), ..) => user.user.clone(),
            (None, Some(account), _) => {
                format!("system:serviceaccount:{}:{}", account.namespace, account.name)
            }
            (None, None, Some(people)) => format!("on behalf of {}", people.in_words()),
            (None, None, None) => String::new(),
        }
    }

    /// Notes what no schema can express.
    pub(super) fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        let given = [
            ("impersonate", self.impersonate.is_some()),
            ("serviceAccount", self.service_account.is_some()),
            ("onBehalfOf", self.on_behalf_of.is_some()),
        ];
        let given: Vec<_> = given
            .iter()
            .filter(|(_, is_given)| *is_given)
            .map(|(field, _)| *field)
            .collect();
        match given[..] {
            [_] => {}
            [] => {
                let reason = format!(
                    "field `{path}` names nobody: give one of impersonate, serviceAccount and onBehalfOf"
                );
                errors.add(path.clone(), reason);
            }
            _ => {
                let reason = format!(
                    "field `{path}` has {}: a request is sent as one user, so give one of them",
                    given.join(" and ")
                );
                errors.add(path.clone(), reason);
            }
        }
        if let Some(user) = &self.impersonate {
            user.validate(&path.field("impersonate"), errors);
        }
        if let Some(account) = &self.service_account {
            account.validate(&path.field("serviceAccount"), errors);
        }
        if let Some(people) = &self.on_behalf_of {
            people.validate(&path.field("onBehalfOf"), errors);
        }
    }
}

impl UpstreamServiceAccount {
    fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        for (field, name) in [("namespace", &self.namespace), ("name", &self.name)] {
            if !is_subdomain(name) {
                let path = path.field(field);
                let reason = format!("field `{path}` is {name:?}; it must be one plain name, without globs");
                errors.add(path, reason);
            }
        }
    }
}

impl ImpersonatedUser {
    fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        let user = &self.user;
        if !fits_header(user) {
            let reason = "the user must be printable ASCII without blanks around it";
            errors.add(path.field("user"), reason);
        }
        if user.starts_with("system:") && !is_service_account(user) {
            let reason = format!(
                "user {user:?}: of the `system:` users only system:serviceaccount:NAMESPACE:NAME can be impersonated"
            );
            errors.add(path.field("user"), reason);
        }
        errors.add_each(&path.field("groups"), &self.groups, |group| {
            if group == "system:masters" {
                let reason =
                    "group \"system:masters\" passes every check of the API server and is never impersonated";
                Some(reason.to_owned())
            } else if group.starts_with("system:") && group != AUTHENTICATED {
                Some(format!(
                    "group {group:?}: of the `system:` groups only {AUTHENTICATED} can be impersonated; the API \
                     server's own groups carry rights that no grant should hand out"
                ))
            } else {
                let reason = "a group must be printable ASCII without blanks around it";
                (!fits_header(group)).then(|| reason.to_owned())
            }
        });
    }
}

/// `system:serviceaccount:NAMESPACE:NAME`.
fn is_service_account(user: &str) -> bool {
    user.strip_prefix("system:serviceaccount:").is_some_and(|rest| {
        matches!(rest.split(':').collect::<Vec<_>>()[..], [namespace, name] if !namespace.is_empty() && !name.is_empty())
    })
}
