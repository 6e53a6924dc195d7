//! What an agent may do instead of what it was refused.
//!
//! In: the refused request, what refused it, and the agent's grants. Out: a text of bounded length for the refusal. It claims
//! nothing that a built-in refuses; of a Deny rule about resources it knows the verbs.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

use jiff::Timestamp;

use super::PolicySet;
use super::builtin::{Builtin, DISCOVERY, known_paths, url_matches};
use super::evaluate::granted;
use super::explain::quoted;
use super::grants::{Grant, as_dry_run};
use super::match_input::MatchInput;
use super::needs::Inputs;
use super::rules::CompiledRule;
use crate::api::v1alpha1::Mode;
use crate::glob::Glob;
use crate::identity::Principal;
use crate::request::{KubeRequest, RequestObject, Target, Verb, VerbSet};

/// Longest text that says what is allowed instead, in bytes.
const MAX_ALLOWED: usize = 300;

/// How many URLs of grants are looked at for that text. Each costs a decision for every verb, and more would not fit anyway.
const MAX_URLS: usize = 32;

/// How many namespaces that a rule leaves alone are tried. Each costs a decision.
const MAX_NAMESPACES: usize = 8;

/// A namespace that no rule and no built-in is about, since no namespace has that name.
const ELSEWHERE: &str = "-";

/// An object that no built-in is about.
const ANY_NAME: &str = "-";

/// Requests for a resource: these verbs, and where.
struct Offer<'a> {
    verbs: VerbSet,
    /// Whether paths that are named behind a proxy are offered beside them.
    named_paths: bool,
    /// The namespace that is left out, and how that is said.
    but: Option<&'a str>,
    place: String,
}

impl PolicySet {
    /// What the grants allow instead of a request that no grant allows, or that a rule about these verbs refuses.
    pub(super) fn allowed_instead(
        &self,
        principal: &Principal,
        request: &KubeRequest,
        inputs: Inputs,
        (rule, refused): (Option<&CompiledRule>, VerbSet),
    ) -> String {
        let grants = &self.grants_in_force(principal, inputs.now);
        if matches!(request.target, Target::NonResource { .. }) {
            return self.paths_instead(principal, request, inputs);
        }
        let offer = Offer {
            verbs: VerbSet::ALL.without(refused),
            named_paths: false,
            but: None,
            place: String::new(),
        };
        let dry = as_dry_run(request).filter(|dry| self.may_pass(principal, dry, inputs));
        let first = dry.map(|_| "the same request with dryRun=All (kubectl --dry-run=server)".to_owned());
        of_resources(grants, request, &[offer], first, rule)
    }

