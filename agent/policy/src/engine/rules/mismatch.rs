//! Why a rule is not about a request, for people who ask.
//!
//! In: a rule and a [`MatchInput`]. Out: each part of the rule's `match` that the request does not have. A decision never asks for these.

use std::fmt;

use super::{CompiledRule, ResourceGlob, any, in_scope};
use crate::engine::command::Command;
use crate::engine::match_input::{MatchInput, MatchTarget, Scope};
use crate::engine::namespaces::selector_in_words;
use crate::engine::trace::{Field, Mismatch};
use crate::engine::trace_words::{joined, joined_or_core, verbs_in_words};
use crate::glob::Glob;
use crate::request::Exec;

impl CompiledRule {
    /// What of the rule's match a request does not have. A rule that fires has nothing here.
    pub(in crate::engine) fn mismatches(&self, input: &MatchInput<'_>) -> Vec<Mismatch> {
        if self.fires(input) {
            return Vec::new();
        }
        let mut found = Vec::new();
        if !self.verbs.meets(input.verbs) {
            found.push(Mismatch::new(
                Field::Verb,
                verbs_in_words(self.verbs),
                verbs_in_words(input.verbs),
            ));
        }
        match &input.target {
            MatchTarget::Path { path, .. } => {
                let matches = |url: &Glob| url.matches(path);
                if !self.urls.as_ref().is_some_and(|urls| urls.iter().any(matches)) {
                    let urls = self.urls.as_deref();
                    found.push(Mismatch::new(
                        Field::Path,
                        urls.map_or_else(|| "resources".to_owned(), joined),
                        *path,
                    ));
                }
            }
            MatchTarget::Resource { .. } => self.resource_mismatches(&input.target, &mut found),
        }
        if found.is_empty() {
            // A part of the match that has no words of its own here.
            found.push(Mismatch::new(Field::Match, "", ""));
        }
        found
    }

    fn resource_mismatches(&self, target: &MatchTarget<'_>, found: &mut Vec<Mismatch>) {
        let MatchTarget::Resource {
            group,
            combined,
            resource,
            subresource,
            namespace,
            name,
            command,
            exec,
            ..
        } = target
        else {
            return;
        };
        if let Some(urls) = self.urls.as_deref() {
            found.push(Mismatch::new(Field::Path, joined(urls), "a resource"));
            return;
        }
        if !any(&self.groups, group) {
            let groups = self.groups.as_deref().unwrap_or_default();
            found.push(Mismatch::new(
                Field::Group,
                joined_or_core(groups),
                core_or(group),
            ));
        }
        if let Some(resources) = self.resources.as_deref()
            && !resources
                .iter()
                .any(|glob| glob.matches(resource, subresource.as_deref()))
        {
            let resources: Vec<_> = resources.iter().map(ToString::to_string).collect();
            found.push(Mismatch::new(
                Field::Resource,
                resources.join(", "),
                combined.as_ref(),
            ));
        }
        for (field, globs, scope) in [
            (Field::Namespace, &self.namespaces, namespace),
            (Field::Name, &self.names, name),
        ] {
            if !in_scope(globs, scope) {
                let globs = globs.as_deref().unwrap_or_default();
                found.push(Mismatch::new(field, joined(globs), scope_in_words(scope)));
            }
        }
        if let (Some(selector), Scope::None) = (&self.selector, namespace) {
            let words = selector_in_words(selector);
            found.push(Mismatch::new(Field::NamespaceSelector, words, "no namespace"));
        }
        if let Some(field) = self.exclusions.which(target) {
            let globs = match field {
                Field::Resource => {
                    let resources = self.exclusions.resources.iter().map(ToString::to_string);
                    resources.collect::<Vec<_>>().join(", ")
                }
                Field::Namespace => joined(&self.exclusions.namespaces),
                _ => joined(&self.exclusions.names),
            };
            found.push(Mismatch::new(field, format!("all but {globs}"), "one of these"));
        }
        if !self.runs(command.as_ref()) {
            let runs = match command {
                Some(Command::Line(line)) => line.as_sent(),
                Some(Command::Unknown) => "an unknown command".to_owned(),
                None => "none".to_owned(),
            };
            found.push(Mismatch::new(Field::Command, self.commands_in_words(), runs));
        }
        if !self.streams.hold(*exec, command.as_ref()) {
            let asked = exec.map_or_else(|| "no session".to_owned(), streams_in_words);
            found.push(Mismatch::new(Field::Streams, self.streams.to_string(), asked));
        }
    }
}

/// What an exec asks for besides its command.
fn streams_in_words(exec: &Exec) -> String {
    format!(
        "stdin: {}, tty: {}, env: {}",
        exec.stdin,
        exec.tty,
        !exec.env.is_empty()
    )
}

impl fmt::Display for ResourceGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Plain(resource) => write!(f, "{resource:?}"),
            Self::Sub(resource, sub) => write!(f, "{resource:?}/{sub:?}"),
        }
    }
}

fn core_or(group: &str) -> &str {
    if group.is_empty() { "the core group" } else { group }
}

fn scope_in_words<'s>(scope: &'s Scope<'_>) -> &'s str {
    match scope {
        Scope::One(text) => text,
        Scope::Proxied { written, .. } => written,
        Scope::Begins(beginning) => beginning,
        Scope::All => "all",
        Scope::None => "none",
    }
}
