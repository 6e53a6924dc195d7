//! The process's limit of open descriptors, raised as far as the system lets it.
//!
//! Each connection takes one, and its way to the API server a share of another. The usual soft limit of 1,024 is for
//! programs that use select(2), which this is not.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Below this many, a few pods with a thousand watches each can use up what the agent needs for its own files.
const ENOUGH: u64 = 16_384;

/// Raises the soft limit to the hard one, and says so where that is little.
pub fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match raised {
        Ok(limit) if limit < ENOUGH => {
            tracing::warn!(
                limit,
                "few descriptors: raise the limit (LimitNOFILE, ulimit -Hn) to {ENOUGH} or more"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open descriptors cannot be raised"),
    }
}
