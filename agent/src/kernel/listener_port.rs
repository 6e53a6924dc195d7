//! The port of a pod's listener: which sockets are listeners, and how one moves to another port.
//!
//! In: the sockets of a listener, and the port that it moves to. Out: marks in SOCKETS, by which the programs tell a listener from
//! any other socket on its port, and the class that redirects to the new port.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use picket_common::{ClassKind, ClassValue, DialRecord};

use super::{CgroupId, Kernel, KernelError};

impl Kernel {
    /// Marks the sockets as listeners of Picket's. Before anything is redirected to them: the programs of enforced pods drop
    /// what is redirected to a socket that has no mark.
    ///
    /// # Errors
    /// When the kernel denies.
    pub fn mark_listener<'a>(
        &self,
        sockets: impl IntoIterator<Item = BorrowedFd<'a>>,
    ) -> Result<(), KernelError> {
        let mut marks = self.sockets.lock();
        for socket in sockets {
            marks.insert(&socket.as_raw_fd(), DialRecord::LISTENER, 0)?;
        }
        Ok(())
    }

    /// Has the pod's connects redirected to `to` in place of `from`. Connections on their way to `from` stay the listener's until
    /// [`Self::leave_port`]. False where the pod is not enforced any more, or not as this number, or at another port.
    ///
    /// # Errors
    /// When the map cannot be read or does not take the entry.
    pub fn move_listener(
        &self,
        cgroup: CgroupId,
        number: u64,
        from: u16,
        to: u16,
    ) -> Result<bool, KernelError> {
        self.change(cgroup, number, |class| {
            (class.port == from).then_some(ClassValue {
                port: to,
                retiring: from,
                ..class
            })
        })
    }

    /// The listener is about to close on `port`, which it moved away from: whoever answers there from now on is somebody else.
    ///
    /// # Errors
    /// When the map cannot be read or does not take the entry.
    pub fn leave_port(&self, cgroup: CgroupId, number: u64, port: u16) -> Result<(), KernelError> {
        self.change(cgroup, number, |class| {
            (class.retiring == port).then_some(ClassValue { retiring: 0, ..class })
        })?;
        Ok(())
    }

    /// Changes the class of an enforced pod, if it is the one of this number and `change` wants it.
    fn change(
        &self,
        cgroup: CgroupId,
        number: u64,
        change: impl FnOnce(ClassValue) -> Option<ClassValue>,
    ) -> Result<bool, KernelError> {
        let mut classes = self.classes.lock();
        let changed = classes
            .get(&cgroup.0, 0)
            .ok()
            .filter(|class| class.kind == ClassKind::Enforced.code() && class.pod == number)
            .and_then(change);
        let Some(changed) = changed else {
            return Ok(false);
        };
        classes.insert(cgroup.0, changed, 0)?;
        Ok(true)
    }
}
