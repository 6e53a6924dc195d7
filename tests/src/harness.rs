//! The tests of a suite, which share one world: a cluster with agents and pods, brought up by the first test that runs.
//!
//! In: the modules of a suite, by name. Out: a line per test and one with the counts, as cargo's own harness prints them, and the
//! tests that took longest. Last comes a line for each test that failed, since often only a log's end is read.
//!
//! The world is taken down after the last test, whatever became of them. Tests run one after another, since some take the agent
//! away.

use std::any::Any;
use std::cmp::Reverse;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

/// A test's name and what it does.
pub type Test<W> = (&'static str, fn(&mut W) -> Result<()>);

/// Set by `cargo xtask test --keep`: the world stays up after the last test.
pub const KEEP: &str = "PICKET_TESTS_KEEP";

/// How much of a failure's cause its last line has, in characters.
const CAUSE: usize = 300;

/// How many of the tests that took longest are named at the end, and from what time on a test is one of them.
const LONGEST: (usize, Duration) = (10, Duration::from_secs(10));

/// How long each test took. The first one's time has the world's start in it.
type Times = Arc<Mutex<Vec<(String, Duration)>>>;

/// The tests that failed and why, in their order.
type Failures = Arc<Mutex<Vec<(String, String)>>>;

/// The list of a file's tests, each called as its function is: `pub(crate) const TESTS: &[Test] = tests! { one, another };`
///
/// A test that is in no list is a function that nobody calls, and each suite denies `dead_code`: it does not compile.
///
/// ```compile_fail
/// #![deny(dead_code)]
/// use picket_tests::{harness::Test, tests};
/// fn listed(_: &mut ()) -> anyhow::Result<()> { Ok(()) }
/// fn forgotten(_: &mut ()) -> anyhow::Result<()> { Ok(()) }
/// const TESTS: &[Test<()>] = tests! { listed };
/// # fn main() { assert_eq!(TESTS.len(), 1) }
/// ```
///
/// ```
/// #![deny(dead_code)]
/// use picket_tests::{harness::Test, tests};
/// fn listed(_: &mut ()) -> anyhow::Result<()> { Ok(()) }
/// const TESTS: &[Test<()>] = tests! { listed };
/// # fn main() { assert_eq!(TESTS[0].0, "listed") }
/// ```
#[macro_export]
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        &[$((stringify!($test), $test)),+]
    };
}

/// The list of a suite's modules in the order in which they run: `modules! { clients, denial }`.
#[macro_export]
macro_rules! modules {
    ($($module:ident),+ $(,)?) => {
        &[$((stringify!($module), $module::TESTS)),+]
    };
}

/// What the tests of a suite share.
pub trait World: Sized + Send + 'static {
    /// Brings it all up.
    ///
    /// # Errors
    /// Something does not start; every test of the suite then fails with this error.
    fn up() -> Result<Self>;

    /// Checks what must hold after the last test, while all is still up.
    ///
    /// # Errors
    /// It does not hold.
    fn inspect(&mut self) -> Result<()> {
        Ok(())
    }

    /// Takes it all down.
    ///
    /// # Errors
    /// Something does not go away.
    fn down(self) -> Result<()>;

    /// Leaves it all up for a person to look at, and says how.
    ///
    /// # Errors
    /// That cannot be written down.
    fn keep(self) -> Result<()>;

    /// What helps to understand a failure.
    fn say(&self) -> String;
}

