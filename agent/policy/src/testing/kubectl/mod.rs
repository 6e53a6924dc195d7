//! What kubectl asks for: a command line, as requests to the API server.
//!
//! In: the words after `kubectl`, the namespace that the agent's pod is in, and what `-f -` reads. Out: [`PlannedRequest`]s in the order
//! in which kubectl 1.36 makes them, or an [`InputError`].
//!
//! Discovery (`/api`, `/apis`, `/openapi`) goes before each command and is left out: every grant gives it. What only a cluster can tell is
//! made up: an object that a selector or `--all` finds is called `example`. A command that is not known is an error and never nothing.

mod created;
mod flags;
mod objects;
mod reads;
mod resources;
mod sessions;
mod words;
mod writes;

use http::Method;
use serde_json::Value as Json;

use crate::body::MediaType;

use super::input::{InputError, PlannedRequest, RequestRole};
use flags::Arguments;
use resources::Resource;

/// The name of an object that only the cluster can tell.
const EXAMPLE: &str = "example";

/// What a command line is read with.
#[derive(Debug, Clone, Copy)]
pub struct CommandContext<'a> {
    /// The namespace of a line without one.
    pub namespace: &'a str,
    /// What `-f -` reads.
    pub stdin: Option<&'a str>,
    /// Whether the objects that are applied are there already.
    pub exists: bool,
}

/// Commands that ask the API server for nothing.
const LOCAL: [&str; 8] = [
    "completion",
    "config",
    "help",
    "kuberc",
    "kustomize",
    "options",
    "plugin",
    "proxy",
];

/// The requests that kubectl makes for a command line. The word `kubectl` may stand before it.
///
/// # Errors
/// An [`InputError`] that says what to write instead.
pub fn requests(line: &str, around: CommandContext<'_>) -> Result<Vec<PlannedRequest>, InputError> {
    let mut words = words::split(line)?;
    if words.first().is_some_and(|word| word == "kubectl") {
        words.remove(0);
    }
    let arguments = flags::read(&words)?;
    let mut plan = Plan::new(&arguments, around);
    let command = plan.arguments.command.clone();
    match command.as_str() {
        "" => {
            return Err(InputError(
                "there is no command: write such as \"get pods\"".to_owned(),
            ));
        }
        _ if plan.arguments.has("help") => return Err(plan.no_request("--help")),
        local if LOCAL.contains(&local) => {
            return Err(InputError(format!(
                "`kubectl {local}` asks the API server for nothing by itself: test what is asked for later, as a request"
            )));
        }
        _ => {}
    }
    if !(plan.reads(&command)? || plan.writes(&command)? || plan.sessions(&command)?) {
        return Err(InputError(format!(
            "`kubectl {command}` is no command of kubectl that is known here: write its requests under `request`"
        )));
    }
    Ok(plan.requests)
}

/// The requests of one command line, as far as they are known.
struct Plan<'a> {
    arguments: &'a Arguments,
    around: CommandContext<'a>,
    namespace: String,
    requests: Vec<PlannedRequest>,
}

/// An object that a command names, or all of a kind.
#[derive(Debug, Clone)]
struct Named {
    resource: Resource,
    name: Option<String>,
}

/// The pairs of a request's query.
type Query<'q> = Vec<(&'q str, String)>;

impl<'a> Plan<'a> {
    fn new(arguments: &'a Arguments, around: CommandContext<'a>) -> Self {
        let namespace = arguments.value("namespace").unwrap_or(around.namespace);
        Self {
            arguments,
            around,
            namespace: namespace.to_owned(),
            requests: Vec::new(),
        }
    }

