//! Frames past the IP stack: AF_PACKET and AF_XDP.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use crate::raw::ends4;
use crate::report::{Failed, Report};
use crate::sys;
use crate::way::Way;

/// Where the default route goes out, and the address of the next hop.
struct Route {
    interface: String,
    gateway: Ipv4Addr,
}

/// Sends the packet of this way to the default route's next hop; whether it arrives, the other side has to say.
pub(crate) fn dial(way: Way, socket: &OwnedFd, address: &SocketAddr) -> Result<Report, Failed> {
    let prepare = Failed::at("prepare");
    let ends = ends4(address).map_err(&prepare)?;
    let route = default_route().map_err(&prepare)?;
    let hop = neighbour(&route).map_err(&prepare)?;
    let interface = sys::interface(&route.interface).map_err(&prepare)?;
    let to_hop = sys::packet_address(interface, libc::ETH_P_IP as u16, hop);
    let packet = if way == Way::PacketSyn {
        ends.syn_packet()
    } else {
        ends.datagram_packet()
    };
    let mut frame = Vec::from(hop);
    match way {
        Way::Packet | Way::PacketTagged | Way::Xdp => {
            let probe = sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0).map_err(&prepare)?;
            sys::bind(&probe, &sys::packet_address(interface, 0, [0; 6])).map_err(&prepare)?;
            frame.extend(sys::hardware_address(&probe).map_err(&prepare)?);
            if way == Way::PacketTagged {
                // VLAN 0 is no VLAN (IEEE 802.1Q section 9.6): whoever gets it takes the tags off.
                frame.extend(
                    [(libc::ETH_P_8021Q as u16).to_be_bytes(), [0; 2]]
                        .concat()
                        .repeat(2),
                );
            }
            frame.extend((libc::ETH_P_IP as u16).to_be_bytes());
            frame.extend(packet);
        }
        _ => frame = packet,
    }
    if way == Way::Xdp {
        sys::xdp_send(socket, interface, &frame).map_err(Failed::at("send"))?;
    } else {
        sys::sendto(socket, &frame, 0, &to_hop).map_err(Failed::at("send"))?;
    }
    Ok(Report::default())
}

fn default_route() -> io::Result<Route> {
    let table = fs::read_to_string("/proc/thread-self/net/route")?;
    let found = table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let gateway = u32::from_str_radix(fields.get(2)?, 16).ok()?;
        (fields[1] == "00000000" && gateway != 0).then(|| Route {
            interface: fields[0].to_owned(),
            gateway: Ipv4Addr::from(gateway.to_ne_bytes()),
        })
    });
    found.ok_or_else(|| io::Error::other("no default route"))
}

/// The next hop's hardware address, after it was asked for by a datagram to its port 9, where nobody listens.
fn neighbour(route: &Route) -> io::Result<[u8; 6]> {
    UdpSocket::bind("0.0.0.0:0")?.send_to(b"who", (route.gateway, 9))?;
    for _ in 0..50 {
        let table = fs::read_to_string("/proc/thread-self/net/arp")?;
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields.first() == Some(&route.gateway.to_string().as_str()) && fields[3] != "00:00:00:00:00:00"
            {
                let mut address = [0; 6];
                for (byte, text) in address.iter_mut().zip(fields[3].split(':')) {
                    *byte = u8::from_str_radix(text, 16).map_err(io::Error::other)?;
                }
                return Ok(address);
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(io::Error::other("the next hop does not answer"))
}
