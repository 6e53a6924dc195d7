//! `picket identity list`: every agent, who answers for it, and whether it may act.
//!
//! In: the objects. Out: a table, a List as JSON, YAML documents, or names.

use clap::Args;
use jiff::Timestamp;
use picket_policy::api::v1alpha1::{AgentIdentity, State};
use picket_policy::api::{AnyObject, Document};
use picket_policy::{PolicySet, Standing};

use crate::cli::output::{self, Column, Format, Row};
use crate::cli::target::Target;
use crate::cli::target::print::{self, ObjectFormat};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket identity list
  picket identity list --files objects/ --state Suspended
  picket identity list -o json | jq -r '.items[] | select(.spec.owner == \"sre@example.com\") | .metadata.name'

STATE says whether the agent may act: Active, Suspended, Revoked, Expired, or Overdue where nobody reviewed an identity of `whenOverdue: \
Suspend`. REVIEW says by when somebody should look at it again; \
`overdue` where that moment has passed. GRANTS counts the AgentGrants that name the identity or one of its groups. \
Identities of the cluster that conflict with others, so that requests of their agents are denied, are named on standard error.

Exit codes: 0 success, also where there is no identity, 1 the objects cannot be read, 2 wrong usage.";

/// The words of the column STATE.
const STATES: [&str; 5] = ["Active", "Suspended", "Revoked", "Expired", "Overdue"];

/// List agents.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only agents of this state.
    #[arg(long, value_name = "STATE", value_parser = STATES, ignore_case = true)]
    state: Option<String>,
    /// Only agents of this owner.
    #[arg(long, value_name = "TEXT")]
    owner: Option<String>,
    /// How to print them.
    #[arg(short, long, value_enum, default_value_t)]
    output: ObjectFormat,
    #[command(flatten)]
    target: Target,
}

struct IdentityRow {
    identity: AgentIdentity,
    grants: usize,
    now: Timestamp,
}

impl IdentityRow {
    fn of(document: &Document, set: &PolicySet, now: Timestamp) -> Option<Self> {
        let AnyObject::Identity(identity) = &document.object else {
            return None;
        };
        Some(Self {
            grants: set.grants_of(&identity.metadata.name).len(),
            identity: identity.clone(),
            now,
        })
    }

    fn state(&self) -> &'static str {
        let spec = &self.identity.spec;
        match Standing::of_spec(spec, self.now) {
            Standing::Expired(_) => "Expired",
            Standing::Overdue(_) => "Overdue",
            Standing::Active => "Active",
            Standing::Suspended => "Suspended",
            Standing::Revoked => "Revoked",
        }
    }

    /// A review matters while the agent could act.
    fn review(&self) -> String {
        match self.identity.spec.review_by {
            None => "-".to_owned(),
            Some(at) if at <= self.now && self.identity.spec.state != State::Revoked => "overdue".to_owned(),
            Some(at) => day(at),
        }
    }

    /// All that attests the agent: its pods' namespace and service account, its token's issuer and subject, its SPIFFE ID.
    fn workload(&self) -> String {
        let attest = &self.identity.spec.attest;
        let pod = attest.pod.as_ref();
        let pod = pod.map(|pod| format!("{}/{}", pod.namespace, pod.service_account));
        let jwt = attest.jwt.as_ref();
        let jwt = jwt.map(|jwt| format!("{} at {}", jwt.subject, jwt.issuer));
        let spiffe = attest.spiffe.as_ref().map(|spiffe| spiffe.id.clone());
        let all: Vec<_> = [pod, jwt, spiffe].into_iter().flatten().collect();
        all.join(" and ")
    }
}

fn day(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d").to_string()
}

impl Row for IdentityRow {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAME"),
        Column::text("OWNER"),
        Column::text("STATE"),
        Column::text("WORKLOAD"),
        Column::text("GROUPS"),
        Column::text("EXPIRES"),
        Column::text("REVIEW"),
        Column::number("GRANTS"),
        Column::text("REASON").wide(),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let spec = &self.identity.spec;
        let reason = self.identity.metadata.annotations.get(super::state::REASON);
        vec![
            self.identity.metadata.name.clone(),
            spec.owner.clone(),
            self.state().to_owned(),
            self.workload(),
            if spec.groups.is_empty() {
                "-".to_owned()
            } else {
                spec.groups.join(",")
            },
            spec.expires_at.map_or_else(|| "-".to_owned(), day),
            self.review(),
            self.grants.to_string(),
            reason.cloned().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

pub(super) fn run(args: &ListArgs) -> anyhow::Result<()> {
    let files = args.target.read()?;
    let now = Timestamp::now();
    let (mut documents, mut rows) = (Vec::new(), Vec::new());
    for document in files.documents() {
        let Some(row) = IdentityRow::of(document, files.set(), now) else {
            continue;
        };
        let is_state = args
            .state
            .as_ref()
            .is_none_or(|state| state.eq_ignore_ascii_case(row.state()));
        let is_owner = args
            .owner
            .as_ref()
            .is_none_or(|owner| *owner == row.identity.spec.owner);
        if is_state && is_owner {
            documents.push(document);
            rows.push(row);
        }
    }
    print::print(args.output, &documents, &rows, "No AgentIdentity is there.")?;
    for document in documents {
        if let Some(conflict) = files.conflict_of(document.name()) {
            let conflict = output::clean(conflict);
            output::warn(format_args!(
                "picket: warning: AgentIdentity {} conflicts: {conflict}",
                document.name()
            ));
        }
    }
    Ok(())
}
