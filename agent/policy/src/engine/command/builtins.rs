//! Builtins of shells that run text or set variables, and the variables whose values shells run.
//!
//! In: the words of a builtin, or an assignment. Out: what it runs besides. The builtins are those of POSIX, bash 5.2, ksh93
//! and zsh 5.9; the variables are in the manuals of these shells, and of the programs that ask `SHELL`.

use super::programs::{NONE, Options, SHELLS};
use super::wrappers::{Inner, base_name, closed, holds_arguments};
use super::{Argv, Rest};
use crate::cel::is_identifier;

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

/// Variables in whose values shells run `$(...)`: prompts, messages about mail, and the names of files that are read first.
/// Those of the second row are zsh's.
const EXPANDED: [&str; 15] = [
    "PS0", "PS1", "PS2", "PS3", "PS4", "ENV", "BASH_ENV", "MAILPATH", //
    "PROMPT", "PROMPT2", "PROMPT3", "PROMPT4", "RPROMPT", "RPS1", "SPROMPT",
];

/// Variables that change what a command is. zsh runs the first two where there is only a redirection. Options of bash change
/// how the rest is read. The arrays have other programs by the names of commands: the first two are bash's, the others zsh's.
const REPLACING: [&str; 15] = [
    "NULLCMD",
    "READNULLCMD",
    "SHELLOPTS",
    "BASHOPTS",
    "histchars",
    "HISTCHARS",
    "BASH_ALIASES",
    "BASH_CMDS",
    "aliases",
    "galiases",
    "saliases",
    "functions",
    "functions_source",
    "commands",
    "builtins",
];

/// What the names of such variables begin with: functions for bash, libraries for the loader, and arrays of zsh for what is
/// disabled.
const REPLACING_BEGINNINGS: [&str; 3] = ["BASH_FUNC_", "LD_", "dis_"];

/// Variables that compute what is assigned to them, in one of the shells.
const NUMBERS: [&str; 21] = [
    "BASHPID",
    "COLUMNS",
    "EGID",
    "EPOCHSECONDS",
    "ERRNO",
    "EUID",
    "FUNCNEST",
    "GID",
    "HISTCMD",
    "HISTSIZE",
    "KEYTIMEOUT",
    "LINENO",
    "LINES",
    "MAILCHECK",
    "OPTIND",
    "RANDOM",
    "SAVEHIST",
    "SECONDS",
    "SHLVL",
    "SRANDOM",
    "UID",
];

/// Builtins whose words are assignments.
const DECLARING: [&str; 5] = ["declare", "export", "local", "readonly", "typeset"];

/// Builtins that set the variables whose names they are given.
const READING: [&str; 3] = ["getopts", "read", "vared"];

/// Builtins that compute a number in ksh and zsh. What a variable holds is left aside here: `exit $?` is in many scripts.
const COUNTING: [&str; 7] = ["break", "continue", "exit", "return", "shift", "ulimit", "wait"];

const MAPFILE: Options = Options {
    flags: "t",
    valued: "dnOsuCc",
    ..NONE
};

/// What an assignment does besides; the value is given where all of it is known.
pub(super) fn assigned(name: &str, value: Option<&str>) -> Effect {
    if has_computed_index(name) {
        return Effect::Unknown;
    }
    let adds = name.ends_with('+');
    // `NAME+=` and `NAME[0]=` are of the same variable.
    let name = name.split(['[', '+']).next().unwrap_or(name);
    let is_number = |value: &str| {
        value
            .chars()
            .all(|char| char.is_ascii_digit() || "-.".contains(char))
    };
    let replaces = REPLACING.contains(&name)
        || REPLACING_BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning));
    match value {
        _ if replaces => Effect::Unknown,
        // An index runs `$(...)` wherever a shell computes the variable; a part of it can come by `+=`.
        Some(value) if can_compute(value) || (adds && value.contains(['$', '`'])) => Effect::Unknown,
        value if NUMBERS.contains(&name) => match value.is_some_and(is_number) {
            true => Effect::Nothing,
            false => Effect::Unknown,
        },
        // Old shells take any variable of this form for a function.
        Some(value) if value.starts_with("()") => Effect::Unknown,
        // bash reads `\044` in a prompt as `$`.
        Some(value) if EXPANDED.contains(&name) && !value.contains(['$', '`', '\\']) => {
            match holds_arguments(value) {
                true => Effect::Unknown,
                false => Effect::Nothing,
            }
        }
        Some(value) if name == "SHELL" && SHELLS.contains(&base_name(value)) => Effect::Nothing,
        Some(value) if name == "PROMPT_COMMAND" => Effect::Runs(closed(&["eval", value])),
        _ if EXPANDED.contains(&name) || ["SHELL", "PROMPT_COMMAND"].contains(&name) => Effect::Unknown,
        _ => Effect::Nothing,
    }
}

/// Whether a text has an index of an array that runs something where a shell computes it.
pub(super) fn can_compute(text: &str) -> bool {
    text.contains('[') && text.contains(['$', '`'])
}

/// Whether a name has an index that a shell computes: it can be another variable, whose text is computed then.
fn has_computed_index(word: &str) -> bool {
    let Some((name, index)) = word.split_once('[') else {
        return false;
    };
    let index = index.trim_end_matches(['+', ']']);
    is_identifier(name)
        && !index
            .chars()
            .all(|char| char.is_ascii_digit() || "@*".contains(char))
}

