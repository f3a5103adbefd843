//! The page as a text: well-formed, complete, and nothing in it that a server could have put there.

use super::*;
use crate::report::tests::setup;
use crate::stats::ErrorKind;
use crate::timeline::{Point, Timeline};

fn report(stats: &Stats) -> Report {
    let mut report = Report::new(setup(), stats, 0.5, 1.0, false);
    let mut timeline = Timeline::new(0.1);
    for tenth in 0..20u32 {
        let accepted = u64::from(tenth * tenth);
        timeline.add(Point { at_secs: f64::from(tenth) / 10.0, accepted, ..Point::default() });
    }
    report.timeline = timeline.rates();
    report
}

fn measured_stats() -> Stats {
    let mut stats = Stats::default();
    (1..=1000).for_each(|n| stats.record(Interval::Final, n * 1000));
    (1..=10).for_each(|n| stats.record(Interval::Connect, n * 50_000));
    stats.errors.add(ErrorKind::ContentRefused, 452, b"<script>alert(1)</script> & \"more\"");
    stats
}

/// Every element that is opened is closed, in order.
fn assert_well_formed(page: &str) {
    let mut open = Vec::new();
    for piece in page.split('<').skip(1) {
        let (tag, _) = piece.split_once('>').expect("a tag ends");
        let name = tag.split([' ', '/']).next().unwrap_or_default();
        match tag.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed), "{piece}"),
            None if tag.ends_with('/') || matches!(name, "!DOCTYPE" | "meta") => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_page_is_whole_and_fetches_nothing() {
    let stats = measured_stats();
    let page = page(&report(&stats), &stats);
    assert_well_formed(&page);
    for part in [
        "Latency by percentile",
        "Throughput over time",
        "CPU over time",
        "Histograms by phase",
        "Errors",
        "Setup",
    ] {
        assert!(page.contains(&format!("<h2>{part}</h2>")), "{part}");
    }
    // Two phases were measured: a line and a histogram for each; a line for messages, one for errors, two for CPU.
    assert_eq!((page.matches("<polyline").count(), page.matches("<svg").count()), (2 + 2 + 2, 1 + 2 + 2));
    assert!(page.contains("prefers-color-scheme: dark"));
    for word in ["<script", "http:", "https:", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;more&quot;"));
}

#[test]
fn lines_keep_to_their_plots_and_go_to_the_right() {
    let stats = measured_stats();
    let page = page(&report(&stats), &stats);
    let lines: Vec<Vec<(f64, f64)>> = page
        .split("points=\"")
        .skip(1)
        .map(|piece| piece.split('"').next().expect("points"))
        .map(|points| {
            let point = |text: &str| {
                let (x, y) = text.split_once(',').expect("a pair");
                (x.parse().expect("a number"), y.parse().expect("a number"))
            };
            points.split(' ').map(point).collect()
        })
        .collect();
    for line in &lines {
        assert!(line.len() > 3);
        assert!(line.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{line:?}");
        assert!(
            line.iter().all(|&(x, y)| (70.0..=844.0).contains(&x) && (40.0..=286.0).contains(&y)),
            "{line:?}"
        );
    }
    // Percentiles rise, and on paper a larger number is further up.
    assert!(lines[..2].iter().all(|line| line.windows(2).all(|pair| pair[0].1 >= pair[1].1)));
}

#[test]
fn a_run_without_a_message_has_a_page() {
    let page = page(&Report::new(setup(), &Stats::default(), 0.0, 0.0, true), &Stats::default());
    assert_well_formed(&page);
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
}
