//! Suggested grants as YAML that a person reviews.
//!
//! In: a [`Suggestion`]. Out: YAML documents, with a comment on each grant and rule.
//!
//! Names in a record were chosen by agents. Whatever is no plain word is in quotes, with all but ASCII escaped, and no comment has a word
//! of a record but its times.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::rights::Seen;
use super::suggest::{SuggestedGrant, SuggestedRule, Suggestion};
use crate::api::v1alpha1::GrantUpstream;

/// Words that YAML readers take for something else than text.
const NO_TEXT: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

impl Suggestion {
    /// The grants as YAML. `sources` says in a few words what was read.
    #[must_use]
    pub fn to_yaml(&self, sources: &str) -> String {
        let mut text = format!(
            "# AgentGrants for the {} of {sources}.\n",
            count(self.seen.count, "allowed request", "allowed requests")
        );
        line(&mut text, format_args!("# {}.", span(self.seen)));
        line(
            &mut text,
            format_args!(
                "# Review each rule: it gives what was used, whether or not that was meant. Rare work may be missing."
            ),
        );
        for (why, requests) in &self.uncovered {
            let requests = count(*requests, "allowed request is", "allowed requests are");
            line(
                &mut text,
                format_args!("# {requests} not covered: {}.", why.explain()),
            );
        }
        if self.refused > 0 {
            let requests = count(self.refused, "request is", "requests are");
            line(
                &mut text,
                format_args!("# {requests} left out: Picket allowed it and the API server answered 403."),
            );
        }
        for (number, grant) in self.grants.iter().enumerate() {
            if number > 0 {
                text.push_str("---\n");
            }
            grant.write(&mut text);
        }
        text
    }
}

impl SuggestedGrant {
    fn write(&self, text: &mut String) {
        for note in &self.notes {
            line(text, format_args!("# {note}"));
        }
        line(text, format_args!("apiVersion: picket.dev/v1alpha1"));
        line(text, format_args!("kind: AgentGrant"));
        line(text, format_args!("metadata: {{name: {}}}", word(&self.name)));
        line(text, format_args!("spec:"));
        line(
            text,
            format_args!("  to: {{identities: [{}]}}", word(&self.identity)),
        );
        line(text, format_args!("  upstream: {}", upstream(&self.upstream)));
        if !self.namespaces.is_empty() {
            line(text, format_args!("  namespaces: {}", words(&self.namespaces)));
        }
        line(text, format_args!("  rules:"));
        for rule in &self.rules {
            rule.write(text);
        }
    }
}

impl SuggestedRule {
    fn write(&self, text: &mut String) {
        line(
            text,
            format_args!(
                "  # {}, {}",
                count(self.seen.count, "request", "requests"),
                span(self.seen)
            ),
        );
        for note in &self.notes {
            line(text, format_args!("  # {note}"));
        }
        line(text, format_args!("  - verbs: {}", words(&self.rule.verbs)));
        let lists = [
            ("apiGroups", &self.rule.api_groups),
            ("resources", &self.rule.resources),
            ("resourceNames", &self.rule.resource_names),
            ("proxyPaths", &self.rule.proxy_paths),
            ("nonResourceURLs", &self.rule.non_resource_urls),
        ];
        for (name, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
            line(text, format_args!("    {name}: {}", words(list)));
        }
        if self.rule.dry_run.is_some() {
            line(text, format_args!("    dryRun: Only"));
        }
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

fn count(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

fn span(seen: Seen) -> String {
    let moment = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    match (seen.first, seen.last) {
        (Some(first), Some(last)) if first != last => format!("{} to {}", moment(first), moment(last)),
        (Some(at), _) | (_, Some(at)) => moment(at),
        (None, None) => "at an unknown time".to_owned(),
    }
}

fn upstream(upstream: &GrantUpstream) -> String {
    if let Some(account) = &upstream.service_account {
        return format!(
            "{{serviceAccount: {{namespace: {}, name: {}}}}}",
            word(&account.namespace),
            word(&account.name)
        );
    }
    if let Some(people) = &upstream.on_behalf_of {
        return format!(
            "{{onBehalfOf: {{issuers: {}, users: {}}}}}",
            words(&people.issuers),
            words(&people.users)
        );
    }
    let user = upstream.impersonate.clone().unwrap_or_default();
    let groups = match user.groups.is_empty() {
        true => String::new(),
        false => format!(", groups: {}", words(&user.groups)),
    };
    format!("{{impersonate: {{user: {}{groups}}}}}", word(&user.user))
}

fn words(list: &[String]) -> String {
    let words: Vec<_> = list.iter().map(|text| word(text)).collect();
    format!("[{}]", words.join(", "))
}

/// A text as a YAML scalar, plain where that is surely read as text.
fn word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-./_".contains(&byte);
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(plain)
        && !NO_TEXT.contains(&text.to_ascii_lowercase().as_str());
    if is_plain {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            ' '..='~' => quoted.push(char),
            char => {
                let _ = write!(quoted, "\\U{:08X}", u32::from(char));
            }
        }
    }
    quoted.push('"');
    quoted
}
