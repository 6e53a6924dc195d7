//! Requests for a role: those that its rules allow, and those that miss by one word.
//!
//! In: a role's rules. Out: request lines as clients send them.

use crate::judge::{RequestLine, RoleRule};
use crate::random::Random;
use crate::vocabulary::{METHODS, NAMES, NAMESPACES, PATHS, RESOURCES, SUBRESOURCES, VERBS};

/// A request for a resource, before it is written as a method and a target.
#[derive(Debug, Clone)]
struct Draft {
    verb: String,
    group: String,
    /// With its subresource, as RBAC writes it.
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
}

/// A request that comes of one of the rules.
pub(crate) fn of_rules(random: &mut Random, rules: &[RoleRule]) -> RequestLine {
    if rules.is_empty() || random.once_in(20) {
        return anything(random);
    }
    let rule = random.of(rules);
    if rule.non_resource_urls.is_empty() {
        let mut draft = hit(random, rule);
        // Half of them as the rule has it, the others with one word or two changed.
        for _ in 0..random.below(4).saturating_sub(1) {
            miss(random, &mut draft);
        }
        write(random, &draft)
    } else {
        path(random, rule)
    }
}

/// A request that no rule gave the words of.
fn anything(random: &mut Random) -> RequestLine {
    if random.once_in(4) {
        let method = method_of(random.word(&METHODS));
        return line(method, random.word(&PATHS).to_owned());
    }
    let (group, resource, namespaced) = *random.of(&RESOURCES);
    let draft = Draft {
        verb: random.word(&VERBS).to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        namespace: namespaced.then(|| random.word(&NAMESPACES).to_owned()),
        name: Some(random.word(&NAMES).to_owned()),
    };
    write(random, &draft)
}

fn line(method: &'static str, target: String) -> RequestLine {
    RequestLine {
        method,
        target,
        apply: false,
    }
}

