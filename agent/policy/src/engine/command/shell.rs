//! The simple commands of a shell script, where they can be told with certainty.
//!
//! In: the script of `sh -c`. Out: the words of each command, or nothing where another program's output, a function, a here-document
//! or an odd quote decides what runs. The grammar is that of POSIX (XCU 2, Shell Command Language); what bash, zsh and ksh
//! take for more than POSIX does counts as not known.

use super::builtins::{self, Effect};
use super::{Argv, Rest};
use crate::cel::is_identifier;

/// Reserved words after which a command begins, and those that end a compound one.
const PREFIXES: [&str; 12] = [
    "if", "then", "elif", "else", "while", "until", "do", "!", "{", "fi", "done", "}",
];

/// Reserved words of loops over words.
const LOOPS: [&str; 2] = ["for", "select"];

/// Reserved words whose grammar is another one.
const OTHERS: [&str; 11] = [
    "always",
    "case",
    "esac",
    "function",
    "coproc",
    "namespace",
    "[[",
    "repeat",
    "foreach",
    "noglob",
    "nocorrect",
];

/// Whether a word is one of a shell's grammar where a command begins.
pub(super) fn is_reserved(word: &str) -> bool {
    PREFIXES.contains(&word) || OTHERS.contains(&word) || LOOPS.contains(&word)
}

/// The commands of a script; `None` where they cannot be told.
pub(super) fn simple_commands(script: &str) -> Option<Vec<Argv>> {
    let mut parser = Parser {
        rest: script,
        commands: Vec::new(),
        command: Pending::default(),
        word: None,
        parentheses: 0,
    };
    while let Some(char) = parser.next() {
        parser.step(char)?;
    }
    parser.end_command()?;
    (parser.parentheses == 0).then_some(parser.commands)
}

/// A command that is being read.
#[derive(Default)]
struct Pending {
    words: Vec<String>,
    rest: Option<Rest>,
    /// The head of a loop over words, which runs nothing by itself.
    loop_head: Option<LoopHead>,
    /// Whether the next word is where a redirection leads.
    redirects: bool,
}

/// How far the head of a loop is read.
enum LoopHead {
    /// A variable's name follows.
    Begun,
    /// `in` or `do` follows; without them the values are the script's arguments.
    Named(String),
    /// Values follow.
    In(String),
}

/// A word that is being read.
#[derive(Default)]
struct Word {
    text: String,
    /// Whether the text is only what the word begins with.
    cut: bool,
    /// Whether part of it is quoted, so that it is no reserved word.
    quoted: bool,
    /// Whether it is `NAME=...`.
    assigns: bool,
    /// Whether it has a brace: `{NAME}>` sets a variable.
    braced: bool,
}

impl Word {
    fn push(&mut self, char: char) {
        if !self.cut {
            self.text.push(char);
        }
    }

    fn names_variable(&self) -> bool {
        let name = self.text.strip_suffix('+').unwrap_or(&self.text);
        !self.quoted && !self.cut && is_identifier(name)
    }
}

