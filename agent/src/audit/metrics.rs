//! Metrics of the audit log, its spool and its sinks, read at each scrape.
//!
//! In: the log's [`Stats`]. Out: the `picket_audit_*` metrics in the registry.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::Stats;
use super::sinks::SinkStats;
use super::spool::segment::Segment;
use crate::metrics::{MetricKind, MetricReference, MetricsRegistry};

/// How a metric of the log is read.
enum OfLog {
    Counter(fn(&Stats) -> u64),
    Gauge(fn(&Stats) -> f64),
    Seconds(fn(&Stats) -> f64),
}

/// How a metric of each sink is read; the sink's name is its label.
enum OfSink {
    Counter(fn(&SinkStats) -> u64),
    Gauge(fn(&SinkStats, &[Segment]) -> u64),
}

const LOG: [(&str, OfLog, &str); 12] = [
    (
        "audit_lines",
        OfLog::Counter(Stats::lines),
        "Audit records written",
    ),
    (
        "audit_bytes",
        OfLog::Counter(Stats::bytes),
        "Bytes of audit records written",
    ),
    (
        "audit_errors",
        OfLog::Counter(Stats::errors),
        "Failed writes and syncs of the audit log",
    ),
    (
        "audit_syncs",
        OfLog::Counter(Stats::syncs),
        "Syncs of the audit log to disk",
    ),
    (
        "audit_refused_requests",
        OfLog::Counter(Stats::refused),
        "Requests that were answered with 503 because the audit log is full, fails or is too slow: each is one that must not go unrecorded",
    ),
    (
        "audit_dropped_alarms",
        OfLog::Counter(Stats::dropped_alarms),
        "Alarms that have no audit record, because the log took none for long; the agent's log has them",
    ),
    (
        "audit_rotations",
        OfLog::Counter(|stats| stats.spool().rotations()),
        "Segments of the audit log that ended because of their size or age",
    ),
    (
        "audit_segments_removed",
        OfLog::Counter(|stats| stats.spool().removals()),
        "Segments of the audit log that were removed because of the log's total size",
    ),
    (
        "audit_in_flight",
        OfLog::Gauge(|stats| f64::from(u32::try_from(stats.in_flight()).unwrap_or(u32::MAX))),
        "Audit records begun and not yet written: requests in flight and records that wait",
    ),
    (
        "audit_lag",
        OfLog::Seconds(|stats| stats.lag().as_secs_f64()),
        "Age of the oldest audit record of the last write, when it was written",
    ),
    (
        "audit_failing",
        OfLog::Gauge(|stats| f64::from(u8::from(stats.failure().is_some()))),
        "1 while the audit log cannot be written, so that writes, sessions and denials are answered with 503",
    ),
    (
        "audit_held_by_sinks",
        OfLog::Gauge(|stats| f64::from(u32::try_from(stats.spool().held_by().len()).unwrap_or(u32::MAX))),
        "Sinks that keep a full spool from removing its oldest segment, because they have not read it",
    ),
];

const SINKS: [(&str, OfSink, &str); 6] = [
    (
        "audit_sink_records",
        OfSink::Counter(SinkStats::records),
        "Audit records that a sink delivered",
    ),
    (
        "audit_sink_bytes",
        OfSink::Counter(SinkStats::bytes),
        "Bytes of audit records that a sink delivered",
    ),
    (
        "audit_sink_errors",
        OfSink::Counter(SinkStats::errors),
        "Deliveries of a sink that failed",
    ),
    (
        "audit_sink_gaps",
        OfSink::Counter(SinkStats::gaps),
        "Places where records that a sink had not taken were removed from the spool or changed there",
    ),
    (
        "audit_sink_lag_bytes",
        OfSink::Gauge(SinkStats::lag_bytes),
        "Bytes in the spool that a sink has not delivered",
    ),
    (
        "audit_sink_failing",
        OfSink::Gauge(|sink, _| u64::from(sink.failure().is_some())),
        "1 while a sink takes no records; they wait in the spool",
    ),
];

/// Registers the metrics of a log.
pub(crate) fn register(registry: &MetricsRegistry, stats: Arc<Stats>) {
    let log = LOG.iter().map(|(name, read, help)| {
        let kind = match read {
            OfLog::Counter(_) => MetricKind::Counter,
            OfLog::Gauge(_) | OfLog::Seconds(_) => MetricKind::Gauge,
        };
        let mut reference = MetricReference::new(name, kind, &[], help);
        reference.seconds = matches!(read, OfLog::Seconds(_));
        reference
    });
    let sinks = SINKS.iter().map(|(name, read, help)| {
        let kind = match read {
            OfSink::Counter(_) => MetricKind::Counter,
            OfSink::Gauge(_) => MetricKind::Gauge,
        };
        MetricReference::new(name, kind, &["sink"], help)
    });
    let described: Vec<_> = log.chain(sinks).collect();
    registry.collect(&described, Box::new(AuditCollector(stats)));
}

#[derive(Debug)]
struct AuditCollector(Arc<Stats>);

impl Collector for AuditCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(stats) = self;
        for (name, read, help) in &LOG {
            match read {
                OfLog::Counter(read) => {
                    let encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
                    ConstCounter::new(read(stats)).encode(encoder)?;
                }
                OfLog::Gauge(read) => {
                    let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                    ConstGauge::new(read(stats)).encode(encoder)?;
                }
                OfLog::Seconds(read) => {
                    let unit = Some(&Unit::Seconds);
                    let encoder = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
                    ConstGauge::new(read(stats)).encode(encoder)?;
                }
            }
        }
        if stats.sinks().is_empty() {
            return Ok(());
        }
        let segments = stats.spool().segments();
        for (name, read, help) in &SINKS {
            let kind = match read {
                OfSink::Counter(_) => MetricType::Counter,
                OfSink::Gauge(_) => MetricType::Gauge,
            };
            let mut encoder = encoder.encode_descriptor(name, help, None, kind)?;
            for sink in stats.sinks() {
                let labels = [("sink", sink.name())];
                let encoder = encoder.encode_family(&labels)?;
                match read {
                    OfSink::Counter(read) => ConstCounter::new(read(sink)).encode(encoder)?,
                    OfSink::Gauge(read) => {
                        let value = i64::try_from(read(sink, &segments)).unwrap_or(i64::MAX);
                        ConstGauge::new(value).encode(encoder)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_read_at_each_scrape() {
        let registry = MetricsRegistry::default();
        register(&registry, Arc::new(Stats::default()));
        let text = registry.encode().expect("text");
        for line in [
            "picket_audit_lines_total 0\n",
            "picket_audit_in_flight 0.0\n",
            "picket_audit_lag_seconds 0.0\n",
            "picket_audit_rotations_total 0\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
