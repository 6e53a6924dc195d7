//! `cargo xtask fuzz [TARGET...]`: libFuzzer on the fuzz targets of tests/fuzz.
//!
//! In: targets and a time. Out: a line for each target, and an error that names the input which broke one.
//!
//! xtask builds the targets itself, with the stable compiler: the coverage that libFuzzer needs is an LLVM pass. What is not there is
//! AddressSanitizer, which needs a nightly compiler; the code that is fuzzed has no `unsafe`. `cargo fuzz` works in tests/ as well.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::sh;

/// The package of the targets, from the root of the checkout. It is no member of the workspace.
const PACKAGE: &str = "tests/fuzz";

/// What cargo-fuzz gives rustc, without a sanitizer: an 8-bit counter an edge, and the operands of each comparison.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// A file of seeds that has one on each line.
const LINES: &str = "lines.txt";

/// Folders whose files are seeds of a target besides its own.
const MORE_SEEDS: [(&str, &str); 1] = [("documents", "deploy/examples")];

/// One input that takes longer than this is a finding: a request is read while its agent waits. In seconds.
const INPUT_LIMIT: u32 = 10;

/// More memory than this is a finding: no target keeps anything from one input to the next. In MiB.
const MEMORY_LIMIT: u32 = 1024;

/// What to fuzz.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask fuzz                          every target for a minute, four at a time on two cores
  cargo xtask fuzz path query --seconds 600 two targets for ten minutes
  cargo xtask fuzz path --input FILE        one input again, such as one that broke the target
  cargo xtask fuzz --list                   the targets and what each holds")]
pub(crate) struct FuzzArgs {
    /// Targets: the files of tests/fuzz/fuzz_targets; all of them when none is given
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Run one target on this file alone, and show what it says
    #[arg(long, value_name = "FILE", requires = "targets")]
    input: Option<PathBuf>,
    /// Print the targets
    #[arg(long, conflicts_with_all = ["targets", "input"])]
    list: bool,
}

/// Does what was asked for.
pub(crate) fn run(args: &FuzzArgs) -> Result<()> {
    let known = targets()?;
    if args.list {
        for target in known {
            println!("{:10} {}", target, holds(&target)?);
        }
        return Ok(());
    }
    if let Some(other) = args.targets.iter().find(|target| !known.contains(target)) {
        bail!("no fuzz target `{other}`; there are: {}", known.join(", "));
    }
    match (&args.input, &args.targets[..]) {
        (None, []) => every(&known, args.seconds),
        (None, some) => every(some, args.seconds),
        (Some(input), [target]) => {
            let input = fs::canonicalize(input).with_context(|| input.display().to_string())?;
            let program = build()?.join(target);
            sh::run(fuzzer(&program, Share::Equal).arg(input))
        }
        (Some(_), _) => bail!("--input is for one target: cargo xtask fuzz TARGET --input FILE"),
    }
}

/// How long the stage of `cargo xtask test` runs each target, in seconds.
const STAGE_SECONDS: u32 = 60;

/// The stage of `cargo xtask test fuzz`: every target for a minute.
pub(crate) fn stage() -> Result<()> {
    every(&targets()?, STAGE_SECONDS)
}

/// Fuzz targets that run beside something else.
#[must_use = "what they find is told by `finish`"]
pub(crate) struct Beside(thread::JoinHandle<Result<()>>);

impl Beside {
    /// Waits until all have run.
    pub(crate) fn finish(self) -> Result<()> {
        self.0
            .join()
            .unwrap_or_else(|_| bail!("the thread that runs the fuzz targets panicked"))
    }
}

/// The stage of `cargo xtask test`: builds every target, and runs each for a minute beside the suites, which wait for most of their time.
/// The targets get what time of the processors the suites leave (`chrt --idle`, sched(7)).
pub(crate) fn beside() -> Result<Beside> {
    let targets = targets()?;
    let programs = sh::timed("fuzz targets", build)?;
    Ok(Beside(thread::spawn(move || {
        run_all(&programs, &targets, STAGE_SECONDS, Share::Idle)
    })))
}

/// How much of the processors targets get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    /// As much as others.
    Equal,
    /// What others leave.
    Idle,
}

impl Share {
    /// The most seconds for one input. The clock goes on while others have the processors.
    fn input_limit(self) -> u32 {
        match self {
            Self::Equal => INPUT_LIMIT,
            Self::Idle => 10 * INPUT_LIMIT,
        }
    }
}

