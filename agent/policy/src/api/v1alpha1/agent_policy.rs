//! AgentPolicy: `subjects`, `mode`, `exceptions`, `rules`.

use super::policy_rule::{check_verbs, misspelt};
use super::{Action, AgentPolicy, Match, Mode, Rule, Subjects};
use crate::engine::builtin;
use crate::glob::{Glob, GlobError};
use crate::kubernetes::resources::{group_fault, name_fault, namespace_fault, resource_fault, scope_fault};
use crate::kubernetes::verbs::Verb;
use crate::yaml::{Decoder, Fields, Node, Spanned, Value};

/// Reads the spec of a policy.
pub(in crate::api) fn read(
    decoder: &mut Decoder,
    name: Option<Spanned<String>>,
    spec: &Node,
) -> Option<AgentPolicy> {
    let fields = decoder.fields_renamed(
        spec,
        "spec",
        &["subjects", "mode", "exceptions", "rules"],
        &["variables"],
        &[("lift", "spec.exceptions")],
    )?;
    let before = decoder.errors.len();
    let subjects = fields.get("subjects").and_then(|node| subjects(decoder, node));
    let mode = match fields.get("mode") {
        Some(node) => decoder.choice(
            node,
            "spec.mode",
            &[("Enforce", Mode::Enforce), ("Audit", Mode::Audit)],
        )?,
        None => Mode::Enforce,
    };
    let exceptions = exceptions(decoder, &fields, subjects.as_ref(), mode);
    let mut rules: Vec<Rule> = Vec::new();
    if let Some(node) = fields.get("rules") {
        for (index, item) in decoder.list(node, "spec.rules").iter().enumerate() {
            let Some(rule) = rule(decoder, item, &format!("spec.rules[{index}]")) else {
                continue;
            };
            if rules.iter().any(|other| other.name.value == rule.name.value) {
                decoder.error_at(
                    &rule.name.at,
                    format!("rule {:?} is there twice", rule.name.value),
                );
            }
            rules.push(rule);
        }
    }
    if decoder.errors.len() == before && rules.is_empty() && exceptions.is_empty() {
        decoder.error_at(
            spec,
            "field `spec.rules` is required: a policy without rules forbids nothing",
        );
    }
    (decoder.errors.len() == before).then_some(())?;
    Some(AgentPolicy {
        name: name?,
        subjects,
        mode,
        exceptions,
        rules,
    })
}

fn subjects(decoder: &mut Decoder, node: &Node) -> Option<Subjects> {
    let fields = decoder.fields(
        node,
        "spec.subjects",
        &["identities", "groups", "namespaces"],
        &[],
    )?;
    let mut names = |name| globs(decoder, &fields, name, Glob::name);
    let subjects = Subjects {
        identities: names("identities").unwrap_or_default(),
        groups: names("groups").unwrap_or_default(),
        namespaces: names("namespaces").unwrap_or_default(),
    };
    check_each(decoder, Some(&subjects.namespaces), |name| {
        namespace_fault(name, false)
    });
    if subjects == Subjects::default() {
        decoder.error_at(
            node,
            "field `spec.subjects` names nobody: leave it out to mean every agent",
        );
    }
    Some(subjects)
}

/// An exception widens what agents may do, so it names its built-ins and its agents plainly.
fn exceptions(
    decoder: &mut Decoder,
    fields: &Fields<'_>,
    subjects: Option<&Subjects>,
    mode: Mode,
) -> Vec<Spanned<String>> {
    let exceptions = decoder.texts(fields, "exceptions").unwrap_or_default();
    let Some(first) = exceptions.first() else {
        return exceptions;
    };
    for name in &exceptions {
        if builtin::Builtin::parse(&name.value).is_none() {
            let known: Vec<_> = builtin::Builtin::ALL
                .iter()
                .map(|builtin| builtin.name())
                .collect();
            let reason = format!(
                "{:?} is no built-in deny; there are: {}",
                name.value,
                known.join(", ")
            );
            decoder.error_at(&name.at, reason);
        }
    }
    match subjects {
        None => decoder.error_at(
            &first.at,
            "field `spec.exceptions` needs `spec.subjects`: no exception is for all agents",
        ),
        Some(subjects) => {
            let named = subjects.identities.iter().chain(&subjects.groups);
            let globs: Vec<_> = named.filter(|name| name.value.contains(['*', '?'])).collect();
            if let Some(glob) = globs.first().copied().or(subjects.namespaces.first()) {
                let reason = "field `spec.exceptions` needs subjects by name: identities or groups without globs, and no \
                              namespaces";
                decoder.error_at(&glob.at, reason);
            }
        }
    }
    if mode == Mode::Audit {
        decoder.error_at(&first.at, "field `spec.exceptions` has no effect in mode Audit");
    }
    exceptions
}

