//! One rule, compiled: whether it is about a request, and which condition it has.
//!
//! In: a rule of an AgentPolicy. Out: answers on a [`MatchInput`], and what the index keeps of the rule.

#[path = "mismatch.rs"]
mod mismatch;

use std::fmt;
use std::sync::Arc;

use super::{CompiledPolicy, Globs, globs};
use crate::api::v1alpha1::{Action, LabelSelector, Match, Rule};
use crate::engine::FiredRule;
use crate::engine::command::{Command, boundary_glob};
use crate::engine::condition::{Condition, Failure};
use crate::engine::index::{About, Entry, Head};
use crate::engine::item_filter::Hidden;
use crate::engine::match_input::{MatchInput, MatchTarget, Scope};
use crate::engine::namespaces::{NamespaceUse, Namespaces, Selected};
use crate::engine::trace::Field;
use crate::engine::{INVALID_POLICY, INVALID_POLICY_PATHS};
use crate::glob::Glob;
use crate::kubernetes::resources::known_resources;
use crate::request::{Exec, KubeRequest, Verb, VerbSet};

/// A compiled rule.
#[derive(Debug)]
pub(in crate::engine) struct CompiledRule {
    /// Its policy's place in the table.
    pub(in crate::engine) policy: u32,
    /// Its name.
    pub(in crate::engine) name: Arc<str>,
    /// Its action.
    pub(in crate::engine) action: Action,
    /// Its message.
    pub(in crate::engine) message: Arc<str>,
    /// What must hold besides the match.
    pub(in crate::engine) condition: Option<Box<Condition>>,
    /// What a Filter rule hides of a list, made once.
    pub(in crate::engine) hidden: Option<Arc<Hidden>>,
    verbs: VerbSet,
    groups: Globs,
    resources: Option<Box<[ResourceGlob]>>,
    namespaces: Globs,
    /// The labels of the namespaces that it is about.
    selector: Option<Box<LabelSelector>>,
    names: Globs,
    urls: Globs,
    commands: Globs,
    /// The lines that are left alone; `None` where the rule says nothing of them.
    except: Option<ExceptedLines>,
    pub(super) streams: Streams,
    exclusions: Exclusions,
}

/// What a rule leaves alone.
#[derive(Debug, Default)]
struct Exclusions {
    resources: Box<[ResourceGlob]>,
    namespaces: Box<[Glob]>,
    names: Box<[Glob]>,
}

impl Exclusions {
    /// A glob that fails must except nothing.
    fn new(matches: &Match) -> Self {
        fn compiled<T>(list: &Option<Vec<String>>, compile: impl Fn(&str) -> Option<T>) -> Box<[T]> {
            list.iter().flatten().filter_map(|text| compile(text)).collect()
        }
        Self {
            resources: compiled(&matches.except_resources, |text| {
                Glob::folded(&text.replace('/', "")).ok()?;
                Some(ResourceGlob::new(text))
            }),
            namespaces: compiled(&matches.except_namespaces, |text| Glob::folded(text).ok()),
            names: compiled(&matches.except_names, |text| Glob::name(text).ok()),
        }
    }

    /// Whether a request is left alone: by the resource that it names or the one that it has its effect on, by its namespace, or
    /// by its object's name. What is all of them, or is not known, is none of them.
    fn have(&self, target: &MatchTarget<'_>) -> bool {
        self.which(target).is_some()
    }

    /// Which of them leaves a request alone.
    fn which(&self, target: &MatchTarget<'_>) -> Option<Field> {
        let MatchTarget::Resource {
            resource,
            subresource,
            requested,
            namespace,
            name,
            ..
        } = target
        else {
            return None;
        };
        let is_one = |globs: &[Glob], scope: &Scope<'_>| match scope {
            Scope::One(text) => globs.iter().any(|glob| glob.matches(text)),
            Scope::Proxied { bare, .. } => globs.iter().any(|glob| glob.matches(bare)),
            _ => false,
        };
        let (named, named_sub) = requested;
        let of_resource = |glob: &ResourceGlob| {
            glob.matches(resource, subresource.as_deref()) || glob.matches(named, named_sub.as_deref())
        };
        if self.resources.iter().any(of_resource) {
            Some(Field::Resource)
        } else if is_one(&self.namespaces, namespace) {
            Some(Field::Namespace)
        } else {
            is_one(&self.names, name).then_some(Field::Name)
        }
    }
}

