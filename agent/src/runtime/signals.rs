//! Signals between the process and its supervisor.
//!
//! In: SIGTERM or SIGINT, which ask the process to stop. Out: the signal's name, once; and to systemd, that the agent is ready.

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

/// Waits until the process is asked to stop; gives the signal's name.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn stop() -> std::io::Result<&'static str> {
    Ok(stop_from_now()?.await)
}

/// The same for signals from this call on: none of them ends the process by itself any more.
///
/// # Errors
/// As [`stop`].
pub fn stop_from_now() -> std::io::Result<impl Future<Output = &'static str>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        }
    })
}

/// Tells a supervisor that asked for it (sd_notify(3), `NOTIFY_SOCKET`) that what waits for the process may start. In a thread
/// that nothing waits for: one that does not read its socket must not hold up the agent.
pub fn at_work() {
    std::thread::spawn(|| {
        if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
            tracing::warn!(%error, "the agent cannot report to its supervisor that it is at work");
        }
    });
}
