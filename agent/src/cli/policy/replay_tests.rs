//! Replays of files: groups, JSON, exit codes.

use clap::Parser;
use serde_json::Value as Json;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ReplayArgs,
}

const OBJECTS: &str = "apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: a}
spec: {owner: o, attest: {pod: {namespace: n, serviceAccount: a}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: g}
spec: {to: {identities: [a]}, upstream: {impersonate: {user: u}}, rules: [{apiGroups: [''], resources: [pods], verbs: ['*']}]}
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: p}
spec: {rules: [{name: keep, action: Deny, match: {verbs: [delete], resources: [pods]}}]}
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: trial}
spec: {mode: Audit, rules: [{name: look, action: Deny, match: {verbs: [update], resources: [pods]}, when: has(object.spec)}]}
";

fn record(id: &str, verb: &str, decision: &str) -> String {
    format!(
        r#"{{"kind":"Event","auditID":"{id}","stage":"ResponseComplete","verb":"{verb}","requestURI":"/api/v1/namespaces/shop/pods/web","requestReceivedTimestamp":"2026-01-02T03:04:05.000000Z","agent":{{"identity":"a"}},"decision":{decision}}}"#
    )
}

const ALLOW: &str = r#"{"outcome":"allow","policy":"g","rule":"rules[0]"}"#;
const NO_GRANT: &str = r#"{"outcome":"deny","reason":"no_grant"}"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(records: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("o.yaml"), OBJECTS).expect("written");
        std::fs::write(folder.path().join("log.jsonl"), records.join("\n")).expect("written");
        Self(folder)
    }

    fn args(&self, more: &str) -> ReplayArgs {
        let folder = self.0.path().display();
        let line = format!("replay --audit {folder}/log.jsonl --file {folder}/o.yaml {more}");
        Line::try_parse_from(line.split_whitespace())
            .expect("parses")
            .args
    }
}

fn code(args: &ReplayArgs) -> String {
    format!("{:?}", run(args))
}

#[test]
fn changes_are_grouped_with_an_example_and_in_json_each_stands_alone() {
    let folder = Folder::new(&[
        record("1", "delete", ALLOW),
        record("2", "get", ALLOW),
        record("3", "delete", ALLOW),
        record("4", "get", NO_GRANT),
        record("5", "get", r#"{"outcome":"deny","reason":"loop"}"#),
    ]);
    let mut out = Vec::new();
    let report = json(&folder.args("-o json"), &mut out).expect("replayed");
    let groups: Vec<_> = report
        .groups
        .iter()
        .map(|group| {
            (
                group.change.change.as_str(),
                group.count,
                group.example.as_str(),
                group.change.after.as_str(),
            )
        })
        .collect();
    assert_eq!(
        groups,
        [
            ("allowed -> denied", 2, "1", "p/keep"),
            ("denied -> allowed", 1, "4", "g")
        ]
    );
    let document: Json = serde_json::from_slice(&out).expect("JSON");
    let ids: Vec<_> = document["changes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|change| change["auditID"].as_str().expect("text"))
        .collect();
    assert_eq!(ids, ["1", "3", "4"]);
    assert_eq!(document["changes"][0]["replayed"]["by"], "p/keep");
    assert_eq!(document["changes"][0]["recorded"]["outcome"], "allowed");
    assert_eq!(
        (&document["compared"], &document["changed"]),
        (&4.into(), &3.into())
    );
    assert_eq!(document["untold"]["limits"], 1);
    assert_eq!(document["groups"][0]["namespace"], "shop");
    assert_eq!(document["reading"]["requests"], 5);
    let said = remarks(&report);
    assert_eq!(said[0], "3 of 4 compared requests change");
    assert!(
        said[1].starts_with("1 cannot be told from the record: a limit"),
        "{said:?}"
    );
}

#[test]
fn the_exit_code_tells_whether_anything_changes() {
    let same = Folder::new(&[record("1", "get", ALLOW)]);
    let changed = Folder::new(&[record("1", "delete", ALLOW)]);
    let nothing = Folder::new(&[record("1", "get", r#"{"outcome":"deny","reason":"loop"}"#)]);
    let exit = |code: u8| format!("{:?}", ExitCode::from(code));
    for output in ["", "-o json"] {
        assert_eq!(code(&same.args(output)), exit(0));
        assert_eq!(code(&changed.args(output)), exit(1));
        // Nothing compared is not the same as nothing changed.
        assert_eq!(code(&nothing.args(output)), exit(2));
    }
    std::fs::write(same.0.path().join("o.yaml"), "kind: Pod").expect("written");
    assert_eq!(code(&same.args("")), exit(2));
    std::fs::remove_file(changed.0.path().join("log.jsonl")).expect("removed");
    assert_eq!(code(&changed.args("")), exit(2));
    let mut out = Vec::new();
    let unchanged = Folder::new(&[record("1", "get", ALLOW)]);
    json(&unchanged.args("-o json"), &mut out).expect("replayed");
    let document: Json = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(document["changes"], serde_json::json!([]));
}

#[test]
fn what_a_rule_in_mode_audit_would_look_into_is_counted() {
    let folder = Folder::new(&[record("1", "update", ALLOW), record("2", "get", ALLOW)]);
    let report = examine(&folder.args(""), |_| Ok(())).expect("replayed");
    assert_eq!(
        (
            report.compared,
            report.changed,
            report.would_deny,
            report.would_deny_untold
        ),
        (2, 0, 0, 1)
    );
    let said = remarks(&report);
    assert!(
        said[1].starts_with("1 may be noted by rules that stop nothing"),
        "{said:?}"
    );
}

#[test]
fn groups_are_bounded() {
    let mut findings = Findings::default();
    let event = |number: usize| -> AuditEvent {
        let line = record("1", "delete", ALLOW).replace("shop", &format!("n-{number}"));
        serde_json::from_str(&line).expect("a record")
    };
    let folder = Folder::new(&[]);
    let set = objects::compile(&[folder.0.path().join("o.yaml")]).expect("valid");
    for number in 0..MAX_GROUPS + 2 {
        findings
            .add(&set, &event(number), &mut |_| Ok(()))
            .expect("added");
    }
    let report = findings.finished();
    assert_eq!((report.groups.len(), report.ungrouped), (MAX_GROUPS, 2));
    assert!(remarks(&report)[1].starts_with("2 changes are in none of the groups"));
}