/// Command lines that a rule leaves alone.
#[derive(Debug, Default)]
struct ExceptedLines {
    globs: Box<[Glob]>,
    lists: Box<[Box<[String]>]>,
}

/// What a rule says of an exec besides its command.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Streams {
    stdin: Option<bool>,
    tty: Option<bool>,
    env: Option<bool>,
}

impl fmt::Display for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [("stdin", self.stdin), ("tty", self.tty), ("env", self.env)];
        let named = named
            .into_iter()
            .filter_map(|(name, wanted)| Some(format!("{name}: {}", wanted?)));
        f.write_str(&named.collect::<Vec<_>>().join(", "))
    }
}

impl Streams {
    /// What a rule does not name is as it likes. What runs by a container of its own may have any streams.
    pub(super) fn hold(self, exec: Option<&Exec>, command: Option<&Command<'_>>) -> bool {
        let Some(exec) = exec else {
            return self == Self::default() || command.is_some();
        };
        let holds = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        holds(self.stdin, exec.stdin) && holds(self.tty, exec.tty) && holds(self.env, !exec.env.is_empty())
    }
}

/// A resource pattern. `*` alone is every resource and subresource, as in RBAC.
#[derive(Debug)]
enum ResourceGlob {
    All,
    Plain(Glob),
    Sub(Glob, Glob),
}

/// A group: the core group is the empty string, which is no glob but a text of its own.
fn group(text: &str) -> Result<Glob, crate::glob::GlobError> {
    if text.is_empty() {
        Ok(Glob::Exact("".into()))
    } else {
        Glob::folded(text)
    }
}

/// The verbs of a Filter rule that names none. Whatever answers with an object counts as a get.
pub(in crate::engine) const READS: [Verb; 3] = [Verb::Get, Verb::List, Verb::Watch];

/// The verbs a rule is about: those it names, and those that have their effect. (What else creates counts as create too, and
/// an eviction as the deletion of its pod; see [`MatchInput`].)
fn verbs(list: Option<&[String]>) -> VerbSet {
    let Some(list) = list else { return VerbSet::ALL };
    list.iter().fold(VerbSet::default(), |set, name| {
        set.and(Verb::parse(name).map_or(VerbSet::ALL, Verb::with_same_effect))
    })
}

impl ResourceGlob {
    fn new(text: &str) -> Self {
        let folded = |part: &str| Glob::folded(part).unwrap_or(Glob::Any);
        match text.split_once('/') {
            None if text.bytes().all(|byte| byte == b'*') => Self::All,
            None => Self::Plain(folded(text)),
            Some((resource, sub)) => Self::Sub(folded(resource), folded(sub)),
        }
    }

    /// The one `pods` or `pods/exec` it matches, if it is one.
    fn key(&self) -> Option<String> {
        match self {
            Self::All => None,
            Self::Plain(resource) => resource.exact().map(str::to_owned),
            Self::Sub(resource, sub) => Some(format!("{}/{}", resource.exact()?, sub.exact()?)),
        }
    }

    fn matches(&self, resource: &str, subresource: Option<&str>) -> bool {
        match (self, subresource) {
            (Self::All, _) => true,
            (Self::Plain(glob), None) => glob.matches(resource),
            (Self::Sub(glob, sub_glob), Some(sub)) => glob.matches(resource) && sub_glob.matches(sub),
            _ => false,
        }
    }
}

/// The lines that a rule leaves alone. A glob that fails must except nothing.
fn excepted_lines(matches: &Match) -> Option<ExceptedLines> {
    let (globs, lists) = (&matches.except_commands, &matches.except_argv);
    let texts = globs.iter().flatten();
    (globs.is_some() || lists.is_some()).then(|| ExceptedLines {
        globs: texts.filter_map(|text| boundary_glob(text)).collect(),
        lists: lists
            .iter()
            .flatten()
            .map(|list| list.as_slice().into())
            .collect(),
    })
}

