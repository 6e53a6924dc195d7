//! `picket policy test`: test files of policies, run without an agent and without a cluster.
//!
//! In: AgentPolicyTest files and the objects that they test. Out: a table or a JSON document, a JUnit file, and an exit code that tells
//! whether every case got what its file expects.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use picket_policy::PolicySet;
use picket_policy::testing::{CaseResult, CaseVerdict, Coverage, PolicyTest, read_tests, run as run_cases};
use picket_policy::yaml::MAX_FILE;
use serde::Serialize;

use super::error_report::ErrorReport;
use super::junit;
use super::objects;
use crate::cli::output::{self, Column, Format, Row, clean};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket policy test deploy/examples/policies/tests
  picket policy test shop_test.yaml --objects objects/ -o json
  picket policy test tests/ --junit report.xml --coverage-min 90

A test file says who asks for what, and what must become of it:

  apiVersion: picket.dev/v1alpha1
  kind: AgentPolicyTest
  metadata: {name: janitor}
  spec:
    files: [../identities.yaml, ../grants.yaml, ../policies.yaml]   # relative to this file
    agent: {identity: janitor}
    cases:
    - kubectl: delete namespace shop
      expect: {decision: deny, rule: no-namespace-deletion/deny-delete}
    - request: {method: GET, path: /api/v1/namespaces/shop/pods}
      expect: {decision: allow, grant: writers}

A command is denied where all that it is for is denied, and partial where only a part is.

Exit codes: 0 every case passed, 1 one failed, a file is not valid or the coverage is below --coverage-min, 2 wrong usage.";

/// Run tests.
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// Test files, or folders whose .yaml and .yml files are read.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Files and folders of objects that are tested, beside those that the test files name.
    #[arg(long, value_name = "FILES")]
    objects: Vec<PathBuf>,
    /// Write the result as JUnit XML too.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Fail where fewer rules than this many of a hundred fired in a case.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    coverage_min: Option<u8>,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Show the cases that passed too.
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Failed cases, rules without a case, and a summary, for people.
    Text,
    /// One JSON document.
    Json,
}

/// The result, as `-o json` prints it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    passed: bool,
    pub(super) tests: Vec<TestReport>,
    errors: Vec<ErrorReport>,
    coverage: CoverageReport,
}

/// A test, as it came out.
#[derive(Debug, Serialize)]
pub(super) struct TestReport {
    pub(super) name: String,
    pub(super) file: String,
    pub(super) cases: Vec<CaseReport>,
}

/// A case, as it came out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CaseReport {
    pub(super) name: String,
    pub(super) file: String,
    pub(super) line: u32,
    pub(super) column: u32,
    input: String,
    pub(super) passed: bool,
    expected: String,
    decision: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    rule: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    grant: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    would_deny: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) failures: Vec<String>,
    requests: Vec<RequestReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestReport {
    request: String,
    decision: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    rule: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fired: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct CoverageReport {
    rules: usize,
    fired: usize,
    percent: usize,
    never_fired: Vec<String>,
}

impl Report {
    /// What is wrong with the files, in words.
    pub(super) fn errors(&self) -> impl Iterator<Item = String> {
        self.errors.iter().map(ToString::to_string)
    }
}

impl From<CaseResult> for CaseReport {
    fn from(case: CaseResult) -> Self {
        let CaseVerdict {
            decision,
            rule,
            grant,
            message,
            would_deny,
            ..
        } = case.got;
        let requests = case.requests.into_iter().map(|request| RequestReport {
            request: request.line,
            decision: request.verdict.decision.word(),
            rule: request.verdict.rule,
            fired: request.fired,
        });
        Self {
            name: case.name,
            file: case.location.file.to_string(),
            line: case.location.line,
            column: case.location.column,
            input: case.input,
            passed: case.failures.is_empty(),
            expected: case.expected.decision.word().to_owned(),
            decision: decision.word().to_owned(),
            rule,
            grant,
            message,
            would_deny,
            failures: case.failures,
            requests: requests.collect(),
        }
    }
}

impl Row for &CaseReport {
    const COLUMNS: &'static [Column] = &[
        Column::text("RESULT"),
        Column::text("CASE"),
        Column::text("EXPECTED"),
        Column::text("DECISION"),
        Column::text("RULE"),
        Column::text("GRANT"),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
        vec![
            if self.passed { "ok" } else { "FAILED" }.to_owned(),
            self.name.clone(),
            self.expected.clone(),
            self.decision.clone(),
            dash(&self.rule),
            dash(&self.grant),
        ]
    }
}

