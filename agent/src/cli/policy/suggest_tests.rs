//! Suggestions from files: what is printed, and the exit code.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: SuggestArgs,
}

fn record(identity: &str, verb: &str, uri: &str) -> String {
    format!(
        r#"{{"kind":"Event","auditID":"1","stage":"ResponseComplete","verb":"{verb}","requestURI":"{uri}","requestReceivedTimestamp":"2026-01-02T03:04:05.000000Z","impersonatedUser":{{"username":"u","groups":["system:authenticated"]}},"agent":{{"identity":"{identity}"}},"decision":{{"outcome":"allow","policy":"g","rule":"rules[0]"}}}}"#
    )
}

fn args(folder: &tempfile::TempDir, records: &[String], more: &str) -> SuggestArgs {
    let log = folder.path().join("log.jsonl");
    std::fs::write(&log, records.join("\n")).expect("written");
    let line = format!("suggest --audit {} {more}", log.display());
    Line::try_parse_from(line.split_whitespace())
        .expect("parses")
        .args
}

fn code(args: &SuggestArgs) -> String {
    format!("{:?}", run(args))
}

#[test]
fn grants_are_printed_for_the_agents_that_are_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let records = [
        record("a", "get", "/api/v1/namespaces/shop/pods/web"),
        record("b", "list", "/api/v1/nodes"),
    ];
    let (all, yaml) = suggest(&args(&folder, &records, "")).expect("suggested");
    assert_eq!(all.grants.len(), 2);
    assert!(
        yaml.starts_with("# AgentGrants for the 2 allowed requests of one log.\n"),
        "{yaml}"
    );
    assert!(yaml.contains("  namespaces: [shop]\n") && yaml.contains("    resourceNames: [web]\n"));
    let (one, yaml) = suggest(&args(&folder, &records, "--identity b")).expect("suggested");
    assert_eq!(one.grants.len(), 1);
    assert!(yaml.contains("to: {identities: [b]}"), "{yaml}");
}

#[test]
fn an_agent_that_no_record_is_of_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let records = [
        record("a", "list", "/api/v1/nodes"),
        record("b", "list", "/api/v1/nodes"),
    ];
    let (none, yaml) = suggest(&args(&folder, &records, "--identity nobody")).expect("suggested");
    assert!(none.grants.is_empty() && yaml.is_empty(), "{yaml}");
    let (one, yaml) = suggest(&args(&folder, &records, "--identity nobody,b")).expect("suggested");
    assert!(
        one.grants.len() == 1 && yaml.contains("identities: [b]"),
        "{yaml}"
    );
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let agents = names(&["a", "b"]).into_iter().collect();
    assert_eq!(
        missing(&names(&["nobody", "b"]), &agents),
        ["no record is of agent nobody; the log has: a, b"]
    );
    assert!(missing(&[], &agents).is_empty());
    let many = (0..=MOST_TOLD).map(|number| format!("a-{number:02}")).collect();
    let said = missing(&names(&["nobody"]), &many);
    assert!(said[0].ends_with(", a-15 and others"), "{said:?}");
}

#[test]
fn the_exit_code_tells_whether_all_is_covered() {
    let folder = tempfile::tempdir().expect("a folder");
    let covered = record("a", "list", "/api/v1/nodes");
    let cut = record("a", "list", "/api/v1/pods?labelSelector=a...TRUNCATED");
    let exit = |code: u8| format!("{:?}", ExitCode::from(code));
    let one = std::slice::from_ref(&covered);
    assert_eq!(code(&args(&folder, one, "")), exit(0));
    assert_eq!(code(&args(&folder, one, "--identity b")), exit(1));
    assert_eq!(code(&args(&folder, &[covered, cut], "")), exit(1));
    let missing = args(&folder, &[], "");
    std::fs::remove_file(folder.path().join("log.jsonl")).expect("removed");
    assert_eq!(code(&missing), exit(2));
}
