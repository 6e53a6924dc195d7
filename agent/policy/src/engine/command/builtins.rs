//! Builtins of shells that run text or set variables, and the variables whose values shells run.
//!
//! In: the words of a builtin, or an assignment. Out: what it runs besides. The builtins are those of POSIX, bash 5.2, ksh93
//! and zsh 5.9; the variables are in the manuals of these shells, and of the programs that ask `SHELL`.

use super::programs::{NONE, Options, SHELLS};
use super::wrappers::{Inner, base_name, closed};
use super::{Argv, Rest};

/// What an assignment does besides.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    Nothing,
    /// A shell runs this some time.
    Runs(Argv),
    /// It cannot be told.
    Unknown,
}

/// Variables in whose values shells run `$(...)`: prompts, and the names of files that are read first. Those of the second row
/// are zsh's.
const EXPANDED: [&str; 14] = [
    "PS0", "PS1", "PS2", "PS3", "PS4", "ENV", "BASH_ENV", //
    "PROMPT", "PROMPT2", "PROMPT3", "PROMPT4", "RPROMPT", "RPS1", "SPROMPT",
];

/// Variables that change what a command is: zsh runs the first two where there is only a redirection.
const REPLACING: [&str; 2] = ["NULLCMD", "READNULLCMD"];

/// What the names of such variables begin with: functions for bash, and libraries for the loader.
const REPLACING_BEGINNINGS: [&str; 2] = ["BASH_FUNC_", "LD_"];

/// Builtins whose words are assignments.
const DECLARING: [&str; 5] = ["declare", "export", "local", "readonly", "typeset"];

/// Builtins that set the variables whose names they are given.
const READING: [&str; 3] = ["getopts", "read", "vared"];

/// Builtins that compute their words: an index of an array among these runs `$(...)`.
const COMPUTING: [&str; 4] = ["float", "integer", "let", "unset"];

/// Builtins that compute a number in ksh alone. What a variable holds is left aside here: `exit $?` is in many scripts.
const COUNTING: [&str; 4] = ["exit", "return", "shift", "wait"];

const MAPFILE: Options = Options {
    flags: "t",
    valued: "dnOsuCc",
    ..NONE
};

/// What an assignment does besides; the value is given where all of it is known.
pub(super) fn assigned(name: &str, value: Option<&str>) -> Effect {
    // `NAME+=` and `NAME[0]=` are of the same variable.
    let name = name.split(['[', '+']).next().unwrap_or(name);
    let replaces = REPLACING.contains(&name)
        || REPLACING_BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning));
    match value {
        _ if replaces => Effect::Unknown,
        // Old shells take any variable of this form for a function.
        Some(value) if value.starts_with("()") => Effect::Unknown,
        // bash reads `\044` in a prompt as `$`.
        Some(value) if EXPANDED.contains(&name) && !value.contains(['$', '`', '\\']) => Effect::Nothing,
        Some(value) if name == "SHELL" && SHELLS.contains(&base_name(value)) => Effect::Nothing,
        Some(value) if name == "PROMPT_COMMAND" => Effect::Runs(closed(&["eval", value])),
        _ if EXPANDED.contains(&name) || ["SHELL", "PROMPT_COMMAND"].contains(&name) => Effect::Unknown,
        _ => Effect::Nothing,
    }
}

/// Whether a word that follows an unknown one in the command of these words may set a variable that shells run.
pub(super) fn may_assign(command: &[String], word: &str, cut: bool) -> bool {
    let (name, has_value) = word
        .split_once('=')
        .map_or((word, false), |(name, _)| (name, true));
    let declares = |word: &String| DECLARING.contains(&word.as_str());
    sets_what_runs(name) || (cut && !has_value && command.iter().any(declares))
}

/// Whether a value of this variable can be run.
fn sets_what_runs(name: &str) -> bool {
    assigned(name, None) == Effect::Unknown
}

/// What a builtin runs besides itself; `Nothing` for any other program.
pub(super) fn inner(name: &str, arguments: &[String], rest: &Rest) -> Option<Inner> {
    let is_known = *rest == Rest::Closed;
    let nothing = |holds: bool| holds.then_some(Inner::Nothing);
    let computes = |word: &String| word.contains('[') && word.contains(['$', '`']);
    let safe = !arguments.iter().any(computes);
    match name {
        "mapfile" | "readarray" => mapfile(arguments, rest),
        "printf" => match arguments.first() {
            Some(option) if option.starts_with("-v") => {
                nothing(safe && is_known && names_are_safe(arguments))
            }
            first => nothing(first.is_some() || is_known),
        },
        "test" | "[" => {
            let asks_for_variable = arguments.iter().any(|word| word == "-v" || word == "-R");
            nothing(safe && (is_known || !asks_for_variable))
        }
        // `-p` gives another program a command's name.
        "hash" => nothing(
            is_known
                && !arguments
                    .iter()
                    .any(|word| word.starts_with('-') && word.contains('p')),
        ),
        // An array of ksh.
        "set" => nothing(
            !arguments
                .iter()
                .any(|word| word.starts_with(['-', '+']) && word.contains('A')),
        ),
        name if DECLARING.contains(&name) => declare(arguments, rest).filter(|_| safe),
        name if READING.contains(&name) => nothing(safe && is_known && names_are_safe(arguments)),
        name if COMPUTING.contains(&name) => nothing(safe && is_known),
        name if COUNTING.contains(&name) => nothing(safe),
        _ => Some(Inner::Nothing),
    }
}

/// Whether none of the words is a name of a variable whose value can be run. It may stand behind an option: `-aPS4`.
fn names_are_safe(words: &[String]) -> bool {
    let is_safe = |word: &String| {
        let is_option = word.starts_with('-');
        let starts = word.char_indices().map(|(at, _)| at);
        let mut names = starts.take(if is_option { usize::MAX } else { 1 });
        !names.any(|at| sets_what_runs(&word[at..]))
    };
    words.iter().all(is_safe)
}

/// Each word is an option, a name or an assignment.
fn declare(arguments: &[String], rest: &Rest) -> Option<Inner> {
    let mut commands = Vec::new();
    let known = arguments.iter().map(|word| (word.as_str(), true));
    let begun = match rest {
        Rest::Closed => None,
        Rest::Words => return None,
        Rest::Begun(start) => Some((start.as_str(), false)),
    };
    for (word, is_whole) in known.chain(begun) {
        if word.starts_with(['-', '+']) {
            // A number computes what it is given; a reference is another variable's name.
            if word.contains(['i', 'n', 'E', 'F']) || !is_whole {
                return None;
            }
            continue;
        }
        let Some((name, value)) = word.split_once('=') else {
            if is_whole {
                continue;
            }
            return None;
        };
        match assigned(name, is_whole.then_some(value)) {
            Effect::Nothing => {}
            Effect::Runs(argv) => commands.push(argv),
            Effect::Unknown => return None,
        }
    }
    Some(Inner::of(commands))
}

/// `-C` has a text that is evaluated with the number of a line and the line behind it.
fn mapfile(arguments: &[String], rest: &Rest) -> Option<Inner> {
    let parsed = MAPFILE.parse(arguments)?;
    if *rest != Rest::Closed || !names_are_safe(parsed.rest) {
        return None;
    }
    let mut commands = Vec::new();
    for text in parsed.values("C") {
        // A comment ends with the first line of what is read, and the rest of that is run.
        if text.contains('#') {
            return None;
        }
        commands.push(closed(&["eval", text, "$0 $0"]));
    }
    Some(Inner::of(commands))
}
