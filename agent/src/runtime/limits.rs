//! The process's limit of open descriptors, raised as far as the system lets it.
//!
//! In: the limits that the process was started with. Out: a soft limit as high as the hard one, and a warning where that is
//! low.
//!
//! Each connection takes one descriptor, and a share of another to the API server. The usual soft limit of 1,024 is for
//! programs that use select(2), which the agent does not.

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
