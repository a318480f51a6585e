//! One look at everything that is counted, and its text.

use std::{fmt, sync::atomic::Ordering, time::Duration};

use jiff::Timestamp;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};
use tokio::time::timeout;

use super::{
    MOST_ENTRIES, Sources,
    families::{
        AUDIT_LOST, BUILD, CONNECTIONS, ENTRIES, EXPIRES, FLIGHTS, Family, HEALTHY, Kind, LEFT_OUT, LOGINS_ENDED,
        LOGINS_OPEN, REQUESTS, START, STORE_ERRORS, UNSAVED, WATCHES,
    },
};
use crate::broker::status::{EntryState, EntryStatus};

/// How long the store is waited for. Without it, what needs it is left out: a scrape has ten seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was seen.
#[derive(Debug)]
pub(super) struct Snapshot {
    rows: Vec<Row>,
}

/// A number of a metric and the values of its labels.
#[derive(Debug)]
struct Row {
    family: &'static str,
    labels: Vec<String>,
    value: f64,
}

/// Rows in the making.
#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn add(&mut self, family: &Family, labels: &[&str], value: impl Number) {
        self.0.push(Row {
            family: family.name,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            value: value.number(),
        });
    }
}

/// Prometheus keeps every value as a double.
trait Number {
    fn number(self) -> f64;
}

impl Number for u64 {
    #[expect(clippy::cast_precision_loss, reason = "a count of 2^53 is never reached")]
    fn number(self) -> f64 {
        self as f64
    }
}

impl Number for usize {
    fn number(self) -> f64 {
        u64::try_from(self).unwrap_or(u64::MAX).number()
    }
}

impl Number for f64 {
    fn number(self) -> f64 {
        self
    }
}

impl Snapshot {
    /// Looks at everything. The store may take its time; what it does not say in time is left out.
    pub(super) async fn take(sources: &Sources) -> Self {
        let Sources {
            broker,
            clock,
            started,
            calls,
            connections,
            audit,
        } = sources;
        let (healthy, survey) = tokio::join!(
            timeout(PATIENCE, broker.check()),
            timeout(PATIENCE, broker.survey(MOST_ENTRIES))
        );
        let mut rows = Rows::default();
        rows.add(&BUILD, &[env!("CARGO_PKG_VERSION")], 1_u64);
        rows.add(&START, &[], started.as_duration().as_secs_f64());
        rows.add(&HEALTHY, &[], u64::from(matches!(healthy, Ok(Ok(())))));
        for (method, reason, count) in calls.iter() {
            rows.add(&REQUESTS, &[method, reason], count);
        }
        rows.add(&CONNECTIONS, &[], connections.load(Ordering::Relaxed));
        rows.add(&WATCHES, &[], broker.open_watches());
        for (outcome, count) in broker.counts().flights() {
            rows.add(&FLIGHTS, &[outcome.as_str()], count);
        }
        rows.add(&UNSAVED, &[], broker.unsaved());
        if let Ok(Ok((entries, left_out))) = survey {
            entry_rows(&mut rows, &entries, clock.now().wall);
            rows.add(&LEFT_OUT, &[], left_out);
        }
        rows.add(&LOGINS_OPEN, &[], broker.open_logins());
        for (result, count) in broker.counts().logins() {
            rows.add(&LOGINS_ENDED, &[result.as_str()], count);
        }
        for (operation, kind, count) in broker.store_errors().iter().flat_map(|errors| errors.iter()) {
            rows.add(&STORE_ERRORS, &[&operation.to_string(), kind], count);
        }
        rows.add(&AUDIT_LOST, &[], audit.lost());
        Self { rows: rows.0 }
    }

    /// The OpenMetrics text format, which Prometheus reads.
    pub(super) fn into_text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // It fails only if a `String` does not take it.
        if text::encode(&mut text, &registry).is_err() {
            tracing::error!("the metrics could not be written");
        }
        text
    }
}

fn entry_rows(rows: &mut Rows, entries: &[EntryStatus], now: Timestamp) {
    for state in EntryState::ALL {
        let count = entries.iter().filter(|entry| entry.state == state).count();
        rows.add(&ENTRIES, &[state.as_str()], count);
    }
    for entry in entries {
        if let Some(at) = entry.expire_time {
            let names = [entry.key.provider.as_str(), entry.key.bucket.as_str()];
            rows.add(&EXPIRES, &names, at.duration_since(now).as_secs_f64());
        }
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in super::FAMILIES {
            let (name, kind) = match family.kind {
                Kind::Counter => (family.name.strip_suffix("_total"), MetricType::Counter),
                Kind::Info => (family.name.strip_suffix("_info"), MetricType::Info),
                Kind::Gauge => (None, MetricType::Gauge),
            };
            let name = name.unwrap_or(family.name);
            let mut metric = encoder.encode_descriptor(name, family.meaning, None, kind)?;
            for row in self.rows.iter().filter(|row| row.family == family.name) {
                let values = row.labels.iter().map(String::as_str);
                let labels: Vec<(&str, &str)> = family.labels.iter().copied().zip(values).collect();
                match family.kind {
                    Kind::Info => metric.encode_info(&labels)?,
                    Kind::Counter => number(&mut metric, &labels, |m| {
                        m.encode_counter::<NoLabelSet, _, u64>(&row.value, None)
                    })?,
                    Kind::Gauge => number(&mut metric, &labels, |m| m.encode_gauge(&row.value))?,
                }
            }
        }
        Ok(())
    }
}

/// A row without labels is written without braces.
fn number(
    metric: &mut MetricEncoder<'_>,
    labels: &[(&str, &str)],
    write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if labels.is_empty() {
        return write(metric);
    }
    write(&mut metric.encode_family(&labels)?)
}