/// Runs the command.
#[must_use]
pub(super) fn run(args: &TestArgs) -> ExitCode {
    let mut report = examine(args);
    let least = args.coverage_min.map(usize::from);
    if report.errors.is_empty()
        && let Some(least) = least.filter(|least| report.coverage.percent < *least)
    {
        let reason = format!(
            "the cases made {} % of the rules fire, fewer than {least} %",
            report.coverage.percent
        );
        report.errors.push(ErrorReport::plain(reason));
        report.passed = false;
    }
    if let Some(path) = &args.junit
        && let Err(error) = fs::write(path, junit::document(&report))
    {
        let reason = format!("cannot write {}: {error}", path.display());
        report.errors.push(ErrorReport::plain(reason));
        report.passed = false;
    }
    let printed = match args.output {
        Output::Json => json(&report, &mut io::stdout().lock()),
        Output::Text => text(&report, args.verbose),
    };
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            output::warn(format_args!("picket: cannot print the result: {error}"));
            ExitCode::FAILURE
        }
        _ if report.passed => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn examine(args: &TestArgs) -> Report {
    let mut report = Report::default();
    let now = Timestamp::now();
    let mut coverage = Coverage::default();
    let mut sets = BTreeMap::new();
    for test in tests(&args.files, &mut report.errors) {
        let set = match set(&test, &args.objects, &mut sets) {
            Ok(set) => set,
            Err(errors) => {
                report.errors.extend(errors);
                continue;
            }
        };
        coverage.add_set(set);
        let read = |name: &str| read_beside(&test, name);
        match run_cases(set, &test, now, &read) {
            Ok(cases) => {
                for request in cases.iter().flat_map(|case| &case.requests) {
                    coverage.add_fired(&request.fired);
                }
                report.tests.push(TestReport {
                    name: test.name().to_owned(),
                    file: test.file().to_owned(),
                    cases: cases.into_iter().map(CaseReport::from).collect(),
                });
            }
            Err(errors) => report.errors.extend(errors.into_iter().map(ErrorReport::from)),
        }
    }
    report.coverage = CoverageReport {
        rules: coverage.rules(),
        fired: coverage.fired(),
        percent: coverage.percent(),
        never_fired: coverage.never_fired().into_iter().map(str::to_owned).collect(),
    };
    let mut cases = report.tests.iter().flat_map(|test| &test.cases);
    report.passed = report.errors.is_empty() && cases.all(|case| case.passed);
    report
}

/// Every test of these files. A file that another folder's test names as objects may stand beside: files without a test are errors only
/// where they are named by themselves.
fn tests(paths: &[PathBuf], errors: &mut Vec<ErrorReport>) -> Vec<PolicyTest> {
    let manifests = match objects::texts(paths) {
        Ok(manifests) => manifests,
        Err(reasons) => {
            errors.extend(reasons.into_iter().map(ErrorReport::plain));
            return Vec::new();
        }
    };
    let mut tests = Vec::new();
    for (path, text) in manifests {
        let named = paths.contains(&path);
        if !named && !text.contains("AgentPolicyTest") {
            continue;
        }
        match read_tests(&path.display().to_string(), &text) {
            Ok(read) => tests.extend(read),
            Err(wrong) => errors.extend(wrong.into_iter().map(ErrorReport::from)),
        }
    }
    if tests.is_empty() && errors.is_empty() {
        errors.push(ErrorReport::plain(
            "there is no AgentPolicyTest in these files: write one, as `picket policy test --help` shows"
                .to_owned(),
        ));
    }
    tests
}

