//! Rewrites the bodies of Kubernetes API responses as they stream.
//!
//! In: a response's media type, its body in pieces, and a function that says which items are hidden. Out: the body without
//! those items, or an error, after which nothing more may reach the client. Pure: no I/O, no clock, no runtime.
//!
//! # What a filter holds in memory
//!
//! At most one item, of [`ITEM_LIMIT`] bytes, and the piece that it was given. A larger item ends the response with an
//! error: it can be neither judged nor silently left out.
//!
//! # What the caller does
//!
//! * It sends [`media::narrowed_accept`] as Accept, and `Accept-Encoding: identity`.
//! * It refuses a watch over WebSocket: no filter reads its frames.
//! * It removes Content-Length from the response, since a list in JSON gets shorter.
//! * It filters what answers a failed watch as a list: of that, a Status passes and nothing else.
//! * After an error it breaks the response off, so that the client does not take it for complete.
//! * It decides on the request for a single object itself. Of the resource `namespaces`, an object's name is its namespace.
//!
//! # What a filter does not hide
//!
//! * `continue` stays as it is. It names the last object of a page, even if that one is hidden.
//! * A protobuf list keeps its length: [`protobuf`] says why. Its length tells about how many bytes were hidden.
//! * A Table watch whose first event is hidden shows that event without rows, since it alone has the columns.
//!
//! # Code map
//!
//! The table names the modules that each module imports. `cargo xtask check` compares the last column with the sources and
//! refuses a circle.
//!
//! | module | holds | imports |
//! |---|---|---|
//! | `filter` | the filter of a list or watch, whatever its encoding | `error`, `head`, `json`, `media`, `protobuf` |
//! | [`media`] | what may stand in Accept, and how a Content-Type is read | `error` |
//! | [`json`] | lists, Tables and watches in JSON | `error`, `head` |
//! | [`protobuf`] | lists and watches in protobuf | `error`, `head` |
//! | `head` | what is known of an item when it is judged | `error` |
//! | `error` | why a response cannot be filtered | - |

mod error;
mod filter;
mod head;
pub mod json;
pub mod media;
pub mod protobuf;

pub use error::FilterError;
pub use filter::Filter;
pub use head::{Counts, ItemHead};

/// The longest item, event or frame in bytes. etcd takes 1.5 MiB of an object by default, and in JSON each `<` of it is six bytes
/// (`\u003c`, as Go's encoding/json writes it): nobody must be able to break lists by an object that can be stored.
pub const ITEM_LIMIT: usize = 10 * 1024 * 1024;

/// How much of a response may come before its items: `columnDefinitions` of a Table take a few KB.
const HEAD_LIMIT: usize = 64 * 1024;