    /// The same where a Deny rule refuses: the command too may be another one, where rules about commands alone are in the way.
    pub(super) fn allowed_instead_of_rule(
        &self,
        rule: &CompiledRule,
        principal: &Principal,
        request: &KubeRequest,
        (input, inputs): (&MatchInput<'_>, Inputs),
        refused: VerbSet,
    ) -> String {
        let invalid =
            |(rule, mode): (&CompiledRule, Mode)| mode == Mode::Enforce && rule.is_of_invalid_policy();
        if self.rules.firing(principal, input).any(invalid) {
            return String::new();
        }
        let in_the_way = |(rule, mode): &(&CompiledRule, Mode)| {
            rule.refuses() && *mode == Mode::Enforce && !rule.is_about_commands()
        };
        if rule.is_about_commands()
            && input.has_known_command()
            && granted(&self.grants_for(principal), request, inputs.now).is_some()
            && !self
                .rules
                .firing(principal, input)
                .any(|found| in_the_way(&found))
        {
            return format!("{} with another command", request.resource_words());
        }
        if let Some(instead) = self.within_one_namespace(rule, principal, request, (input, inputs)) {
            return shorten(instead);
        }
        self.allowed_instead(principal, request, inputs, (Some(rule), refused))
    }

    /// Where a rule about namespaces refuses a list or watch over all of them: the same in a namespace where it passes.
    fn within_one_namespace(
        &self,
        rule: &CompiledRule,
        principal: &Principal,
        request: &KubeRequest,
        (input, inputs): (&MatchInput<'_>, Inputs),
    ) -> Option<String> {
        let lists = matches!(request.verb, Verb::List | Verb::Watch);
        if !lists || !input.is_of_all_namespaces() || !rule.is_about_namespaces() {
            return None;
        }
        let passes = |wanted: &str| {
            let mut other = request.clone();
            if let Target::Resource { namespace, .. } = &mut other.target {
                *namespace = Some(wanted.to_owned());
            }
            self.may_pass(principal, &other, inputs)
        };
        let asked = format!("{} {}", request.verb, request.resource_words());
        let excepted = rule.excepted_namespaces().iter().filter_map(Glob::exact);
        let excepted: Vec<_> = excepted
            .take(MAX_NAMESPACES)
            .filter(|name| passes(name))
            .map(|name| format!("{name:?}"))
            .collect();
        if !excepted.is_empty() {
            return Some(format!("{asked} in one namespace of {}", excepted.join(", ")));
        }
        let globs = rule.namespaces().filter(|_| passes(ELSEWHERE))?;
        Some(format!("{asked} in one namespace other than {}", quoted(globs)))
    }

    /// The grants of an agent that give something now.
    fn grants_in_force(&self, principal: &Principal, now: Timestamp) -> Vec<Arc<Grant>> {
        let grants = self.grants_for(principal);
        grants
            .iter()
            .filter(|grant| grant.in_force(now).is_some())
            .cloned()
            .collect()
    }

    /// What the grants allow instead of a request that a built-in refuses.
    pub(super) fn instead_of_builtin(
        &self,
        principal: &Principal,
        request: &KubeRequest,
        inputs: Inputs,
        builtin: Builtin,
    ) -> String {
        let input = MatchInput::new(request);
        let mut firing = self.rules.firing(principal, &input);
        if firing.any(|(rule, mode)| mode == Mode::Enforce && rule.is_of_invalid_policy()) {
            return String::new();
        }
        let Target::Resource {
            resource, namespace, ..
        } = &request.target
        else {
            return self.paths_instead(principal, request, inputs);
        };
        // No built-in reads the command, which may be long and would be copied for each verb.
        let mut bare = request.clone();
        bare.exec = None;
        if request.verb != Verb::Create {
            // Creation is offered for what another name would give.
            bare.object = RequestObject::Absent;
        }
        let around = self.surroundings(principal);
        // Another built-in may refuse what this one would leave alone.
        let refused = |other: &KubeRequest| {
            let mut firing = Builtin::ALL
                .into_iter()
                .filter(|known| known.fires(other, around) && known.hides(other, around).is_none());
            firing.any(|known| known == builtin || !self.is_excepted(principal, known))
        };
        let passing = |elsewhere: bool| {
            Verb::of_resources()
                .filter(|verb| !refused(&with_verb(&bare, *verb, elsewhere)))
                .fold(VerbSet::default(), VerbSet::with)
        };
        let here = passing(false);
        let place = match namespace {
            Some(namespace) if resource == "namespaces" => format!(" other than {namespace:?}"),
            Some(namespace) => format!(" outside namespace {namespace:?}"),
            None => " within one namespace".to_owned(),
        };
        let offers = [
            Offer {
                verbs: here,
                named_paths: builtin.is_of_proxies(),
                but: None,
                place: String::new(),
            },
            Offer {
                verbs: passing(true).without(here),
                named_paths: false,
                but: namespace.as_deref(),
                place,
            },
        ];
        of_resources(
            &self.grants_in_force(principal, inputs.now),
            request,
            &offers,
            None,
            None,
        )
    }

    /// The non-resource paths that an agent may ask for, and what its grants are about besides.
    fn paths_instead(&self, principal: &Principal, request: &KubeRequest, inputs: Inputs) -> String {
        let grants = &self.grants_in_force(principal, inputs.now);
        if grants.is_empty() {
            return String::new();
        }
        let open = self.is_excepted(principal, Builtin::UnknownPaths);
        let mut places: Vec<(String, Vec<&str>)> = Vec::new();
        let mut length = 0;
        // Several grants may name one URL, and each costs a decision for every verb.
        let mut looked: Vec<&str> = Vec::new();
        for url in paths_of(grants, open) {
            if length > MAX_ALLOWED || looked.len() == MAX_URLS {
                break;
            }
            if looked.contains(&url) {
                continue;
            }
            looked.push(url);
            let verbs: Vec<_> = Verb::of_paths()
                .filter(|verb| self.permits_path(principal, request, inputs, *verb, url))
                .map(Verb::as_str)
                .collect();
            let verbs = verbs.join(", ");
            if verbs.is_empty() {
                continue;
            }
            length += url.len();
            match places.iter_mut().find(|(with, _)| *with == verbs) {
                Some((_, urls)) => urls.push(url),
                None => places.push((verbs, vec![url])),
            }
        }
        let mut texts: Vec<_> = places
            .into_iter()
            .map(|(verbs, urls)| format!("{verbs} {}", urls.join(", ")))
            .collect();
        if texts.is_empty() {
            texts.push("no non-resource path".to_owned());
        }
        texts.extend(subjects(grants, None, Some("resources"), None));
        shorten(texts.join("; "))
    }

    /// Whether a request for a path would be permitted, or held for an approval.
    fn permits_path(
        &self,
        principal: &Principal,
        request: &KubeRequest,
        inputs: Inputs,
        verb: Verb,
        url: &str,
    ) -> bool {
        let path = match url.trim_end_matches('*') {
            "" => "/",
            path => path,
        };
        let other = KubeRequest {
            verb,
            path: path.to_owned(),
            target: Target::NonResource {
                path: path.to_owned(),
            },
            ..request.clone()
        };
        self.may_pass(principal, &other, inputs)
    }
}

/// Every path that a grant names, and those that come with any grant: as far as they are known, or as they are where `open`.
fn paths_of<'g>(grants: &'g [Arc<Grant>], open: bool) -> impl Iterator<Item = &'g str> {
    let named = grants.iter().flat_map(|grant| grant.rules());
    let named = named.flat_map(|rule| rule.urls.iter().map(String::as_str));
    let known = move |url: &'g str| {
        let whole = open || known_paths().any(|known| url_matches(known, url));
        let parts = known_paths().filter(move |known| !whole && url_matches(url, known));
        whole
            .then_some(url)
            .into_iter()
            .chain(parts.map(|part| -> &'g str { part }))
    };
    named
        .flat_map(known)
        .chain(DISCOVERY)
        // A path with a slash at its end is said by the one without.
        .filter(|url| *url == "/" || !url.ends_with('/'))
}

/// The request with another verb, about one object or a collection as the verb has it, perhaps in another namespace.
fn with_verb(request: &KubeRequest, verb: Verb, elsewhere: bool) -> KubeRequest {
    let mut other = request.clone();
    other.verb = verb;
    if let Target::Resource {
        namespace,
        name,
        subresource,
        resource,
        ..
    } = &mut other.target
    {
        if subresource.is_none() {
            *name = match verb.is_collection() || verb == Verb::Create {
                true => None,
                false => name.take().or_else(|| Some(ANY_NAME.to_owned())),
            };
        }
        if elsewhere {
            *namespace = Some(ELSEWHERE.to_owned());
            if resource == "namespaces" && name.is_some() {
                *name = Some(ELSEWHERE.to_owned());
            }
        }
    }
    other
}

/// What the grants allow on the same resource by these offers; where that is nothing, what they are about at all, but for what the same
/// rule denies.
fn of_resources(
    grants: &[Arc<Grant>],
    request: &KubeRequest,
    offers: &[Offer<'_>],
    first: Option<String>,
    denied_by: Option<&CompiledRule>,
) -> String {
    let Target::Resource {
        group,
        resource,
        subresource,
        ..
    } = &request.target
    else {
        return String::new();
    };
    let mut places: Vec<String> = first.into_iter().collect();
    let mut matched = false;
    for offer in offers {
        for grant in grants {
            let Some(namespaces) = namespaces(grant, offer.but) else {
                continue;
            };
            for rule in grant.rules() {
                if !rule.group_matches(group) || !rule.resource_matches(resource, subresource.as_deref()) {
                    continue;
                }
                matched = true;
                let verbs: Vec<_> = Verb::of_resources()
                    .filter(|verb| rule.verbs.has(*verb))
                    // What a rule names behind a proxy it gives, whatever the built-ins say of the rest.
                    .filter(|verb| {
                        offer.verbs.has(*verb) || (offer.named_paths && !rule.proxy_paths.is_empty())
                    })
                    // A session is opened by create, whichever other verbs are granted.
                    .filter(|verb| !request.is_session() || *verb == Verb::Create)
                    .map(Verb::as_str)
                    .collect();
                if verbs.is_empty() {
                    continue;
                }
                let mut place = format!("{} {}", verbs.join(", "), request.resource_words());
                if !rule.names.is_empty() {
                    let _ = write!(place, " named {}", rule.names.join(", "));
                }
                if rule.dry_run_only {
                    place.push_str(" with dryRun=All");
                }
                if !rule.proxy_paths.is_empty() {
                    let _ = write!(place, " at {}", rule.proxy_paths.join(", "));
                }
                place.push_str(&namespaces);
                place.push_str(&offer.place);
                places.push(place);
            }
        }
    }
    if places.is_empty() {
        // Of the resource itself nothing is left, so that its name must not be said.
        let itself = request.resource_words();
        places = subjects(grants, matched.then_some(&*itself), None, denied_by);
    }
    places.dedup();
    shorten(places.join("; "))
}

/// Which resources the grants are about, but for one; `all` says that a grant names all, of which nothing is said without it:
/// "other resources" helps nobody. Nor is anything said of what a rule denies whoever asks and how.
fn subjects(
    grants: &[Arc<Grant>],
    but: Option<&str>,
    all: Option<&str>,
    denied_by: Option<&CompiledRule>,
) -> Vec<String> {
    let mut places = Vec::new();
    for grant in grants {
        // Rules about one resource need not stand together, nor name the same group.
        let mut named = HashSet::new();
        let resources: Vec<&str> = grant
            .rules()
            .iter()
            .flat_map(|rule| {
                rule.resources
                    .iter()
                    .map(move |resource| (rule, resource.as_str()))
            })
            .filter(|(rule, resource)| {
                !denied_by.is_some_and(|by| by.denies_all(rule.verbs, &rule.groups, resource))
            })
            .map(|(_, resource)| resource)
            .filter(|resource| Some(*resource) != but && named.insert(*resource))
            .collect();
        if resources.is_empty() {
            continue;
        }
        let mut place = match (resources.contains(&"*"), all) {
            (true, None) => continue,
            (true, Some(all)) => format!("requests for {all}"),
            (false, _) => format!("requests for {}", resources.join(", ")),
        };
        place.push_str(&namespaces(grant, None).unwrap_or_default());
        places.push(place);
    }
    places.dedup();
    places
}

/// The namespaces of a grant in words; `None` where it is bound to the one that is left out.
fn namespaces(grant: &Grant, but: Option<&str>) -> Option<String> {
    if grant.namespaces().is_empty() {
        return Some(String::new());
    }
    let is_left_out = |glob: &&Glob| matches!(glob, Glob::Exact(name) if Some(&**name) == but);
    let names: Vec<_> = grant
        .namespaces()
        .iter()
        .filter(|glob| !is_left_out(glob))
        .map(|glob| format!("{glob:?}"))
        .collect();
    (!names.is_empty()).then(|| format!(" in namespace {}", names.join(", ")))
}

/// Cuts a text at a character's boundary and says so.
fn shorten(mut text: String) -> String {
    if text.len() > MAX_ALLOWED {
        let mut end = MAX_ALLOWED - "...".len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}