fn rule(decoder: &mut Decoder, node: &Node, path: &str) -> Option<Rule> {
    let fields = decoder.fields(node, path, &["name", "match", "action", "message"], &["when"])?;
    let name = decoder.required_text(&fields, "name");
    let matches = decoder
        .required(&fields, "match")
        .and_then(|node| matches(decoder, node, &fields.path("match")));
    let action = decoder
        .required(&fields, "action")
        .and_then(|node| action(decoder, node, &fields.path("action")));
    let message = match fields.get("message") {
        Some(node) => decoder.text(node, &fields.path("message"))?,
        None => Spanned {
            value: String::new(),
            at: node.location(&decoder.file),
        },
    };
    if message
        .value
        .chars()
        .any(|char| char.is_control() && char != '\n')
    {
        decoder.error_at(
            &message.at,
            format!("field `{path}.message` has control characters"),
        );
    }
    // One line, because it travels in a Warning header and in a Status message.
    let message = message.value.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(Rule {
        name: name?,
        matches: matches?,
        action: action?,
        message,
    })
}

fn action(decoder: &mut Decoder, node: &Node, path: &str) -> Option<Action> {
    if let Value::Text(word) = &node.value
        && ["RequireApproval", "Mask", "Filter", "Record"].contains(&word.as_str())
    {
        decoder.error_at(
            node,
            format!("field `{path}`: action {word} is not supported by this version yet"),
        );
        return None;
    }
    decoder.choice(node, path, &[("Deny", Action::Deny), ("Warn", Action::Warn)])
}

fn globs(
    decoder: &mut Decoder,
    fields: &Fields<'_>,
    name: &str,
    check: fn(&str) -> Result<Glob, GlobError>,
) -> Option<Vec<Spanned<String>>> {
    let texts = decoder.texts(fields, name)?;
    for text in &texts {
        if let Err(error) = check(&text.value) {
            decoder.error_at(
                &text.at,
                format!("field `{}`: {:?}: {error}", fields.path(name), text.value),
            );
        }
    }
    Some(texts)
}

fn matches(decoder: &mut Decoder, node: &Node, path: &str) -> Option<Match> {
    let known = [
        "verbs",
        "apiGroups",
        "resources",
        "namespaces",
        "names",
        "nonResourceURLs",
        "commands",
        "exceptCommands",
    ];
    let fields = decoder.fields(node, path, &known, &[])?;
    let before = decoder.errors.len();
    // The core group is the empty string, which is no glob.
    let group = |text: &str| {
        if text.is_empty() {
            Ok(Glob::Any)
        } else {
            Glob::name(text)
        }
    };
    let matches = Match {
        at: node.location(&decoder.file),
        verbs: decoder.texts(&fields, "verbs"),
        api_groups: globs(decoder, &fields, "apiGroups", group),
        resources: globs(decoder, &fields, "resources", Glob::name),
        namespaces: globs(decoder, &fields, "namespaces", Glob::name),
        names: globs(decoder, &fields, "names", Glob::name),
        non_resource_urls: globs(decoder, &fields, "nonResourceURLs", Glob::name),
        commands: globs(decoder, &fields, "commands", Glob::text),
        except_commands: globs(decoder, &fields, "exceptCommands", Glob::text),
    };
    if decoder.errors.len() > before {
        return None;
    }
    check_match(decoder, &matches, path);
    (decoder.errors.len() == before).then_some(matches)
}