/// Builds the targets and runs them, two for each core at a time; all run, whichever fails.
fn every(targets: &[String], seconds: u32) -> Result<()> {
    let programs = sh::timed("fuzz targets", build)?;
    run_all(&programs, targets, seconds, Share::Equal)
}

fn run_all(programs: &Path, targets: &[String], seconds: u32, share: Share) -> Result<()> {
    let what = format!("{} fuzz targets, {seconds} s each", targets.len());
    sh::timed(&what, || {
        let queue = Mutex::new(targets.iter().collect::<VecDeque<_>>());
        let failed = Mutex::new(Vec::new());
        let cores = thread::available_parallelism().map_or(1, usize::from);
        // The lock is let go before the target runs, or one would wait for the other.
        let next = || locked(&queue).pop_front();
        // Each has half a core, so that CI waits for half the time.
        let workers = (2 * cores).min(targets.len());
        thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some(target) = next() {
                        match one(programs, target, seconds, share) {
                            Ok(said) => eprintln!("[xtask] fuzz {target}: {said}"),
                            Err(error) => {
                                eprintln!("[xtask] fuzz {target}: FAILED: {error:#}");
                                locked(&failed).push(target.as_str());
                            }
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let list = failed.join(", ");
        ensure!(
            failed.is_empty(),
            "fuzz targets that failed: {list}; see `Fuzz` in tests/README.md"
        );
        Ok(())
    })
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The targets, by the names of their files.
fn targets() -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(sh::root().join(PACKAGE).join("fuzz_targets"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "rs")
            && let Some(name) = path.file_stem()
        {
            targets.push(name.to_string_lossy().into_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

/// What holds for each input of a target: the sentence that its file begins with.
fn holds(target: &str) -> Result<String> {
    let text = fs::read_to_string(source(target))?;
    let lines = text.lines().map_while(|line| line.strip_prefix("//! "));
    Ok(lines.collect::<Vec<_>>().join(" "))
}

fn source(target: &str) -> PathBuf {
    sh::root().join(PACKAGE).join(format!("fuzz_targets/{target}.rs"))
}

/// What the targets are built and run in.
fn folder() -> PathBuf {
    sh::target().join("fuzz")
}

/// Builds all targets, and returns the folder of the programs.
fn build() -> Result<PathBuf> {
    // Named, so that the flags are for the targets and not for build scripts and macros, which no libFuzzer is linked to.
    let host = sh::output(sh::command("rustc").args(["--print", "host-tuple"]))?;
    let host = host.trim();
    let manifest = sh::root().join(PACKAGE).join("Cargo.toml");
    let mut cargo = sh::cargo(&["build", "--quiet", "--bins", "--profile", "fuzz"]);
    cargo
        .args(["--target", host, "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(folder())
        .env("RUSTFLAGS", RUSTFLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    sh::run(&mut cargo)?;
    Ok(folder().join(host).join("fuzz"))
}

fn fuzzer(program: &Path, share: Share) -> Command {
    let program = program.to_string_lossy();
    let mut fuzzer = match share {
        Share::Equal => sh::command(&program),
        Share::Idle => sh::command("chrt"),
    };
    if share == Share::Idle {
        fuzzer.args(["--idle", "0", &program]);
    }
    fuzzer
        .arg(format!("-timeout={}", share.input_limit()))
        .arg(format!("-rss_limit_mb={MEMORY_LIMIT}"))
        .env("RUST_BACKTRACE", "1");
    fuzzer
}

/// Runs one target, and says what came of it in a few words.
fn one(programs: &Path, target: &str, seconds: u32, share: Share) -> Result<String> {
    let work = folder().join("work").join(target);
    let (found, seeds) = (work.join("corpus"), work.join("seeds"));
    // Seeds that are no more would be read with the others.
    match fs::remove_dir_all(&seeds) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).context("old seeds"),
        _ => {}
    }
    for folder in [&found, &seeds] {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    lay_out_seeds(target, &seeds)?;
    let log = work.join("log");
    let output = File::create(&log).with_context(|| log.display().to_string())?;
    let mut fuzzer = fuzzer(&programs.join(target), share);
    fuzzer
        .arg(format!("-max_total_time={seconds}"))
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", work.display()));
    let words = sh::root()
        .join(PACKAGE)
        .join(format!("dictionaries/{target}.txt"));
    if words.exists() {
        fuzzer.arg(format!("-dict={}", words.display()));
    }
    // What is found goes to the first folder.
    fuzzer.arg(&found).arg(&seeds);
    let more = MORE_SEEDS.iter().filter(|(of, _)| *of == target);
    fuzzer.args(more.map(|(_, folder)| sh::root().join(folder)));
    let status = fuzzer.stdout(output.try_clone()?).stderr(output).status();
    let status = status.with_context(|| format!("cannot start `{}`", sh::shown(&fuzzer)))?;
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if status.success() {
        return Ok(summary(&said));
    }
    let lines: Vec<&str> = said.lines().collect();
    let input = lines
        .iter()
        .find_map(|line| Some(line.split_once("Test unit written to ")?.1));
    let again = input.map_or_else(
        || format!("its output is {}", log.display()),
        |input| format!("the input is {input}; run it again by `cargo xtask fuzz {target} --input {input}`"),
    );
    bail!("{status}; {again}\n{}", complaint(&lines).join("\n"))
}

/// What libFuzzer's own words come to: `1234567 inputs, 890 edges`.
fn summary(said: &str) -> String {
    let inputs = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .map_or("?", str::trim);
    let edges = said
        .lines()
        .rev()
        .find_map(|line| line.split_once(" cov: ")?.1.split(' ').next())
        .unwrap_or("?");
    format!("{inputs} inputs, {edges} edges")
}

/// What a target says when it breaks: from its panic on, else its last lines.
fn complaint<'a>(lines: &'a [&'a str]) -> &'a [&'a str] {
    const MOST: usize = 40;
    let panic = lines
        .iter()
        .position(|line| line.contains("panicked at") || line.contains("ERROR: libFuzzer"));
    let from = panic.unwrap_or(lines.len().saturating_sub(MOST));
    &lines[from..lines.len().min(from + MOST)]
}

/// Copies the seeds of a target to where libFuzzer reads them: files as they are, and those of [`LINES`] as a file each.
fn lay_out_seeds(target: &str, to: &Path) -> Result<()> {
    let from = sh::root().join(PACKAGE).join("seeds").join(target);
    let entries = match fs::read_dir(&from) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| from.display().to_string())?,
    };
    for entry in entries {
        let entry = entry?;
        let bytes = fs::read(entry.path())?;
        if entry.file_name() == LINES {
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            for (number, line) in lines.enumerate() {
                fs::write(to.join(format!("line-{number}")), line)?;
            }
        } else {
            fs::write(to.join(entry.file_name()), bytes)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{PACKAGE, complaint, holds, summary, targets};
    use crate::sh;

    #[test]
    fn each_target_is_built_has_seeds_and_says_what_holds() {
        let root = sh::root().join(PACKAGE);
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        for target in targets().unwrap() {
            let bin = format!("[[bin]]\nname = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"\n");
            assert!(manifest.contains(&bin), "{target} is no [[bin]]");
            let seeds = fs::read_dir(root.join("seeds").join(&target));
            assert!(
                seeds.is_ok_and(|mut seeds| seeds.next().is_some()),
                "{target} has no seeds"
            );
            assert!(
                holds(&target).unwrap().ends_with('.'),
                "{target} does not say what holds"
            );
        }
    }

    #[test]
    fn what_a_policy_needs_is_fuzzed() {
        let targets = targets().unwrap();
        for needed in ["path", "query", "headers", "documents"] {
            assert!(targets.iter().any(|target| target == needed), "{needed}");
        }
    }

    #[test]
    fn libfuzzers_words_are_understood() {
        let said = "#12\tINITED cov: 80 ft: 81 corp: 1/1b\n#40\tDONE   cov: 120 ft: 300 corp: 9/9b lim: 4 exec/s: 0 rss: 30Mb\n\
                    stat::number_of_executed_units: 40\n";
        assert_eq!(summary(said), "40 inputs, 120 edges");
        assert_eq!(summary(""), "? inputs, ? edges");
        let said = ["#1 INITED", "thread panicked at a.rs:1:1:", "left is not right"];
        assert_eq!(complaint(&said), &said[1..]);
        assert_eq!(complaint(&said[..1]), &said[..1]);
    }
}
