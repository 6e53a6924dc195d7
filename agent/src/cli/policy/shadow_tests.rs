//! Would-be denials of files: counts, moments, the exit code.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ShadowArgs,
}

fn record(id: &str, identity: &str, second: u8, would_deny: &str) -> String {
    format!(
        r#"{{"kind":"Event","auditID":"{id}","stage":"ResponseComplete","verb":"get","requestURI":"/x","requestReceivedTimestamp":"2026-01-02T03:04:0{second}.000000Z","agent":{{"identity":"{identity}"}},"decision":{{"outcome":"allow","wouldDeny":[{would_deny}]}}}}"#
    )
}

const TRIAL: &str = r#"{"policy":"trial","rule":"secrets","message":"Not so."}"#;
const OTHER: &str = r#"{"policy":"other","rule":"rate"}"#;

fn args(folder: &tempfile::TempDir, records: &[String], more: &str) -> ShadowArgs {
    let log = folder.path().join("log.jsonl");
    std::fs::write(&log, records.join("\n")).expect("written");
    let line = format!("shadow --audit {} {more}", log.display());
    Line::try_parse_from(line.split_whitespace())
        .expect("parses")
        .args
}

#[test]
fn would_be_denials_are_counted_by_rule_and_agent() {
    let folder = tempfile::tempdir().expect("a folder");
    let records = [
        record("3", "a", 3, TRIAL),
        record("1", "a", 1, &format!("{TRIAL},{OTHER}")),
        record("2", "b", 2, TRIAL),
        record("4", "b", 4, ""),
    ];
    let report = examine(&args(&folder, &records, "")).expect("counted");
    let rows: Vec<_> = report
        .would_deny
        .iter()
        .map(|row| {
            (
                row.policy.as_str(),
                row.identity.as_str(),
                row.count,
                row.example.as_str(),
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            ("other", "a", 1, "1"),
            ("trial", "a", 2, "3"),
            ("trial", "b", 1, "2")
        ]
    );
    let trial = &report.would_deny[1];
    assert_eq!(trial.first_seen, "2026-01-02T03:04:01Z".parse().ok());
    assert_eq!(trial.last_seen, "2026-01-02T03:04:03Z".parse().ok());
    assert_eq!(trial.message, "Not so.");
    assert!(remarks(&report)[0].starts_with("4 requests were read. Look at"));
    let one = examine(&args(&folder, &records, "--policy other")).expect("counted");
    assert_eq!(one.would_deny.len(), 1);
}

#[test]
fn the_exit_code_tells_whether_anything_would_have_been_denied() {
    let folder = tempfile::tempdir().expect("a folder");
    let code = |records: &[String]| format!("{:?}", run(&args(&folder, records, "-o json")));
    let exit = |code: u8| format!("{:?}", ExitCode::from(code));
    assert_eq!(code(&[record("1", "a", 1, "")]), exit(0));
    assert_eq!(code(&[record("1", "a", 1, TRIAL)]), exit(1));
    assert_eq!(code(&["{}".to_owned()]), exit(2), "no request was read");
    let empty = examine(&args(&folder, &[record("1", "a", 1, "")], "")).expect("counted");
    assert!(remarks(&empty)[0].contains("Set `mode: Enforce`"));
}

#[test]
fn a_policy_that_no_record_names_is_not_called_ready() {
    let folder = tempfile::tempdir().expect("a folder");
    let records = [record("1", "a", 1, TRIAL)];
    let unseen = examine(&args(&folder, &records, "--policy nope")).expect("counted");
    assert_eq!(unseen.unseen_policies, ["nope"]);
    let said = remarks(&unseen);
    assert_eq!(said[0], "1 requests were read.");
    assert!(
        said[1].starts_with("No record names a rule of policy nope: check the name"),
        "{said:?}"
    );
    let both = examine(&args(&folder, &records, "--policy nope,trial")).expect("counted");
    assert_eq!((both.unseen_policies.len(), both.would_deny.len()), (1, 1));
    let seen = examine(&args(&folder, &records, "--policy trial")).expect("counted");
    assert!(seen.unseen_policies.is_empty() && remarks(&seen).len() == 1);
}
