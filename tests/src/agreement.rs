//! Whether Picket and the API server read the same requests alike: both audit logs, joined by `auditID`.
//!
//! In: the two logs of a suite. Out: how many requests are in both, and each in which they differ in verb, object or user. A request
//! that the two read differently is one that a policy judged as something else than what was done.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::audit::files;

/// What a log says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    verb: String,
    /// Resource, subresource, namespace, name, group and version; empty for other paths.
    object: [String; 6],
    /// The name and groups that the request was authorized by.
    user: (String, Vec<String>),
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {:?} by {} {:?}",
            self.verb, self.object, self.user.0, self.user.1
        )
    }
}

/// What both logs come to.
#[derive(Debug, Default)]
pub struct Agreement {
    /// Requests that Picket sent as somebody and had an answer to, by its own records: the API server's log has events of these.
    pub answered: usize,
    /// Events of the API server about requests that Picket recorded.
    pub joined: usize,
    /// Those in which the two differ.
    pub differing: Vec<String>,
}

impl Agreement {
    /// Checks that requests were compared, where there were any, and that none of them differs.
    ///
    /// # Errors
    /// Nothing was compared, or requests differ.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.answered == 0 || self.joined > 0,
            "none of {} answered requests is in both audit logs, so nothing was compared",
            self.answered
        );
        let shown = self.differing.len().min(20);
        ensure!(
            self.differing.is_empty(),
            "the audit logs differ about {} requests:\n{}",
            self.differing.len(),
            self.differing[..shown].join("\n")
        );
        Ok(())
    }
}