/// Notes what is wrong with each text of a list.
fn check_each(
    decoder: &mut Decoder,
    list: Option<&Vec<Spanned<String>>>,
    fault: impl Fn(&str) -> Option<String>,
) {
    for text in list.into_iter().flatten() {
        if let Some(reason) = fault(&text.value) {
            decoder.error_at(&text.at, reason);
        }
    }
}

/// Refuses groups, resources, namespaces and names that no request can have. Names alone are compared as they are written.
fn check_served(decoder: &mut Decoder, matches: &Match) {
    let before = decoder.errors.len();
    check_each(decoder, matches.api_groups.as_ref(), |group| {
        group_fault(&group.to_ascii_lowercase())
    });
    check_each(decoder, matches.namespaces.as_ref(), |name| {
        namespace_fault(name, true)
    });
    let resources = matches.resources.as_deref().unwrap_or_default();
    let resources = || resources.iter().map(|resource| resource.value.as_str());
    check_each(decoder, matches.names.as_ref(), |name| {
        name_fault(resources(), name)
    });
    if decoder.errors.len() > before {
        return;
    }
    let groups: Vec<_> = matches
        .api_groups
        .iter()
        .flatten()
        .map(|group| group.value.to_ascii_lowercase())
        .collect();
    check_each(decoder, matches.resources.as_ref(), |resource| {
        let scope = || scope_fault(&groups, resource).filter(|_| matches.namespaces.is_some());
        resource_fault(&groups, resource).or_else(scope)
    });
}

/// Refuses a match that can never fire, or that would fire on less than its words say.
fn check_match(decoder: &mut Decoder, matches: &Match, path: &str) {
    let about_resources = [
        &matches.api_groups,
        &matches.resources,
        &matches.namespaces,
        &matches.names,
        &matches.commands,
        &matches.except_commands,
    ];
    let verbs = matches.verbs.as_deref().unwrap_or_default();
    if let Some(urls) = &matches.non_resource_urls {
        if about_resources.iter().any(|list| list.is_some()) {
            decoder.error_at(
                &matches.at,
                format!("`{path}` mixes resources and nonResourceURLs: make two rules of it"),
            );
        }
        for url in urls.iter().filter(|url| !url.value.starts_with(['/', '*'])) {
            decoder.error_at(&url.at, format!("path {:?} must start with / or *", url.value));
        }
        check_verbs(decoder, verbs, Verb::of_paths(), "nonResourceURLs");
        return;
    }
    if matches.verbs.is_none() && about_resources.iter().all(|list| list.is_none()) {
        decoder.error_at(
            &matches.at,
            format!("`{path}` is empty; to match every resource write resources: [\"*\"]"),
        );
    }
    check_verbs(decoder, verbs, Verb::of_resources(), "resources");
    let resources = matches.resources.as_deref().unwrap_or_default();
    for resource in resources {
        let parts: Vec<_> = resource.value.split('/').collect();
        if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
            let reason = format!(
                "resource {:?}: write `pods`, `pods/exec`, `*/scale`, `pods/*` or `*`",
                resource.value
            );
            decoder.error_at(&resource.at, reason);
        } else if let Some(reason) = misspelt(&resource.value) {
            decoder.error_at(&resource.at, reason);
        }
    }
    check_served(decoder, matches);
    let creates = verbs.iter().find(|verb| verb.value == "create");
    if let (Some(_), Some(create)) = (&matches.names, creates)
        && (resources.is_empty() || resources.iter().any(|resource| !resource.value.contains('/')))
    {
        let reason =
            "`names` cannot be told on create: the new object's name is in the body, not in the request";
        decoder.error_at(&create.at, reason);
    }
    if matches.commands.is_some() || matches.except_commands.is_some() {
        let runs =
            |resource: &Spanned<String>| matches!(resource.value.as_str(), "pods/exec" | "pods/attach");
        if resources.is_empty() || !resources.iter().all(runs) {
            let reason =
                format!("`{path}`: commands need resources: [pods/exec], pods/attach or both, and no others");
            decoder.error_at(&matches.at, reason);
        }
    }
}
