//! Sessions: every watch, followed log and upgraded stream, from the API server's first word to the end.
//!
//! In: a request that was permitted and goes on for long. Out: an entry in the [`Registry`] for as long as it runs, bytes
//! both ways, and its end. Whatever changes (policy, grants, identities, pods, time) has each entry judged again; one that
//! would not be permitted now is ended, and its client is told by a `Status` where the protocol has a place for one.
//!
//! Other answers (a long list that is read slowly, say) are no sessions: they hold what was current when they were permitted,
//! come to their end by themselves, and would cost every request an entry.
//!
//! | file | holds |
//! |---|---|
//! | `registry` | the entries, which are listed and killed here; the proof that none escapes a change |
//! | `running` | the traffic of an entry, and the handle that ends it |
//! | `rejudge` | the task that judges entries again |
//! | `ending` | why a session ended, as the client and the record get it |
//! | `farewell` | where in a byte stream a last word fits, and the last word itself |
//! | `body` | responses that go on: watches and logs over HTTP |
//! | `tunnel`, `upgraded` | connections that changed their protocol |

mod body;
mod ending;
mod farewell;
mod kind;
mod metrics;
mod pump;
mod registry;
mod rejudge;
mod running;
mod tunnel;
mod upgraded;

pub use body::{SessionBody, Slot, Terminate};
pub use ending::Ending;
pub use farewell::{Farewell, Upgrade};
pub use kind::SessionKind;
pub use metrics::SessionMetrics;
#[cfg(test)]
pub(crate) use registry::testing;
pub use registry::{Facts, Judge, Registered, Registry, SessionSelector, Snapshot, Ticket};
pub use rejudge::{Permitted, recheck, recheck_request, run as rejudge};
pub use running::{Stop, Traffic};
pub use tunnel::StopTunnel;
pub use upgraded::Upgraded;