/// Whether a shell's option has another way to read what follows: expansion of the history, or assignments behind a command.
pub(super) fn changes_reading(option: &str) -> bool {
    let option = option.trim_start_matches('-');
    option.starts_with("hist") || option.starts_with("key")
}

/// Whether a word that follows an unknown one in the command of these words may set a variable that shells run.
pub(super) fn may_assign(command: &[String], word: &str, cut: bool) -> bool {
    let (name, value) = word
        .split_once('=')
        .map_or((word, None), |(name, value)| (name, Some(value)));
    let declares = command.iter().any(|word| DECLARING.contains(&word.as_str()));
    let computes = |word: &String| {
        COUNTING.contains(&word.as_str()) || ["printf", "print", "test", "["].contains(&word.as_str())
    };
    let bare = name.split('[').next().unwrap_or(name);
    sets_what_runs(bare)
        || (declares && value.map_or(cut, |value| value.starts_with('(')))
        || (declares && has_computed_index(name))
        || (can_compute(word) && (declares || command.iter().any(computes)))
}

/// Whether a value of this variable can be run.
fn sets_what_runs(name: &str) -> bool {
    assigned(name, None) == Effect::Unknown
}

/// What a builtin runs besides itself; `Nothing` for any other program.
pub(super) fn inner(name: &str, arguments: &[String], rest: &Rest) -> Option<Inner> {
    let is_known = *rest == Rest::Closed;
    let nothing = |holds: bool| holds.then_some(Inner::Nothing);
    let safe = !arguments.iter().any(|word| can_compute(word));
    let has_option = |letters: &[char]| {
        arguments
            .iter()
            .any(|word| word.starts_with('-') && word.contains(letters))
    };
    match name {
        "mapfile" | "readarray" => mapfile(arguments, rest),
        "printf" => match arguments.first() {
            Some(option) if option.starts_with("-v") => {
                nothing(safe && is_known && names_are_safe(arguments))
            }
            first => nothing(safe && (first.is_some() || is_known)),
        },
        // `-P` expands a text as zsh's prompts, and `-v` sets a variable.
        "print" => nothing(safe && !has_option(&['P', 'v']) && (is_known || ends_options(arguments))),
        "test" | "[" => {
            let asks_for_variable = arguments.iter().any(|word| word == "-v" || word == "-R");
            let computes = asks_for_variable && arguments.iter().any(|word| has_computed_index(word));
            nothing(safe && !computes && !compares_text(arguments) && (is_known || !asks_for_variable))
        }
        // `-p` gives another program a command's name, as `NAME=PROGRAM` of zsh does.
        "hash" => {
            nothing(is_known && !has_option(&['p']) && !arguments.iter().any(|word| word.contains('=')))
        }
        // `-x` has a command.
        "jobs" => nothing(is_known && !has_option(&['x'])),
        "set" | "shopt" => nothing(!sets_options(arguments, is_known)),
        name if DECLARING.contains(&name) => declare(arguments, rest).filter(|_| safe),
        name if READING.contains(&name) => nothing(safe && is_known && names_are_safe(arguments)),
        "unset" => nothing(safe && is_known && !arguments.iter().any(|word| has_computed_index(word))),
        name if COUNTING.contains(&name) => nothing(safe && counts(name, arguments)),
        _ => Some(Inner::Nothing),
    }
}

/// Whether no option can follow these words.
fn ends_options(words: &[String]) -> bool {
    words.iter().any(|word| word == "--" || !word.starts_with('-'))
}

/// Whether the words are numbers, or options and names of this builtin.
fn counts(name: &str, words: &[String]) -> bool {
    let number = |char: char| char.is_ascii_digit() || "-%.".contains(char);
    let is_own = |word: &String| match name {
        "ulimit" => word.starts_with('-') || ["unlimited", "hard", "soft"].contains(&word.as_str()),
        "wait" => ["-n", "-f"].contains(&word.as_str()),
        _ => false,
    };
    words.iter().all(|word| is_own(word) || word.chars().all(number))
}

/// Whether `test` compares as numbers what is none; ksh and zsh compute that.
fn compares_text(words: &[String]) -> bool {
    let compares = |word: &String| ["-eq", "-ne", "-lt", "-le", "-gt", "-ge"].contains(&word.as_str());
    let is_text = |word: Option<&String>| {
        word.is_some_and(|word| word.contains(|char: char| char == '_' || char.is_ascii_alphabetic()))
    };
    let mut at = (0..words.len()).filter(|at| compares(&words[*at]));
    at.any(|at| is_text(at.checked_sub(1).and_then(|before| words.get(before))) || is_text(words.get(at + 1)))
}

/// Whether `set` or `shopt` fills an array of ksh (`-A`), or changes how the rest of the script is read.
fn sets_options(words: &[String], is_known: bool) -> bool {
    let mut options = words.iter().take_while(|word| *word != "--");
    let changes = |word: &String| {
        let letters = word.strip_prefix('-').unwrap_or_default();
        let array = word.starts_with(['-', '+']) && word.contains('A');
        array || letters.contains(['H', 'k']) || changes_reading(word)
    };
    let ends = words.iter().any(|word| word == "--");
    options.any(changes) || !(is_known || ends)
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
            if is_whole && !has_computed_index(word) {
                continue;
            }
            return None;
        };
        // The elements of an array are read as a shell reads words.
        if value.starts_with('(') {
            return None;
        }
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
