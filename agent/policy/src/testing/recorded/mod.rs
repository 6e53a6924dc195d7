//! Recorded traffic: what audit records tell of requests, what other objects would have decided of them, and which grants they need.
//!
//! In: records of Picket's audit log or an API server's, one by one. Out: the request of each ([`AuditEvent::requests`]), how a set
//! decides it ([`replay`]), and the narrowest AgentGrants for all that was allowed ([`Rights`]). Nothing here keeps a record.
//!
//! A record holds no headers and most hold no body. Where that leaves more than one request that the record can be of, each is
//! judged. The outcome is told where all of them have the same one, and else it is [`Untold`].

mod event;
mod once;
mod replay;
mod rights;
mod suggest;
mod yaml;

pub use event::{AuditEvent, RecordedDecision, RecordedFinding, ReplayOutcome, Untold};
pub use once::Once;
pub use replay::{Comparison, Replayed, replay};
pub use rights::{MAX_NAMED, MAX_RIGHTS, Rights, Seen, Uncovered};
pub use suggest::{SuggestedGrant, SuggestedRule, Suggestion};

#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod suggest_tests;
