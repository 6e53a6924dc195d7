//! Any packet: no panic, and a port is told only where the bytes have one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_common::{Destination, PacketBytes, destination};

struct Bytes<'a>(&'a [u8]);

impl PacketBytes for Bytes<'_> {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let at = offset as usize;
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}

fuzz_target!(|data: &[u8]| {
    match destination(&Bytes(data)) {
        Destination::Port(_, port) => {
            assert!(data.len() >= 24);
            assert!(data.windows(2).any(|pair| pair == port.to_be_bytes()));
        }
        Destination::Other => assert!(!data.is_empty()),
        Destination::Hidden => {}
    }
});
