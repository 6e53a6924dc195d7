//! Connections: TCP in all its forms, and what claims to be like it.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use crate::greet::Greeting;
use crate::report::{Failed, Outcome, Report};
use crate::sys::{self, Uring, address_bytes};
use crate::way::Way;

/// Connects and greets whoever answers.
pub(crate) fn dial(way: Way, socket: OwnedFd, address: &SocketAddr) -> Result<Report, Failed> {
    let target = address_bytes(address);
    let mut greeting = Greeting::new();
    let connect = Failed::at("connect");
    match way {
        Way::Nonblocking => {
            sys::nonblocking(&socket, true).map_err(Failed::at("fcntl"))?;
            match sys::connect(&socket, &target) {
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                    sys::wait_connected(&socket).map_err(Failed::at("connect"))?;
                }
                other => other.map_err(connect)?,
            }
            sys::nonblocking(&socket, false).map_err(Failed::at("fcntl"))?;
        }
        Way::FastopenSendto => {
            let sent = sys::sendto(&socket, greeting.hello(), libc::MSG_FASTOPEN, &target);
            greeting.sent(sent.map_err(Failed::at("sendto"))?);
        }
        Way::FastopenConnect => {
            sys::option(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)
                .map_err(Failed::at("setsockopt"))?;
            sys::connect(&socket, &target).map_err(connect)?;
        }
        Way::Unspec => {
            dissolve(&socket, address).map_err(Failed::at("before"))?;
            sys::connect(&socket, &target).map_err(connect)?;
        }
        Way::Uring => Uring::plain()
            .and_then(|mut ring| ring.connect(&socket, &target, false))
            .map_err(connect)?,
        Way::UringAsync => Uring::plain()
            .and_then(|mut ring| ring.connect(&socket, &target, true))
            .map_err(connect)?,
        Way::UringSqpoll => Uring::polled()
            .and_then(|mut ring| ring.connect(&socket, &target, false))
            .map_err(connect)?,
        Way::UringFastopen => {
            let sent = Uring::plain()
                .and_then(|mut ring| ring.sendmsg(&socket, greeting.hello(), libc::MSG_FASTOPEN, &target));
            match sent {
                // It does not wait for the other side, and without a cookie of its nothing goes out with the SYN.
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                    sys::wait_connected(&socket).map_err(connect)?;
                }
                other => greeting.sent(other.map_err(Failed::at("sendmsg"))?),
            }
        }
        // It names machines, not addresses of IP, and whom it would reach is outside of this one.
        Way::Vsock => {
            return Ok(Report {
                outcome: Outcome::Made,
                ..Report::default()
            });
        }
        _ => sys::connect(&socket, &target).map_err(connect)?,
    }
    greeting.exchange(TcpStream::from(socket))
}

/// Connects to a listener of its own, and dissolves that by AF_UNSPEC.
fn dissolve(socket: &OwnedFd, address: &SocketAddr) -> io::Result<()> {
    let own = TcpListener::bind(if address.is_ipv4() {
        "127.0.0.1:0"
    } else {
        "[::1]:0"
    })?;
    sys::connect(socket, &address_bytes(&own.local_addr()?))?;
    sys::connect(socket, &sys::unspecified())
}
