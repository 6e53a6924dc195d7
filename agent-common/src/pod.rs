//! The shared types as `aya` takes them: this package's one module with `unsafe`.
//!
//! In: the map types, and bytes of the ring buffer. Out: `aya::Pod` for the types, and [`Event::read`].
#![expect(
    unsafe_code,
    reason = "aya::Pod is an unsafe marker trait, and only the types' own package may implement it"
)]

use crate::{ClassValue, DialRecord, EndpointKey, Event, FlowKey, LimitValue, NodeValue};

// SAFETY: `repr(C)`, made of integers and arrays of integers, no padding (the sizes are asserted), so every
// bit pattern is a value.
unsafe impl aya::Pod for EndpointKey {}

// SAFETY: as for `EndpointKey`.
unsafe impl aya::Pod for ClassValue {}

// SAFETY: as for `EndpointKey`.
unsafe impl aya::Pod for DialRecord {}

// SAFETY: as for `EndpointKey`.
unsafe impl aya::Pod for FlowKey {}

// SAFETY: as for `EndpointKey`.
unsafe impl aya::Pod for NodeValue {}

// SAFETY: as for `EndpointKey`.
unsafe impl aya::Pod for LimitValue {}

impl Event {
    /// Reads an event from the bytes of the ring buffer; `None` when they are too few.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: the length is checked above, the read needs no alignment, and as with the types above every
        // bit pattern of an `Event` is a value.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}
