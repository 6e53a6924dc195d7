//! Tests of policies: AgentPolicyTest files, what kubectl would ask for, and whether the decisions are those that a file expects.
//!
//! In: the text of a test file or records of an audit log, and a [`PolicySet`](crate::engine::PolicySet). Out: [`CaseResult`]s, and the rules that no case
//! made fire. No cluster and no kubectl is asked.

mod case;
mod coverage;
mod input;
pub mod kubectl;
mod model;
mod read;
pub mod recorded;

pub use case::{CaseResult, CaseVerdict, Explained, RequestOutcome, explain, run, together};
pub use coverage::Coverage;
pub use input::{InputError, PlannedRequest, RequestRole, of_audit_record, of_http};
pub use model::{
    AgentPolicyTestSpec, Expectation, ExpectedDecision, TestAgent, TestCase, TestNamespace, TestPerson,
    TestRequest,
};
pub use read::{PolicyTest, read_tests, test_schema, test_schemas};

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;
