//! Programs that run other programs, and where the other program is in their arguments.
//!
//! In: the words of a command. Out: an [`Inner`]. An option that is not in the tables here makes it unknown where the
//! command begins. The tables follow GNU coreutils 9, util-linux 2.41, findutils 4.10, procps-ng 4, sudo 1.9, opendoas 6.8
//! and BusyBox 1.37; where these differ an option counts as not known.

use super::builtins::{self, Effect};
use super::programs::{
    ENV, LOADERS, LONG_OF_BASH, OPAQUE, Options, SCRIPT, SHELLS, SPLIT, SU, WATCH, WRAPPERS, Wrapper, XARGS,
};
use super::shell::is_reserved;
use super::{Argv, Rest};

/// What a command runs besides itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inner {
    /// Nothing, or what is no argument: a script's file, standard input.
    Nothing,
    /// These commands.
    Commands(Vec<Argv>),
    /// This script of a shell.
    Script(String),
    /// It cannot be told.
    Unknown,
}

impl Inner {
    pub(super) fn of(commands: Vec<Argv>) -> Self {
        match commands.is_empty() {
            true => Self::Nothing,
            false => Self::Commands(commands),
        }
    }
}

/// A command's options, and what follows them.
pub(super) struct Parsed<'a> {
    options: Vec<(&'a str, Option<&'a str>)>,
    pub(super) rest: &'a [String],
    /// Whether `--` says that no option follows.
    ended: bool,
}

impl<'a> Parsed<'a> {
    /// The value of the last option of these names.
    fn value(&self, names: &[&str]) -> Option<&'a str> {
        let mut found = self.options.iter().rev();
        found
            .find(|(name, _)| names.contains(name))
            .and_then(|(_, value)| *value)
    }

    /// The values of all options of this name.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let of_name = self.options.iter().filter(move |(other, _)| *other == name);
        of_name.filter_map(|(_, value)| *value)
    }

    fn has(&self, names: &[&str]) -> bool {
        self.options.iter().any(|(name, _)| names.contains(name))
    }
}

impl Options {
    /// Reads options up to the first other word; `None` where one is not known.
    pub(super) fn parse<'a>(&self, mut words: &'a [String]) -> Option<Parsed<'a>> {
        let (mut options, mut ended) = (Vec::new(), false);
        while let Some((word, after)) = words.split_first() {
            if options.last().is_some_and(|(name, _)| self.last.contains(name)) {
                break;
            }
            if word == "--" {
                (words, ended) = (after, true);
                break;
            }
            if let Some(long) = word.strip_prefix("--") {
                let (name, value) = long
                    .split_once('=')
                    .map_or((long, None), |(name, value)| (name, Some(value)));
                let valued = self.long_valued.contains(&name);
                words = after;
                match (valued, value) {
                    (true, None) => {
                        let (value, after) = words.split_first()?;
                        options.push((name, Some(value.as_str())));
                        words = after;
                    }
                    (true, value) => options.push((name, value)),
                    (false, value) if self.long.contains(&name) => options.push((name, value)),
                    (false, _) => return None,
                }
            } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                words = self.cluster(letters, after, &mut options)?;
            } else {
                break;
            }
        }
        Some(Parsed {
            options,
            rest: words,
            ended,
        })
    }

    /// Reads the letters of one word; gives the words after it and its value.
    fn cluster<'a>(
        &self,
        letters: &'a str,
        after: &'a [String],
        options: &mut Vec<(&'a str, Option<&'a str>)>,
    ) -> Option<&'a [String]> {
        for (at, letter) in letters.char_indices() {
            let (name, value) = letters[at..].split_at(letter.len_utf8());
            if self.flags.contains(letter) {
                options.push((name, None));
            } else if self.optional.contains(letter) {
                options.push((name, Some(value)));
                return Some(after);
            } else if !self.valued.contains(letter) {
                return None;
            } else if value.is_empty() {
                let (value, after) = after.split_first()?;
                options.push((name, Some(value.as_str())));
                return Some(after);
            } else {
                options.push((name, Some(value)));
                return Some(after);
            }
        }
        Some(after)
    }

    /// Reads options wherever they stand, as getopt(3) of GNU does; gives the other words too.
    fn parse_permuted<'a>(&self, mut words: &'a [String]) -> Option<(Parsed<'a>, Vec<&'a String>)> {
        let (mut options, mut operands) = (Vec::new(), Vec::new());
        loop {
            let parsed = self.parse(words)?;
            options.extend(parsed.options);
            if parsed.ended {
                operands.extend(parsed.rest);
            } else if let Some((operand, rest)) = parsed.rest.split_first() {
                operands.push(operand);
                words = rest;
                continue;
            }
            let all = Parsed {
                options,
                rest: &[],
                ended: true,
            };
            return Some((all, operands));
        }
    }
}

