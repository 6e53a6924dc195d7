//! The spool: the durable log that every record is written to before anybody else sees it.
//!
//! In: queued events. Out: chained lines on disk, in a directory of segments.
//!
//! One thread writes ([`writer`]) into a directory that it holds ([`directory`], [`lock`]). Each line is bound to the one before,
//! over the ends of segments too ([`chain`], [`segment`]). Segments end by size and age, and go once every sink has read them
//! ([`rotate`]). Sinks and `picket audit` read them ([`reader`]) as far as the writer says ([`view`]).

pub mod chain;
mod directory;
mod lock;
pub(super) mod mark_key;
pub(super) mod queue;
pub mod reader;
mod rotate;
pub mod segment;
pub mod view;
pub(super) mod writer;

pub(super) use directory::{Clock, SpoolDirectory};
