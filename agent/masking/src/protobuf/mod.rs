//! Lists and watches in protobuf.
//!
//! In: pieces of a body. Out: the same without what is hidden. A list stays as long as it was: its length comes first. In
//! place of hidden items stands a field of zeros that no list has and that decoders skip.
//!
//! | file | holds |
//! |---|---|
//! | `list` | a list, field by field |
//! | `watch` | frames, each read as a whole |
//! | `object` | envelopes, and what rules judge of an object |
//! | `wire` | the wire format |

mod list;
mod object;
mod watch;
mod wire;

pub(crate) use list::ProtobufList;
pub(crate) use watch::ProtobufWatch;
