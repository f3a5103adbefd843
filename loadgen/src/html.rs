//! A run's report for a browser: one file, nothing fetched, no script; plots are SVG within it.

mod plot;

use hdrhistogram::Histogram;

use self::plot::{Axis, Plot, Series};
use crate::report::{Latency, Report};
use crate::stats::{Interval, Stats};

/// The page.
pub fn page(report: &Report, stats: &Stats) -> String {
    let title = format!("loadgen: {}", escaped(&report.setup.server));
    let sections = [
        tiles(report),
        section("Latency by percentile", &percentiles(stats), PERCENTILES_NOTE),
        latencies(report),
        section("Throughput over time", &throughput(report), ""),
        section(
            "CPU over time",
            &cpu(report),
            "In cores: this process, and all that the machine was not idle.",
        ),
        histograms(stats),
        errors(report),
        misbehaving(report),
        setup(report),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{}</body></html>\n",
        sections.concat()
    )
}

const STYLE: &str = "
:root { color-scheme: light dark; --back: #fff; --text: #1d232b; --dim: #5c6672; --rule: #d8dde3; --panel: #f5f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181d; --text: #e4e8ec; --dim: #9aa5b1; --rule: #343c46; --panel: #1c2228; }
}
body { margin: 2rem auto; padding: 0 1rem; max-width: 60rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; } p { color: var(--dim); margin: .3rem 0; }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; }
.tiles div { background: var(--panel); border: 1px solid var(--rule); border-radius: 6px; padding: .5rem .9rem; }
.tiles b { display: block; font-size: 1.25rem; } .tiles span { color: var(--dim); font-size: .85rem; }
.few { display: grid; grid-template-columns: repeat(auto-fill, minmax(27rem, 1fr)); gap: .6rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { color: var(--dim); font-weight: 600; } th:first-child, td:first-child, td.text { text-align: left; }
svg { display: block; width: 100%; height: auto; background: var(--panel); border: 1px solid var(--rule);
  border-radius: 6px; }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; } svg .dim { fill: var(--dim); }
svg .rule { stroke: var(--rule); stroke-width: 1; } svg polyline { fill: none; stroke-width: 2; }
";

const PERCENTILES_NOTE: &str = "To the right each mark is ten times rarer. The time is logarithmic.";

fn section(title: &str, body: &str, note: &str) -> String {
    let note = if note.is_empty() { String::new() } else { format!("<p>{note}</p>\n") };
    format!("<h2>{title}</h2>\n{note}{body}\n")
}

fn table(heads: &[&str], rows: impl Iterator<Item = String>) -> String {
    let heads: String = heads.iter().map(|head| format!("<th>{head}</th>")).collect();
    let rows: String = rows.map(|row| format!("<tr>{row}</tr>\n")).collect();
    format!("<div class=\"scroll\"><table><tr>{heads}</tr>\n{rows}</table></div>")
}

fn tiles(report: &Report) -> String {
    let last = |interval, of: fn(&Latency) -> f64| {
        let latency = report.latencies.iter().find(|latency| latency.interval == interval);
        latency
            .filter(|latency| latency.count > 0)
            .map_or_else(|| "–".to_owned(), |latency| plot::micros(of(latency)))
    };
    let tiles = [
        (format!("{:.0}", report.messages_per_sec), "messages a second"),
        (report.accepted.to_string(), "accepted"),
        (report.errors_count.to_string(), "errors"),
        (last(Interval::Final, |latency| latency.p50_us), "p50, last octet to 250"),
        (last(Interval::Final, |latency| latency.p99_us), "p99, last octet to 250"),
        (format!("{:.1} µs", report.cpu_us_per_message), "own CPU a message"),
        (format!("{:.2}", report.cpu_cores), "own CPU, cores"),
    ];
    let tiles: String =
        tiles.iter().map(|(value, what)| format!("<div><b>{value}</b><span>{what}</span></div>")).collect();
    let interrupted = if report.interrupted { "<p>Ended by a signal before its time.</p>\n" } else { "" };
    format!("<div class=\"tiles\">{tiles}</div>\n{interrupted}")
}

/// Each interval that was measured, and how it is drawn: the same colour everywhere.
fn measured(stats: &Stats) -> impl Iterator<Item = (usize, Interval, &Histogram<u64>)> {
    let all = Interval::ALL.into_iter().enumerate();
    all.map(|(index, interval)| (index, interval, stats.histogram(interval)))
        .filter(|(_, _, histogram)| !histogram.is_empty())
}

fn percentiles(stats: &Stats) -> String {
    /// Lines for each halving of the distance to 100 %.
    const TICKS_PER_HALF_DISTANCE: u32 = 4;
    let series: Vec<Series> = measured(stats)
        .map(|(index, interval, histogram)| {
            // Beyond what one message in all of them says nothing is known.
            let rarest = histogram.len() as f64;
            let points = histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE).map(|step| {
                let rarity = 1.0 / (1.0 - step.quantile_iterated_to()).max(1.0 / rarest);
                (rarity, step.value_iterated_to() as f64 / 1e3)
            });
            Series { name: interval.description(), colour: index, points: points.collect() }
        })
        .collect();
    Plot { x: Axis::rarity(&series), y: Axis::micros(&series), series: &series }.svg()
}

