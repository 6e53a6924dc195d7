//! What an exec runs, as the record keeps it: every argument, without secrets, and truncated only where it is very long.
//!
//! In: the arguments as they were judged. Out: the same within a bound, with the length and digest of the whole where something
//! was left out.

use serde::Serialize;

use super::digest::sha256;
use super::redact::Redactor;

/// What is kept whole. Beyond it the first and the last half of as much are: what hides in a long command stands at its end as
/// often as at its beginning.
const KEPT_BYTES: usize = 64 * 1024;

/// An exec or attach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Exec {
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    /// The arguments, the program first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    /// Bytes of all arguments as they were sent.
    command_bytes: usize,
    /// SHA-256 of all arguments as they were sent, each followed by a zero byte, where `command` is not the whole.
    #[serde(rename = "commandSHA256", skip_serializing_if = "Option::is_none")]
    command_sha256: Option<String>,
    stdin: bool,
    tty: bool,
}

impl Exec {
    /// Bytes of what is kept of the arguments.
    pub(super) fn size(&self) -> usize {
        self.command.iter().map(String::len).sum()
    }

    pub(super) fn new(
        redactor: &Redactor,
        container: Option<&str>,
        command: &[String],
        stdin: bool,
        tty: bool,
    ) -> Exec {
        let clean = redactor.arguments(command);
        let size: usize = clean.iter().map(|argument| argument.len() + 1).sum();
        let cut = size > KEPT_BYTES;
        Exec {
            container: container.map(str::to_owned),
            command: if cut { ends(&clean) } else { clean },
            command_bytes: command.iter().map(String::len).sum(),
            command_sha256: cut.then(|| digest(command)),
            stdin,
            tty,
        }
    }
}

/// The digest of all arguments, each followed by a zero byte.
fn digest(command: &[String]) -> String {
    sha256(command.iter().flat_map(|argument| [argument.as_bytes(), &[0]]))
}

/// The beginning and the end of a command, with word of how much is missing between them. Each argument that is kept in part
/// stays one.
fn ends(command: &[String]) -> Vec<String> {
    let (head, begin) = take(command.iter().map(String::as_str), |argument, room| {
        &argument[..argument.floor_char_boundary(room)]
    });
    let (mut tail, end) = take(command.iter().rev().map(String::as_str), |argument, room| {
        &argument[argument.ceil_char_boundary(argument.len() - room)..]
    });
    tail.reverse();
    let kept: usize = head.iter().chain(&tail).map(|part| part.len()).sum();
    let all: usize = command.iter().map(String::len).sum();
    let missing = format!("...[{} bytes left out]...", all - kept);
    let mut parts: Vec<String> = head.iter().map(|part| (*part).to_owned()).collect();
    let mut tail = tail.into_iter().map(str::to_owned);
    // The argument that both ends reach into is one; else the first of the missing ones has the note.
    let joined = begin + end + 1 == command.len();
    if let Some(last) = parts.last_mut() {
        last.push_str(&missing);
        if joined && let Some(first) = tail.next() {
            last.push_str(&first);
        }
    }
    parts.extend(tail);
    parts
}

/// As many arguments as half of the bound holds, the last one in part, and how many of them are whole.
fn take<'a>(
    command: impl Iterator<Item = &'a str>,
    part: impl Fn(&'a str, usize) -> &'a str,
) -> (Vec<&'a str>, usize) {
    let mut room = KEPT_BYTES / 2;
    let mut taken = Vec::new();
    for argument in command {
        if argument.len() > room {
            taken.push(part(argument, room));
            let whole = taken.len() - 1;
            return (taken, whole);
        }
        room -= argument.len();
        room = room.saturating_sub(1);
        taken.push(argument);
    }
    let whole = taken.len();
    (taken, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(command: &[String]) -> Exec {
        Exec::new(&Redactor::new(&[0; 32]), None, command, false, false)
    }

    #[test]
    fn a_command_within_the_bound_is_whole_however_long_its_arguments_are() {
        let script = format!("{}; touch /tmp/x", "a".repeat(KEPT_BYTES - 100));
        let command = ["sh".to_owned(), "-c".to_owned(), script];
        let exec = exec(&command);
        assert_eq!(exec.command, command);
        assert_eq!(exec.command_sha256, None);
        assert_eq!(exec.command_bytes, command.iter().map(String::len).sum::<usize>());
    }

    #[test]
    fn of_a_longer_one_both_ends_the_length_and_the_digest_are_kept() {
        let script = format!("echo first; {}; touch /tmp/last", "é".repeat(KEPT_BYTES));
        let command = ["sh".to_owned(), "-c".to_owned(), script.clone()];
        let long = exec(&command);
        assert_eq!(long.command.len(), 3, "each argument stays one");
        assert_eq!(long.command[..2], command[..2]);
        let kept = &long.command[2];
        assert!(
            kept.starts_with("echo first; é") && kept.ends_with("é; touch /tmp/last"),
            "{kept}"
        );
        assert!(kept.contains("bytes left out]..."), "{kept}");
        assert!(kept.len() < KEPT_BYTES + 100 && kept.len() > KEPT_BYTES - 100);
        assert_eq!(long.command_bytes, 4 + script.len());
        let whole = format!("sh\0-c\0{script}\0");
        let sha = sha256([whole.as_bytes()]);
        assert_eq!(long.command_sha256, Some(sha));
    }

    #[test]
    fn of_many_arguments_the_first_and_the_last_are_kept() {
        let command: Vec<String> = (0..20_000).map(|number| format!("argument-{number}")).collect();
        let exec = exec(&command);
        let kept = &exec.command;
        assert_eq!(kept.first(), command.first());
        assert_eq!(kept.last(), command.last());
        assert!(
            kept.iter()
                .any(|argument| argument.contains("bytes left out]..."))
        );
        assert!(kept.iter().map(|argument| argument.len() + 1).sum::<usize>() < KEPT_BYTES + 200);
    }

    #[test]
    fn two_long_arguments_are_two_after_the_cut() {
        let command = ["a".repeat(KEPT_BYTES), "b".repeat(KEPT_BYTES)];
        let exec = exec(&command);
        let [a, b] = &exec.command[..] else {
            panic!("{} arguments", exec.command.len())
        };
        assert!(a.starts_with("aaa") && a.ends_with("...") && b.chars().all(|c| c == 'b'));
    }
}
