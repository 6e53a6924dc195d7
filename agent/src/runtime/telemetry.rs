//! The agent's own log, to standard error: text for people, JSON for collectors. Audit records do not go here.
//!
//! In: a [`LogConfig`] with format and filter. Out: a subscriber for every event of `tracing`, or a [`TelemetryError`].

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// `h2` warns of each stream that a client takes back too early, which any pod could make it do without end; `kube_client` tells
/// of failures that the caller reports too.
const DEFAULT_FILTER: &str = "info,h2=error,kube_client=off";

/// What can be asked for, from nothing to everything.
const LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

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
    /// A filter such as `info` or `info,picket::kernel=debug`; `info,h2=error,kube_client=off` when absent.
    pub filter: Option<String>,
}

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("{0:?} is no level, which is off, error, warn, info, debug or trace")]
    Level(String),
    /// A part of it is for something that no part of the program is called.
    #[error("{0:?} is no target, which is a module of the program such as picket::kernel")]
    Target(String),
    /// A log was set up before.
    #[error("the log is set up already")]
    Twice,
}

/// Sends all events of this process to standard error from now on.
///
/// # Errors
/// A filter that cannot be read, or a second call.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let filter = filter(config.filter.as_deref().unwrap_or(DEFAULT_FILTER))?;
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

/// Reads a filter: a level, or `target=level`, or several of them after commas. A word by itself is a level and nothing else:
/// taken for a target, as is usual, a level that was misspelt would silence everything.
///
/// # Errors
/// What of it is no level or no target.
pub fn filter(text: &str) -> Result<Targets, TelemetryError> {
    text.split(',').try_fold(Targets::new(), |filter, directive| {
        Ok(match directive.split_once('=') {
            None => filter.with_default(level(directive)?),
            Some((target, level_of)) => filter.with_target(self::target(target)?, level(level_of)?),
        })
    })
}

fn level(word: &str) -> Result<LevelFilter, TelemetryError> {
    let known = LEVELS
        .into_iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(word.trim()));
    known
        .map(|(_, level)| level)
        .ok_or_else(|| TelemetryError::Level(word.to_owned()))
}

fn target(word: &str) -> Result<&str, TelemetryError> {
    let name = word.trim();
    let in_names = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | ':');
    (!name.is_empty() && name.chars().all(in_names))
        .then_some(name)
        .ok_or_else(|| TelemetryError::Target(word.to_owned()))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_filter_that_is_none_is_named() {
        for (text, said) in [
            ("verbose", "\"verbose\" is no level"),
            ("picket", "\"picket\" is no level"),
            ("info,picket=loud", "\"loud\" is no level"),
            ("info,", "\"\" is no level"),
            ("", "\"\" is no level"),
            ("=debug", "\"\" is no target"),
            ("info,picket[span]=debug", "\"picket[span]\" is no target"),
        ] {
            let error = filter(text).expect_err(text).to_string();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }

    #[test]
    fn levels_are_as_asked_for() {
        let filter = filter("WARN, picket::kernel=debug").unwrap();
        assert!(filter.would_enable("picket::app", &Level::WARN));
        assert!(!filter.would_enable("picket::app", &Level::INFO));
        assert!(filter.would_enable("picket::kernel::attachments", &Level::DEBUG));
        assert!(super::filter(DEFAULT_FILTER).is_ok());
    }
}