/// The name by which a program decides what it is.
pub(super) fn base_name(program: &str) -> &str {
    let program = program.trim_ascii();
    program.rsplit('/').next().unwrap_or(program)
}

/// Whether a program can run others that its arguments name.
pub(super) fn runs_others(program: &str) -> bool {
    let word = Argv {
        words: vec![program.to_owned()],
        rest: Rest::Words,
    };
    inner(&word) != Inner::Nothing
}

/// What a command runs besides itself. It has one word at least.
pub(super) fn inner(argv: &Argv) -> Inner {
    let Some((program, arguments)) = argv.words.split_first() else {
        return Inner::Unknown;
    };
    let name = base_name(program);
    // Distributions add to the name: busybox.static, busybox-extras.
    let name = if name.starts_with("busybox") {
        "busybox"
    } else {
        name
    };
    let loads = || LOADERS.iter().any(|loader| name.starts_with(loader));
    let inner = match name {
        name if SHELLS.contains(&name) => shell(name, arguments, &argv.rest),
        name if OPAQUE.contains(&name) || name.starts_with("s6-") || loads() => None,
        "env" => env(arguments, &argv.rest),
        "xargs" => xargs(arguments, &argv.rest),
        "find" => find(arguments, &argv.rest),
        "watch" => watch(arguments, &argv.rest),
        "su" | "runuser" => su(arguments, &argv.rest),
        "script" => script(arguments, &argv.rest),
        "ip" => ip(arguments, &argv.rest),
        "sort" => sort(arguments, &argv.rest),
        "split" => split(arguments, &argv.rest),
        "nc" | "ncat" | "netcat" => nc(arguments, &argv.rest),
        "." | "source" => (!arguments.iter().any(|file| holds_arguments(file))).then_some(Inner::Nothing),
        "eval" if argv.rest == Rest::Closed => Some(Inner::Script(arguments.join(" "))),
        "eval" => None,
        name => match WRAPPERS.iter().find(|wrapper| wrapper.names.contains(&name)) {
            Some(wrapper) => wrapped(wrapper, arguments, &argv.rest),
            None => builtins::inner(name, arguments, &argv.rest),
        },
    };
    inner.unwrap_or(Inner::Unknown)
}

/// The command that these words are; nothing where there is none, unless it may follow.
fn command(words: &[String], rest: &Rest) -> Option<Inner> {
    if words.is_empty() {
        return (*rest == Rest::Closed).then_some(Inner::Nothing);
    }
    Some(Inner::Commands(vec![Argv {
        words: words.to_vec(),
        rest: rest.clone(),
    }]))
}

/// The command after assignments `NAME=VALUE`, and what these run.
fn after_assignments(words: &[String], rest: &Rest) -> Option<Inner> {
    let mut commands = Vec::new();
    let mut words = words;
    while let Some((word, after)) = words.split_first() {
        let Some((name, value)) = word.split_once('=') else {
            break;
        };
        match builtins::assigned(name, Some(value)) {
            Effect::Nothing => {}
            Effect::Runs(argv) => commands.push(argv),
            Effect::Unknown => return None,
        }
        words = after;
    }
    if let Inner::Commands(more) = command(words, rest)? {
        commands.extend(more);
    }
    Some(Inner::of(commands))
}

