//! Connections that never became requests, as audit records.
//!
//! In: what the kernel denied, what listeners closed, processes outside their pods' cgroups ([`collect`], [`escapes`]), each
//! with its [`cause`].
//! Out: audit records and notices, aggregated where there are many alike ([`aggregate`], [`write`]).

mod aggregate;
mod cause;
mod collect;
pub(crate) mod escapes;
mod metrics;
mod write;

pub(crate) use cause::DeniedConnection;
pub(crate) use collect::{EventReader, closed, kernel_events};
pub(crate) use metrics::DeniedMetrics;
pub(crate) use write::{Denials, write};
