//! Metrics with labels: one value for each combination of the labels' values.
//!
//! In: label names, and values from the program's constants. Out: families of counters, gauges and points in time, which the
//! registry encodes.

use std::hash::{Hash, Hasher};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// A combination of values; the names are the same in the whole family.
#[derive(Debug, Clone, Copy)]
pub(super) struct LabelSet<const N: usize> {
    names: [&'static str; N],
    values: [&'static str; N],
}

impl<const N: usize> PartialEq for LabelSet<N> {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl<const N: usize> Eq for LabelSet<N> {}

impl<const N: usize> Hash for LabelSet<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.values.hash(state);
    }
}

impl<const N: usize> EncodeLabelSet for LabelSet<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        for label in self.names.into_iter().zip(self.values) {
            label.encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// Declares a family of one kind of metric.
macro_rules! family {
    ($(#[$doc:meta])* $name:ident, $metric:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name<const N: usize> {
            names: [&'static str; N],
            family: Family<LabelSet<N>, $metric>,
        }

        impl<const N: usize> $name<N> {
            pub(super) fn new(names: [&'static str; N]) -> Self {
                Self {
                    names,
                    family: Family::default(),
                }
            }

            pub(super) fn family(&self) -> Family<LabelSet<N>, $metric> {
                self.family.clone()
            }

            fn with(&self, values: [&'static str; N], act: impl FnOnce(&$metric)) {
                let names = self.names;
                act(&self.family.get_or_create(&LabelSet { names, values }));
            }

            /// Shows this combination from now on: that a value grows can only be seen from one that was there.
            pub fn show(&self, values: [&'static str; N]) {
                self.with(values, |_| {});
            }

            /// Shows no combination, until one is used again.
            pub fn clear(&self) {
                self.family.clear();
            }
        }
    };
}

family!(
    /// Counters.
    CounterFamily,
    Counter
);

family!(
    /// Gauges.
    GaugeFamily,
    Gauge
);

family!(
    /// Points in time, in seconds since 1970.
    TimeFamily,
    Gauge<f64, AtomicU64>
);

impl<const N: usize> CounterFamily<N> {
    /// Counts one.
    pub fn inc(&self, values: [&'static str; N]) {
        self.add(values, 1);
    }

    /// Counts more.
    pub fn add(&self, values: [&'static str; N], more: u64) {
        self.with(values, |counter| {
            counter.inc_by(more);
        });
    }
}

impl<const N: usize> GaugeFamily<N> {
    /// Sets one value.
    pub fn set(&self, values: [&'static str; N], value: impl TryInto<i64>) {
        self.with(values, |gauge| {
            gauge.set(count(value));
        });
    }

    /// One more.
    pub fn inc(&self, values: [&'static str; N]) {
        self.with(values, |gauge| {
            gauge.inc();
        });
    }

    /// One less.
    pub fn dec(&self, values: [&'static str; N]) {
        self.with(values, |gauge| {
            gauge.dec();
        });
    }
}

impl<const N: usize> TimeFamily<N> {
    /// Sets one point in time.
    pub fn set(&self, values: [&'static str; N], since_epoch: Duration) {
        self.with(values, |gauge| {
            gauge.set(since_epoch.as_secs_f64());
        });
    }
}

/// A number as gauges have them.
pub fn count(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}