fn wrapped(wrapper: &Wrapper, arguments: &[String], rest: &Rest) -> Option<Inner> {
    let parsed = wrapper.options.parse(arguments)?;
    let words = parsed.rest.get(wrapper.operands..).unwrap_or_default();
    match wrapper.names {
        ["sudo"] => after_assignments(words, rest),
        // A reserved word of shells, which takes more than a simple command.
        ["time"] if words.first().is_some_and(|word| is_reserved(word)) => None,
        _ => command(words, rest),
    }
}

fn env(arguments: &[String], rest: &Rest) -> Option<Inner> {
    let parsed = ENV.parse(arguments)?;
    let Some(split) = parsed.value(&SPLIT) else {
        // A lone dash is `-i`.
        let words = match parsed.rest {
            [dash, after @ ..] if dash == "-" && !parsed.ended => after,
            words => words,
        };
        return after_assignments(words, rest);
    };
    // Quotes, escapes and variables of its own language.
    if split.contains(['"', '\'', '\\', '$', '#']) {
        return None;
    }
    let split = split.split_ascii_whitespace().map(str::to_owned);
    let words: Vec<_> = split.chain(parsed.rest.iter().cloned()).collect();
    // The words of the text may be options again.
    env(&words, rest)
}

/// The first word that has one of these texts in it, so that what stands there is not known.
fn cut_at(words: &[String], text: &str, rest: &Rest) -> Option<Argv> {
    let Some(at) = words.iter().position(|word| word.contains(text)) else {
        return Some(Argv {
            words: words.to_vec(),
            rest: rest.clone(),
        });
    };
    let start = words[at].split(text).next().unwrap_or_default();
    (at > 0).then(|| Argv {
        words: words[..at].to_vec(),
        rest: Rest::Begun(start.to_owned()),
    })
}

/// Standard input makes further words, or the ones that `-I` names.
fn xargs(arguments: &[String], rest: &Rest) -> Option<Inner> {
    let parsed = XARGS.parse(arguments)?;
    if parsed.rest.is_empty() {
        // `echo` runs.
        return (*rest == Rest::Closed).then_some(Inner::Nothing);
    }
    let replaced = parsed
        .value(&["I", "i", "replace"])
        .map(|text| if text.is_empty() { "{}" } else { text });
    let bare = parsed.has(&["replace"]).then_some("{}");
    // A later `-n` or `-L` takes `-I` back, so that words may follow all the same.
    let more = match rest {
        Rest::Closed => Rest::Words,
        other => other.clone(),
    };
    let argv = match replaced.or(bare) {
        Some(text) => cut_at(parsed.rest, text, &more)?,
        None => Argv {
            words: parsed.rest.to_vec(),
            rest: more,
        },
    };
    Some(Inner::Commands(vec![argv]))
}

/// How many commands of one `find` are read.
const MAX_EXECS: usize = 16;

/// `-exec` and its kind, with the names of files in place of `{}`.
fn find(arguments: &[String], rest: &Rest) -> Option<Inner> {
    if *rest != Rest::Closed {
        return None;
    }
    let mut commands = Vec::new();
    let mut words = arguments;
    while let Some((word, after)) = words.split_first() {
        words = after;
        if !matches!(word.as_str(), "-exec" | "-execdir" | "-ok" | "-okdir") {
            continue;
        }
        let ends = |at: usize| after[at] == ";" || (after[at] == "+" && at > 0 && after[at - 1] == "{}");
        let end = (0..after.len()).find(|at| ends(*at)).unwrap_or(after.len());
        if end == 0 {
            return None;
        }
        if commands.len() == MAX_EXECS {
            return None;
        }
        // What looks like one may be the value of another test, so that the next one can be among these words.
        commands.push(cut_at(&after[..end], "{}", rest)?);
    }
    Some(Inner::of(commands))
}

