//! A request as rules compare it: names in lower case, verbs as sets, unknowns made explicit.
//!
//! In: a [`KubeRequest`]. Out: a [`MatchInput`], made once for each decision.

use std::borrow::Cow;

use super::command::Command;
use crate::kubernetes::resources::{is_cluster_scoped, shows_object};
use crate::request::{Exec, KubeRequest, ObjectName, Target, Verb, VerbSet};

/// Resources whose PUT creates the object where there is none: those with `AllowCreateOnUpdate() == true` in
/// pkg/registry of Kubernetes 1.36. Their status subresource does the same, as its strategy is made of theirs.
///
/// Custom resources never do (apiextensions-apiserver, pkg/registry/customresource/strategy.go). An aggregated API
/// server may, and no request shows it: whoever bounds such a group by rules names `create` and `update` together. Its
/// own authorization of `create` for the impersonated user holds all the same (k8s.io/apiserver,
/// pkg/endpoints/handlers/update.go).
const CREATED_BY_UPDATE: [(&str, &str); 12] = [
    ("", "endpoints"),
    ("", "events"),
    ("", "limitranges"),
    ("", "services"),
    ("coordination.k8s.io", "leasecandidates"),
    ("coordination.k8s.io", "leases"),
    ("events.k8s.io", "events"),
    ("node.k8s.io", "runtimeclasses"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
];

/// Whether a request that is no `create` can create: a server-side apply of anything, or a PUT of some resources.
pub(super) fn may_create(request: &KubeRequest) -> bool {
    request.apply || (request.verb == Verb::Update && creates_by_update(&request.target))
}

fn creates_by_update(target: &Target) -> bool {
    let Target::Resource {
        group,
        resource,
        subresource,
        ..
    } = target
    else {
        return false;
    };
    let is =
        |entry: &(&str, &str)| group.eq_ignore_ascii_case(entry.0) && resource.eq_ignore_ascii_case(entry.1);
    subresource
        .as_deref()
        .is_none_or(|sub| sub.eq_ignore_ascii_case("status"))
        && CREATED_BY_UPDATE.iter().any(is)
}

/// What a Deny or Warn rule compares itself with.
pub(super) struct MatchInput<'r> {
    /// The verbs whose effect the request can have.
    pub(super) verbs: VerbSet,
    /// What it is about.
    pub(super) target: MatchTarget<'r>,
}

/// Resource or path.
#[expect(
    clippy::large_enum_variant,
    reason = "it is made once a decision and stays on the stack; a box would be an allocation"
)]
pub(super) enum MatchTarget<'r> {
    /// A resource.
    Resource {
        /// API group.
        group: Cow<'r, str>,
        /// `pods` or `pods/exec`.
        combined: Cow<'r, str>,
        /// `pods`.
        resource: Cow<'r, str>,
        /// `exec`.
        subresource: Option<Cow<'r, str>>,
        /// The resource and subresource that the request names, where this is about what it does besides.
        requested: (Cow<'r, str>, Option<Cow<'r, str>>),
        /// Where.
        namespace: Scope<'r>,
        /// Which object.
        name: Scope<'r>,
        /// What would run: `None` where the request runs nothing.
        command: Option<Command<'r>>,
        /// What the streams are asked for with.
        exec: Option<&'r Exec>,
    },
    /// A path, and the same without a trailing slash.
    Path {
        /// As the API server matches it.
        path: &'r str,
        /// Without a trailing slash.
        trimmed: &'r str,
    },
}

