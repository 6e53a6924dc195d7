//! Packets written by hand.
//!
//! In: addresses. Out: bytes with right checksums, so that whoever gets them takes them as real.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::datagram::PAYLOAD;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// IPv6 destination options (RFC 8200 section 4.6).
const DESTINATION_OPTIONS: u8 = 60;
const HOP_LIMIT: u8 = 64;
/// The port that everything here comes from.
const SOURCE_PORT: u16 = 40_404;

/// Who sends and who receives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends<A> {
    pub(crate) from: A,
    pub(crate) to: A,
    pub(crate) port: u16,
}

impl<A: Into<IpAddr> + Copy> Ends<A> {
    /// A TCP SYN.
    pub(crate) fn syn(&self) -> Vec<u8> {
        let mut segment = Vec::with_capacity(20);
        segment.extend(SOURCE_PORT.to_be_bytes());
        segment.extend(self.port.to_be_bytes());
        segment.extend(7_u32.to_be_bytes());
        segment.extend([0; 4]);
        // Five words long, SYN, a window.
        segment.extend([0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        self.seal(segment, TCP, 16)
    }

    /// A UDP datagram.
    pub(crate) fn datagram(&self) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(8 + PAYLOAD.len());
        datagram.extend(SOURCE_PORT.to_be_bytes());
        datagram.extend(self.port.to_be_bytes());
        datagram.extend((8 + PAYLOAD.len() as u16).to_be_bytes());
        datagram.extend([0; 2]);
        datagram.extend(PAYLOAD);
        self.seal(datagram, UDP, 6)
    }

    /// Writes the checksum over the pseudo header and the segment at `place`.
    fn seal(&self, mut segment: Vec<u8>, protocol: u8, place: usize) -> Vec<u8> {
        let mut pseudo = Vec::new();
        for address in [self.from.into(), self.to.into()] {
            match address {
                IpAddr::V4(address) => pseudo.extend(address.octets()),
                IpAddr::V6(address) => pseudo.extend(address.octets()),
            }
        }
        pseudo.extend([0, protocol]);
        pseudo.extend((segment.len() as u16).to_be_bytes());
        pseudo.extend(&segment);
        let sum = checksum(&pseudo);
        segment[place..place + 2].copy_from_slice(&sum.to_be_bytes());
        segment
    }
}

impl Ends<Ipv4Addr> {
    /// A packet with a SYN.
    pub(crate) fn syn_packet(&self) -> Vec<u8> {
        self.packet(TCP, &[], 0, &self.syn())
    }

    /// A packet with a datagram.
    pub(crate) fn datagram_packet(&self) -> Vec<u8> {
        self.packet(UDP, &[], 0, &self.datagram())
    }

    /// A packet with a SYN behind eight bytes of options that mean nothing.
    pub(crate) fn syn_behind_options(&self) -> Vec<u8> {
        self.packet(TCP, &[1; 8], 0, &self.syn())
    }

    /// A datagram in two fragments, the first of which ends after the ports.
    pub(crate) fn fragments(&self) -> [Vec<u8>; 2] {
        let datagram = self.datagram();
        let (head, rest) = datagram.split_at(8);
        // More fragments; then the place of the second in units of eight bytes.
        [
            self.packet(UDP, &[], 0x2000, head),
            self.packet(UDP, &[], 1, rest),
        ]
    }

    fn packet(&self, protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
        let header = 20 + options.len();
        let mut packet = vec![0x40 | (header / 4) as u8, 0];
        packet.extend(((header + payload.len()) as u16).to_be_bytes());
        packet.extend(0x4242_u16.to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([HOP_LIMIT, protocol, 0, 0]);
        packet.extend(self.from.octets());
        packet.extend(self.to.octets());
        packet.extend(options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }
}

impl Ends<Ipv6Addr> {
    /// A packet with a SYN.
    pub(crate) fn syn_packet(&self) -> Vec<u8> {
        self.packet(TCP, &[], &self.syn())
    }

    /// A packet with a SYN behind two headers of padding.
    pub(crate) fn syn_behind_headers(&self) -> Vec<u8> {
        // Each: what follows, no further words of eight bytes, six bytes of padding.
        let headers = [
            [DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0],
            [TCP, 0, 1, 4, 0, 0, 0, 0],
        ];
        self.packet(DESTINATION_OPTIONS, &headers.concat(), &self.syn())
    }

    fn packet(&self, next: u8, headers: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(((headers.len() + payload.len()) as u16).to_be_bytes());
        packet.extend([next, HOP_LIMIT]);
        packet.extend(self.from.octets());
        packet.extend(self.to.octets());
        packet.extend(headers);
        packet.extend(payload);
        packet
    }
}

/// The internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_to_nothing() {
        let ends = Ends {
            from: Ipv4Addr::new(10, 244, 1, 2),
            to: Ipv4Addr::new(10, 250, 0, 254),
            port: 7443,
        };
        assert_eq!(checksum(&ends.syn_packet()[..20]), 0);
        assert_eq!(checksum(&ends.syn_behind_options()[..28]), 0);
    }
}
