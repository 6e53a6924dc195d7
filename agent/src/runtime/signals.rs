//! Signals of the process: SIGTERM and SIGINT ask it to stop, once.

use tokio::signal::unix::{SignalKind, signal};

/// Waits until the process is asked to stop; gives the signal's name.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn stop() -> std::io::Result<&'static str> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    })
}
