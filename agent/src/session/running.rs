//! What the registry holds of a session that runs: how much went through it, and the handle that ends it.
//!
//! In: bytes as they pass, and an [`Ending`]. Out: their counts, and the end of the session's bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ending::Ending;

/// What went through a session so far.
#[derive(Debug, Default)]
pub struct Traffic {
    from_client: AtomicU64,
    to_client: AtomicU64,
}

impl Traffic {
    /// Bytes the client sent.
    pub fn from_client(&self) -> u64 {
        self.from_client.load(Ordering::Relaxed)
    }

    /// Bytes the client was sent.
    pub fn to_client(&self) -> u64 {
        self.to_client.load(Ordering::Relaxed)
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.to_client.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.from_client.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Ends a session's bytes.
pub trait Stop: Send + Sync {
    /// Called once at most, and perhaps before the first byte. The API server's side is to be closed at once; the client's
    /// as soon as it has learned of it.
    fn stop(&self, ending: &Arc<Ending>);
}
