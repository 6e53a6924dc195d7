//! A request target that is longer than [`http::Uri`] holds.
//!
//! In: the target as the client sent it. Out: the same, checked, to travel in the extensions of a head whose own URI is `/`.
//! The API server takes heads of 1 MB, so that the arguments of an exec or a selector may fill most of that.

use std::sync::Arc;

/// A path with its query of more than 65,534 bytes. Only whoever read it from a client puts it into a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LongTarget(Arc<str>);

impl LongTarget {
    /// The longest target that a URI holds (`http::uri`, `MAX_LEN`).
    pub const LONGEST_URI: usize = 65_534;

    /// The target, if it is a path and holds nothing but what may stand in a request line: visible ASCII, no fragment.
    #[must_use]
    pub fn new(target: &[u8]) -> Option<LongTarget> {
        let plain = target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#');
        let text = std::str::from_utf8(target).ok()?;
        (plain && target.starts_with(b"/")).then(|| LongTarget(text.into()))
    }

    /// Path and query.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
