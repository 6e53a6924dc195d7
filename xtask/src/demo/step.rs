//! One step of the demo: what it shows, the command, what came of it, and whether that is as it should be.
//!
//! In: a command to run in an agent's pod, or a check. Out: a few lines on stdout and the list of failures.

use std::io::IsTerminal;
use std::process::Output;

use anyhow::Result;
use picket_tests::cluster::Cluster;

/// A refusal is a sentence or three; of longer output the first lines are shown, so that the demo stays on a screen.
const MAX_LINES: usize = 9;
/// A longer line is wrapped: a refusal's last words say what is allowed instead.
const MAX_WIDTH: usize = 110;
/// Before what goes on from the line above, so that rows of a table can be told apart.
const CONTINUED: &str = "    ";

/// How a step should come out.
pub(super) struct Want {
    success: bool,
    says: &'static str,
}

impl Want {
    /// The command succeeds, and its output holds `says`.
    pub(super) fn works(says: &'static str) -> Self {
        Self { success: true, says }
    }

    /// The command fails, and its output holds `says`, which only a refusal by Picket has.
    pub(super) fn refused(says: &'static str) -> Self {
        Self { success: false, says }
    }

    fn met(&self, output: &Output, text: &str) -> bool {
        output.status.success() == self.success && text.contains(self.says)
    }
}

/// The steps so far.
pub(super) struct Steps<'a> {
    cluster: &'a Cluster,
    number: usize,
    failed: Vec<String>,
    colours: bool,
}

impl<'a> Steps<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            cluster,
            number: 0,
            failed: Vec::new(),
            colours,
        }
    }

    /// Begins a part of the demo, with a line on what it is about.
    pub(super) fn chapter(&mut self, title: &str, line: &str) {
        println!("\n{}: {line}", self.paint("1;34", title));
    }

    /// Runs `line` in the pod `pod` of the namespace `agents`.
    pub(super) fn in_pod(&mut self, title: &str, pod: &str, line: &str, want: &Want) -> Result<()> {
        let argv: Vec<&str> = line.split(' ').collect();
        let output = self.cluster.exec("agents", pod, "agent", &argv)?;
        self.output(title, &format!("{pod}$ {line}"), &output, want);
        Ok(())
    }

    /// Shows a finished command.
    pub(super) fn output(&mut self, title: &str, command: &str, output: &Output, want: &Want) {
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        // kubectl exec adds a line of its own about the exit code of what it ran; it says nothing about the step.
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("command terminated with exit code"))
            .collect();
        self.print(title, Some(command), &lines, want.met(output, &text));
    }

    /// Runs a check, which gives whether all is well and what it saw.
    pub(super) fn check(
        &mut self,
        title: &str,
        check: impl FnOnce() -> Result<(bool, String)>,
    ) -> Result<()> {
        let (well, saw) = check()?;
        let lines: Vec<&str> = saw.lines().collect();
        self.print(title, None, &lines, well);
        Ok(())
    }

    /// Runs what `command` stands for, which gives whether all is well and what came of it.
    pub(super) fn command(
        &mut self,
        title: &str,
        command: &str,
        run: impl FnOnce() -> Result<(bool, String)>,
    ) -> Result<()> {
        let (well, saw) = run()?;
        let lines: Vec<&str> = saw.lines().collect();
        self.print(title, Some(command), &lines, well);
        Ok(())
    }

    /// The titles of the steps that were not as they should be.
    pub(super) fn end(self) -> Vec<String> {
        self.failed
    }

    fn print(&mut self, title: &str, command: Option<&str>, lines: &[&str], well: bool) {
        self.number += 1;
        let (mark, colour) = if well { ("ok", "32") } else { ("UNEXPECTED", "31") };
        println!(
            "\n{}. {}  [{}]",
            self.number,
            self.paint("1", title),
            self.paint(colour, mark)
        );
        if let Some(command) = command {
            println!("   {}", self.paint("36", command));
        }
        for line in lines.iter().take(MAX_LINES) {
            for (number, piece) in wrap(line).into_iter().enumerate() {
                let indent = if number == 0 { "" } else { CONTINUED };
                println!("     {indent}{piece}");
            }
        }
        if lines.len() > MAX_LINES {
            println!("     ... {} more lines", lines.len() - MAX_LINES);
        }
        if !well {
            self.failed.push(title.to_owned());
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// A line in pieces, broken at spaces. The spaces within a piece stay, so that the columns of a table do.
fn wrap(line: &str) -> Vec<&str> {
    let (mut pieces, mut rest) = (Vec::new(), line.trim_end());
    while let Some((end, _)) = rest.char_indices().nth(MAX_WIDTH) {
        // A word that is longer than a line has a line of its own.
        let fits = rest[..end].rfind(' ').filter(|at| !rest[..*at].trim().is_empty());
        let Some(at) = fits.or_else(|| rest.find(' ')) else {
            break;
        };
        pieces.push(rest[..at].trim_end());
        rest = rest[at..].trim_start();
    }
    pieces.push(rest);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_shown_to_its_last_word() {
        let refusal = "Error from server (Forbidden): agent janitor may not delete namespaces \"shop\" (policy guardrails, rule \
                       keep-namespaces): Namespaces are removed by the platform team; ask in its channel. Allowed instead: get, \
                       list namespaces.";
        let pieces = wrap(refusal);
        assert!(pieces.len() > 1 && pieces.iter().all(|piece| piece.chars().count() <= MAX_WIDTH));
        assert_eq!(pieces.join(" "), refusal);
        let row = "NAME    READY   STATUS";
        assert_eq!(wrap(row), [row]);
    }

    #[test]
    fn a_row_that_is_wrapped_keeps_its_columns() {
        let cells = format!("deny    triage       create  {:<60} 412µs", "pods/exec shop/web");
        let row = format!("{cells} guardrails/no-package-managers: Images are built, and not changed");
        let pieces = wrap(&row);
        assert_eq!(pieces[0], cells);
        assert!(pieces[1..].concat().starts_with("guardrails/"), "{pieces:?}");
        let word = "x".repeat(MAX_WIDTH + 1);
        assert_eq!(wrap(&format!("{word} y")), [word.as_str(), "y"]);
        assert_eq!(wrap(&word), [word.as_str()]);
    }
}
