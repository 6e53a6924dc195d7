//! The spool: the durable log that every record is written to before anybody else sees it.
//!
//! In: queued events. Out: chained lines on disk. One thread writes ([`writer`]), each line is bound to the one before
//! ([`chain`]).

pub mod chain;
pub(super) mod queue;
pub(super) mod writer;
