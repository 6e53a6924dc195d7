//! Test files on a disk, as people run them.

use super::*;

const OBJECTS: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: a}\nspec: {owner: t, attest: {pod: {namespace: ns, \
    serviceAccount: sa}}}\n---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {name: g}\nspec:\n  to: {identities: [a]}\n  upstream: \
    {impersonate: {user: u}}\n  rules: [{verbs: ['*'], apiGroups: [''], resources: ['*']}]\n---\napiVersion: picket.dev/v1alpha1\nkind: \
    AgentPolicy\nmetadata: {name: p}\nspec:\n  rules:\n  - {name: r, action: Deny, match: {verbs: [delete], resources: [pods]}}\n  - {name: s, \
    action: Deny, match: {resources: [secrets]}}\n";

const TEST: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicyTest\nmetadata: {name: t}\nspec:\n  files: [objects.yaml]\n  agent: \
    {identity: a}\n  cases:\n";

/// A folder with objects and a test of these cases.
fn folder(cases: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("objects.yaml"), OBJECTS).expect("written");
    fs::write(folder.path().join("test.yaml"), format!("{TEST}{cases}")).expect("written");
    folder
}

fn arguments(paths: &[&Path]) -> TestArgs {
    TestArgs {
        files: paths.iter().map(|path| path.to_path_buf()).collect(),
        objects: Vec::new(),
        junit: None,
        coverage_min: None,
        output: Output::Json,
        verbose: false,
    }
}

#[test]
fn the_library_passes_and_every_rule_of_it_fires() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/policies/tests");
    let report = examine(&arguments(&[&tests]));
    let failed = report
        .tests
        .iter()
        .flat_map(|test| &test.cases)
        .filter(|case| !case.passed);
    let failed: Vec<_> = failed
        .map(|case| format!("{}: {:?}\n  {}", case.name, case.failures, case.message))
        .collect();
    assert!(report.passed, "{:#?}\n{:#?}", report.errors, failed);
    assert_eq!(report.coverage.never_fired, Vec::<String>::new());
    let cases: usize = report.tests.iter().map(|test| test.cases.len()).sum();
    assert!(cases >= 400, "{cases}");
    // Each file of the library has a test of its name.
    let library = tests.parent().expect("a folder");
    for entry in fs::read_dir(library).expect("the library") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        assert!(
            path.is_dir() || tests.join(name).exists(),
            "{} has no test",
            path.display()
        );
    }
}

#[test]
fn a_folder_of_objects_and_tests_is_run() {
    let folder = folder("  - {kubectl: delete pod x, expect: {decision: deny, rule: p/r}}\n");
    let report = examine(&arguments(&[folder.path()]));
    assert!(report.passed, "{:#?}", report.errors);
    assert_eq!((report.coverage.rules, report.coverage.fired), (2, 1));
    assert_eq!(report.coverage.never_fired, ["p/s"]);
    let mut printed = Vec::new();
    json(&report, &mut printed).expect("printed");
    let value: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
    assert_eq!(value["tests"][0]["cases"][0]["requests"][0]["fired"][0], "p/r");
    assert_eq!(value["coverage"]["neverFired"][0], "p/s");
}

#[test]
fn the_exit_code_tells_whether_all_passed_and_enough_fired() {
    let good = folder("  - {kubectl: delete pod x, expect: {decision: deny}}\n");
    let bad = folder("  - {kubectl: get pod x, expect: {decision: deny}}\n");
    let code = |args: &TestArgs| format!("{:?}", run(args)) == format!("{:?}", ExitCode::SUCCESS);
    let with = |folder: &tempfile::TempDir, least| TestArgs {
        coverage_min: least,
        ..arguments(&[folder.path()])
    };
    assert!(code(&with(&good, None)) && code(&with(&good, Some(50))));
    assert!(!code(&with(&good, Some(51))), "one of two rules fired");
    assert!(!code(&with(&bad, None)));
}

#[test]
fn what_is_wrong_with_files_is_an_error_with_its_place() {
    let folder = folder("  - {kubectl: get widgets, expect: {decision: deny}}\n");
    let said = |paths: &[&Path]| -> Vec<String> {
        let report = examine(&arguments(paths));
        assert!(!report.passed);
        report.errors().collect()
    };
    let test = folder.path().join("test.yaml");
    assert!(said(&[folder.path()])[0].starts_with(&format!("{}:8:15: no resource", test.display())));
    // Objects alone are no test, and a file that is named must be one.
    assert!(said(&[&folder.path().join("objects.yaml")])[0].contains(":2:7: kind is \"AgentIdentity\""));
    fs::remove_file(&test).expect("removed");
    assert!(said(&[folder.path()])[0].starts_with("there is no AgentPolicyTest"));
    fs::write(
        &test,
        TEST.replace("objects.yaml", "gone.yaml") + "  - {kubectl: get pods, expect: {decision: deny}}\n",
    )
    .expect("written");
    assert!(
        said(&[&test])[0].contains(":5:10: there is no "),
        "{:?}",
        said(&[&test])
    );
    let without = TEST.replace("  files: [objects.yaml]\n", "")
        + "  - {kubectl: get pods, expect: {decision: allow}}\n";
    fs::write(&test, without).expect("written");
    assert!(said(&[&test])[0].contains("the test names no objects"));
    let args = TestArgs {
        objects: vec![folder.path().join("objects.yaml")],
        ..arguments(&[&test])
    };
    assert!(examine(&args).passed);
}

#[test]
fn a_junit_file_has_each_case_and_its_failure() {
    let folder = folder(
        "  - {kubectl: delete pod x, expect: {decision: deny}}\n  - {name: '<&\">', kubectl: get pod x, expect: {decision: deny}}\n",
    );
    let file = folder.path().join("report.xml");
    let args = TestArgs {
        junit: Some(file.clone()),
        files: vec![folder.path().join("test.yaml")],
        ..arguments(&[])
    };
    assert_ne!(format!("{:?}", run(&args)), format!("{:?}", ExitCode::SUCCESS));
    let text = fs::read_to_string(&file).expect("written");
    assert!(
        text.contains("<testsuites name=\"picket policy test\" tests=\"2\" failures=\"1\" errors=\"0\">"),
        "{text}"
    );
    assert!(text.contains("name=\"&lt;&amp;&quot;&gt;\""), "{text}");
    assert!(
        text.contains("<failure message=\"decision is allow, expected deny\">"),
        "{text}"
    );
}
