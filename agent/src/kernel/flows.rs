//! FLOWS, read by every listener at once.
//!
//! In: the namespace and the two addresses of an accepted connection. Out: its [`Flow`], which is removed from the map, or
//! none.
//!
//! aya asks for exclusive access to remove an entry, though the kernel needs none. So there are several handles to the same
//! map, picked by source port: accepts on different cores seldom wait for each other.

use parking_lot::Mutex;
use std::net::SocketAddr;

use aya::maps::{HashMap, Map, MapData, MapError};
use picket_common::{Address, DialRecord, FlowKey};

use super::Flow;
use super::error::KernelError;
use super::pins::Folder;

/// Handles to the map: one file descriptor each, and enough that two accepts at once seldom share one.
const HANDLES: u16 = 16;

#[derive(Debug)]
pub(super) struct Flows {
    handles: Vec<Mutex<HashMap<MapData, FlowKey, DialRecord>>>,
}

impl Flows {
    pub(super) fn open(folder: &Folder) -> Result<Self, KernelError> {
        let pin = folder.map("FLOWS");
        let handles = (0..HANDLES)
            .map(|_| {
                Ok(Mutex::new(HashMap::try_from(Map::from_map_data(
                    MapData::from_pin(&pin)?,
                )?)?))
            })
            .collect::<Result<_, KernelError>>()?;
        Ok(Self { handles })
    }

    /// How many there are.
    pub(super) fn count(&self) -> Result<usize, KernelError> {
        match self.handles.first() {
            Some(handle) => super::map_usage::count(handle.lock().keys()),
            None => Ok(0),
        }
    }

    /// Reads and removes the flow of one connection. Nothing else writes this key meanwhile: the connection is
    /// open, so its source port is taken; and a flow goes with its socket, so none is left from an earlier one.
    pub(super) fn take(
        &self,
        netns_cookie: u64,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Result<Option<Flow>, KernelError> {
        let key = FlowKey::new(netns_cookie, Address::from(peer.ip()), peer.port(), local.port());
        let Some(handle) = self.handles.get(usize::from(peer.port() % HANDLES)) else {
            return Ok(None);
        };
        let mut map = handle.lock();
        let record = match map.get(&key, 0) {
            Ok(record) => record,
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        absent_is_fine(map.remove(&key))?;
        Ok(Some(Flow::from(&record)))
    }
}

/// Removing what is not there is no error to anybody here.
pub(super) fn absent_is_fine(outcome: Result<(), MapError>) -> Result<(), KernelError> {
    match outcome {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}