/// The values of a long option, which getopt(3) of GNU takes from anywhere and by any beginning of its name. `--` may be the
/// value of another option, so that it ends nothing here.
fn option_values<'a>(arguments: &'a [String], name: &str) -> Option<Vec<&'a str>> {
    let mut values = Vec::new();
    for (at, word) in arguments.iter().enumerate() {
        let Some(long) = word.strip_prefix("--") else {
            continue;
        };
        let (begun, value) = long
            .split_once('=')
            .map_or((long, None), |(begun, value)| (begun, Some(value)));
        if !begun.is_empty() && name.starts_with(begun) {
            values.push(value.or_else(|| arguments.get(at + 1).map(String::as_str))?);
        }
    }
    Some(values)
}

/// `--filter` has a script for the shell.
fn split(arguments: &[String], rest: &Rest) -> Option<Inner> {
    if *rest != Rest::Closed {
        return None;
    }
    let scripts = option_values(arguments, "filter")?.into_iter();
    let commands = scripts.map(|text| closed(&["sh", "-c", text]));
    Some(Inner::of(commands.collect()))
}

/// `--compress-program` has a program, which is run with `-d` too. Whether more than a name is taken apart differs.
fn sort(arguments: &[String], rest: &Rest) -> Option<Inner> {
    if *rest != Rest::Closed {
        return None;
    }
    let mut commands = Vec::new();
    for program in option_values(arguments, "compress-program")? {
        let is_plain = |char: char| char.is_ascii_alphanumeric() || "/._+-".contains(char);
        if !program.chars().all(is_plain) {
            return None;
        }
        commands.extend([closed(&[program]), closed(&[program, "-d"])]);
    }
    Some(Inner::of(commands))
}

/// `ip netns exec` and `ip vrf exec` run a command; `ip` takes any beginning of its words.
fn ip(arguments: &[String], rest: &Rest) -> Option<Inner> {
    let runs = |word: &String| !word.is_empty() && "exec".starts_with(word.as_str());
    (*rest == Rest::Closed && !arguments.iter().any(runs)).then_some(Inner::Nothing)
}

/// `-e` and `-c` have a program, or a script.
fn nc(arguments: &[String], rest: &Rest) -> Option<Inner> {
    let runs = |word: &String| match word.strip_prefix("--") {
        Some(long) => ["e", "sh", "lu"].iter().any(|begun| long.starts_with(begun)),
        None => word.starts_with('-') && word.contains(['e', 'c']),
    };
    (*rest == Rest::Closed && !arguments.iter().any(runs)).then_some(Inner::Nothing)
}

/// Whether a file is one of procfs (proc(5)) with a process's own arguments or environment, so that these are a script.
pub(super) fn holds_arguments(file: &str) -> bool {
    ["cmdline", "environ", "comm"].contains(&base_name(file))
}

/// A command of which all is known.
pub(super) fn closed(words: &[&str]) -> Argv {
    Argv {
        words: words.iter().map(|word| (*word).to_owned()).collect(),
        rest: Rest::Closed,
    }
}

/// The words are a script, unless `-x` is given.
fn watch(arguments: &[String], rest: &Rest) -> Option<Inner> {
    let parsed = WATCH.parse(arguments)?;
    if *rest != Rest::Closed {
        return None;
    }
    if parsed.has(&["x", "exec"]) {
        return command(parsed.rest, rest);
    }
    Some(Inner::Script(parsed.rest.join(" ")))
}

/// A user's shell with `-c`, or with the words after the user; `runuser -u` runs a command.
fn su(arguments: &[String], rest: &Rest) -> Option<Inner> {
    if *rest != Rest::Closed {
        return None;
    }
    if SU.parse(arguments)?.has(&["u", "user"]) {
        return command(SU.parse(arguments)?.rest, rest);
    }
    let (parsed, operands) = SU.parse_permuted(arguments)?;
    let shell_name = parsed.value(&["s", "shell"]).map_or("sh", base_name);
    if !SHELLS.contains(&shell_name) {
        return None;
    }
    let of_shell = operands.into_iter().skip_while(|word| *word == "-").skip(1);
    let mut words: Vec<_> = of_shell.cloned().collect();
    if let Some(text) = parsed.value(&["c", "command", "session-command"]) {
        words.splice(..0, ["-c".to_owned(), text.to_owned()]);
    }
    shell(shell_name, &words, rest)
}

