//! The pods on this node.

mod pod;

pub use pod::{Pod, PodUid};