/// One of the rule's words, or any where the rule takes any.
fn any_of(random: &mut Random, words: &[String], any: &[&'static str]) -> String {
    match words {
        [] => random.word(any).to_owned(),
        words => match random.of(words).as_str() {
            "*" => random.word(any).to_owned(),
            word => word.to_owned(),
        },
    }
}

fn hit(random: &mut Random, rule: &RoleRule) -> Draft {
    let served = *random.of(&RESOURCES);
    let group = any_of(random, &rule.api_groups, &[served.0]);
    let mut resource = any_of(random, &rule.resources, &[served.1]);
    if let Some(subresource) = resource.strip_prefix("*/") {
        let object = random.of(&RESOURCES).1;
        let object = object.split('/').next().unwrap_or(object);
        resource = format!("{object}/{subresource}");
    }
    let scoped = RESOURCES
        .iter()
        .any(|(of, other, namespaced)| *of == group && *other == resource && !namespaced);
    let namespaced = !scoped && !random.once_in(4);
    Draft {
        verb: any_of(random, &rule.verbs, &VERBS),
        namespace: namespaced.then(|| random.word(&NAMESPACES).to_owned()),
        name: Some(any_of(random, &rule.resource_names, &NAMES)),
        group,
        resource,
    }
}

/// Changes one word.
fn miss(random: &mut Random, draft: &mut Draft) {
    match random.below(10) {
        0 => draft.verb = random.word(&VERBS).to_owned(),
        1 => draft.group = random.of(&RESOURCES).0.to_owned(),
        2 => draft.resource = random.of(&RESOURCES).1.to_owned(),
        3 => draft.namespace = Some(random.word(&NAMESPACES).to_owned()),
        4 => draft.namespace = None,
        5 => draft.name = Some(random.word(&NAMES).to_owned()),
        6 => draft.name = None,
        7 => {
            let object = draft.resource.split('/').next().unwrap_or_default();
            draft.resource = if random.once_in(2) {
                object.to_owned()
            } else {
                format!("{object}/{}", random.word(&SUBRESOURCES))
            };
        }
        // What other parts of the request are called.
        8 => draft.resource = misspelt(random, &draft.resource),
        _ => draft.name = draft.name.as_ref().map(|name| misspelt(random, name)),
    }
}

fn misspelt(random: &mut Random, word: &str) -> String {
    match random.below(5) {
        0 => word.to_ascii_uppercase(),
        1 => format!("{word}s"),
        2 => format!("x{word}"),
        3 => word.trim_end_matches('s').to_owned(),
        _ => format!("{word}/x"),
    }
}

/// The draft as its verb is asked for; a verb that no request has is asked for as `get`.
fn write(random: &mut Random, draft: &Draft) -> RequestLine {
    let base = if draft.group.is_empty() {
        "/api/v1".to_owned()
    } else {
        let version = random.word(&["v1", "v1beta1"]);
        format!("/apis/{}/{version}", draft.group)
    };
    let (object, subresource) = match draft.resource.split_once('/') {
        Some((object, subresource)) => (object, Some(subresource)),
        None => (draft.resource.as_str(), None),
    };
    let namespace = draft
        .namespace
        .as_ref()
        .map(|namespace| format!("/namespaces/{namespace}"))
        .unwrap_or_default();
    let collection = format!("{namespace}/{object}");
    let named = match (&draft.name, subresource) {
        (Some(name), Some(subresource)) => format!("{collection}/{name}/{subresource}"),
        (Some(name), None) => format!("{collection}/{name}"),
        // A subresource is of an object.
        (None, Some(subresource)) => format!("{collection}/web/{subresource}"),
        (None, None) => collection.clone(),
    };
    let created = if subresource.is_some() {
        &named
    } else {
        &collection
    };
    match draft.verb.as_str() {
        "list" => listed(random, &format!("{base}{collection}"), draft, false),
        "watch" if random.once_in(3) => line("GET", format!("{base}/watch{named}")),
        "watch" => listed(random, &format!("{base}{collection}"), draft, true),
        "create" => line("POST", format!("{base}{created}")),
        "update" => line("PUT", format!("{base}{named}")),
        "patch" => RequestLine {
            method: "PATCH",
            target: format!("{base}{named}"),
            apply: random.once_in(3),
        },
        "delete" => line("DELETE", format!("{base}{named}")),
        "deletecollection" => {
            let selector = selector(random, draft);
            line("DELETE", with_query(format!("{base}{collection}"), &selector))
        }
        _ => line(
            if random.once_in(10) { "HEAD" } else { "GET" },
            format!("{base}{named}"),
        ),
    }
}

fn listed(random: &mut Random, target: &str, draft: &Draft, watch: bool) -> RequestLine {
    let mut query = selector(random, draft);
    if watch {
        query.push(
            random
                .word(&["watch=true", "watch=1", "watch", "watch=false"])
                .to_owned(),
        );
    }
    if random.once_in(4) {
        query.push(
            random
                .word(&[
                    "limit=500",
                    "resourceVersion=0",
                    "labelSelector=app%3Dweb",
                    "timeoutSeconds=30",
                ])
                .to_owned(),
        );
    }
    line("GET", with_query(target.to_owned(), &query))
}

fn with_query(mut target: String, query: &[String]) -> String {
    for (number, pair) in query.iter().enumerate() {
        target.push(if number == 0 { '?' } else { '&' });
        target.push_str(pair);
    }
    target
}

/// A field selector about the draft's name, in one of the ways to say so, or none.
fn selector(random: &mut Random, draft: &Draft) -> Vec<String> {
    let Some(name) = draft.name.as_ref().filter(|_| !random.once_in(3)) else {
        return Vec::new();
    };
    let selector = match random.below(8) {
        0 => format!("metadata.name%3D%3D{name}"),
        1 => format!("metadata.name!={name}"),
        2 => format!("spec.nodeName%3Dn1%2Cmetadata.name%3D{name}"),
        3 => format!("metadata.namespace%3D{name}"),
        4 => format!("metadata.name%3D{name}%2Cmetadata.name%3Dweb"),
        5 => format!("metadata.name={name}"),
        6 => format!("metadata.name%3D{name}%2C"),
        _ => format!("metadata.name%3D{name}"),
    };
    vec![format!("fieldSelector={selector}")]
}

/// A path that comes of a rule's, with one of the rule's methods or another.
fn path(random: &mut Random, rule: &RoleRule) -> RequestLine {
    let url = random.of(&rule.non_resource_urls).as_str();
    let start = url.trim_end_matches('*');
    let path = match random.below(8) {
        0 => random.word(&PATHS).to_owned(),
        1 => format!("{start}x"),
        2 => format!("{start}a/b"),
        3 => format!("{}/", start.trim_end_matches('/')),
        4 => start.trim_end_matches('/').to_owned(),
        5 => start.to_ascii_uppercase(),
        6 => start.chars().take(start.len().saturating_sub(1)).collect(),
        _ => start.to_owned(),
    };
    let path = if path.starts_with('/') {
        path
    } else {
        random.word(&PATHS).to_owned()
    };
    let method = if random.once_in(4) {
        method_of(random.word(&METHODS))
    } else {
        method_of(&any_of(random, &rule.verbs, &METHODS))
    };
    line(method, path)
}

fn method_of(verb: &str) -> &'static str {
    match verb {
        "head" => "HEAD",
        "post" => "POST",
        "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "options" => "OPTIONS",
        _ => "GET",
    }
}