/// `-c` has a script; the words after the file make a command, for BSD and behind `--`.
fn script(arguments: &[String], rest: &Rest) -> Option<Inner> {
    if *rest != Rest::Closed {
        return None;
    }
    let parsed = SCRIPT.parse(arguments)?;
    let text = parsed.value(&["c", "command"]);
    match (text, parsed.rest) {
        (Some(text), [] | [_]) => Some(Inner::Script(text.to_owned())),
        (None, []) => Some(Inner::Nothing),
        (None, [_file]) if !parsed.ended => Some(Inner::Nothing),
        // Which of them is the file, and whose the options are, differs.
        (None, words) if words.iter().skip(1).all(|word| !word.starts_with('-')) => Some(Inner::Commands(
            [&words[1..], words]
                .into_iter()
                .filter(|words| !words.is_empty())
                .map(|words| Argv {
                    words: words.to_vec(),
                    rest: Rest::Closed,
                })
                .collect(),
        )),
        _ => None,
    }
}

/// Whether an option about comments is among the words, in one of the spellings that shells take.
fn mentions_comments(words: &[String]) -> bool {
    let mentions = |word: &String| {
        word.replace(['_', '-'], "")
            .to_ascii_lowercase()
            .contains("interactivecomments")
    };
    words.iter().any(mentions)
}

/// Options of POSIX's `sh` and of bash; the first other word is the script where `-c` is given, and a file's name where not.
fn shell(name: &str, arguments: &[String], rest: &Rest) -> Option<Inner> {
    let mut words = arguments;
    let mut has_script = false;
    // In interactive shells `#` begins no comment where an option says so; zsh's default is that.
    let mut may_lack_comments = name.ends_with("zsh") || mentions_comments(arguments);
    while let Some((word, after)) = words.split_first() {
        if word == "--" || word == "-" {
            words = after;
            break;
        }
        let long = word.strip_prefix("--");
        let letters = word.strip_prefix(['-', '+']).filter(|_| long.is_none());
        words = match (long, letters) {
            (Some("init-file" | "rcfile"), _) => after.get(1..)?,
            (Some("interactive"), _) => {
                may_lack_comments = true;
                after
            }
            (Some("login" | "noediting" | "noprofile" | "norc" | "posix" | "restricted" | "verbose"), _) => {
                after
            }
            (Some(_), _) => return None,
            // bash takes its long options with one dash too, and `rcfile` has a `c`.
            (None, Some(letters)) if LONG_OF_BASH.contains(&letters) || letters.contains('-') => return None,
            (None, Some(letters)) => {
                has_script |= letters.contains('c');
                may_lack_comments |= letters.contains('i');
                // Expansion of the history, and assignments behind a command.
                let reads_otherwise = letters.contains(['H', 'k'])
                    || (letters.ends_with('o')
                        && after.first().is_some_and(|name| builtins::changes_reading(name)));
                // Options of zsh such as `extendedglob` add signs to its language.
                let of_zsh = letters.ends_with('o')
                    && name.ends_with("zsh")
                    && !after
                        .first()
                        .is_some_and(|name| ["errexit", "nounset", "pipefail"].contains(&name.as_str()));
                let odd = reads_otherwise || of_zsh || (word.starts_with('+') && letters.contains('c'));
                // Whether it has its value in the same word differs between shells.
                let value = letters.find(['o', 'O']);
                match value {
                    _ if odd => return None,
                    None => after,
                    Some(at) if at + 1 == letters.len() => after.get(1..)?,
                    Some(_) => return None,
                }
            }
            (None, None) => break,
        };
    }
    match (words.first(), has_script) {
        (Some(text), true) if may_lack_comments && text.contains('#') => None,
        // Positional parameters, which a script can compute.
        (Some(_), true) if words.iter().skip(1).any(|word| builtins::can_compute(word)) => None,
        (Some(text), true) => Some(Inner::Script(text.clone())),
        (Some(file), false) if holds_arguments(file) => None,
        // A file's content, or standard input.
        (Some(_), false) => Some(Inner::Nothing),
        (None, _) => (*rest == Rest::Closed).then_some(Inner::Nothing),
    }
}