fn throughput(report: &Report) -> String {
    let rates = &report.timeline;
    let of = |name, colour, values: &[f64]| Series {
        name,
        colour,
        points: rates.at_secs.iter().copied().zip(values.iter().copied()).collect(),
    };
    let mut series = vec![of("accepted a second", 0, &rates.messages_per_sec)];
    if report.errors_count > 0 {
        series.push(of("errors a second", 3, &rates.errors_per_sec));
    }
    Plot { x: Axis::seconds(&series), y: Axis::from_zero(&series), series: &series }.svg()
}

fn cpu(report: &Report) -> String {
    let rates = &report.timeline;
    let of = |name, colour, values: &[f64]| Series {
        name,
        colour,
        points: rates.at_secs.iter().copied().zip(values.iter().copied()).collect(),
    };
    let series =
        [of("this process", 0, &rates.cpu_cores), of("the whole machine", 1, &rates.machine_cpu_cores)];
    Plot { x: Axis::seconds(&series), y: Axis::from_zero(&series), series: &series }.svg()
}

fn histograms(stats: &Stats) -> String {
    let plots: String = measured(stats)
        .map(|(index, interval, histogram)| {
            let values = histogram.iter_recorded();
            let counts: Vec<(f64, u64)> = values
                .map(|step| (step.value_iterated_to() as f64 / 1e3, step.count_since_last_iteration()))
                .collect();
            plot::bars(interval.description(), index, &counts)
        })
        .collect();
    if plots.is_empty() {
        return String::new();
    }
    section(
        "Histograms by phase",
        &format!("<div class=\"few\">{plots}</div>"),
        "How many took how long; both ends are the least and the most.",
    )
}

fn latencies(report: &Report) -> String {
    let rows = report.latencies.iter().filter(|latency| latency.count > 0).map(|latency| {
        let Latency { interval, count, mean_us, p50_us, p90_us, p99_us, p99_9_us, p99_99_us, max_us } =
            latency;
        let cells = [p50_us, p90_us, p99_us, p99_9_us, p99_99_us, max_us, mean_us];
        let cells: String = cells.iter().map(|us| format!("<td>{}</td>", plot::micros(**us))).collect();
        format!("<td>{}</td><td>{count}</td>{cells}", escaped(interval.description()))
    });
    let heads = ["phase", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max", "mean"];
    let note = report.grouped().map_or(String::new(), |note| format!("<p>{}</p>", escaped(note)));
    format!("{}\n{note}\n", table(&heads, rows))
}

fn errors(report: &Report) -> String {
    if report.errors.is_empty() {
        return String::new();
    }
    let rows = report.errors.iter().map(|error| {
        let code = if error.code == 0 { String::new() } else { error.code.to_string() };
        format!(
            "<td>{}</td><td>{}</td><td>{code}</td><td class=\"text\">{}</td>",
            escaped(error.kind.description()),
            error.count,
            escaped(&error.example)
        )
    });
    section("Errors", &table(&["what", "count", "code", "the first said"], rows), "")
}

fn misbehaving(report: &Report) -> String {
    if report.misbehaving.is_empty() {
        return String::new();
    }
    let rows = report.misbehaving.iter().map(|tally| {
        let counts = [
            u64::from(tally.clients),
            tally.connections_opened,
            tally.done,
            tally.refused,
            tally.ended_by_server,
            tally.failed,
        ];
        let counts: String = counts.iter().map(|count| format!("<td>{count}</td>")).collect();
        format!("<td>{}: {}</td>{counts}", tally.kind.name(), tally.kind.description())
    });
    let heads = ["kind", "clients", "connections", "done", "refused", "ended by the server", "failed"];
    section(
        "Clients that misbehaved",
        &table(&heads, rows),
        "Nothing of theirs is in the other figures, but for the generator's CPU.",
    )
}

/// What stands in `setup` of the JSON.
fn setup(report: &Report) -> String {
    let value = serde_json::to_value(&report.setup).unwrap_or_default();
    let entries = value.as_object().into_iter().flatten();
    let rows = entries.filter(|(_, value)| !value.is_null()).map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("<td>{}</td><td class=\"text\">{}</td>", escaped(name), escaped(&text))
    });
    let counts = format!(
        "{} started, {} accepted, {} refused, {} in doubt, {} aborted, {} missed; {} connections opened",
        report.started,
        report.accepted,
        report.refused,
        report.in_doubt,
        report.aborted,
        report.missed,
        report.connections_opened
    );
    section("Setup", &table(&["", ""], rows), &counts)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests;
