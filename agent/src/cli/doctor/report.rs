//! `picket doctor --report`: what the checks found, as text to paste into a report.
//!
//! In: the checks. Out: Markdown with the versions of what runs here, and without secrets.

use std::fs;

use jiff::Timestamp;

use crate::audit::Redactor;
use crate::kernel::doctor::{Check, CheckStatus};

/// What the machine says of itself: the words for it, and where it stands.
const RELEASE: &str = "/proc/sys/kernel/osrelease";
const SYSTEM: &str = "/etc/os-release";

/// The report.
pub(super) fn markdown(checks: &[Check]) -> String {
    let release = fs::read_to_string(RELEASE).unwrap_or_default();
    let system = fs::read_to_string(SYSTEM).unwrap_or_default();
    let versions = [
        ("picket", env!("CARGO_PKG_VERSION").to_owned()),
        ("kernel", release.trim().to_owned()),
        ("architecture", std::env::consts::ARCH.to_owned()),
        // A container may have none.
        ("system", pretty_name(&system).unwrap_or_default()),
        (
            "made",
            Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        ),
    ];
    written(&versions, checks)
}

/// `PRETTY_NAME` of /etc/os-release.
fn pretty_name(text: &str) -> Option<String> {
    let mut lines = text.lines();
    let name = lines.find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}

fn written(versions: &[(&str, String)], checks: &[Check]) -> String {
    // Marks of a key by chance: nobody can try out what they stand for.
    let mut key = [0; 32];
    for half in key.chunks_exact_mut(16) {
        half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    }
    let redactor = Redactor::new(&key);
    let cell = |text: &str| {
        let lines: Vec<_> = text.lines().map(|line| escaped(&redactor.text(line))).collect();
        lines.join("<br>")
    };
    let mut text = String::from("### picket doctor\n\n| | |\n|---|---|\n");
    for (name, value) in versions.iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("| {name} | {} |\n", cell(value)));
    }
    text.push_str("\n| check | status | seen | what to do |\n|---|---|---|---|\n");
    for (name, check) in super::folded(checks) {
        text.push_str(&format!(
            "| {name} | {} | {} | {} |\n",
            marked(check.status),
            cell(&check.detail),
            cell(check.advice.as_deref().unwrap_or_default())
        ));
    }
    text
}

/// The word of a status; what is not well stands out.
fn marked(status: CheckStatus) -> String {
    match status {
        CheckStatus::Ok => status.as_str().to_owned(),
        CheckStatus::Degraded | CheckStatus::Open | CheckStatus::Missing => {
            format!("**{}**", status.as_str())
        }
    }
}

/// A text as a cell of a table shows it: nothing in it is markup, and nothing mentions anybody.
fn escaped(text: &str) -> String {
    let mut cell = String::with_capacity(text.len());
    for character in crate::cli::output::clean(text).chars() {
        match character {
            '<' => cell.push_str("&lt;"),
            '|' | '`' | '*' | '_' | '[' | ']' | '@' | '#' | '\\' => {
                cell.push('\\');
                cell.push(character);
            }
            character => cell.push(character),
        }
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_table_without_secrets_or_markup() {
        let checks = [
            Check::ok("kernel version", "6.1.0"),
            Check::bad(
                "cluster credential",
                CheckStatus::Missing,
                "https://user:hunter2-planted@10.0.0.1:6443\n<b>a|b",
                "look",
            ),
        ];
        let text = written(
            &[("picket", "0.1.0".to_owned()), ("system", String::new())],
            &checks,
        );
        assert!(
            text.contains("| picket | 0.1.0 |\n") && !text.contains("system"),
            "{text}"
        );
        assert!(text.contains("| kernel version | ok | 6.1.0 |  |\n"), "{text}");
        assert!(text.contains("| **missing** | "), "{text}");
        assert!(text.contains("<br>&lt;b>a\\|b | look |\n"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn the_system_has_its_own_name() {
        let text = "NAME=\"x\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(
            pretty_name(text).as_deref(),
            Some("Debian GNU/Linux 12 (bookworm)")
        );
        assert!(markdown(&[]).contains(env!("CARGO_PKG_VERSION")));
    }
}