impl CompiledRule {
    pub(super) fn new((policy, policy_name): (u32, &str), rule: &Rule, condition: Option<Condition>) -> Self {
        let matches: &Match = &rule.matches;
        let names = |list: &Option<Vec<String>>| list.as_deref().map(|list| globs(list, Glob::name));
        let mut compiled = Self {
            policy,
            name: rule.name.as_str().into(),
            action: rule.action,
            message: rule.one_line_message().into(),
            condition: condition.map(Box::new),
            verbs: match (&matches.verbs, rule.action) {
                (None, Action::Filter) => READS.into_iter().fold(VerbSet::default(), VerbSet::with),
                (listed, _) => verbs(listed.as_deref()),
            },
            groups: matches.api_groups.as_deref().map(|list| globs(list, group)),
            resources: matches
                .resources
                .as_ref()
                .map(|list| list.iter().map(|text| ResourceGlob::new(text)).collect()),
            namespaces: matches
                .namespaces
                .as_deref()
                .map(|list| globs(list, Glob::folded)),
            selector: matches.namespace_selector.clone().map(Box::new),
            names: names(&matches.names),
            urls: names(&matches.non_resource_urls),
            commands: matches.commands.as_deref().map(|list| globs(list, Glob::text)),
            except: excepted_lines(matches),
            streams: Streams {
                stdin: matches.stdin,
                tty: matches.tty,
                env: matches.env,
            },
            exclusions: Exclusions::new(matches),
            hidden: None,
        };
        if rule.action == Action::Filter {
            compiled.hidden = Some(Arc::new(compiled.hides(policy_name)));
        }
        compiled
    }

    /// Whether the rule names objects, leaves some alone by their names, or can ask for a name in its condition. What reads the name for
    /// one rule must not let another pass by it, so that all of them are given the name.
    pub(in crate::engine) fn is_about_names(&self) -> bool {
        let by_condition = || {
            self.condition
                .as_ref()
                .is_some_and(|condition| condition.uses_request())
        };
        self.is_about_names_of_objects() || by_condition()
    }

    /// Whether the rule names or selects namespaces, or leaves some alone.
    pub(in crate::engine) fn is_about_namespaces(&self) -> bool {
        self.namespaces.is_some() || self.selector.is_some() || !self.exclusions.namespaces.is_empty()
    }

    /// Its namespaces by their labels.
    pub(in crate::engine) fn selector(&self) -> Option<&LabelSelector> {
        self.selector.as_deref()
    }

    /// Whether the namespace of a request has the labels that the rule is about. [`CompiledRule::fires`] does not look at them. Of a
    /// request over all namespaces some may have them.
    pub(in crate::engine) fn selects(&self, request: &KubeRequest, namespaces: &Namespaces) -> Selected {
        match (&self.selector, request.namespace()) {
            (Some(selector), Some(namespace)) => namespaces.selected(selector, namespace),
            (None, _) | (Some(_), None) => Selected::Yes,
        }
    }

    /// Which parts of namespaces it looks at.
    pub(in crate::engine) fn namespace_use(&self) -> NamespaceUse {
        let by_condition = self.condition.as_ref();
        match by_condition.is_some_and(|condition| condition.uses_namespace()) {
            true => NamespaceUse::Objects,
            false if self.selector.is_some() => NamespaceUse::Labels,
            false => NamespaceUse::Nothing,
        }
    }

    /// Whether the rule names objects, or leaves some alone by their names.
    pub(in crate::engine) fn is_about_names_of_objects(&self) -> bool {
        self.names.is_some() || !self.exclusions.names.is_empty()
    }

    /// The objects of a list that the rule hides.
    fn hides(&self, policy: &str) -> Hidden {
        Hidden {
            rule: format!("{policy}/{}", self.name).into(),
            namespaces: self.namespaces.clone(),
            selector: self.selector.clone(),
            names: self.names.clone(),
            except_namespaces: self.exclusions.namespaces.clone(),
            except_names: self.exclusions.names.clone(),
        }
    }

    /// Whether the rule stops what it is about, but for what it only hides.
    pub(in crate::engine) fn refuses(&self) -> bool {
        matches!(self.action, Action::Deny | Action::Filter)
    }

    /// Whether the rule names commands, so that it may refuse one and not another.
    pub(in crate::engine) fn is_about_commands(&self) -> bool {
        self.commands.is_some() || self.except.is_some()
    }

