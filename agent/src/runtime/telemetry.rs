//! The agent's own log, to standard error: text for people, JSON for collectors. The audit log is another thing and
//! does not pass here.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The environment variable whose filter goes before the configured one, in `tracing_subscriber`'s syntax.
pub const FILTER_VARIABLE: &str = "PICKET_LOG";

/// `h2` warns of each stream that a client takes back too early, which any pod could make it do without end.
const DEFAULT_FILTER: &str = "info,h2=error";

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What the log shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// How lines look.
    pub format: LogFormat,
    /// A filter such as `info` or `info,picket::kernel=debug`; `info` when absent.
    pub filter: Option<String>,
}

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("log filter `{filter}`: {reason}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A log was set up before.
    #[error("the log is set up already")]
    Twice,
}

/// Sends all events of this process to standard error from now on. `PICKET_LOG` goes before the configured filter.
///
/// # Errors
/// A filter that cannot be read, or a second call.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let given = std::env::var(FILTER_VARIABLE)
        .ok()
        .filter(|filter| !filter.is_empty());
    let filter = filter(
        given
            .or_else(|| config.filter.clone())
            .as_deref()
            .unwrap_or(DEFAULT_FILTER),
    )?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match config.format {
        LogFormat::Text => {
            let colour =
                io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
            registry.with(lines.with_ansi(colour)).try_init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(|_| TelemetryError::Twice)
}

/// Reads a filter.
///
/// # Errors
/// [`TelemetryError::Filter`] where it is none.
pub fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(text).map_err(|error| TelemetryError::Filter {
        filter: text.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let error = filter("picket=loud").expect_err("not a level");
        assert!(
            error.to_string().starts_with("log filter `picket=loud`: "),
            "{error}"
        );
        assert!(filter("info,picket::kernel=debug").is_ok());
    }
}
