//! A request as rules compare it: names in lower case, verbs as sets, unknowns made explicit. Made once a decision.

use std::borrow::Cow;

use crate::request::{Exec, KubeRequest, Target, Verb, VerbSet};

/// Resources without a namespace, so that listing them is not "in every namespace". A resource that is not here (a
/// custom one) is taken for namespaced, which can only make a Deny rule match more.
const CLUSTER_SCOPED: [(&str, &str); 26] = [
    ("", "componentstatuses"),
    ("", "namespaces"),
    ("", "nodes"),
    ("", "persistentvolumes"),
    ("admissionregistration.k8s.io", "*"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("certificates.k8s.io", "certificatesigningrequests"),
    ("certificates.k8s.io", "clustertrustbundles"),
    ("flowcontrol.apiserver.k8s.io", "*"),
    ("internal.apiserver.k8s.io", "storageversions"),
    ("metrics.k8s.io", "nodes"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "ipaddresses"),
    ("networking.k8s.io", "servicecidrs"),
    ("node.k8s.io", "runtimeclasses"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceslices"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

/// What a Deny or Warn rule compares itself with.
pub(super) struct Asked<'r> {
    /// The verbs whose effect the request can have.
    pub(super) verbs: VerbSet,
    /// What it is about.
    pub(super) what: What<'r>,
}

/// Resource or path.
pub(super) enum What<'r> {
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
        /// Where.
        namespace: Scope<'r>,
        /// Which object.
        name: Scope<'r>,
        /// What would run: `None` where the request runs nothing.
        command: Option<Command>,
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
    /// All of them at once.
    All,
    /// None.
    None,
}

/// What an exec runs.
pub(super) enum Command {
    /// The arguments joined by one space, and the same with the program's folder taken off.
    Line { joined: String, bare: String },
    /// It cannot be told: attach joins a process that runs already.
    Unknown,
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

impl<'r> Asked<'r> {
    /// Prepares a request.
    pub(super) fn new(request: &'r KubeRequest) -> Self {
        let mut verbs = VerbSet::default().with(request.verb);
        if request.is_session() {
            // WebSocket clients ask by GET what SPDY clients ask by POST.
            verbs = verbs.with(Verb::Get).with(Verb::Create);
        }
        if request.apply {
            verbs = verbs.with(Verb::Create);
        }
        let what = match &request.target {
            Target::NonResource { path } => What::Path {
                path,
                trimmed: path
                    .strip_suffix('/')
                    .filter(|rest| !rest.is_empty())
                    .unwrap_or(path),
            },
            Target::Resource {
                group,
                resource,
                subresource,
                namespace,
                name,
                ..
            } => {
                let (group, resource) = (lower(group), lower(resource));
                let subresource = subresource.as_deref().map(lower);
                let combined = match &subresource {
                    Some(sub) => Cow::Owned(format!("{resource}/{sub}")),
                    None => resource.clone(),
                };
                let collection = request.verb.is_collection();
                let cluster_scoped = || {
                    let here =
                        |entry: &&(&str, &str)| entry.0 == group && (entry.1 == "*" || entry.1 == resource);
                    CLUSTER_SCOPED.iter().any(|entry| here(&entry))
                };
                let namespace = match namespace.as_deref() {
                    Some(namespace) => Scope::One(lower(namespace)),
                    None if collection && !cluster_scoped() => Scope::All,
                    None => Scope::None,
                };
                let name = match name.as_deref() {
                    Some(name) => Scope::One(Cow::Borrowed(name)),
                    None if collection => Scope::All,
                    None => Scope::None,
                };
                let command = request.exec.as_ref().map(command);
                What::Resource {
                    group,
                    combined,
                    resource,
                    subresource,
                    namespace,
                    name,
                    command,
                }
            }
        };
        Self { verbs, what }
    }
}

fn command(exec: &Exec) -> Command {
    let [program, rest @ ..] = exec.command.as_slice() else {
        return Command::Unknown;
    };
    let joined = exec.command.join(" ");
    let mut bare = program.rsplit('/').next().unwrap_or(program).to_owned();
    for argument in rest {
        bare.push(' ');
        bare.push_str(argument);
    }
    Command::Line { joined, bare }
}
