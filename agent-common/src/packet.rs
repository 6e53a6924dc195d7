//! Where a packet goes, read from its headers.
//!
//! In: bytes from the network header on. Out: a [`Destination`]: the address and port that the packet is for, or that it hides
//! them.
//!
//! Reading is bounded, so that the kernel's verifier follows it. Whatever cannot be read in that bound counts as hidden.

use crate::Address;

/// IPv6 extension headers that are walked. Senders have one or two; RFC 8504 section 5.3 lets hosts limit them.
const EXTENSIONS_MAX: u32 = 6;

/// Bytes of a packet, from its network header on.
pub trait PacketBytes {
    /// `N` bytes at an offset; `None` when the packet is shorter.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To a port, in host order, by a protocol that has such.
    Port(Address, u16),
    /// Nowhere that could be a protected endpoint: no IP, a protocol without ports, or a later fragment, which is nothing without its
    /// first.
    Other,
    /// It carries another packet to wherever, or its headers cannot be read.
    Hidden,
}

/// Whether a frame's type (host order) says that something stands before the packet: a VLAN tag (IEEE 802.1Q, 802.1ad) or
/// an MPLS label (RFC 5332).
#[inline(always)]
pub const fn is_tagged(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x8847 | 0x8848)
}

/// Reads where a packet goes.
#[inline(always)]
pub fn destination(packet: &impl PacketBytes) -> Destination {
    let Some([first]) = packet.read::<1>(0) else {
        return Destination::Hidden;
    };
    match first >> 4 {
        4 => v4(packet),
        6 => v6(packet),
        _ => Destination::Other,
    }
}

/// RFC 791 section 3.1.
#[inline(always)]
fn v4(packet: &impl PacketBytes) -> Destination {
    let Some(head) = packet.read::<20>(0) else {
        return Destination::Hidden;
    };
    let length = u32::from(head[0] & 0x0f) * 4;
    if length < 20 {
        return Destination::Hidden;
    }
    if u16::from_be_bytes([head[6], head[7]]) & 0x1fff != 0 {
        return Destination::Other;
    }
    let address = Address::from_v4_word(u32::from_ne_bytes([head[16], head[17], head[18], head[19]]));
    match port(packet, head[9], length, address) {
        // With a source route the address is that of the next hop alone (RFC 791, options 131 and 137). No client of a
        // server sends options at all.
        Destination::Port(..) if length > 20 => Destination::Hidden,
        found => found,
    }
}

/// RFC 8200 sections 3 and 4; a first fragment that ends before the port is hidden (RFC 7112), and no host takes it.
#[inline(always)]
fn v6(packet: &impl PacketBytes) -> Destination {
    let Some(head) = packet.read::<8>(0) else {
        return Destination::Hidden;
    };
    let Some(to) = packet.read::<16>(24) else {
        return Destination::Hidden;
    };
    let word = |at: usize| u32::from_ne_bytes([to[at], to[at + 1], to[at + 2], to[at + 3]]);
    let address = Address::from_v6_words([word(0), word(4), word(8), word(12)]);
    let mut next = head[6];
    let mut offset = 40;
    let mut walked = 0;
    while walked < EXTENSIONS_MAX {
        let length = match next {
            // Routing: with segments left, the address is that of the next hop alone (RFC 8200 section 4.4).
            43 => {
                let Some([following, units, _, left]) = packet.read::<4>(offset) else {
                    return Destination::Hidden;
                };
                if left != 0 {
                    return Destination::Hidden;
                }
                next = following;
                (u32::from(units) + 1) * 8
            }
            // Hop-by-hop, destination options.
            0 | 60 => {
                let Some([following, units]) = packet.read::<2>(offset) else {
                    return Destination::Hidden;
                };
                next = following;
                (u32::from(units) + 1) * 8
            }
            // Fragment.
            44 => {
                let Some([following, _, high, low]) = packet.read::<4>(offset) else {
                    return Destination::Hidden;
                };
                if u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
                    return Destination::Other;
                }
                next = following;
                8
            }
            // Authentication (RFC 4302 section 2.2).
            51 => {
                let Some([following, units]) = packet.read::<2>(offset) else {
                    return Destination::Hidden;
                };
                next = following;
                (u32::from(units) + 2) * 4
            }
            _ => return port(packet, next, offset, address),
        };
        offset += length;
        walked += 1;
    }
    Destination::Hidden
}

