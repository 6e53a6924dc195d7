//! How `picket status` shows what it found.
//!
//! In: a [`StatusReport`]. Out: tables and lines for people, or a document for programs.

use std::io::{self, Write as _};
use std::time::Duration;

use jiff::Timestamp;
use picket_policy::api::v1alpha1::PicketNodeStatus;

use super::report::{NamespaceLine, NodeLine, NodeState, NotEnforced, StatusReport, certificates, since};
use crate::cli::output::{self, Column, Format, Row, age, clean, size};

/// Characters of the policy's digest that a table shows.
const SHORT_HASH: usize = 8;

/// Prints the report. What is not known goes to standard error.
pub(super) fn print(format: Format, report: &StatusReport) -> io::Result<()> {
    for unknown in &report.unknown {
        output::warn(format_args!("picket: not known: {}", clean(unknown)));
    }
    match format {
        Format::Json | Format::Yaml => output::print(format, report, &report.nodes, ""),
        Format::Table | Format::Wide => {
            let mut out = io::stdout().lock();
            out.write_all(text(report, format, output::colours()).as_bytes())?;
            out.flush()
        }
    }
}

/// The report for people.
pub(super) fn text(report: &StatusReport, format: Format, colour: bool) -> String {
    let mut text = match report.nodes.is_empty() {
        true => "The cluster has no node.\n".to_owned(),
        false => output::table(format, &report.nodes, colour),
    };
    if !report.not_enforced.is_empty() {
        text.push_str("\nNot enforced, or not wholly:\n");
        indent(&mut text, &output::table(format, &report.not_enforced, false));
    }
    if !report.namespaces.is_empty() {
        text.push_str("\nEnrolled namespaces:\n");
        indent(&mut text, &output::table(format, &report.namespaces, false));
    }
    if report.findings.is_empty() {
        text.push_str("\nNothing is to be acted on.\n");
    } else {
        text.push_str("\nTo be acted on:\n");
        for finding in &report.findings {
            text.push_str(&format!("  {}\n", clean(finding)));
        }
    }
    text
}

fn indent(text: &mut String, table: &str) {
    for line in table.lines() {
        text.push_str(&format!("  {line}\n"));
    }
}

impl Row for NodeLine {
    const COLUMNS: &'static [Column] = &[
        Column::text("NODE"),
        Column::text("READY"),
        Column::text("VERSION"),
        Column::number("ENFORCED"),
        Column::number("NOT-ENFORCED"),
        Column::text("POLICY"),
        Column::number("CERTS"),
        Column::number("AGE"),
        Column::number("HEARD").wide(),
        Column::number("EXEMPT").wide(),
        Column::number("CLOSED").wide(),
        Column::number("SPOOL").wide(),
        Column::text("KERNEL").wide(),
        Column::number("PROGRAMS").wide(),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let now = Timestamp::now();
        let of = |show: &dyn Fn(&PicketNodeStatus) -> String| {
            self.status.as_ref().map_or_else(|| "-".to_owned(), show)
        };
        vec![
            self.node.clone(),
            ready(self),
            of(&|status| status.version.clone()),
            of(&|status| status.pods.enforced.to_string()),
            of(&|status| status.pods.not_covered.to_string()),
            of(&|status| policy(status, self.policy_differs)),
            of(&|status| first_end(status, now)),
            of(&|status| age(since(status.started, now))),
            self.heard_seconds_ago
                .map_or_else(|| "-".to_owned(), |seconds| age(Duration::from_secs(seconds))),
            of(&|status| status.pods.exempt.to_string()),
            of(&|status| status.pods.closed.to_string()),
            of(&|status| size(status.audit.spool_bytes)),
            of(&|status| status.kernel.release.clone()),
            of(&|status| format!("{}/{}", status.kernel.attached, status.kernel.programs)),
        ]
    }
}

fn ready(line: &NodeLine) -> String {
    let heard = Duration::from_secs(line.heard_seconds_ago.unwrap_or_default());
    match line.state {
        NodeState::Ready => "yes".to_owned(),
        NodeState::NotReady => "no".to_owned(),
        NodeState::Stopped => format!("stopped {} ago", age(heard)),
        NodeState::NotHeard => format!("not heard for {}", age(heard)),
        NodeState::NoAgent => "no agent".to_owned(),
        NodeState::NotSelected => "not selected".to_owned(),
        NodeState::OtherSystem => "not linux".to_owned(),
        NodeState::Unreadable => "unreadable".to_owned(),
    }
}

fn policy(status: &PicketNodeStatus, differs: bool) -> String {
    let Some(hash) = &status.policy.hash else {
        return "denies all".to_owned();
    };
    let short: String = hash.chars().take(SHORT_HASH).collect();
    let old = if differs { " (old)" } else { "" };
    match status.policy.invalid {
        0 => format!("{short}{old}"),
        invalid => format!("{short}{old}, {invalid} invalid"),
    }
}

/// The time until the first certificate ends; nothing where none of Picket's is known yet. A credential that is read anew counts once
/// it ended.
fn first_end(status: &PicketNodeStatus, now: Timestamp) -> String {
    let own = &status.certificates;
    if own.node_ca.or(own.gateway).is_none() {
        return "-".to_owned();
    }
    let ends = certificates(status, now).filter(|(_, at, early)| *early || *at <= now);
    match ends.map(|(_, at, _)| at).min() {
        None => "-".to_owned(),
        Some(at) if at <= now => "ended".to_owned(),
        Some(at) => age(since(now, at)),
    }
}

impl Row for NotEnforced {
    const COLUMNS: &'static [Column] = &[
        Column::text("NODE"),
        Column::text("POD"),
        Column::text("REASON"),
        Column::text("MESSAGE"),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        vec![
            self.node.clone(),
            self.pod.pod.clone(),
            format!("{:?}", self.pod.reason),
            self.pod.message.clone(),
        ]
    }
}

impl Row for NamespaceLine {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAMESPACE"),
        Column::number("PODS"),
        Column::number("WITHOUT-ENROLMENT"),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        vec![
            self.namespace.clone(),
            self.pods.to_string(),
            self.without_enrolment.len().to_string(),
        ]
    }
}
