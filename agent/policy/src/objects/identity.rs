//! AgentIdentity: `owner`, `groups`, `state`, `expiresAt`, `reviewBy`, `attest.pod`.

use super::fields::{Fields, Reader, is_subdomain};
use super::tree::{Node, Value};
use super::{AgentIdentity, LabelTest, Located, PodAttest, Requirement, Selector, State};

/// Reads the spec of an identity.
pub(super) fn read(reader: &mut Reader, name: Option<Located<String>>, spec: &Node) -> Option<AgentIdentity> {
    let known = ["owner", "groups", "state", "expiresAt", "reviewBy", "attest"];
    let fields = reader.fields(spec, "spec", &known, &[])?;
    let owner = reader.required_text(&fields, "owner");
    let groups = reader.texts(&fields, "groups").unwrap_or_default();
    for group in &groups {
        if group.value.starts_with("system:") || group.value.trim() != group.value || group.value.is_empty() {
            let reason = format!(
                "group {:?}: Picket's groups are names of your own, without `system:`",
                group.value
            );
            reader.fault_at(&group.at, reason);
        }
    }
    let state = match fields.get("state") {
        Some(node) => {
            let states = [
                ("Active", State::Active),
                ("Suspended", State::Suspended),
                ("Revoked", State::Revoked),
            ];
            reader.choice(node, &fields.path("state"), &states)?
        }
        None => State::Active,
    };
    let expires_at = reader.moment(&fields, "expiresAt");
    let review_by = reader.moment(&fields, "reviewBy");
    let attest = reader.required(&fields, "attest")?;
    let attest = reader.fields(attest, "spec.attest", &["pod"], &["jwt", "spiffe"])?;
    let pod = reader.required(&attest, "pod")?;
    let pod = reader.fields(
        pod,
        "spec.attest.pod",
        &["namespace", "serviceAccount", "selector"],
        &[],
    )?;
    let namespace = plain_name(reader, &pod, "namespace");
    let service_account = plain_name(reader, &pod, "serviceAccount");
    let selector = match pod.get("selector") {
        Some(node) => selector(reader, node, "spec.attest.pod.selector")?,
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
fn plain_name(reader: &mut Reader, fields: &Fields<'_>, name: &str) -> Option<String> {
    let text = reader.required_text(fields, name)?;
    if is_subdomain(&text.value) {
        return Some(text.value);
    }
    let reason = format!(
        "field `{}` is {:?}; it must be one plain name, without globs",
        fields.path(name),
        text.value
    );
    reader.fault_at(&text.at, reason);
    None
}

fn selector(reader: &mut Reader, node: &Node, path: &str) -> Option<Selector> {
    let fields = reader.fields(node, path, &["matchLabels", "matchExpressions"], &[])?;
    let mut requirements = Vec::new();
    if let Some(labels) = fields.get("matchLabels") {
        let path = fields.path("matchLabels");
        let Value::Map(entries) = &labels.value else {
            reader.fault(
                labels,
                format!(
                    "field `{path}` must be a mapping, not {}",
                    labels.value.describe()
                ),
            );
            return None;
        };
        for (key, value) in entries {
            let (Some(key), Some(value)) = (reader.text(key, &path), reader.text(value, &path)) else {
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
        for (index, item) in reader.list(expressions, &path).iter().enumerate() {
            requirements.extend(requirement(reader, item, &format!("{path}[{index}]")));
        }
    }
    Some(Selector(requirements))
}

fn requirement(reader: &mut Reader, node: &Node, path: &str) -> Option<Requirement> {
    let fields = reader.fields(node, path, &["key", "operator", "values"], &[])?;
    let key = reader.required_text(&fields, "key")?.value;
    let operator = reader.required(&fields, "operator")?;
    let values = reader.texts(&fields, "values");
    let words = [("In", 0), ("NotIn", 1), ("Exists", 2), ("DoesNotExist", 3)];
    let operator = reader.choice(operator, &fields.path("operator"), &words)?;
    let test = match (operator, values) {
        (0 | 1, None) => {
            reader.fault(
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
            reader.fault(fields.node, reason);
            return None;
        }
        (0, Some(values)) => LabelTest::In(values.into_iter().map(|value| value.value).collect()),
        (1, Some(values)) => LabelTest::NotIn(values.into_iter().map(|value| value.value).collect()),
        (2, None) => LabelTest::Exists,
        (_, _) => LabelTest::DoesNotExist,
    };
    Some(Requirement { key, test })
}