/// A namespace or name.
pub(super) enum Scope<'r> {
    /// This one.
    One(Cow<'r, str>),
    /// This one, as a proxied object is written and without its scheme and port.
    Proxied {
        /// `https:web:443`, or whatever a client made of it.
        written: &'r str,
        /// `web`.
        bare: &'r str,
    },
    /// All of them at once, or one that is not known.
    All,
    /// One that the API server makes of this beginning.
    Begins(&'r str),
    /// None.
    None,
}

/// The two ways to the objects that are events (k8s.io/kubernetes pkg/registry/events/rest).
const SAME_EVENTS: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

fn only(verb: Verb) -> VerbSet {
    VerbSet::default().with(verb)
}

/// The verbs whose effect a request has.
fn verbs_of(request: &KubeRequest) -> VerbSet {
    let verbs = only(request.verb);
    if request.is_session() {
        // WebSocket clients ask by GET what SPDY clients ask by POST.
        return verbs.with(Verb::Get).with(Verb::Create);
    }
    let verbs = match may_create(request) {
        true => verbs.with(Verb::Create),
        false => verbs,
    };
    let has_object = matches!(request.target, Target::Resource { .. }) && !request.is_proxied();
    match request.verb {
        // A write answers with the object, and so does a deletion that a finalizer or a dry run holds up. A new object shows
        // nothing but itself.
        Verb::Update | Verb::Patch | Verb::Delete if has_object => verbs.with(Verb::Get),
        Verb::DeleteCollection => verbs.with(Verb::Get).with(Verb::List),
        _ => verbs,
    }
}

/// Resources whose status brings metadata: labels, annotations and finalizers of the body are stored, by which others decide.
///
/// These are the status strategies of Kubernetes 1.36 without `ResetObjectMetaForStatus` (pkg/registry). The one of
/// CustomResourceDefinitions calls it with the new object twice, which resets nothing. A custom resource's status brings none.
const STATUS_BRINGS_METADATA: [(&str, &str); 18] = [
    ("", "namespaces"),
    ("", "nodes"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "replicationcontrollers"),
    ("", "resourcequotas"),
    ("", "services"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("autoscaling", "horizontalpodautoscalers"),
    ("batch", "cronjobs"),
    ("batch", "jobs"),
    ("networking.k8s.io", "ingresses"),
    ("policy", "poddisruptionbudgets"),
];

/// Further subresources that bring metadata, each with its resource.
const SUBRESOURCES_BRING_METADATA: [(&str, &str, &str); 3] = [
    ("", "namespaces", "finalize"),
    ("certificates.k8s.io", "certificatesigningrequests", "approval"),
    ("certificates.k8s.io", "certificatesigningrequests", "status"),
];

/// Whether a write to a subresource stores metadata of its object.
fn brings_metadata(group: &str, resource: &str, sub: &str) -> bool {
    let is = |of: (&str, &str)| group.eq_ignore_ascii_case(of.0) && resource.eq_ignore_ascii_case(of.1);
    let is_sub = |wanted: &str| sub.eq_ignore_ascii_case(wanted);
    (is_sub("status") && STATUS_BRINGS_METADATA.into_iter().any(is))
        || SUBRESOURCES_BRING_METADATA
            .into_iter()
            .any(|(group, resource, sub)| is((group, resource)) && is_sub(sub))
}

fn combine<'r>(resource: &Cow<'r, str>, subresource: Option<&str>) -> Cow<'r, str> {
    match subresource {
        Some(sub) => Cow::Owned(format!("{resource}/{sub}")),
        None => resource.clone(),
    }
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// Whether a request is for the objects of all namespaces at once.
pub(super) fn is_over_all_namespaces(request: &KubeRequest) -> bool {
    let Target::Resource {
        group,
        resource,
        namespace: None,
        ..
    } = &request.target
    else {
        return false;
    };
    request.verb.is_collection() && !is_cluster_scoped(&lower(group), &lower(resource))
}

impl<'r> MatchInput<'r> {
    /// Whether it has a command line, and that is known.
    pub(super) fn has_known_command(&self) -> bool {
        let MatchTarget::Resource { command, .. } = &self.target else {
            return false;
        };
        matches!(command, Some(Command::Line(_)))
    }

    /// Whether it is for all namespaces at once.
    pub(super) fn is_of_all_namespaces(&self) -> bool {
        let MatchTarget::Resource { namespace, .. } = &self.target else {
            return false;
        };
        matches!(namespace, Scope::All)
    }

    /// Whether it is for a whole collection.
    pub(super) fn is_of_all_names(&self) -> bool {
        let MatchTarget::Resource { name, .. } = &self.target else {
            return false;
        };
        matches!(name, Scope::All)
    }

    /// Whether it changes or deletes what is stored already.
    pub(super) fn changes_stored(&self) -> bool {
        let changes = [Verb::Update, Verb::Patch, Verb::Delete].into_iter();
        self.verbs.meets(changes.fold(VerbSet::default(), VerbSet::with))
    }

    /// Prepares a request.
    pub(super) fn new(request: &'r KubeRequest) -> Self {
        let verbs = verbs_of(request);
        let subresource = match &request.target {
            Target::Resource { subresource, .. } => subresource.as_deref(),
            Target::NonResource { .. } => None,
        };
        Self::on(request, verbs, subresource)
    }

    /// What the request does or shows besides, as requests of their own: by a subresource to its object, and by one of two ways to
    /// the same objects.
    pub(super) fn on_object(request: &'r KubeRequest) -> Vec<Self> {
        let Target::Resource {
            group,
            resource,
            subresource,
            ..
        } = &request.target
        else {
            return Vec::new();
        };
        let is = |entry: (&str, &str)| {
            group.eq_ignore_ascii_case(entry.0) && resource.eq_ignore_ascii_case(entry.1)
        };
        if let Some(other) = SAME_EVENTS.into_iter().position(is) {
            let (group, resource) = SAME_EVENTS[1 - other];
            let here = Self::on(request, verbs_of(request), subresource.as_deref());
            return vec![here.renamed(group, resource)];
        }
        let Some(sub) = subresource.as_deref() else {
            let binds = request.verb == Verb::Create && is(("", "bindings"));
            // The pod's name is in the body.
            let pods = |verb, sub| {
                Self::on(request, only(verb), sub)
                    .renamed("", "pods")
                    .of_any_name()
            };
            return match binds {
                true => vec![pods(Verb::Create, Some("binding")), pods(Verb::Update, None)],
                false => Vec::new(),
            };
        };
        let is_sub = |wanted: &str| sub.eq_ignore_ascii_case(wanted);
        let on_object = |verb| Self::on(request, only(verb), None);
        let is_pod = is(("", "pods"));
        let mut found = Vec::new();
        match request.verb {
            Verb::Create if is_pod && is_sub("eviction") => found.push(on_object(Verb::Delete)),
            Verb::Create if is_pod && is_sub("binding") => {
                found.push(on_object(Verb::Create).renamed("", "bindings"));
                found.push(on_object(Verb::Update));
            }
            Verb::Get | Verb::Update | Verb::Patch if shows_object(group, resource, sub) => {
                found.push(on_object(Verb::Get));
                if request.verb != Verb::Get && brings_metadata(group, resource, sub) {
                    found.push(on_object(Verb::Update));
                }
                if request.verb != Verb::Get && is_pod && is_sub("ephemeralcontainers") {
                    found.push(Self::on(request, only(Verb::Create), Some("exec")).of_any_command());
                }
            }
            _ => {}
        }
        if may_create(request) && creates_by_update(&request.target) {
            found.push(on_object(Verb::Create));
        }
        found
    }

    /// The same of another resource.
    fn renamed(mut self, to_group: &'static str, to_resource: &'static str) -> Self {
        if let MatchTarget::Resource {
            group,
            combined,
            resource,
            subresource,
            ..
        } = &mut self.target
        {
            *group = Cow::Borrowed(to_group);
            *resource = Cow::Borrowed(to_resource);
            *combined = combine(resource, subresource.as_deref());
        }
        self
    }

    /// The same of an object whose name is not known.
    fn of_any_name(mut self) -> Self {
        if let MatchTarget::Resource { name, .. } = &mut self.target {
            *name = Scope::All;
        }
        self
    }

    /// The same with a command that is not known.
    fn of_any_command(mut self) -> Self {
        if let MatchTarget::Resource { command, .. } = &mut self.target {
            *command = Some(Command::Unknown);
        }
        self
    }

    /// The request as if it were these verbs on this subresource of its object, or on the object.
    fn on(request: &'r KubeRequest, verbs: VerbSet, subresource: Option<&'r str>) -> Self {
        let target = match &request.target {
            Target::NonResource { path } => MatchTarget::Path {
                path,
                trimmed: path
                    .strip_suffix('/')
                    .filter(|rest| !rest.is_empty())
                    .unwrap_or(path),
            },
            Target::Resource {
                group,
                resource,
                subresource: requested_sub,
                namespace,
                name,
                ..
            } => {
                let (group, resource) = (lower(group), lower(resource));
                let subresource = subresource.map(lower);
                let requested = (resource.clone(), requested_sub.as_deref().map(lower));
                let combined = combine(&resource, subresource.as_deref());
                let namespace = match namespace.as_deref() {
                    Some(namespace) => Scope::One(lower(namespace)),
                    None if is_over_all_namespaces(request) => Scope::All,
                    None => Scope::None,
                };
                let name = match name.as_deref() {
                    Some(written) if takes_scheme_and_port(&group, &resource, subresource.as_deref()) => {
                        Scope::Proxied {
                            written,
                            bare: without_scheme_and_port(written),
                        }
                    }
                    Some(name) => Scope::One(Cow::Borrowed(name)),
                    None if request.verb.is_collection() => Scope::All,
                    None => match request.object_name() {
                        ObjectName::Known(name) => Scope::One(Cow::Borrowed(name)),
                        ObjectName::Begins(beginning) => Scope::Begins(beginning),
                        ObjectName::Unknown => Scope::All,
                        ObjectName::None => Scope::None,
                    },
                };
                let command = request.exec.as_ref().map(Command::new);
                MatchTarget::Resource {
                    group,
                    combined,
                    resource,
                    subresource,
                    requested,
                    namespace,
                    name,
                    command,
                    exec: request.exec.as_ref(),
                }
            }
        };
        Self { verbs, target }
    }
}

/// Whether the API server reads a scheme and a port out of the name: `[scheme:]name[:port]` (pkg/registry/core of
/// Kubernetes 1.36, `ResourceLocation` of pods, services and nodes). All three in lower case.
fn takes_scheme_and_port(group: &str, resource: &str, subresource: Option<&str>) -> bool {
    group.is_empty() && subresource == Some("proxy") && matches!(resource, "pods" | "services" | "nodes")
}

/// The object that a proxied name is about (k8s.io/apimachinery pkg/util/net/port_split.go, `SplitSchemeNamePort`). More
/// than three parts are no name there; what stands before the last port is taken then, so that an odd one is denied too.
fn without_scheme_and_port(written: &str) -> &str {
    let Some((before, _port)) = written.rsplit_once(':') else {
        return written;
    };
    before.rsplit_once(':').map_or(before, |(_scheme, name)| name)
}
