//! AgentGrant: `to`, `upstream.impersonate`, `namespaces`, `rules`.

use super::{AgentGrant, policy_rule};
use crate::decision::Impersonate;
use crate::glob::Glob;
use crate::kubernetes::resources::namespace_fault;
use crate::yaml::{Decoder, Fields, Node, Spanned, Value};

/// The one `system:` group a grant may name: the API server adds it by itself, so it gives nothing more.
const AUTHENTICATED: &str = "system:authenticated";

/// Reads the spec of a grant.
pub(in crate::api) fn read(
    decoder: &mut Decoder,
    name: Option<Spanned<String>>,
    spec: &Node,
) -> Option<AgentGrant> {
    let fields = decoder.fields(
        spec,
        "spec",
        &["to", "upstream", "namespaces", "rules"],
        &["window"],
    )?;
    let to = decoder.required(&fields, "to").and_then(|node| {
        let to = decoder.fields(node, "spec.to", &["identities", "groups"], &[])?;
        let identities = decoder.texts(&to, "identities").unwrap_or_default();
        let groups = decoder.texts(&to, "groups").unwrap_or_default();
        if identities.is_empty() && groups.is_empty() {
            decoder.error_at(
                node,
                "field `spec.to` names nobody: give identities, groups or both",
            );
            return None;
        }
        for group in &groups {
            if group.value.contains(['*', '?']) {
                decoder.error_at(
                    &group.at,
                    format!("group {:?}: a grant names groups without globs", group.value),
                );
            }
        }
        Some((identities, groups.into_iter().map(|group| group.value).collect()))
    });
    let impersonate = decoder.required(&fields, "upstream").and_then(|node| {
        let later = ["serviceAccount", "eks"];
        let upstream = decoder.fields(node, "spec.upstream", &["impersonate"], &later)?;
        impersonate(decoder, &upstream)
    });
    let namespaces = decoder.texts(&fields, "namespaces").unwrap_or_default();
    for namespace in &namespaces {
        if let Err(error) = Glob::name(&namespace.value) {
            decoder.error_at(&namespace.at, format!("field `spec.namespaces`: {error}"));
        } else if let Some(reason) = namespace_fault(&namespace.value, false) {
            decoder.error_at(&namespace.at, reason);
        }
    }
    let mut rules = Vec::new();
    if let Some(node) = decoder.required(&fields, "rules") {
        let items = decoder.list(node, "spec.rules");
        if matches!(&node.value, Value::List(items) if items.is_empty()) {
            decoder.error_at(
                node,
                "field `spec.rules` is empty: a grant without rules allows nothing",
            );
        }
        for (index, item) in items.iter().enumerate() {
            rules.extend(policy_rule::read(
                decoder,
                item,
                &format!("spec.rules[{index}]"),
                !namespaces.is_empty(),
            ));
        }
    }
    let (identities, groups) = to?;
    Some(AgentGrant {
        name: name?,
        identities,
        groups,
        impersonate: impersonate?,
        namespaces,
        rules,
    })
}

fn impersonate(decoder: &mut Decoder, upstream: &Fields<'_>) -> Option<Spanned<Impersonate>> {
    let node = decoder.required(upstream, "impersonate")?;
    let fields = decoder.fields(node, "spec.upstream.impersonate", &["user", "groups"], &[])?;
    let user = decoder.required_text(&fields, "user")?;
    // Headers carry both, so what a header cannot hold is refused here and not at the first request.
    let fits = |text: &str| {
        text.trim() == text && !text.is_empty() && text.bytes().all(|b| (0x20..0x7f).contains(&b))
    };
    if !fits(&user.value) {
        decoder.error_at(
            &user.at,
            "the user must be printable ASCII without blanks around it",
        );
    }
    let is_service_account = user
        .value
        .strip_prefix("system:serviceaccount:")
        .is_some_and(|rest| matches!(rest.split(':').collect::<Vec<_>>()[..], [ns, name] if !ns.is_empty() && !name.is_empty()));
    if user.value.starts_with("system:") && !is_service_account {
        let reason = format!(
            "user {:?}: of the `system:` users only system:serviceaccount:NAMESPACE:NAME can be impersonated",
            user.value
        );
        decoder.error_at(&user.at, reason);
    }
    let groups = decoder.texts(&fields, "groups").unwrap_or_default();
    for group in &groups {
        if group.value == "system:masters" {
            let reason =
                "group \"system:masters\" passes every check of the API server and is never impersonated";
            decoder.error_at(&group.at, reason);
        } else if group.value.starts_with("system:") && group.value != AUTHENTICATED {
            let reason = format!(
                "group {:?}: of the `system:` groups only {AUTHENTICATED} can be impersonated; the API server's own \
                 groups carry rights that no grant should hand out",
                group.value
            );
            decoder.error_at(&group.at, reason);
        } else if !fits(&group.value) {
            decoder.error_at(
                &group.at,
                "a group must be printable ASCII without blanks around it",
            );
        }
    }
    let groups = groups.into_iter().map(|group| group.value).collect();
    Some(Spanned {
        value: Impersonate {
            user: user.value,
            groups,
        },
        at: node.location(&decoder.file),
    })
}
