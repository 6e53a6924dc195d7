//! Raw sockets of IP, with packets written by hand.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

use crate::frame::{self, Ends};
use crate::report::{Failed, Outcome, Report};
use crate::sys::{self, address_bytes};
use crate::way::Way;

/// Sends the packets of this way; whether they arrive, the other side has to say.
pub(crate) fn dial(way: Way, socket: &OwnedFd, address: &SocketAddr) -> Result<Report, Failed> {
    if way == Way::Ping {
        return ping(socket, address);
    }
    // A raw socket takes no port.
    let mut host = *address;
    host.set_port(0);
    let target = address_bytes(&host);
    let option = Failed::at("setsockopt");
    match way {
        Way::RawHdrincl | Way::RawIcmp | Way::RawOptions | Way::RawFragments => {
            sys::option(socket, libc::IPPROTO_IP, libc::IP_HDRINCL, 1).map_err(option)?;
        }
        Way::Raw6Extended => {
            sys::option(socket, libc::IPPROTO_IPV6, libc::IPV6_HDRINCL, 1).map_err(option)?
        }
        _ => {}
    }
    for packet in packets(way, address).map_err(Failed::at("prepare"))? {
        sys::sendto(socket, &packet, 0, &target).map_err(Failed::at("send"))?;
    }
    Ok(Report::default())
}

fn packets(way: Way, address: &SocketAddr) -> io::Result<Vec<Vec<u8>>> {
    Ok(match way {
        Way::Raw6 => vec![ends6(address)?.syn_packet()],
        Way::Raw6Extended => vec![ends6(address)?.syn_behind_headers()],
        Way::Raw6Plain => vec![ends6(address)?.datagram()],
        Way::RawPlain => vec![ends4(address)?.datagram()],
        Way::RawUdp => vec![ends4(address)?.datagram_packet()],
        Way::RawOptions => vec![ends4(address)?.syn_behind_options()],
        Way::RawFragments => ends4(address)?.fragments().to_vec(),
        _ => vec![ends4(address)?.syn_packet()],
    })
}

/// The address that the kernel would send from, and the target.
pub(crate) fn ends4(address: &SocketAddr) -> io::Result<Ends<Ipv4Addr>> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (source(address)?, address) else {
        return Err(io::Error::other("this way needs an IPv4 address"));
    };
    Ok(Ends {
        from: *from.ip(),
        to: *to.ip(),
        port: to.port(),
    })
}

fn ends6(address: &SocketAddr) -> io::Result<Ends<Ipv6Addr>> {
    let (SocketAddr::V6(from), SocketAddr::V6(to)) = (source(address)?, address) else {
        return Err(io::Error::other("this way needs an IPv6 address"));
    };
    Ok(Ends {
        from: *from.ip(),
        to: *to.ip(),
        port: to.port(),
    })
}

fn source(address: &SocketAddr) -> io::Result<SocketAddr> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let probe = UdpSocket::bind(any)?;
    // Port 9 of the target is no protected endpoint, and a connect of UDP sends nothing.
    probe.connect((address.ip(), 9))?;
    probe.local_addr()
}

fn ping(socket: &OwnedFd, address: &SocketAddr) -> Result<Report, Failed> {
    let mut request = vec![8, 0, 0, 0, 0x42, 0x42, 0, 1];
    let sum = frame::checksum(&request);
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut host = *address;
    host.set_port(0);
    sys::sendto(socket, &request, 0, &address_bytes(&host)).map_err(Failed::at("send"))?;
    let mut buffer = [0; 256];
    loop {
        let read = sys::receive(socket, &mut buffer).map_err(Failed::at("recv"))?;
        let header = usize::from(buffer[0] & 0xf) * 4;
        // A raw socket sees its own requests too, where the target is this host.
        if read >= header + 8 && buffer[header] == 0 && buffer[header + 4..header + 6] == [0x42, 0x42] {
            return Ok(Report {
                outcome: Outcome::Answered,
                first: Some("echo".to_owned()),
                ..Report::default()
            });
        }
    }
}