/// Runs the tests that the program's arguments select.
pub fn run<W: World>(modules: &[(&str, &[Test<W>])]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let shared = Arc::new(Mutex::new(Shared::Untouched));
    let (failures, times) = (Failures::default(), Times::default());
    let mut trials = Vec::new();
    for (module, tests) in modules {
        for &(name, test) in *tests {
            let (shared, failures) = (Arc::clone(&shared), Arc::clone(&failures));
            let times = Arc::clone(&times);
            let name = format!("{module}::{name}");
            trials.push(Trial::test(name.clone(), move || {
                let begun = Instant::now();
                let outcome = one(&shared, test);
                let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                times.push((name.clone(), begun.elapsed()));
                outcome.map_err(|failure| failure.noted(name, &failures))
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let code = end(&shared, &failures, conclusion.exit_code());
    let times = times.lock().unwrap_or_else(PoisonError::into_inner);
    let failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
    eprint!("{}{}", longest(&times), summary(&failures));
    code
}

/// Inspects the world, and takes it down or keeps it. The exit code is the tests' own where that works.
fn end<W: World>(shared: &Mutex<Shared<W>>, failures: &Failures, code: ExitCode) -> ExitCode {
    let world = std::mem::replace(
        &mut *shared.lock().unwrap_or_else(PoisonError::into_inner),
        Shared::Untouched,
    );
    let Shared::Up(mut world) = world else {
        return code;
    };
    let inspected = world.inspect();
    if let Err(error) = &inspected {
        eprintln!("after the last test: {error:#}");
        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.push(("after the last test".to_owned(), format!("{error:#}")));
    }
    let (kept, ended) = match std::env::var_os(KEEP) {
        Some(_) => ("kept", world.keep()),
        None => ("down", world.down()),
    };
    if let Err(error) = ended {
        eprintln!("the cluster is not {kept}: {error:#}; try `cargo xtask clean`");
        return ExitCode::FAILURE;
    }
    inspected.map_or(ExitCode::FAILURE, |()| code)
}

/// A line for each of the tests that took longest, the longest first.
fn longest(times: &[(String, Duration)]) -> String {
    let (count, from) = LONGEST;
    let mut long: Vec<&(String, Duration)> = times.iter().filter(|(_, took)| *took >= from).collect();
    long.sort_by_key(|(_, took)| Reverse(*took));
    let line = |(name, took): &&(String, Duration)| format!("{:6.1} s {name}\n", took.as_secs_f64());
    long.iter().take(count).map(line).collect()
}

/// A line for each test that failed, with the beginning of its cause.
fn summary(failures: &[(String, String)]) -> String {
    let line = |(name, cause): &(String, String)| {
        let words = cause.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut line: String = words.chars().take(CAUSE).collect();
        if line.len() < words.len() {
            line.push_str("...");
        }
        format!("FAILED {name}: {line}\n")
    };
    failures.iter().map(line).collect()
}

/// The world all tests share.
enum Shared<W> {
    Untouched,
    Up(W),
    /// It could not be brought up; trying again for each test would take long and say the same.
    Failed(String),
}

/// Why a test failed.
struct Failure {
    cause: String,
    /// What helps to understand it, which can be long.
    context: String,
}

impl Failure {
    fn new(cause: impl Into<String>) -> Failure {
        Failure {
            cause: cause.into(),
            context: String::new(),
        }
    }

    /// The failure for the harness, with its cause noted for the last lines.
    fn noted(self, name: String, failures: &Failures) -> Failed {
        let Failure { cause, context } = self;
        let text = format!("{cause}\n{context}");
        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.push((name, cause));
        Failed::from(text)
    }
}

/// What a panic says. Where it happened is in what the panic printed itself.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("it panicked: {}", text.unwrap_or("without a text"))
}

fn one<W: World>(shared: &Mutex<Shared<W>>, test: fn(&mut W) -> Result<()>) -> Result<(), Failure> {
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if let Shared::Untouched = *shared {
        *shared = match W::up() {
            Ok(world) => Shared::Up(world),
            Err(error) => Shared::Failed(format!("{error:#}")),
        };
    }
    match &mut *shared {
        Shared::Up(world) => {
            let cause = match catch_unwind(AssertUnwindSafe(|| test(world))) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => format!("{error:#}"),
                Err(panic) => panic_text(&*panic),
            };
            let context = world.say();
            Err(Failure { cause, context })
        }
        Shared::Failed(why) => Err(Failure::new(why.as_str())),
        Shared::Untouched => Err(Failure::new("no cluster")),
    }
}

#[cfg(test)]
mod unit {
    use anyhow::bail;

    use super::*;

    struct Nothing;

    impl World for Nothing {
        fn up() -> Result<Self> {
            Ok(Nothing)
        }

        fn inspect(&mut self) -> Result<()> {
            bail!("a password is in the log")
        }

        fn down(self) -> Result<()> {
            Ok(())
        }

        fn keep(self) -> Result<()> {
            Ok(())
        }

        fn say(&self) -> String {
            "a long log".repeat(1000)
        }
    }

    #[test]
    fn each_failed_test_has_a_last_line_with_the_beginning_of_its_cause() {
        let shared = Mutex::new(Shared::Untouched);
        let failures = Failures::default();
        let tests: [Test<Nothing>; 4] = [
            ("fine", |_| Ok(())),
            ("wrong", |_| bail!("it was 7\n  and not 8")),
            ("long", |_| bail!("x".repeat(1000))),
            ("panics", |_| panic!("no {}", "more")),
        ];
        for (name, test) in tests {
            let outcome = one(&shared, test).map_err(|failure| failure.noted(name.to_owned(), &failures));
            assert_eq!(outcome.is_ok(), name == "fine", "{name}");
        }
        let failures = failures.lock().expect("the failures");
        assert_eq!(
            summary(&failures),
            format!(
                "FAILED wrong: it was 7 and not 8\nFAILED long: {}...\nFAILED panics: it panicked: no more\n",
                "x".repeat(CAUSE)
            )
        );
    }

    #[test]
    fn the_tests_that_took_longest_come_first_and_quick_ones_not_at_all() {
        let took = |name: &str, seconds| (name.to_owned(), Duration::from_secs(seconds));
        let mut times = vec![took("quick", 9), took("long", 61), took("longest", 140)];
        assert_eq!(longest(&times), " 140.0 s longest\n  61.0 s long\n");
        times.extend((0..20).map(|_| took("more", 60)));
        assert_eq!(longest(&times).lines().count(), 10);
    }

    #[test]
    fn a_world_that_is_not_as_it_should_be_at_the_end_fails_the_suite() {
        let failures = Failures::default();
        let shared = Mutex::new(Shared::Up(Nothing));
        let code = end(&shared, &failures, ExitCode::SUCCESS);
        // An exit code can be compared by its text alone.
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
        let failures = failures.lock().expect("the failures");
        assert_eq!(
            summary(&failures),
            "FAILED after the last test: a password is in the log\n"
        );
    }
}
