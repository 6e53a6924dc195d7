//! Child processes that end with their guard, and what /proc says of a process (proc(5)).

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// How long a process gets to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A process that is ended when this goes.
pub(crate) struct Guarded {
    name: &'static str,
    child: Child,
}

impl Guarded {
    /// Starts it.
    pub(crate) fn spawn(name: &'static str, command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Its stdout, when it was piped and not taken yet.
    pub(crate) fn stdout(&mut self) -> Result<BufReader<ChildStdout>> {
        let stdout = self.child.stdout.take();
        Ok(BufReader::new(
            stdout.with_context(|| format!("{} has no stdout", self.name))?,
        ))
    }

    /// Its stdin, when it was piped and not taken yet. It ends when this is dropped.
    pub(crate) fn stdin(&mut self) -> Result<ChildStdin> {
        let stdin = self.child.stdin.take();
        stdin.with_context(|| format!("{} has no stdin", self.name))
    }

    /// What it writes until it ends, which must be well.
    pub(crate) fn output(&mut self) -> Result<String> {
        let mut text = String::new();
        self.stdout()?.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{} failed; it has written why", self.name);
        Ok(text)
    }

    /// Waits until it has written this line.
    pub(crate) fn wait_for_line(&mut self, line: &str) -> Result<()> {
        for written in self.stdout()?.lines() {
            if written? == line {
                return Ok(());
            }
        }
        bail!("{} ended before it was ready", self.name)
    }

    /// An error when it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended ({status})", self.name),
            None => Ok(()),
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // A process that has ended already needs no signal, and one that cannot be signalled is killed below.
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
        let until = Instant::now() + GRACE;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time, user and system, that these processes have used together: to the nanosecond, where /proc counts ticks of 10 ms.
pub(crate) fn cpu_time(pids: &[i32]) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for pid in pids {
        let used = clock_getcpuclockid(Pid::from_raw(*pid)).and_then(clock_gettime);
        sum += Duration::from(used.with_context(|| format!("process {pid} is gone"))?);
    }
    Ok(sum)
}

/// Resident memory of these processes together; a page that several of them share counts once.
pub(crate) fn resident_bytes(pids: &[i32]) -> Result<u64> {
    let field = if pids.len() == 1 { "Rss:" } else { "Pss:" };
    let mut sum = 0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .with_context(|| format!("process {pid} is gone"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        sum += kib.with_context(|| format!("cannot read /proc/{pid}/smaps_rollup"))? * 1_024;
    }
    Ok(sum)
}

/// The processes that this one started and that still live.
pub(crate) fn children(pid: i32) -> Result<Vec<i32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .with_context(|| format!("process {pid} is gone"))?;
    Ok(text
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_cpu_time_of_every_thread_and_of_those_that_ended() {
        let busy = || {
            let until = Instant::now() + Duration::from_millis(30);
            while Instant::now() < until {}
        };
        let own = [std::process::id().cast_signed()];
        let before = cpu_time(&own).unwrap();
        std::thread::spawn(busy).join().unwrap();
        let used = cpu_time(&own).unwrap() - before;
        assert!(used > Duration::from_millis(3), "{used:?}");
    }

    #[test]
    fn reads_itself() {
        let own = [std::process::id().cast_signed()];
        assert!(resident_bytes(&own).unwrap() > 100_000);
        assert!(cpu_time(&own).is_ok());
        // No process has a number beyond the kernel's PID_MAX_LIMIT.
        assert!(cpu_time(&[4_194_304 + 1]).is_err());
    }
}