/// The set of the objects that a test names. Tests of the same objects share one.
fn set<'s>(
    test: &PolicyTest,
    besides: &[PathBuf],
    sets: &'s mut BTreeMap<Vec<PathBuf>, PolicySet>,
) -> Result<&'s PolicySet, Vec<ErrorReport>> {
    let folder = Path::new(test.file()).parent().unwrap_or(Path::new(""));
    let mut paths: Vec<_> = test.spec().files.iter().map(|file| folder.join(file)).collect();
    paths.extend(besides.iter().cloned());
    if paths.is_empty() {
        let reason = "the test names no objects: write spec.files, or give the command --objects";
        return Err(vec![test.error_at("agent", reason).into()]);
    }
    let entry = match sets.entry(paths) {
        Entry::Occupied(known) => return Ok(known.into_mut()),
        Entry::Vacant(entry) => entry,
    };
    let missing = entry.key().iter().filter(|path| !path.exists());
    let missing: Vec<_> = missing.map(|path| path.display().to_string()).collect();
    if !missing.is_empty() {
        let reason = format!(
            "there is no {}: paths are relative to the test file",
            missing.join(", ")
        );
        return Err(vec![test.error_at("files", reason).into()]);
    }
    let set = objects::compile(entry.key());
    let faults = |errors: Vec<objects::Fault>| -> Vec<ErrorReport> {
        errors.into_iter().map(ErrorReport::from).collect()
    };
    Ok(entry.insert(set.map_err(faults)?))
}

/// The text of a file beside a test.
fn read_beside(test: &PolicyTest, name: &str) -> Result<String, String> {
    let folder = Path::new(test.file()).parent().unwrap_or(Path::new(""));
    let path = folder.join(name);
    let fault = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let size = fs::metadata(&path).map_err(fault)?.len();
    if size > MAX_RECORDS as u64 {
        return Err(format!("{} is larger than {MAX_RECORDS} bytes", path.display()));
    }
    fs::read_to_string(&path).map_err(fault)
}

/// Largest file of audit records that is read: some ten thousand records.
const MAX_RECORDS: usize = 64 * MAX_FILE;

fn json(report: &Report, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

fn text(report: &Report, verbose: bool) -> io::Result<()> {
    let all: Vec<&CaseReport> = report.tests.iter().flat_map(|test| &test.cases).collect();
    let shown: Vec<&CaseReport> = all
        .iter()
        .copied()
        .filter(|case| verbose || !case.passed)
        .collect();
    if !shown.is_empty() {
        output::print(Format::Table, &(), &shown, "")?;
    }
    for case in all.iter().filter(|case| !case.passed) {
        let at = format!("{}:{}:{}", case.file, case.line, case.column);
        output::warn(format_args!(
            "{}: {}: {}",
            clean(&at),
            clean(&case.name),
            clean(&case.failures.join("; "))
        ));
        for request in &case.requests {
            let rule = if request.rule.is_empty() {
                String::new()
            } else {
                format!(" ({})", request.rule)
            };
            output::warn(format_args!(
                "    {} {}{rule}",
                request.decision,
                clean(&request.request)
            ));
        }
        if !case.message.is_empty() {
            output::warn(format_args!("    {}", clean(&case.message)));
        }
    }
    for error in &report.errors {
        output::warn(format_args!("{}", clean(&error.to_string())));
    }
    let coverage = &report.coverage;
    for rule in &coverage.never_fired {
        output::warn(format_args!("no case made rule {} fire", clean(rule)));
    }
    let passed = all.iter().filter(|case| case.passed).count();
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{}: {passed} of {} cases passed in {} tests; {} of {} rules fired ({} %)",
        if report.passed { "passed" } else { "failed" },
        all.len(),
        report.tests.len(),
        coverage.fired,
        coverage.rules,
        coverage.percent,
    )?;
    out.flush()
}

impl From<objects::Fault> for ErrorReport {
    fn from(fault: objects::Fault) -> Self {
        match fault {
            objects::Fault::Diagnostic(error) => error.into(),
            objects::Fault::Other(reason) => Self::plain(reason),
        }
    }
}

#[cfg(test)]
#[path = "test_tests.rs"]
mod tests;
