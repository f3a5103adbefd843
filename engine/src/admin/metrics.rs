//! `/metrics`: the counters in the OpenMetrics text format, which Prometheus reads.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::config::{Config, Durability, SpoolConfig};
use crate::egress::{EgressStats, EventsStats};
use crate::event::EventQueue;
use crate::readiness::Readiness;
use crate::server::{Board, Proof, Standing};
use crate::stats::WorkerStats;
use crate::store::{KeeperState, Writes};
use crate::tls::ListenersTls;

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Gauges would share a name with the counter beside them, so they get their own.
const GAUGE_NAMES: &[(&str, &str)] = &[
    ("connections_now", "connections_open"),
    ("handshakes_now", "handshakes_open"),
    ("memory_octets_now", "content_held_octets"),
    ("input_octets_now", "input_held_octets"),
];

/// What a 250 promises, and how the spool keeps it.
#[derive(Clone, Debug)]
pub struct SpoolMode {
    /// Of listeners that say nothing else.
    pub durability: Durability,
    pub async_interval: Duration,
    pub writes: Writes,
}

impl SpoolMode {
    pub fn new(config: &Config, writes: Writes) -> Self {
        let SpoolConfig { durability, async_interval, .. } = config.spool;
        Self { durability, async_interval, writes }
    }
}

/// What the metrics are read from. Reading takes no lock and disturbs no worker.
#[derive(Debug)]
pub(super) struct Sources {
    /// Position is the worker's index.
    pub(super) worker_stats: Vec<Arc<WorkerStats>>,
    pub(super) events: Vec<EventQueue>,
    pub(super) delivery_stats: Vec<Arc<EgressStats>>,
    pub(super) told: Arc<EventsStats>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) tls: Arc<ListenersTls>,
    pub(super) spool: SpoolMode,
    pub(super) board: Arc<Board>,
    pub(super) keeper: Arc<KeeperState>,
    /// When the process started, in seconds since 1970.
    pub(super) started_unix_secs: f64,
}

/// All metrics, under the prefix `ringmx_`.
pub(super) fn registry(sources: Sources) -> Registry {
    let mut registry = Registry::with_prefix("ringmx");
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The program", version);
    let SpoolMode { durability, writes, .. } = &sources.spool;
    let mode = Info::new([("durability", durability.to_string()), ("writes", writes.name().to_owned())]);
    let help = "What a 250 promises: stable storage now (sync), soon (async), or none; and how it is written";
    registry.register("spool", help, mode);
    registry.register_collector(Box::new(sources));
    registry
}

