//! Work inside another network namespace.
//!
//! In: the namespace and a function. Out: what the function gives.
//!
//! A namespace belongs to a thread, so the work runs on a thread of its own that ends with it. The guard leaves the namespace
//! however the work ends. Where it cannot, the process ends: a thread in the wrong namespace would open sockets in a pod on
//! behalf of the node.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Runs `work` on a thread inside the namespace and waits for it, which takes about as long as the work does.
pub(crate) fn within<T: Send>(netns: &(impl AsFd + Sync), work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let inside = thread::Builder::new()
            .name("picket-netns".to_owned())
            .spawn_scoped(scope, || {
                let _inside = Inside::enter(netns)?;
                Ok(work())
            })?;
        inside
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    })
}

/// While it lives, the thread is inside.
struct Inside {
    home: File,
}

impl Inside {
    fn enter(netns: impl AsFd) -> io::Result<Self> {
        let home = File::open("/proc/thread-self/ns/net")?;
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        Ok(Self { home })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if setns(&self.home, CloneFlags::CLONE_NEWNET).is_err() {
            std::process::abort();
        }
    }
}
