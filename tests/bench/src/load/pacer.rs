//! Ticks at a fixed rate, exact to a few microseconds: a kernel timer that the runtime waits on.
//!
//! The runtime's own timers have a grain of a millisecond, which would drown what is measured here. The one module with `unsafe`.
#![expect(
    unsafe_code,
    reason = "tokio takes a descriptor of a kind it does not know only with a promise that it stays open"
)]

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Gives the instants at which something was due, one after the other, never later than they are due plus a wake-up.
pub(crate) struct Pacer {
    timer: AsyncFd<Timer>,
    start: Instant,
    period: Duration,
    next: u32,
}

impl Pacer {
    /// `rate` instants a second from now on.
    pub(crate) fn new(rate: u32) -> Result<Self> {
        let period = Duration::from_secs(1) / rate;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        let start = Instant::now();
        timer.set(
            Expiration::Interval(TimeSpec::from(period)),
            TimerSetTimeFlags::empty(),
        )?;
        // SAFETY: `Timer` owns the descriptor and never gives it away, so it is open and the same for as long as this is.
        let timer = unsafe { AsyncFd::register(Timer(timer)) }?;
        Ok(Self {
            timer,
            start,
            period,
            next: 1,
        })
    }

    /// Waits for the next instant. Those that were missed are all given, at once and in order.
    pub(crate) async fn due(&mut self) -> Result<Instant> {
        let due = self.start + self.period * self.next;
        self.next += 1;
        while Instant::now() < due {
            let mut ready = self.timer.readable().await?;
            // Reading it empties it; how often it fired does not matter, because the instants are computed.
            let mut count = [0; 8];
            match nix::unistd::read(&ready.get_inner().0, &mut count) {
                Ok(_) | Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_rate_and_gives_missed_instants_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let start = Instant::now();
            let mut pacer = Pacer::new(1_000).unwrap();
            for _ in 0..50 {
                pacer.due().await.unwrap();
            }
            assert!(start.elapsed() >= Duration::from_millis(50));
            std::thread::sleep(Duration::from_millis(30));
            let late = Instant::now();
            let first = pacer.due().await.unwrap();
            let second = pacer.due().await.unwrap();
            assert!(
                first < late && second < late,
                "what was due while nobody looked is due at its own time"
            );
            assert_eq!(second - first, Duration::from_millis(1));
        });
    }
}
