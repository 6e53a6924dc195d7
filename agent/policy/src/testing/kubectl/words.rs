//! A command line in words, as a shell splits it.
//!
//! In: a line. Out: its words, without quotes. What only a shell can do (pipes, variables) is an error.

use crate::testing::input::InputError;

/// What a shell takes for more than text, outside quotes.
const SHELL: &str = "|&;<>$`()";

/// Splits a line.
pub(super) fn split(line: &str) -> Result<Vec<String>, InputError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match (quote, char) {
            (Some(open), char) if char == open => quote = None,
            (Some('"') | None, '\\') => match chars.next() {
                // In double quotes a shell keeps a backslash before other characters.
                Some(next) if quote.is_none() || "\"\\$`".contains(next) => {
                    word.get_or_insert_default().push(next)
                }
                Some(next) => word.get_or_insert_default().extend(['\\', next]),
                None => return Err(InputError("the line ends with a backslash".to_owned())),
            },
            (Some('"'), '$' | '`') => return Err(of_shell(char)),
            (Some(_), char) => word.get_or_insert_default().push(char),
            (None, '\'' | '"') => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (None, char) if char.is_whitespace() => words.extend(word.take()),
            (None, char) if SHELL.contains(char) => return Err(of_shell(char)),
            (None, char) => word.get_or_insert_default().push(char),
        }
    }
    if let Some(open) = quote {
        return Err(InputError(format!("a quote {open} is not closed")));
    }
    words.extend(word);
    Ok(words)
}

fn of_shell(char: char) -> InputError {
    InputError(format!(
        "{char:?} is for a shell, and no shell reads this line: write kubectl's own words alone, or quote it with '"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_shell() {
        for (line, words) in [
            ("get  pods\t-A", vec!["get", "pods", "-A"]),
            (
                "exec web -- sh -c 'cat /a | wc'",
                vec!["exec", "web", "--", "sh", "-c", "cat /a | wc"],
            ),
            (r#"label pod web a="b c""#, vec!["label", "pod", "web", "a=b c"]),
            (
                r#"patch x -p '{"a":"b"}' ''"#,
                vec!["patch", "x", "-p", r#"{"a":"b"}"#, ""],
            ),
            (r#"a\ b "c\"d\e""#, vec!["a b", r#"c"d\e"#]),
            ("", vec![]),
        ] {
            assert_eq!(split(line).expect(line), words, "{line}");
        }
        for line in [
            "get pods | wc",
            "get pods; ls",
            "echo $HOME",
            "a > b",
            "'open",
            r#""$A""#,
            r"a\",
        ] {
            assert!(split(line).is_err(), "{line}");
        }
    }
}