    /// Whether the rule is about a request, as far as its head says it: the labels of its namespace are for [`CompiledRule::selects`].
    pub(in crate::engine) fn fires(&self, input: &MatchInput<'_>) -> bool {
        if !self.verbs.meets(input.verbs) {
            return false;
        }
        match &input.target {
            MatchTarget::Path { path, trimmed } => self
                .urls
                .as_ref()
                .is_some_and(|urls| urls.iter().any(|url| url.matches(path) || url.matches(trimmed))),
            MatchTarget::Resource {
                group,
                resource,
                subresource,
                namespace,
                name,
                command,
                exec,
                ..
            } => {
                self.urls.is_none()
                    && any(&self.groups, group)
                    && self.resources.as_ref().is_none_or(|list| {
                        list.iter()
                            .any(|glob| glob.matches(resource, subresource.as_deref()))
                    })
                    && in_scope(&self.namespaces, namespace)
                    && (self.selector.is_none() || !matches!(namespace, Scope::None))
                    && in_scope(&self.names, name)
                    && self.streams.hold(*exec, command.as_ref())
                    && self.runs(command.as_ref())
                    && !self.exclusions.have(&input.target)
            }
        }
    }

    /// Whether the rule's condition looks into the object of a request.
    pub(in crate::engine) fn uses_object(&self) -> bool {
        self.condition
            .as_ref()
            .is_some_and(|condition| condition.uses_object())
    }

    /// Whether the rule's condition looks at the object that a request finds in the cluster.
    pub(in crate::engine) fn uses_old_object(&self) -> bool {
        self.condition
            .as_ref()
            .is_some_and(|condition| condition.uses_old_object())
    }

    /// Whether the rule looks at a stored object that nobody asks for: the pod of an eviction or a binding, which these change by the way.
    pub(in crate::engine) fn is_about_unseen(
        &self,
        request: &KubeRequest,
        on_object: &[MatchInput<'_>],
    ) -> bool {
        self.uses_old_object()
            && !request.acts_on_stored()
            && on_object
                .iter()
                .any(|other| other.changes_stored() && self.fires(other))
    }

    /// The commands that the rule is about, in words.
    pub(super) fn commands_in_words(&self) -> String {
        let words = |globs: &[Glob]| {
            let globs: Vec<_> = globs.iter().map(|glob| format!("{glob:?}")).collect();
            globs.join(", ")
        };
        match (self.commands.as_deref(), &self.except) {
            (Some(commands), None) => words(commands),
            (Some(commands), Some(_)) => format!("{} but for those that it excepts", words(commands)),
            (None, Some(_)) => "all but those that it excepts".to_owned(),
            (None, None) => String::new(),
        }
    }

    /// Whether the commands match. What cannot be told counts as matching. What is refused is matched in every reading,
    /// what is excepted as it came only.
    fn runs(&self, command: Option<&Command<'_>>) -> bool {
        match (command, &self.commands, &self.except) {
            (_, None, None) => true,
            (None, _, _) => false,
            (Some(Command::Unknown), _, _) => true,
            (Some(Command::Line(line)), commands, except) => {
                let excepted = except
                    .as_ref()
                    .is_some_and(|except| line.is_excepted(&except.globs, &except.lists));
                !excepted && commands.as_ref().is_none_or(|globs| line.matches(globs))
            }
        }
    }

    /// What the index keeps of it.
    pub(super) fn entry(&self, number: u32) -> Entry {
        let resource = match self.resources.as_deref() {
            Some([ResourceGlob::Plain(glob) | ResourceGlob::Sub(glob, _)]) => Head::of_glob(glob),
            _ => Head::default(),
        };
        let head = |globs: &Globs| match globs.as_deref() {
            Some([glob]) => Head::of_glob(glob),
            _ => Head::default(),
        };
        Entry {
            number,
            verbs: self.verbs,
            resource,
            namespace: head(&self.namespaces),
            name: head(&self.names),
        }
    }

    /// Where the index keeps it: by every `pods` or `pods/exec` it is about, if each of its patterns is one.
    pub(super) fn about(&self) -> About {
        if self.urls.is_some() {
            return About::Paths;
        }
        let Some(patterns) = &self.resources else {
            return About::Everything;
        };
        if patterns
            .iter()
            .any(|pattern| matches!(pattern, ResourceGlob::All))
        {
            return About::Everything;
        }
        if let Some(mut keys) = patterns.iter().map(ResourceGlob::key).collect::<Option<Vec<_>>>() {
            keys.sort_unstable();
            keys.dedup();
            return About::Resources(keys);
        }
        let matches = |known: &&'static str| {
            let (resource, sub) = known
                .split_once('/')
                .map_or((*known, None), |(resource, sub)| (resource, Some(sub)));
            patterns.iter().any(|pattern| pattern.matches(resource, sub))
        };
        About::Patterns(known_resources().filter(matches).collect())
    }

