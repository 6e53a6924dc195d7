//! Suites that share one world: a cluster with agents and pods, brought up by the first test that runs.
//!
//! What comes in: the suites of an area, by name. What goes out: a line per test and a last one with the counts, as cargo's
//! own harness prints them. The world is taken down after the last test, whatever became of them; tests run one after
//! another, since some take the agent away.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

/// A test's name and what it does.
pub type Test<W> = (&'static str, fn(&mut W) -> Result<()>);

/// Set by `cargo xtask test --keep`: the world stays up after the last test.
pub const KEEP: &str = "PICKET_TESTS_KEEP";

/// The list of a file's tests, each called as its function is: `pub(crate) const TESTS: &[Test] = tests! { one, another };`
///
/// A test that is in no list is a function that nobody calls, and every suite denies `dead_code`: it does not compile.
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

/// The list of an area's files in the order in which they run, each called as its module is: `suites! { clients, denial }`.
#[macro_export]
macro_rules! suites {
    ($($suite:ident),+ $(,)?) => {
        &[$((stringify!($suite), $suite::TESTS)),+]
    };
}

/// What the suites of an area share.
pub trait World: Sized + Send + 'static {
    /// Brings it all up.
    ///
    /// # Errors
    /// Something does not start; every test of the area then fails with this error.
    fn up() -> Result<Self>;

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
pub fn run<W: World>(suites: &[(&str, &[Test<W>])]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let shared = Arc::new(Mutex::new(Shared::Untouched));
    let mut trials = Vec::new();
    for (suite, tests) in suites {
        for &(name, test) in *tests {
            let shared = Arc::clone(&shared);
            trials.push(Trial::test(format!("{suite}::{name}"), move || {
                one(&shared, test)
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let world = std::mem::replace(
        &mut *shared.lock().unwrap_or_else(PoisonError::into_inner),
        Shared::Untouched,
    );
    let Shared::Up(world) = world else {
        return conclusion.exit_code();
    };
    let (kept, ended) = match std::env::var_os(KEEP) {
        Some(_) => ("kept", world.keep()),
        None => ("down", world.down()),
    };
    if let Err(error) = ended {
        eprintln!("the cluster is not {kept}: {error:#}; try `cargo xtask clean`");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// The world all tests share.
enum Shared<W> {
    Untouched,
    Up(W),
    /// It could not be brought up; trying again for each test would take long and say the same.
    Failed(String),
}

fn one<W: World>(shared: &Mutex<Shared<W>>, test: fn(&mut W) -> Result<()>) -> Result<(), Failed> {
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if let Shared::Untouched = *shared {
        *shared = match W::up() {
            Ok(world) => Shared::Up(world),
            Err(error) => Shared::Failed(format!("{error:#}")),
        };
    }
    match &mut *shared {
        Shared::Up(world) => test(world).map_err(|error| Failed::from(format!("{error:#}\n{}", world.say()))),
        Shared::Failed(why) => Err(Failed::from(why.as_str())),
        Shared::Untouched => Err(Failed::from("no cluster")),
    }
}
