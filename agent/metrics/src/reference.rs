//! The description of a metric, for the manual.
//!
//! In: a metric's name, kind, labels and meaning. Out: a [`MetricReference`], from which the reference page is generated.

use super::PREFIX;

/// A metric's type, by OpenMetrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations by upper bounds.
    Histogram,
    /// Always 1; its labels tell.
    Info,
}

impl MetricKind {
    /// The type's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// A metric, as the manual has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricReference {
    /// Its name, without the parts that are the same for all of its type.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// The names of its labels.
    pub labels: Vec<&'static str>,
    /// Its meaning.
    pub help: &'static str,
    /// Its unit is the second.
    pub seconds: bool,
}

impl MetricReference {
    /// A metric without unit.
    #[must_use]
    pub fn new(name: &'static str, kind: MetricKind, labels: &[&'static str], help: &'static str) -> Self {
        Self {
            name,
            kind,
            labels: labels.to_vec(),
            help,
            seconds: false,
        }
    }

    /// The name as a scrape has it.
    #[must_use]
    pub fn shown(&self) -> String {
        let unit = if self.seconds { "_seconds" } else { "" };
        let suffix = match self.kind {
            MetricKind::Counter => "_total",
            MetricKind::Info => "_info",
            MetricKind::Gauge | MetricKind::Histogram => "",
        };
        format!("{PREFIX}_{}{unit}{suffix}", self.name)
    }
}