    /// Its namespaces as they are written.
    pub(in crate::engine) fn namespaces(&self) -> Option<&[Glob]> {
        self.namespaces.as_deref()
    }

    /// Its names as they are written.
    pub(in crate::engine) fn names(&self) -> Option<&[Glob]> {
        self.names.as_deref()
    }

    /// The namespaces that it leaves alone.
    pub(in crate::engine) fn excepted_namespaces(&self) -> &[Glob] {
        &self.exclusions.namespaces
    }

    /// The verbs that it refuses: its own, and writes whose answer has what it keeps from being read.
    pub(in crate::engine) fn refused_verbs(&self) -> VerbSet {
        let reads = self.verbs.has(Verb::Get);
        let writes = [Verb::Update, Verb::Patch, Verb::Delete].into_iter();
        let refused = writes.filter(|_| reads).fold(self.verbs, VerbSet::with);
        match reads || self.verbs.has(Verb::List) {
            true => refused.with(Verb::DeleteCollection),
            false => refused,
        }
    }

    /// Whether it stands for a policy that is not valid: beside such a policy nothing is allowed.
    pub(in crate::engine) fn is_of_invalid_policy(&self) -> bool {
        [INVALID_POLICY, INVALID_POLICY_PATHS].contains(&&*self.name)
    }

    /// Whether it denies every request for a resource by these verbs in these groups, whatever else the request is.
    pub(in crate::engine) fn denies_all(&self, verbs: VerbSet, groups: &[String], resource: &str) -> bool {
        let (plain, sub) = resource
            .split_once('/')
            .map_or((resource, None), |(plain, sub)| (plain, Some(sub)));
        let exclusions = &self.exclusions;
        let is_whole = self.condition.is_none()
            && self.namespaces.is_none()
            && self.selector.is_none()
            && self.names.is_none()
            && self.urls.is_none()
            && !self.is_about_commands()
            && self.streams == Streams::default()
            && exclusions.resources.is_empty()
            && exclusions.namespaces.is_empty()
            && exclusions.names.is_empty();
        let is_about = || {
            let resources = self.resources.as_ref();
            resources.is_none_or(|list| list.iter().any(|glob| glob.matches(plain, sub)))
                && groups.iter().all(|group| any(&self.groups, group))
        };
        let has_all = || verbs.without(self.refused_verbs()) == VerbSet::default();
        self.action == Action::Deny && is_whole && has_all() && is_about()
    }

    /// The verbs it is about.
    pub(in crate::engine) fn verbs(&self) -> VerbSet {
        self.verbs
    }

    /// The rule's firing, in words, and why it fired where its condition has no outcome.
    pub(in crate::engine) fn finding(
        &self,
        policies: &[CompiledPolicy],
        (failure, request): (Option<Failure>, &KubeRequest),
    ) -> FiredRule {
        let policy = policies
            .get(self.policy as usize)
            .map(|policy| policy.name.to_string())
            .unwrap_or_default();
        FiredRule {
            policy,
            rule: self.name.to_string(),
            message: match failure.map(|failure| failure.explain(request)) {
                None => self.message.to_string(),
                Some(failure) if self.message.is_empty() => failure,
                Some(failure) => format!("{} ({failure})", self.message),
            },
        }
    }
}

fn any(globs: &Globs, text: &str) -> bool {
    globs
        .as_ref()
        .is_none_or(|globs| globs.iter().any(|glob| glob.matches(text)))
}

/// A request for all of them touches the ones that are named among the rest.
fn in_scope(globs: &Globs, scope: &Scope<'_>) -> bool {
    match (globs, scope) {
        (None, _) | (Some(_), Scope::All) => true,
        (Some(globs), Scope::One(text)) => globs.iter().any(|glob| glob.matches(text)),
        (Some(globs), Scope::Proxied { written, bare }) => globs
            .iter()
            .any(|glob| glob.matches(written) || glob.matches(bare)),
        (Some(globs), Scope::Begins(beginning)) => {
            globs.iter().any(|glob| glob.could_match_generated(beginning))
        }
        (Some(_), Scope::None) => false,
    }
}