/// The text of a scrape.
pub(super) fn text(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let ready = i64::from(self.readiness.is_ready());
        encoder
            .encode_descriptor("ready", "1 when the server takes mail.", None, MetricType::Gauge)?
            .encode_gauge(&ready)?;
        let free = i64::try_from(self.keeper.storage().free()).unwrap_or(i64::MAX);
        let help = "What is free on the spool's file system.";
        encoder
            .encode_descriptor("spool_free", help, Some(&Unit::Bytes), MetricType::Gauge)?
            .encode_gauge(&free)?;
        let free_inodes = i64::try_from(self.keeper.storage().free_inodes()).unwrap_or(i64::MAX);
        let help = "Inodes that are free there; 0 also where their number is not fixed.";
        encoder
            .encode_descriptor("spool_free_inodes", help, None, MetricType::Gauge)?
            .encode_gauge(&free_inodes)?;
        let started = "When the process started, since 1970.";
        encoder
            .encode_descriptor("start_time", started, Some(&Unit::Seconds), MetricType::Gauge)?
            .encode_gauge(&self.started_unix_secs)?;
        let help = "How long mail may wait for its sync where the promise is async.";
        encoder
            .encode_descriptor("spool_async_interval", help, Some(&Unit::Seconds), MetricType::Gauge)?
            .encode_gauge(&self.spool.async_interval.as_secs_f64())?;
        let help = "Files of segments since the start, by what was done with them.";
        let mut files = encoder.encode_descriptor("segment_files", help, None, MetricType::Counter)?;
        for (fate, count) in self.keeper.counts() {
            files.encode_family(&[("fate", fate)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let help = "Lines of the events stream since the start, by what became of them.";
        let mut events = encoder.encode_descriptor("events", help, None, MetricType::Counter)?;
        for (fate, count) in [("written", self.told.written_count()), ("lost", self.told.lost_count())] {
            events.encode_family(&[("fate", fate)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        self.encode_listeners(encoder)?;
        encode_certificates(encoder, &self.tls)?;
        let dropped: Vec<u64> = self.events.iter().map(EventQueue::dropped_count).collect();
        let help = "Events the log was too slow for.";
        let worker = Label { name: "worker", values: (0..self.events.len()).collect() };
        encode_values(encoder, "log_events_dropped", help, MetricType::Counter, &worker, &dropped)?;
        let counters: Vec<Vec<_>> = self.worker_stats.iter().map(|stats| stats.each().collect()).collect();
        encode_counters(encoder, "", &worker, &counters)?;
        encode_secured(encoder, &self.worker_stats)?;
        let shard = self.delivery_stats.iter().map(|stats| usize::from(stats.shard)).collect();
        let shard = Label { name: "shard", values: shard };
        let counters: Vec<Vec<_>> = self.delivery_stats.iter().map(|stats| stats.each().collect()).collect();
        encode_counters(encoder, "delivery_", &shard, &counters)
    }
}

impl Sources {
    fn encode_listeners(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let standings = self.board.standings();
        let help = "What a 250 promises at each listener.";
        let mut promises = encoder.encode_descriptor("listener_durability", help, None, MetricType::Gauge)?;
        let mut told = BTreeSet::new();
        for Standing { listener, durability, .. } in &standings {
            if told.insert(listener) {
                let labels = [("listener", listener.clone()), ("durability", durability.to_string())];
                promises.encode_family(&labels)?.encode_gauge(&1i64)?;
            }
        }
        let help = "1 while one of our workers answers at the address, and nobody else.";
        let mut proofs =
            encoder.encode_descriptor("listener_answered_by_us", help, None, MetricType::Gauge)?;
        for Standing { listener, address, proof, .. } in &standings {
            let labels = [("listener", listener.clone()), ("address", address.to_string())];
            proofs.encode_family(&labels)?.encode_gauge(&i64::from(*proof == Proof::Ours))?;
        }
        Ok(())
    }
}

/// When certificates end, and whether what is in their files is in use.
fn encode_certificates(encoder: &mut DescriptorEncoder<'_>, tls: &ListenersTls) -> fmt::Result {
    let help = "When a certificate ends, since 1970.";
    let mut ends =
        encoder.encode_descriptor("certificate_not_after", help, Some(&Unit::Seconds), MetricType::Gauge)?;
    for (path, facts) in tls.certificates().iter() {
        let labels =
            [("certificate", path.as_str()), ("name", facts.names.first().map_or("", String::as_str))];
        ends.encode_family(&labels)?.encode_gauge(&facts.not_after.as_secs_f64())?;
    }
    let help =
        "1 while the files of certificates hold something that cannot be used, so that older ones serve.";
    encoder
        .encode_descriptor("certificates_stale", help, None, MetricType::Gauge)?
        .encode_gauge(&i64::from(tls.is_stale()))?;
    encoder
        .encode_descriptor(
            "certificate_renewals",
            "Times certificates were read.",
            None,
            MetricType::Counter,
        )?
        .encode_counter::<NoLabelSet, _, u64>(&tls.renewals_count(), None)
}

/// What TLS handshakes came to. Every label is one of a fixed set, and all stand there from the start.
fn encode_secured(encoder: &mut DescriptorEncoder<'_>, workers: &[Arc<WorkerStats>]) -> fmt::Result {
    let help = "TLS handshakes done, by version and cipher suite.";
    let mut ciphers = encoder.encode_descriptor("handshakes_by_cipher", help, None, MetricType::Counter)?;
    for (index, stats) in workers.iter().enumerate() {
        for (cipher, count) in stats.secured.by_cipher() {
            let worker = index.to_string();
            let labels =
                [("worker", &*worker), ("version", cipher.version().name()), ("cipher", cipher.name())];
            ciphers.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    let help = "TLS handshakes done, by the client's certificate: none, recorded but not verified, verified.";
    let mut certificates =
        encoder.encode_descriptor("handshakes_by_client_certificate", help, None, MetricType::Counter)?;
    for (index, stats) in workers.iter().enumerate() {
        for (state, count) in stats.secured.by_certificate() {
            let labels = [("worker", &*index.to_string()), ("certificate", state)];
            certificates.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

/// What tells the values of one metric apart.
struct Label {
    name: &'static str,
    values: Vec<usize>,
}

/// Name, help text and value.
type NamedCounter = (&'static str, &'static str, u64);

/// The same counters of several sources, one metric for each counter.
fn encode_counters(
    encoder: &mut DescriptorEncoder<'_>,
    prefix: &str,
    label: &Label,
    sources: &[Vec<NamedCounter>],
) -> fmt::Result {
    let Some(first) = sources.first() else { return Ok(()) };
    for (index, (field, help, _)) in first.iter().enumerate() {
        let values: Vec<u64> = sources.iter().map(|counters| counters[index].2).collect();
        let gauge_name = GAUGE_NAMES.iter().find(|(name, _)| name == field);
        let (name, metric_type) = match (gauge_name, field.strip_suffix("_now")) {
            (Some((_, name)), _) => (*name, MetricType::Gauge),
            (None, Some(name)) => (name, MetricType::Gauge),
            (None, None) => (*field, MetricType::Counter),
        };
        encode_values(encoder, &format!("{prefix}{name}"), help.trim(), metric_type, label, &values)?;
    }
    Ok(())
}

/// One metric with a value for each of the label's. Octets become the unit `bytes`, as Prometheus calls them, and
/// microseconds become `seconds`.
fn encode_values(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric_type: MetricType,
    label: &Label,
    values: &[u64],
) -> fmt::Result {
    let octets = name.strip_suffix("_octets").or_else(|| name.strip_prefix("octets_"));
    let micros = name.strip_suffix("_micros");
    let unit = octets.map(|_| Unit::Bytes).or_else(|| micros.map(|_| Unit::Seconds));
    let name = octets.or(micros).unwrap_or(name);
    let seconds = |value: u64| Duration::from_micros(value).as_secs_f64();
    let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), metric_type)?;
    for (of, value) in label.values.iter().zip(values) {
        let labels = [(label.name, of.to_string())];
        let mut sample = metric.encode_family(&labels)?;
        match metric_type {
            MetricType::Gauge if micros.is_some() => sample.encode_gauge(&seconds(*value))?,
            _ if micros.is_some() => sample.encode_counter::<NoLabelSet, _, u64>(&seconds(*value), None)?,
            MetricType::Gauge => sample.encode_gauge(&i64::try_from(*value).unwrap_or(i64::MAX))?,
            _ => sample.encode_counter::<NoLabelSet, _, u64>(value, None)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl SpoolMode {
        pub(in crate::admin) const EXAMPLE: Self = Self {
            durability: Durability::Sync,
            async_interval: Duration::from_secs(1),
            writes: Writes::Direct,
        };
    }

    #[test]
    fn a_scrape_names_each_counter_of_each_worker() {
        let workers = [WorkerStats::default(), WorkerStats::default()].map(Arc::new);
        workers[0].messages.add(3);
        workers[1].octets_received.add(4096);
        workers[1].connections_now.set(7);
        workers[1].memory_octets_now.set(512);
        workers[0].handshake_micros.add(1_250_000);
        workers[0].handshake_turn_longest_micros_now.set(1500);
        let sources = Sources {
            worker_stats: workers.to_vec(),
            events: vec![EventQueue::new(1), EventQueue::new(1)],
            delivery_stats: vec![Arc::default()],
            told: Arc::default(),
            readiness: Arc::default(),
            spool: SpoolMode::EXAMPLE,
            board: Arc::new(Board::example()),
            keeper: Arc::default(),
            tls: Arc::default(),
            started_unix_secs: 1.5,
        };
        let text = text(&registry(sources)).unwrap();
        for line in [
            "# HELP ringmx_build The program.",
            concat!("ringmx_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "ringmx_spool_info{durability=\"sync\",writes=\"direct\"} 1",
            "ringmx_spool_async_interval_seconds 1.0",
            "ringmx_listener_durability{listener=\"mx\",durability=\"async\"} 1",
            "ringmx_listener_answered_by_us{listener=\"mx\",address=\"192.0.2.1:25\"} 1",
            "ringmx_messages_at_risk{worker=\"0\"} 0",
            "ringmx_ready 0",
            "ringmx_start_time_seconds 1.5",
            "ringmx_log_events_dropped_total{worker=\"0\"} 0",
            "# TYPE ringmx_messages counter",
            "# HELP ringmx_messages Messages made durable and answered 250.",
            "ringmx_messages_total{worker=\"0\"} 3",
            "ringmx_messages_total{worker=\"1\"} 0",
            "# UNIT ringmx_received_bytes bytes",
            "ringmx_received_bytes_total{worker=\"1\"} 4096",
            "ringmx_connections_total{worker=\"1\"} 0",
            "# TYPE ringmx_connections_open gauge",
            "ringmx_connections_open{worker=\"1\"} 7",
            "ringmx_content_bytes_total{worker=\"1\"} 0",
            "ringmx_content_held_bytes{worker=\"1\"} 512",
            "ringmx_handshake_seconds_total{worker=\"0\"} 1.25",
            "ringmx_handshakes_by_cipher_total{worker=\"1\",version=\"TLSv1.3\",cipher=\"TLS_AES_128_GCM_SHA256\"} 0",
            "ringmx_handshakes_by_client_certificate_total{worker=\"1\",certificate=\"verified\"} 0",
            "ringmx_handshake_turn_longest_seconds{worker=\"0\"} 0.0015",
            "ringmx_events_total{fate=\"lost\"} 0",
            "ringmx_delivery_delivered_total{shard=\"0\"} 0",
            "ringmx_delivery_waiting{shard=\"0\"} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        let mut names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{text}");
    }
}
