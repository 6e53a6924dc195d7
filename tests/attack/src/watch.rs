//! What comes in, seen below every protocol: a packet socket on one interface.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use serde_json::json;

use crate::sys;

/// Prints `watching`, and then a line for each packet that comes in by the interface for one of the ports, until it is killed.
pub(crate) fn run(interface: &str, ports: &[u16]) -> Result<()> {
    let socket = sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
    let every = sys::packet_address(sys::interface(interface)?, libc::ETH_P_ALL as u16, [0; 6]);
    sys::bind(&socket, &every)?;
    // Hundreds of pods may dial while this process waits for its turn.
    sys::option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 8 << 20)?;
    println!("watching");
    let mut buffer = [0; 2048];
    loop {
        io::stdout().flush()?;
        let (read, way) = sys::receive_packet(&socket, &mut buffer)?;
        if way == libc::PACKET_OUTGOING {
            continue;
        }
        let Some(seen) = parse(&buffer[..read.min(buffer.len())]) else {
            continue;
        };
        if ports.contains(&seen.port) {
            println!(
                "{}",
                json!({"from": seen.from.to_string(), "to": seen.to.to_string(), "protocol": seen.protocol, "port": seen.port})
            );
        }
    }
}

/// What of a packet is told.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    port: u16,
}

/// Reads a packet's addresses and its destination port, which all protocols with ports have in the same place.
fn parse(packet: &[u8]) -> Option<Seen> {
    let (from, to, protocol, ports) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 0xf) * 4;
            let address = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes).into())
            };
            // A fragment that is not the first has no ports, and no meaning without the first.
            if packet.get(6..8)? != [0, 0] && u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0 {
                return None;
            }
            (address(12)?, address(16)?, *packet.get(9)?, header)
        }
        6 => {
            let address = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(bytes).into())
            };
            let (mut next, mut at) = (*packet.get(6)?, 40);
            // Hop-by-hop, routing and destination options.
            while matches!(next, 0 | 43 | 60) {
                next = *packet.get(at)?;
                at += 8 + usize::from(*packet.get(at + 1)?) * 8;
            }
            (address(8)?, address(24)?, next, at)
        }
        _ => return None,
    };
    // TCP, UDP, DCCP, SCTP, UDP-Lite.
    if !matches!(protocol, 6 | 17 | 33 | 132 | 136) {
        return None;
    }
    let port = packet.get(ports + 2..ports + 4)?;
    Some(Seen {
        from,
        to,
        protocol,
        port: u16::from_be_bytes([port[0], port[1]]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Ends;

    #[test]
    fn every_handmade_packet_is_seen() {
        let four = Ends {
            from: Ipv4Addr::new(10, 244, 1, 2),
            to: Ipv4Addr::new(10, 250, 0, 254),
            port: 7443,
        };
        for packet in [
            four.syn_packet(),
            four.datagram_packet(),
            four.syn_behind_options(),
        ] {
            assert_eq!(parse(&packet).unwrap().port, 7443);
        }
        let [first, second] = four.fragments();
        assert_eq!(parse(&first).unwrap().port, 7443);
        assert_eq!(parse(&second), None);
        let six = Ends {
            from: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
            to: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
            port: 7443,
        };
        for packet in [six.syn_packet(), six.syn_behind_headers()] {
            assert_eq!(parse(&packet).unwrap().to, IpAddr::from(six.to));
        }
    }
}
