//! Programs in pods whose output is read while they run.
//!
//! In: a command that runs in a pod. Out: [`Running`], which gives the output line by line and ends the command when it is
//! dropped.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::cluster::Kubectl;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long the next line may take. Nothing here is measured by it: what is buffered until the end never comes at all.
const LIMIT: Duration = Duration::from_secs(30);

/// A program in a pod, run by `kubectl exec` as the administrator.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<Receiver<String>>,
}

impl Running {
    /// Starts it in the first container of a pod.
    pub fn start(kubectl: &Kubectl, namespace: &str, pod: &str, argv: &[&str]) -> Result<Self> {
        let mut arguments = vec!["exec", "-i", "-n", namespace, pod, "--"];
        arguments.extend(argv);
        let mut command = kubectl.command(&arguments)?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let errors = follow(child.stderr.take().context("no errors")?);
        let mut running = Self::of(child)?;
        running.errors = Some(errors);
        Ok(running)
    }

    /// A program that was started elsewhere, with its output piped.
    pub fn of(mut child: Child) -> Result<Self> {
        let input = child.stdin.take();
        let lines = follow(child.stdout.take().context("no output")?);
        Ok(Self {
            child,
            input,
            lines,
            errors: None,
        })
    }

    /// The next line of its output.
    pub fn line(&self) -> Result<String> {
        self.line_within(LIMIT)
    }

    /// The next line of a program that first works for longer than the rest.
    pub fn line_within(&self, limit: Duration) -> Result<String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("no line within {limit:?}; {}", self.complaints()),
            Err(RecvTimeoutError::Disconnected) => bail!("it ended; {}", self.complaints()),
        }
    }

    /// Reads lines until one holds `word`, and gives that one.
    pub fn line_with(&self, word: &str) -> Result<String> {
        loop {
            let line = self.line().with_context(|| format!("waiting for {word:?}"))?;
            if line.contains(word) {
                return Ok(line);
            }
        }
    }

    /// Whether output is waiting to be read, or has come by now.
    pub fn silent(&self) -> bool {
        matches!(self.lines.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty))
    }

    /// Sends it a line.
    pub fn send(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        input.write_all(format!("{line}\n").as_bytes())?;
        Ok(input.flush()?)
    }

    /// Closes its input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Asks a program of this machine to end, by SIGTERM.
    pub fn terminate(&self) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("SIGTERM")
    }

    /// Waits for its end; gives its exit code.
    pub fn wait(&mut self) -> Result<i32> {
        self.close_input();
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code().unwrap_or(-1));
            }
            if Instant::now() > deadline {
                bail!("it does not end; {}", self.complaints());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn complaints(&self) -> String {
        let lines: Vec<String> = self.errors.iter().flat_map(Receiver::try_iter).collect();
        format!("its errors: {}", lines.join("\n"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}