/// The destination port is at the same place in all protocols that have one.
#[inline(always)]
fn port(packet: &impl PacketBytes, protocol: u8, offset: u32, address: Address) -> Destination {
    match protocol {
        // TCP, UDP, DCCP, SCTP, UDP-Lite.
        6 | 17 | 33 | 132 | 136 => match packet.read::<2>(offset + 2) {
            Some(port) => Destination::Port(address, u16::from_be_bytes(port)),
            None => Destination::Hidden,
        },
        // IPv4, IPv6, GRE, EtherIP, L2TP and MPLS in IP: whoever ends the tunnel sends on what is inside.
        4 | 41 | 47 | 97 | 115 | 137 => Destination::Hidden,
        _ => Destination::Other,
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    struct Bytes(Vec<u8>);

    impl PacketBytes for Bytes {
        fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
            let at = offset as usize;
            self.0.get(at..at + N)?.try_into().ok()
        }
    }

    fn address(text: &str) -> Address {
        Address::from(text.parse::<IpAddr>().unwrap())
    }

    fn v4(protocol: u8, fragment: u16, options: usize, after: &[u8]) -> Bytes {
        let mut bytes = vec![0; 20 + options];
        bytes[0] = 0x45 + (options / 4) as u8;
        bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
        bytes[9] = protocol;
        bytes[16..20].copy_from_slice(&[10, 96, 0, 1]);
        bytes.extend_from_slice(after);
        Bytes(bytes)
    }

    fn v6(first: u8, after: &[u8]) -> Bytes {
        let mut bytes = vec![0; 40];
        bytes[0] = 0x60;
        bytes[6] = first;
        let IpAddr::V6(to) = "fd00::1".parse().unwrap() else {
            panic!("no IPv6 address");
        };
        bytes[24..40].copy_from_slice(&to.octets());
        bytes.extend_from_slice(after);
        Bytes(bytes)
    }

    const PORTS: [u8; 4] = [0x80, 0, 1, 0xbb];

    #[test]
    fn ports_are_found_behind_options_and_extensions() {
        for protocol in [6, 17, 33, 132, 136] {
            let found = destination(&v4(protocol, 0, 0, &PORTS));
            assert_eq!(found, Destination::Port(address("10.96.0.1"), 443), "{protocol}");
            for options in [4, 40] {
                let found = destination(&v4(protocol, 0, options, &PORTS));
                assert_eq!(found, Destination::Hidden, "{protocol} {options}");
            }
            assert_eq!(
                destination(&v6(protocol, &PORTS)),
                Destination::Port(address("fd00::1"), 443)
            );
        }
        // A hop-by-hop header of 8 bytes, destination options of 16, a first fragment, an authentication header of 12.
        let mut chain = vec![60, 0, 0, 0, 0, 0, 0, 0];
        chain.extend([44, 1]);
        chain.extend([0; 14]);
        chain.extend([51, 0, 0, 1, 0, 0, 0, 0]);
        chain.extend([6, 1]);
        chain.extend([0; 10]);
        chain.extend(PORTS);
        assert_eq!(
            destination(&v6(0, &chain)),
            Destination::Port(address("fd00::1"), 443)
        );
    }

    #[test]
    fn what_cannot_be_read_is_hidden() {
        assert_eq!(destination(&Bytes(Vec::new())), Destination::Hidden);
        assert_eq!(destination(&Bytes(vec![0x45; 19])), Destination::Hidden);
        assert_eq!(destination(&v4(6, 0, 0, &[0, 1])), Destination::Hidden);
        let mut short = v4(6, 0, 0, &PORTS);
        short.0[0] = 0x44;
        assert_eq!(destination(&short), Destination::Hidden);
        assert_eq!(destination(&v6(6, &[0; 3])), Destination::Hidden);
        assert_eq!(destination(&v6(0, &[0])), Destination::Hidden);
        let endless = [0, 0, 0, 0, 0, 0, 0, 0].repeat(20);
        assert_eq!(destination(&v6(0, &endless)), Destination::Hidden);
    }

    #[test]
    fn tunnels_are_hidden_and_what_has_no_port_is_no_endpoint() {
        for protocol in [4, 41, 47, 97, 115, 137] {
            assert_eq!(
                destination(&v4(protocol, 0, 0, &[0; 20])),
                Destination::Hidden,
                "{protocol}"
            );
            assert_eq!(
                destination(&v6(protocol, &[0; 20])),
                Destination::Hidden,
                "{protocol}"
            );
        }
        assert_eq!(destination(&v4(1, 0, 0, &[8, 0])), Destination::Other);
        assert_eq!(destination(&v6(58, &[135, 0])), Destination::Other);
        assert_eq!(destination(&Bytes(vec![0; 20])), Destination::Other);
    }

    #[test]
    fn a_route_that_goes_on_hides_where() {
        let route = |left: u8| {
            [6, 0, 0, left, 0, 0, 0, 0]
                .into_iter()
                .chain(PORTS)
                .collect::<Vec<_>>()
        };
        assert_eq!(destination(&v6(43, &route(1))), Destination::Hidden);
        assert_eq!(
            destination(&v6(43, &route(0))),
            Destination::Port(address("fd00::1"), 443)
        );
    }

    #[test]
    fn tags_and_labels_are_known() {
        assert!(is_tagged(0x8100) && is_tagged(0x88a8) && is_tagged(0x8847) && is_tagged(0x8848));
        assert!(!is_tagged(0x0800) && !is_tagged(0x86dd) && !is_tagged(0x0806));
    }

    #[test]
    fn later_fragments_are_nothing_by_themselves() {
        assert_eq!(destination(&v4(6, 1, 0, &PORTS)), Destination::Other);
        // "More fragments" and "do not fragment" are no offset.
        for flags in [0x2000, 0x4000] {
            assert!(matches!(
                destination(&v4(6, flags, 0, &PORTS)),
                Destination::Port(..)
            ));
        }
        let later = [6, 0, 0, 8, 0, 0, 0, 0, 0x80, 0, 1, 0xbb];
        assert_eq!(destination(&v6(44, &later)), Destination::Other);
    }
}