impl Reading {
    /// Of a record of either log.
    fn of(record: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &record["objectRef"];
        let user = match &record["impersonatedUser"] {
            Value::Null => &record["user"],
            impersonated => impersonated,
        };
        let mut groups: Vec<_> = user["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
        groups.sort_unstable();
        Self {
            verb: text(&record["verb"]),
            object: [
                "resource",
                "subresource",
                "namespace",
                "name",
                "apiGroup",
                "apiVersion",
            ]
            .map(|field| text(&object[field])),
            user: (text(&user["username"]), groups),
        }
    }

    /// Whether the API server's reading is the same. The name of a new object is in its body, which Picket reads where a rule needs it; and
    /// the API server puts everyone whom it has authenticated into a group more.
    fn agrees(&self, server: &Self) -> bool {
        let mut server = server.clone();
        if self.verb == "create" && self.object[3].is_empty() {
            server.object[3].clear();
        }
        let missing: Vec<_> = server
            .user
            .1
            .iter()
            .filter(|group| !self.user.1.contains(group))
            .collect();
        let same_groups = self.user.1.iter().all(|group| server.user.1.contains(group))
            && missing.iter().all(|group| *group == "system:authenticated");
        self.verb == server.verb
            && self.object == server.object
            && self.user.0 == server.user.0
            && same_groups
    }
}

/// Calls `each` with the records of a log.
fn each_record(path: &Path, mut each: impl FnMut(&str, &Value)) -> Result<()> {
    for file in files(path)? {
        let lines = BufReader::new(File::open(&file).with_context(|| file.display().to_string())?);
        for line in lines.lines() {
            // A line that an agent was killed in the middle of is no record.
            let Ok(record) = serde_json::from_str::<Value>(&line?) else {
                continue;
            };
            if let Some(id) = record["auditID"].as_str() {
                each(id, &record);
            }
        }
    }
    Ok(())
}

/// Compares the two logs.
///
/// # Errors
/// A log cannot be read.
pub fn compare(picket: &Path, server: &Path) -> Result<Agreement> {
    let mut ours = HashMap::new();
    let mut answered = HashSet::new();
    each_record(picket, |id, record| {
        let outcome = record["decision"]["outcome"].as_str().unwrap_or_default();
        if record["impersonatedUser"].is_null() {
            return;
        }
        if matches!(outcome, "allow" | "masked") {
            answered.insert(id.to_owned());
        }
        if matches!(outcome, "allow" | "masked" | "unknown" | "error") {
            ours.insert(id.to_owned(), Reading::of(record));
        }
    })?;
    let mut found = Agreement {
        answered: answered.len(),
        ..Agreement::default()
    };
    each_record(server, |id, record| {
        let Some(ours) = ours.get(id) else { return };
        let mut theirs = Reading::of(record);
        if record["impersonatedUser"].is_null() && record["responseStatus"]["code"] == 403 {
            // It let the node be nobody, and so has no other name than the node's for what it refused.
            theirs.user.clone_from(&ours.user);
        }
        found.joined += 1;
        if !ours.agrees(&theirs) {
            let uri = record["requestURI"].as_str().unwrap_or_default();
            found.differing.push(format!(
                "{id} {uri}\n  Picket:     {ours}\n  API server: {theirs}"
            ));
        }
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(path: &Path, records: &[Value]) {
        let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
        std::fs::write(path, lines).expect("written");
    }

    #[test]
    fn each_difference_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = ["picket", "server"].map(|name| folder.path().join(name));
        let user = json!({"username": "agent:x", "groups": ["a"]});
        let theirs = json!({"username": "agent:x", "groups": ["a", "system:authenticated"]});
        let ours = |id: &str, verb: &str, object: Value| json!({"auditID": id, "verb": verb, "objectRef": object, "impersonatedUser": user, "decision": {"outcome": "allow"}});
        let server = |id: &str, verb: &str, object: Value| json!({"auditID": id, "verb": verb, "objectRef": object, "impersonatedUser": theirs, "user": {"username": "node"}});
        let pod = json!({"resource": "pods", "namespace": "n", "apiVersion": "v1"});
        let named = json!({"resource": "pods", "namespace": "n", "apiVersion": "v1", "name": "x"});
        let other = json!({"resource": "pods", "namespace": "n", "apiVersion": "v1", "name": "y"});
        let by = |id: &str, username: &str, groups: &[&str]| {
            let mut event = server(id, "get", named.clone());
            event["impersonatedUser"] = json!({"username": username, "groups": groups});
            event
        };
        let mut refused_to_another = by("to another", "agent:y", &["a"]);
        refused_to_another["responseStatus"] = json!({"code": 403});
        write(
            &paths[0],
            &[
                ours("same", "get", named.clone()),
                ours("made", "create", pod.clone()),
                ours("verb", "get", named.clone()),
                ours("object", "list", pod.clone()),
                ours("refused", "get", named.clone()),
                ours("as the node", "get", named.clone()),
                ours("more groups", "get", named.clone()),
                ours("fewer groups", "get", named.clone()),
                ours("user", "get", named.clone()),
                ours("renamed", "create", named.clone()),
                ours("to another", "get", named.clone()),
                ours("named", "create", named.clone()),
                ours("by its token", "get", named.clone()),
                json!({"auditID": "denied", "impersonatedUser": user, "decision": {"outcome": "deny"}}),
                json!({"auditID": "own", "user": user, "decision": {"outcome": "allow"}}),
            ],
        );
        write(
            &paths[1],
            &[
                server("same", "get", named.clone()),
                server("made", "create", named.clone()),
                server("verb", "update", named.clone()),
                server("object", "list", named.clone()),
                server("denied", "get", named.clone()),
                server("own", "list", named.clone()),
                by("more groups", "agent:x", &["a", "b"]),
                by("fewer groups", "agent:x", &["system:authenticated"]),
                by("user", "agent:y", &["a"]),
                server("renamed", "create", other),
                server("named", "create", named.clone()),
                json!({"auditID": "by its token", "verb": "get", "objectRef": named, "user": theirs}),
                refused_to_another,
                json!({"auditID": "refused", "verb": "get", "objectRef": named, "user": {"username": "node"}, "responseStatus": {"code": 403}}),
                json!({"auditID": "as the node", "verb": "get", "objectRef": named, "user": {"username": "node"}, "responseStatus": {"code": 200}}),
                server("of somebody else", "get", pod),
            ],
        );
        let found = compare(&paths[0], &paths[1]).expect("compared");
        assert_eq!((found.answered, found.joined), (13, 13));
        assert!(found.check().is_err());
        let told: Vec<_> = found.differing.iter().map(|text| &text[..4]).collect();
        assert_eq!(
            told,
            ["verb", "obje", "more", "fewe", "user", "rena", "to a", "as t"],
            "{:#?}",
            found.differing
        );
    }

    #[test]
    fn a_comparison_of_nothing_does_not_pass_where_requests_were_answered() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = ["picket", "server"].map(|name| folder.path().join(name));
        let record = |id: &str, outcome: &str, user: Value| json!({"auditID": id, "impersonatedUser": user, "decision": {"outcome": outcome}});
        let user = json!({"username": "agent:x"});
        let unanswered = [
            record("denied", "deny", user.clone()),
            record("failed", "error", user.clone()),
            record("interrupted", "unknown", user.clone()),
            record("own", "allow", Value::Null),
        ];
        write(&paths[1], &[json!({"auditID": "of somebody else"})]);
        write(&paths[0], &unanswered);
        // The agent was killed in the middle of its last record.
        let mut log = std::fs::read_to_string(&paths[0]).expect("read");
        log.push_str("{\"auditID\": \"cut");
        std::fs::write(&paths[0], log).expect("written");
        let found = compare(&paths[0], &paths[1]).expect("compared");
        assert_eq!((found.answered, found.joined), (0, 0));
        assert!(found.check().is_ok());
        for outcome in ["allow", "masked"] {
            // A long request has a record at its beginning too.
            let answered = [(); 2].map(|()| record("x", outcome, user.clone()));
            write(&paths[0], &[&unanswered[..], &answered].concat());
            write(&paths[1], &[json!({"auditID": "of somebody else"})]);
            let found = compare(&paths[0], &paths[1]).expect("compared");
            assert_eq!((found.answered, found.joined), (1, 0), "{outcome}");
            assert!(found.check().is_err(), "{outcome}");
            write(&paths[1], &[json!({"auditID": "x", "impersonatedUser": user})]);
            let found = compare(&paths[0], &paths[1]).expect("compared");
            assert_eq!((found.answered, found.joined), (1, 1), "{outcome}");
            assert!(found.check().is_ok(), "{outcome}");
        }
    }
}
