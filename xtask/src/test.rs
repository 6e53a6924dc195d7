//! `cargo xtask test [AREA]`: the source tree's rules, formatting, clippy, unit tests, fuzz targets, then the suites.
//!
//! In: an area and filters, or neither. Out: cargo's own result lines on stdout as they are, since CI counts them; and an error
//! at the first failure.
//!
//! An area is one of these parts. A suite is a folder tests/SUITE with a main.rs, and a test target of the same name in the
//! package picket-tests.

use std::fs;

use anyhow::{Result, bail};
use picket_tests::harness::KEEP;
use picket_tests::release::{KUBERNETES, Release};
use serde_json::Value;

use crate::agent::{self, Profile, WORKSPACE};
use crate::cluster::Kubernetes;
use crate::{check, fuzz, sh};

/// The package whose integration tests are the suites.
const SUITES: &str = "picket-tests";

/// What areas were called before, and what they are called.
const RENAMED: [(&str, &str); 3] = [("way", "e2e"), ("kernel", "bypass"), ("ground", "testbed")];

/// What to test.
#[derive(clap::Args)]
pub(crate) struct TestArgs {
    /// Leave the cluster of the suite up at the end, and print how to use it
    #[arg(long, requires = "area")]
    keep: bool,
    #[command(flatten)]
    kubernetes: Kubernetes,
    /// One part: a suite (a folder under tests/ with a main.rs), or `check`, `lint`, `unit` or `fuzz`; all of them when it is not given
    area: Option<String>,
    /// Passed on to the test programs: a part of the names of tests, then their flags
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    filter: Vec<String>,
}

#[cfg(test)]
impl TestArgs {
    pub(crate) fn filter(&self) -> &[String] {
        &self.filter
    }
}

/// Runs what was asked for; the first part that fails ends it.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    args.kubernetes.choose();
    let areas = areas()?;
    match args.area.as_deref() {
        None => {
            check::sources()?;
            lint()?;
            check::generated()?;
            unit(&[])?;
            let fuzzing = fuzz::beside()?;
            let suites = suites(&areas, &[], args.keep);
            let fuzzed = fuzzing.finish();
            suites.and(fuzzed)
        }
        Some("check") => {
            check::sources()?;
            check::generated()
        }
        Some("lint") => lint(),
        Some("unit") => unit(&args.filter),
        Some("fuzz") => fuzz::stage(),
        Some(area) if areas.iter().any(|known| known == area) => {
            suites(&[area.to_owned()], &args.filter, args.keep)
        }
        Some(area) => bail!("{}", unknown(area, &areas)),
    }
}

/// Says which areas there are, or the new name of an area that was renamed.
fn unknown(area: &str, areas: &[String]) -> String {
    match RENAMED.iter().find(|(old, _)| *old == area) {
        Some((old, new)) => format!("the area `{old}` is `{new}` now: cargo xtask test {new}"),
        None => format!(
            "no area `{area}`; there are: check, lint, unit, fuzz, {}",
            areas.join(", ")
        ),
    }
}

/// The suites: folders under tests/ with a main.rs.
fn areas() -> Result<Vec<String>> {
    let mut areas = Vec::new();
    for entry in fs::read_dir(sh::root().join("tests"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "src" && entry.path().join("main.rs").is_file() {
            areas.push(name);
        }
    }
    areas.sort();
    Ok(areas)
}

fn lint() -> Result<()> {
    sh::timed("formatting", || {
        sh::run(&mut sh::cargo(&["fmt", "--all", "--check"]))
    })?;
    sh::timed("clippy", || {
        let mut cargo = sh::cargo(&["clippy"]);
        cargo
            .args(WORKSPACE)
            .args(["--all-targets", "--", "-D", "warnings"]);
        sh::run(&mut cargo)?;
        // Checked for the host: what they call exists there as declarations, and nothing is linked.
        sh::run(&mut sh::cargo(&[
            "clippy",
            "--package",
            "picket-ebpf",
            "--",
            "-D",
            "warnings",
        ]))
    })
}

fn unit(filter: &[String]) -> Result<()> {
    sh::timed("unit and integration tests", || {
        let mut cargo = sh::cargo(&["test"]);
        cargo.args(WORKSPACE).args(["--lib", "--bins", "--no-fail-fast"]);
        for test in integration_tests()? {
            cargo.args(["--test", &test]);
        }
        sh::run(cargo.arg("--").args(filter))?;
        // Apart, since cargo runs examples in the documentation only alone: those that must not compile are tests too.
        let mut cargo = sh::cargo(&["test"]);
        cargo.args(WORKSPACE).args(["--doc", "--no-fail-fast"]);
        sh::run(cargo.arg("--").args(filter))
    })
}

/// The integration tests that packages have beside the suites, which are this package's.
fn integration_tests() -> Result<Vec<String>> {
    let text = sh::output(&mut sh::cargo(&["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages
        .filter(|package| package["name"] != SUITES)
        .flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let tests = targets.filter(|target| target["kind"] == serde_json::json!(["test"]));
    Ok(tests
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect())
}

/// Builds the agent, then runs each suite with its path in `PICKET_BIN` and the chosen release of Kubernetes.
fn suites(areas: &[String], filter: &[String], keep: bool) -> Result<()> {
    if areas.is_empty() {
        return Ok(());
    }
    let release = Release::chosen()?;
    let picket = sh::timed("agent", || agent::build(Profile::Dev))?;
    for area in areas {
        sh::timed(&format!("suite tests/{area}"), || {
            let mut cargo = sh::cargo(&["test"]);
            cargo
                .args(WORKSPACE)
                .args(["--test", area, "--"])
                .args(filter)
                .env("PICKET_BIN", &picket)
                .env(KUBERNETES, release.minor());
            if keep {
                cargo.env(KEEP, "1");
            }
            sh::run(&mut cargo)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{areas, unknown};

    #[test]
    fn an_old_name_of_an_area_says_the_new_one() {
        let areas = areas().unwrap();
        assert_eq!(areas, ["bypass", "chart", "e2e", "oracle", "testbed"]);
        for (old, new) in [("way", "e2e"), ("kernel", "bypass"), ("ground", "testbed")] {
            let said = unknown(old, &areas);
            assert!(said.ends_with(&format!("cargo xtask test {new}")), "{said}");
        }
        let said = unknown("other", &areas);
        assert_eq!(
            said,
            "no area `other`; there are: check, lint, unit, fuzz, bypass, chart, e2e, oracle, testbed"
        );
    }
}