    /// The words after the command.
    fn rest(&self) -> &'a [String] {
        &self.arguments.words
    }

    /// The namespace of a request; `None` for all.
    fn scope(&self) -> Option<&str> {
        (!self.arguments.has("all-namespaces")).then_some(self.namespace.as_str())
    }

    fn path(&self, resource: &Resource, name: Option<&str>, sub: Option<&str>) -> String {
        // An object that is named is in one namespace, whatever else is asked for.
        let namespace = match name {
            Some(_) => Some(self.namespace.as_str()),
            None => self.scope(),
        };
        resource.path(namespace, name, sub)
    }

    fn ask(
        &mut self,
        role: RequestRole,
        method: Method,
        path: String,
        query: &[(&str, String)],
    ) -> &mut PlannedRequest {
        let mut target = path;
        for (number, (name, value)) in query.iter().enumerate() {
            target.push(if number == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            target.push_str(&encoded(value));
        }
        self.requests.push(PlannedRequest::new(role, method, target));
        let last = self.requests.len() - 1;
        &mut self.requests[last]
    }

    fn send(
        &mut self,
        role: RequestRole,
        method: Method,
        path: String,
        query: &[(&str, String)],
        body: (MediaType, &Json),
    ) {
        let request = self.ask(role, method, path, query);
        *request = request.clone().with_body(body.0, body.1);
    }

    fn get(&mut self, role: RequestRole, object: &Resource, name: &str) {
        let path = self.path(object, Some(name), None);
        self.ask(role, Method::GET, path, &[]);
    }

    /// A list, with the selectors of the command line.
    fn list(&mut self, role: RequestRole, resource: &Resource, more: &[(&str, String)]) {
        let mut query: Query<'_> = more.to_vec();
        for (flag, name) in [("selector", "labelSelector"), ("field-selector", "fieldSelector")] {
            if let Some(value) = self.arguments.value(flag) {
                query.push((name, value.to_owned()));
            }
        }
        query.push(("limit", "500".to_owned()));
        let path = self.path(resource, None, None);
        self.ask(role, Method::GET, path, &query);
    }

    /// List and watch of one object by its name, as kubectl waits for it.
    fn await_object(&mut self, role: RequestRole, resource: &Resource, name: &str) {
        let selector = ("fieldSelector", format!("metadata.name={name}"));
        let path = resource.path(Some(&self.namespace), None, None);
        self.ask(role, Method::GET, path.clone(), std::slice::from_ref(&selector));
        self.ask(role, Method::GET, path, &[selector, ("watch", "true".to_owned())]);
    }

    /// The objects that words name: `TYPE NAME...`, `TYPE/NAME...`, `TYPE,TYPE`.
    fn named(&self, words: &[String]) -> Result<Vec<Named>, InputError> {
        let Some(first) = words.first() else {
            return Err(InputError(
                "the resource is missing: write such as `pods`, `pod web` or `pod/web`".to_owned(),
            ));
        };
        if words.iter().any(|word| word.contains('/')) {
            let pair = |word: &String| {
                let (kind, name) = word.split_once('/').ok_or_else(|| {
                    InputError(format!("{word:?} has no name: write each object as TYPE/NAME"))
                })?;
                let resource = resources::one(kind)?;
                Ok(Named {
                    resource,
                    name: Some(name.to_owned()),
                })
            };
            return words.iter().map(pair).collect();
        }
        let resources = resources::find(first)?;
        let names = &words[1..];
        let mut found = Vec::new();
        for resource in resources {
            if names.is_empty() {
                found.push(Named { resource, name: None });
            } else {
                found.extend(names.iter().map(|name| Named {
                    resource: resource.clone(),
                    name: Some(name.clone()),
                }));
            }
        }
        Ok(found)
    }

    /// Likewise, where a selector or `--all` may stand for the names: lists then come first, and the object is called `example`.
    fn each(&mut self, words: &[String]) -> Result<Vec<(Resource, String)>, InputError> {
        let named = self.named(words)?;
        let mut found = Vec::new();
        for Named { resource, name } in named {
            let name = match name {
                Some(name) => name,
                None if self.arguments.selects() => {
                    self.list(RequestRole::Needed, &resource, &[]);
                    EXAMPLE.to_owned()
                }
                None => {
                    return Err(InputError(format!(
                        "the name of the object is missing after {:?}: write it, or -l SELECTOR, or --all",
                        resource.plural
                    )));
                }
            };
            found.push((resource, name));
        }
        Ok(found)
    }

    /// The pod that `pod/web`, `web` or `deploy/web` leads to, after what kubectl asks to find it.
    fn pod(&mut self, word: &str) -> Result<String, InputError> {
        let Some((kind, name)) = word.split_once('/') else {
            self.get(RequestRole::Needed, &resources::pods(), word);
            return Ok(word.to_owned());
        };
        let resource = resources::one(kind)?;
        self.get(RequestRole::Needed, &resource, name);
        if resource.plural == "pods" {
            return Ok(name.to_owned());
        }
        let path = resources::pods().path(Some(&self.namespace), None, None);
        self.ask(
            RequestRole::Needed,
            Method::GET,
            path,
            &[("labelSelector", format!("app={name}"))],
        );
        Ok(format!("{name}-{EXAMPLE}"))
    }

    /// The query of a write: a dry run where the line asks for one, and its manager.
    fn write_query(&self, manager: &str) -> Query<'static> {
        let mut query = Vec::new();
        if self.arguments.value("dry-run") == Some("server") {
            query.push(("dryRun", "All".to_owned()));
        }
        if !manager.is_empty() {
            let manager = self.arguments.value("field-manager").unwrap_or(manager);
            query.push(("fieldManager", manager.to_owned()));
        }
        query
    }

    /// Whether a write stays on the client's side.
    fn is_client_dry_run(&self) -> bool {
        self.arguments.value("dry-run") == Some("client")
    }

    fn no_request(&self, flag: &str) -> InputError {
        InputError(format!(
            "with {flag} kubectl sends no such request: take the case out"
        ))
    }
}

/// A value of a query, percent-encoded.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
