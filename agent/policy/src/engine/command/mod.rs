//! What an exec runs, in every reading that a rule about commands compares itself with.
//!
//! In: the arguments and environment of an exec. Out: a [`Command`], which says whether a `commands` glob matches it and
//! whether an exception names it.
//!
//! A line that is refused is looked for behind what runs other programs too: shells (shell.rs) and their builtins
//! (builtins.rs), and programs such as `env`, `nice` or `xargs` (wrappers.rs). What cannot be told there counts as every line, so that a
//! rule refuses.

mod builtins;
mod programs;
mod shell;
mod wrappers;

use std::cell::OnceCell;

use crate::glob::Glob;
use crate::request::Exec;

/// How many programs may run each other. Real lines have three or four (`sudo env nice sh -c`).
const MAX_DEPTH: usize = 8;

/// How many commands a line is taken apart into. Real scripts of one argument have a dozen.
const MAX_COMMANDS: usize = 256;

/// Bytes of arguments that are taken apart. kubectl's lines have less than a hundredth of it; a longer line that runs
/// another program counts as every line.
const MAX_UNWRAPPED: usize = 32 * 1024;

/// What separates arguments where their boundaries count. No argument of a program can have it.
const BOUNDARY: char = '\0';

/// What an exec runs.
pub(in crate::engine) enum Command<'r> {
    /// These arguments.
    Line(Line<'r>),
    /// It cannot be told: attach joins a process that runs already, and an environment can change what a program does.
    Unknown,
}

/// The arguments of an exec.
pub(in crate::engine) struct Line<'r> {
    argv: &'r [String],
    /// Made when the first rule about commands asks for it.
    readings: OnceCell<Readings>,
}

/// What arguments come to.
#[derive(Debug, Default)]
struct Readings {
    lines: Vec<Reading>,
    /// Whether something more runs that cannot be told.
    unknown: bool,
}

/// A command line, its words joined by one space.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    text: String,
    /// Whether anything may follow.
    open: bool,
}

/// The words of a command as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Argv {
    words: Vec<String>,
    rest: Rest,
}

/// What follows the known words.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rest {
    /// Nothing.
    Closed,
    /// Any words, or none.
    Words,
    /// A word that begins so, and then anything.
    Begun(String),
}

impl<'r> Command<'r> {
    pub(in crate::engine) fn new(exec: &'r Exec) -> Self {
        let blank = |argument: &String| argument.trim_ascii().is_empty();
        let ends_early = |argument: &String| argument.contains(BOUNDARY);
        let argv = exec.command.as_slice();
        if argv.iter().all(blank) || argv.iter().any(ends_early) || !exec.env.is_empty() {
            return Self::Unknown;
        }
        Self::Line(Line {
            argv,
            readings: OnceCell::new(),
        })
    }
}

impl Line<'_> {
    /// The arguments as they came, joined by one space.
    pub(in crate::engine) fn as_sent(&self) -> String {
        self.argv.join(" ")
    }

    /// Whether an exception names these very arguments. A space of the glob stands for the boundary of two arguments, so that
    /// one argument with a space is not taken for two.
    pub(in crate::engine) fn is_excepted(&self, globs: &[Glob], lists: &[Box<[String]>]) -> bool {
        if lists.iter().any(|list| **list == *self.argv) {
            return true;
        }
        if globs.is_empty() {
            return false;
        }
        let exact = self.argv.join("\0");
        globs.iter().any(|glob| glob.matches(&exact))
    }

    /// Whether one of the globs matches a reading, or could match what is not known.
    pub(in crate::engine) fn matches(&self, globs: &[Glob]) -> bool {
        let readings = self.readings.get_or_init(|| Readings::of(self.argv));
        readings.unknown
            || globs
                .iter()
                .any(|glob| readings.lines.iter().any(|line| line.matches(glob)))
    }
}

/// The glob of an exception, whose spaces are boundaries of arguments.
pub(in crate::engine) fn boundary_glob(text: &str) -> Option<Glob> {
    Glob::text(text).ok()?;
    Glob::text(&text.replace(' ', "\0")).ok()
}

impl Reading {
    fn matches(&self, glob: &Glob) -> bool {
        if self.open {
            glob.could_go_on_from(&self.text)
        } else {
            glob.matches(&self.text)
        }
    }
}

impl Readings {
    fn of(argv: &[String]) -> Self {
        let mut readings = Self::default();
        readings.push(argv.join(" "), false);
        let length: usize = argv.iter().map(String::len).sum();
        let argv = Argv {
            words: argv.to_vec(),
            rest: Rest::Closed,
        };
        let mut left = MAX_COMMANDS;
        readings.read(argv, length <= MAX_UNWRAPPED, MAX_DEPTH, &mut left);
        readings
    }

    fn push(&mut self, text: String, open: bool) {
        let reading = Reading { text, open };
        if !self.lines.contains(&reading) {
            self.lines.push(reading);
        }
    }

    /// Reads one command and what it runs.
    ///
    /// A program name of blanks, or blanks around one, runs nothing on most systems, but what reads the arguments on the way to a
    /// container may take them off.
    fn read(&mut self, mut argv: Argv, unwrap: bool, depth: usize, left: &mut usize) {
        let is_blank = |word: &String| word.trim_ascii().is_empty();
        let program = argv.words.iter().position(|word| !is_blank(word));
        let (Some(program), Some(fewer)) = (program, left.checked_sub(1)) else {
            self.unknown = true;
            return;
        };
        *left = fewer;
        argv.words.drain(..program);
        self.add_lines(&argv);
        let inner = match (unwrap, depth) {
            (true, 1..) => wrappers::inner(&argv),
            // Too long or too deep: whatever runs a program could run any.
            _ => match wrappers::runs_others(&argv.words[0]) {
                true => wrappers::Inner::Unknown,
                false => wrappers::Inner::Nothing,
            },
        };
        match inner {
            wrappers::Inner::Nothing => {}
            wrappers::Inner::Unknown => self.unknown = true,
            wrappers::Inner::Commands(commands) => {
                for command in commands {
                    self.read(command, unwrap, depth - 1, left);
                }
            }
            wrappers::Inner::Script(script) => match shell::simple_commands(&script) {
                None => self.unknown = true,
                Some(commands) => {
                    for command in commands {
                        self.read(command, unwrap, depth - 1, left);
                    }
                }
            },
        }
    }

    /// The lines of one command: with and without the program's folder, as it came and with all white space folded.
    fn add_lines(&mut self, argv: &Argv) {
        let Some((program, arguments)) = argv.words.split_first() else {
            return;
        };
        let bare = program.rsplit('/').next().unwrap_or(program);
        for program in [program.as_str(), bare] {
            let words = std::iter::once(program).chain(arguments.iter().map(String::as_str));
            let line = words.collect::<Vec<_>>().join(" ");
            let folded = fold(&line);
            for line in [line, folded] {
                match &argv.rest {
                    Rest::Closed => self.push(line, false),
                    Rest::Words => {
                        self.push(format!("{line} "), true);
                        self.push(line, false);
                    }
                    Rest::Begun(start) => {
                        let line = format!("{line} {start}");
                        self.push(fold(&line), true);
                        self.push(line, true);
                    }
                }
            }
        }
    }
}

/// White space between words is the same to a shell, whichever it is.
fn fold(line: &str) -> String {
    line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
