//! Datagrams: UDP in all its forms.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::report::{Failed, Outcome, Report};
use crate::sys::{self, Uring, address_bytes, again};
use crate::way::Way;

/// What is sent.
pub(crate) const PAYLOAD: &[u8] = b"knock knock";

/// Sends a datagram and waits a while for an answer.
pub(crate) fn dial(way: Way, socket: &OwnedFd, address: &SocketAddr) -> Result<Report, Failed> {
    let target = address_bytes(address);
    let send = Failed::at("send");
    match way {
        Way::UdpConnected | Way::UdpLite => {
            sys::connect(socket, &target).map_err(Failed::at("connect"))?;
            sys::sendto(socket, PAYLOAD, 0, &[]).map_err(send)?;
        }
        Way::UdpReused => {
            // Port 9 of the same host is no protected endpoint.
            let mut elsewhere = *address;
            elsewhere.set_port(9);
            sys::connect(socket, &address_bytes(&elsewhere)).map_err(Failed::at("before"))?;
            sys::sendto(socket, PAYLOAD, 0, &target).map_err(send)?;
        }
        Way::UdpSendmsg => drop(sys::sendmsg(socket, PAYLOAD, &target).map_err(send)?),
        Way::UdpSendmmsg => drop(sys::sendmmsg(socket, PAYLOAD, &target).map_err(send)?),
        Way::UringUdp => drop(
            Uring::plain()
                .and_then(|mut ring| ring.sendmsg(socket, PAYLOAD, 0, &target))
                .map_err(send)?,
        ),
        Way::UringUdpSqpoll => drop(
            Uring::polled()
                .and_then(|mut ring| ring.sendmsg(socket, PAYLOAD, 0, &target))
                .map_err(send)?,
        ),
        _ => drop(sys::sendto(socket, PAYLOAD, 0, &target).map_err(send)?),
    }
    answer(socket)
}

/// What comes back, or that nothing does.
fn answer(socket: &OwnedFd) -> Result<Report, Failed> {
    let mut buffer = [0; 256];
    match again(|| sys::receive(socket, &mut buffer)) {
        Ok(read) => Ok(Report {
            outcome: Outcome::Answered,
            first: Some(String::from_utf8_lossy(&buffer[..read]).trim().to_owned()),
            ..Report::default()
        }),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(Report::default()),
        Err(error) => Err(Failed::at("recv")(error)),
    }
}
