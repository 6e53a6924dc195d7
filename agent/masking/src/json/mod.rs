//! Lists, Tables and watches in JSON.
//!
//! In: pieces of a body. Out: the same bytes without what is hidden. Where nothing is hidden they are the same to the byte,
//! but for `remainingItemCount`.
//!
//! | file | holds |
//! |---|---|
//! | `list` | a list or Table, byte by byte between items, in whole items within them |
//! | `watch` | events, each read as a whole |
//! | `metadata` | a list's own metadata |
//! | `item` | what rules judge of an item |
//! | `cursor` | an object's members, without a tree |
//! | `skip` | where an object ends, 64 bytes at a time |

mod cursor;
mod item;
mod list;
mod metadata;
mod skip;
mod watch;

pub(crate) use list::JsonList;
pub(crate) use watch::JsonWatch;
