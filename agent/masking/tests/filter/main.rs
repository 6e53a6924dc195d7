//! No hidden item gets through, in any encoding and any pieces, and what is shown stays as it was.

mod common;
mod json;
mod protobuf;
mod table;
mod watch;
