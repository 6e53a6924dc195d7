//! AgentIdentity: `owner`, `groups`, `state`, `expiresAt`, `reviewBy`, `attest.pod`.

use super::{AgentIdentity, LabelTest, PodAttest, Requirement, Selector, State};
use crate::kubernetes::resources::is_subdomain;
use crate::yaml::{Decoder, Fields, Node, Spanned, Value};

/// Reads the spec of an identity.
pub(in crate::api) fn read(
    decoder: &mut Decoder,
    name: Option<Spanned<String>>,
    spec: &Node,
) -> Option<AgentIdentity> {
    let known = ["owner", "groups", "state", "expiresAt", "reviewBy", "attest"];
    let fields = decoder.fields(spec, "spec", &known, &[])?;
    let owner = decoder.required_text(&fields, "owner");
    let groups = decoder.texts(&fields, "groups").unwrap_or_default();
    for group in &groups {
        if group.value.starts_with("system:") || group.value.trim() != group.value || group.value.is_empty() {
            let reason = format!(
                "group {:?}: Picket's groups are names of your own, without `system:`",
                group.value
            );
            decoder.error_at(&group.at, reason);
        }
    }
    let state = match fields.get("state") {
        Some(node) => {
            let states = [
                ("Active", State::Active),
                ("Suspended", State::Suspended),
                ("Revoked", State::Revoked),
            ];
            decoder.choice(node, &fields.path("state"), &states)?
        }
        None => State::Active,
    };
    let expires_at = decoder.moment(&fields, "expiresAt");
    let review_by = decoder.moment(&fields, "reviewBy");
    let attest = decoder.required(&fields, "attest")?;
    let attest = decoder.fields(attest, "spec.attest", &["pod"], &["jwt", "spiffe"])?;
    let pod = decoder.required(&attest, "pod")?;
    let pod = decoder.fields(
        pod,
        "spec.attest.pod",
        &["namespace", "serviceAccount", "selector"],
        &[],
    )?;
    let namespace = plain_name(decoder, &pod, "namespace");
    let service_account = plain_name(decoder, &pod, "serviceAccount");
    let selector = match pod.get("selector") {
        Some(node) => selector(decoder, node, "spec.attest.pod.selector")?,
        None => Selector::default(),
    };
    Some(AgentIdentity {
        name: name?,
        owner: owner?.value,
        groups: groups.into_iter().map(|group| group.value).collect(),
        state,
        expires_at,
        review_by,
        pod: PodAttest {
            namespace: namespace?,
            service_account: service_account?,
            selector,
        },
    })
}

/// A name that is compared exactly: no globs where they would widen who an agent is.
fn plain_name(decoder: &mut Decoder, fields: &Fields<'_>, name: &str) -> Option<String> {
    let text = decoder.required_text(fields, name)?;
    if is_subdomain(&text.value) {
        return Some(text.value);
    }
    let reason = format!(
        "field `{}` is {:?}; it must be one plain name, without globs",
        fields.path(name),
        text.value
    );
    decoder.error_at(&text.at, reason);
    None
}

fn selector(decoder: &mut Decoder, node: &Node, path: &str) -> Option<Selector> {
    let fields = decoder.fields(node, path, &["matchLabels", "matchExpressions"], &[])?;
    let mut requirements = Vec::new();
    if let Some(labels) = fields.get("matchLabels") {
        let path = fields.path("matchLabels");
        let Value::Map(entries) = &labels.value else {
            decoder.error_at(
                labels,
                format!(
                    "field `{path}` must be a mapping, not {}",
                    labels.value.describe()
                ),
            );
            return None;
        };
        for (key, value) in entries {
            let (Some(key), Some(value)) = (decoder.text(key, &path), decoder.text(value, &path)) else {
                continue;
            };
            requirements.push(Requirement {
                key: key.value,
                test: LabelTest::In(vec![value.value]),
            });
        }
    }
    if let Some(expressions) = fields.get("matchExpressions") {
        let path = fields.path("matchExpressions");
        for (index, item) in decoder.list(expressions, &path).iter().enumerate() {
            requirements.extend(requirement(decoder, item, &format!("{path}[{index}]")));
        }
    }
    Some(Selector(requirements))
}

fn requirement(decoder: &mut Decoder, node: &Node, path: &str) -> Option<Requirement> {
    let fields = decoder.fields(node, path, &["key", "operator", "values"], &[])?;
    let key = decoder.required_text(&fields, "key")?.value;
    let operator = decoder.required(&fields, "operator")?;
    let values = decoder.texts(&fields, "values");
    let words = [("In", 0), ("NotIn", 1), ("Exists", 2), ("DoesNotExist", 3)];
    let operator = decoder.choice(operator, &fields.path("operator"), &words)?;
    let test = match (operator, values) {
        (0 | 1, None) => {
            decoder.error_at(
                fields.node,
                format!("field `{}` is required with In and NotIn", fields.path("values")),
            );
            return None;
        }
        (2 | 3, Some(_)) => {
            let reason = format!(
                "field `{}` has no place with Exists and DoesNotExist",
                fields.path("values")
            );
            decoder.error_at(fields.node, reason);
            return None;
        }
        (0, Some(values)) => LabelTest::In(values.into_iter().map(|value| value.value).collect()),
        (1, Some(values)) => LabelTest::NotIn(values.into_iter().map(|value| value.value).collect()),
        (2, None) => LabelTest::Exists,
        (_, _) => LabelTest::DoesNotExist,
    };
    Some(Requirement { key, test })
}
