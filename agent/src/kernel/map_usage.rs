//! How full the maps are that could run full.
//!
//! In: the maps of a [`Kernel`]. Out: the entries and the capacity of each as [`MapUsage`], for metrics.

use aya::maps::MapError;
use picket_common::{CLASSES_MAX, ENDPOINTS_MAX, FLOWS_MAX, NETNS_MAX};

use super::{Kernel, KernelError};

/// One map's entries now, and as many as it holds at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapUsage {
    /// The map, for metrics.
    pub map: &'static str,
    /// Its entries.
    pub entries: usize,
    /// How many it holds.
    pub capacity: u32,
}

impl Kernel {
    /// Counts the entries of the maps. It takes a system call for each entry, and blocks for as long.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn map_usage(&self) -> Result<[MapUsage; 4], KernelError> {
        let fill = |map, entries, capacity| MapUsage {
            map,
            entries,
            capacity,
        };
        // One after the other, so that no map is locked while another is counted.
        let endpoints = count(self.endpoints.lock().keys())?;
        let classes = count(self.classes.lock().keys())?;
        let netns = count(self.netns.lock().keys())?;
        let flows = self.flows.count()?;
        Ok([
            fill("endpoints", endpoints, ENDPOINTS_MAX),
            fill("classes", classes, CLASSES_MAX),
            fill("netns", netns, NETNS_MAX),
            fill("flows", flows, FLOWS_MAX),
        ])
    }
}

/// Counts keys; a map that changes meanwhile may be counted in part or begin anew, which the limit ends.
pub(super) fn count<K: aya::Pod>(keys: aya::maps::MapKeys<'_, K>) -> Result<usize, KernelError> {
    let mut entries = 0;
    for key in keys.take(FLOWS_MAX.max(ENDPOINTS_MAX) as usize) {
        match key {
            Ok(_) => entries += 1,
            // The key that was last was removed.
            Err(MapError::KeyNotFound) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(entries)
}
