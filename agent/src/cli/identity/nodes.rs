//! What the nodes of a cluster say of an agent, as people read it.
//!
//! In: the entries of an AgentIdentity's status, one a node. Out: a row for each.

use jiff::Timestamp;
use picket_policy::api::v1alpha1::IdentityNode;

use crate::cli::output::{self, Column, Format, Row};

/// The title of the table.
pub(super) const TITLE: &str = "On the nodes, as their agents tell it (UTC; moments up to an hour late)";

/// What stands in place of the table.
pub(super) const NONE: &str = "No node has told of a pod of it, or of a request.";

/// One node's entry.
pub(super) struct NodeLine<'n>(pub(super) &'n IdentityNode);

impl Row for NodeLine<'_> {
    const COLUMNS: &'static [Column] = &[
        Column::text("NODE"),
        Column::number("PODS"),
        Column::text("LAST USED"),
        Column::text("LAST REFUSED"),
        Column::text("POD NAMES"),
        Column::text("CONFLICTS"),
        Column::text("WORKLOADS"),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let entry = self.0;
        let moment = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), output::moment);
        vec![
            entry.node.clone(),
            entry.pods.to_string(),
            moment(entry.last_used),
            moment(entry.last_denied),
            listed(
                &entry.pod_names,
                usize::try_from(entry.pods).unwrap_or(usize::MAX),
            ),
            listed(&entry.conflicts, entry.conflicts.len()),
            listed(&entry.workloads, entry.workloads.len()),
        ]
    }
}

/// Names, of which an entry holds the first; `all` is how many there are.
fn listed(names: &[String], all: usize) -> String {
    match (names.is_empty(), all.saturating_sub(names.len())) {
        (true, _) => "-".to_owned(),
        (false, 0) => names.join(","),
        (false, more) => format!("{} and {more} more", names.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_what_the_node_told() {
        let entry = IdentityNode {
            node: "node-1".to_owned(),
            pods: 3,
            pod_names: vec!["agents/a".to_owned(), "agents/b".to_owned()],
            last_used: Some("2026-01-02T03:04:05.678Z".parse().expect("a moment")),
            conflicts: vec!["other".to_owned()],
            workloads: vec!["Deployment/a".to_owned(), "Pod/b".to_owned()],
            ..IdentityNode::default()
        };
        let cells = NodeLine(&entry).cells(Format::Table);
        assert_eq!(
            cells,
            [
                "node-1",
                "3",
                "2026-01-02T03:04:05Z",
                "-",
                "agents/a,agents/b and 1 more",
                "other",
                "Deployment/a,Pod/b"
            ]
        );
        let idle = IdentityNode::default();
        assert_eq!(
            NodeLine(&idle).cells(Format::Table),
            ["", "0", "-", "-", "-", "-", "-"]
        );
    }
}