struct Parser<'s> {
    rest: &'s str,
    commands: Vec<Argv>,
    command: Pending,
    word: Option<Word>,
    parentheses: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next()?;
        self.rest = chars.as_str();
        Some(next)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn word(&mut self) -> &mut Word {
        self.word.get_or_insert_default()
    }

    /// Reads what begins with an unquoted character.
    fn step(&mut self, char: char) -> Option<()> {
        let starts = self.word.is_none();
        let stands_alone = starts && self.peek().is_none_or(|next| " \t\n".contains(next));
        match char {
            ' ' | '\t' => self.end_word(),
            '\n' => self.end_command(),
            ';' | '|' | '&' => self.separator(char),
            '#' if starts => {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.rest = &self.rest[end..];
                Some(())
            }
            '\'' => self.single_quoted(),
            '"' => self.double_quoted(),
            '\\' => {
                let next = self.next()?;
                if next != '\n' {
                    let word = self.word();
                    word.quoted = true;
                    word.push(next);
                }
                Some(())
            }
            '$' => self.dollar(false),
            '<' | '>' => self.redirection(char),
            '(' => self.open_subshell(),
            ')' => {
                self.end_command()?;
                self.parentheses = self.parentheses.checked_sub(1)?;
                Some(())
            }
            '`' => None,
            '[' | '{' if stands_alone => {
                self.word().push(char);
                Some(())
            }
            '{' if self.peek() == Some('}') => {
                self.next();
                let word = self.word();
                word.push('{');
                word.push('}');
                Some(())
            }
            // Names of files, or words of braces, are put in its place.
            '*' | '?' | '[' | '{' => {
                let word = self.word();
                word.cut = true;
                word.braced |= char == '{';
                Some(())
            }
            '~' | '=' if starts => {
                self.word().cut = true;
                Some(())
            }
            '=' => {
                let word = self.word();
                word.assigns |= word.names_variable();
                word.push('=');
                Some(())
            }
            other => {
                self.word().push(other);
                Some(())
            }
        }
    }

    fn separator(&mut self, char: char) -> Option<()> {
        // `;;` is of `case`, and shells differ about `&>`.
        // `&!` is one sign in zsh.
        let odd = matches!(
            (char, self.peek()),
            (';', Some(';' | '&')) | ('&', Some('>' | '!'))
        );
        if odd {
            return None;
        }
        self.end_command()
    }

    fn single_quoted(&mut self) -> Option<()> {
        let (quoted, rest) = self.rest.split_once('\'')?;
        self.rest = rest;
        let word = self.word();
        word.quoted = true;
        quoted.chars().for_each(|char| word.push(char));
        Some(())
    }

    fn double_quoted(&mut self) -> Option<()> {
        self.word().quoted = true;
        loop {
            match self.next()? {
                '"' => return Some(()),
                '`' => return None,
                '$' => self.dollar(true)?,
                '\\' => match self.next()? {
                    '\n' => {}
                    next @ ('$' | '`' | '"' | '\\') => self.word().push(next),
                    next => {
                        self.word().push('\\');
                        self.word().push(next);
                    }
                },
                other => self.word().push(other),
            }
        }
    }

    /// A parameter's value is not known. What runs commands, or quotes in other ways than POSIX, is left.
    fn dollar(&mut self, in_quotes: bool) -> Option<()> {
        match self.peek() {
            Some('(') => return None,
            Some('\'' | '"') if !in_quotes => return None,
            // zsh's signs before a name: `$=NAME` is a command with its words.
            Some('[' | '=' | '~' | '^' | '+' | ':') => return None,
            Some('{') => {
                let (name, rest) = self.rest[1..].split_once('}')?;
                let special = name.chars().count() == 1 && name.chars().all(is_special);
                if !is_identifier(name) && !special {
                    return None;
                }
                self.rest = rest;
                self.word().cut = true;
            }
            Some(next) if is_special(next) => {
                self.next();
                self.word().cut = true;
            }
            Some(next) if next == '_' || next.is_ascii_alphabetic() => {
                let name = |char: char| char == '_' || char.is_ascii_alphanumeric();
                self.rest = self.rest.trim_start_matches(name);
                self.word().cut = true;
            }
            _ => self.word().push('$'),
        }
        Some(())
    }

    fn redirection(&mut self, char: char) -> Option<()> {
        let is_number =
            |word: &Word| !word.quoted && !word.cut && word.text.chars().all(|char| char.is_ascii_digit());
        match &self.word {
            Some(word) if is_number(word) => self.word = None,
            // zsh reads `python<->` as a pattern of numbers.
            Some(_) if char == '<' => return None,
            Some(word) if word.braced => return None,
            _ => {}
        }
        self.end_word()?;
        if self.command.redirects {
            return None;
        }
        match (char, self.peek()) {
            (_, Some('(')) | ('<', Some('<')) => return None,
            ('<', Some('>' | '&')) | ('>', Some('>' | '&' | '|')) => {
                self.next();
            }
            _ => {}
        }
        self.command.redirects = true;
        Some(())
    }

    /// A subshell, where a command can begin. After a word it is a function, an array or a pattern.
    fn open_subshell(&mut self) -> Option<()> {
        let begins = self.word.is_none()
            && self.command.words.is_empty()
            && self.command.loop_head.is_none()
            && !self.command.redirects;
        if !begins || self.peek() == Some('(') {
            return None;
        }
        self.parentheses += 1;
        Some(())
    }

    fn end_word(&mut self) -> Option<()> {
        let Some(word) = self.word.take() else {
            return Some(());
        };
        if std::mem::take(&mut self.command.redirects) {
            // `>!` is one sign in zsh, before the file.
            return (word.quoted || !word.text.starts_with('!')).then_some(());
        }
        if let Some(head) = self.command.loop_head.take() {
            return self.loop_word(head, &word);
        }
        let command = &mut self.command;
        if command.rest.is_some() {
            return (!builtins::may_assign(&command.words, &word.text, word.cut)).then_some(());
        }
        if command.words.is_empty() {
            let reserved = |words: &[&str]| !word.quoted && words.contains(&word.text.as_str());
            if word.assigns {
                let (name, value) = word.text.split_once('=')?;
                return self.assign(name, (!word.cut).then_some(value));
            }
            if !word.cut && reserved(&PREFIXES) {
                return Some(());
            }
            if word.cut || reserved(&OTHERS) {
                return None;
            }
            if reserved(&LOOPS) {
                command.loop_head = Some(LoopHead::Begun);
                return Some(());
            }
        }
        if !word.cut {
            command.words.push(word.text);
        } else if word.text.is_empty() {
            command.rest = Some(Rest::Words);
        } else {
            command.rest = Some(Rest::Begun(word.text));
        }
        Some(())
    }

    /// Reads a word of a loop's head.
    fn loop_word(&mut self, head: LoopHead, word: &Word) -> Option<()> {
        let is_plain = |text: &str| !word.quoted && !word.cut && word.text == text;
        self.command.loop_head = match head {
            LoopHead::Begun if word.cut => return None,
            LoopHead::Begun => Some(LoopHead::Named(word.text.clone())),
            LoopHead::Named(name) if is_plain("in") => Some(LoopHead::In(name)),
            LoopHead::Named(name) if is_plain("do") => {
                self.assign(&name, None)?;
                None
            }
            // Several names, or braces, which shells read in their own ways.
            LoopHead::Named(_) => return None,
            LoopHead::In(name) => {
                self.assign(&name, (!word.cut).then_some(&word.text))?;
                Some(LoopHead::In(name))
            }
        };
        Some(())
    }

    /// Adds what an assignment runs.
    fn assign(&mut self, name: &str, value: Option<&str>) -> Option<()> {
        match builtins::assigned(name, value) {
            Effect::Nothing => {}
            Effect::Runs(argv) => self.commands.push(argv),
            Effect::Unknown => return None,
        }
        Some(())
    }

    fn end_command(&mut self) -> Option<()> {
        self.end_word()?;
        match self.command.loop_head.take() {
            Some(LoopHead::Begun) => return None,
            Some(LoopHead::Named(name)) => self.assign(&name, None)?,
            Some(LoopHead::In(_)) | None => {}
        }
        let command = std::mem::take(&mut self.command);
        if command.redirects {
            return None;
        }
        if !command.words.is_empty() {
            self.commands.push(Argv {
                words: command.words,
                rest: command.rest.unwrap_or(Rest::Closed),
            });
        }
        Some(())
    }
}

/// Parameters of one character: `$?`, `$1`, `$@`.
fn is_special(char: char) -> bool {
    char.is_ascii_digit() || "@*#?-$!".contains(char)
}
