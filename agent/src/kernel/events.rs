//! The ring buffer of denied connects, as an asynchronous stream.
//!
//! In: the ring that the kernel programs write to. Out: each [`KernelEvent`], for the module `denied`.

use aya::maps::{MapData, RingBuf};
use picket_common::Event;
use tokio::io::unix::AsyncFd;

use super::sys::{self, Ring};
use super::{KernelError, KernelEvent};

/// The denied connects, in the order the kernel reported them. When the reader is too slow the ring fills, and
/// what does not fit is counted as lost.
#[derive(Debug)]
pub struct KernelEvents {
    ring: AsyncFd<Ring>,
}

impl KernelEvents {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, KernelError> {
        Ok(Self {
            ring: sys::readable(Ring(ring)).map_err(KernelError::Events)?,
        })
    }

    /// Waits for the next one. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the ring cannot be waited for; it cannot be read further then.
    pub async fn next(&mut self) -> Result<KernelEvent, KernelError> {
        loop {
            let mut ready = self.ring.readable_mut().await.map_err(KernelError::Events)?;
            while let Some(item) = ready.get_inner_mut().0.next() {
                // A shorter item comes from no program of ours; skipping it is all there is to do.
                if let Some(event) = Event::read(&item) {
                    return Ok(KernelEvent::from(&event));
                }
            }
            ready.clear_ready();
        }
    }
}
