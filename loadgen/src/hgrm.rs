//! Histograms as HdrHistogram's own tools and plotters read them: `.hgrm`, the percentile distribution in microseconds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;

use crate::stats::{Interval, Stats};

/// Lines for each halving of the distance to 100 %, as HdrHistogram's tools write by default.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Writes a file for each interval that was measured: `<directory>/<interval>.hgrm`.
pub fn write(directory: &Path, stats: &Stats) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(directory)?;
    let mut written = Vec::new();
    for interval in Interval::ALL {
        let histogram = stats.histogram(interval);
        if !histogram.is_empty() {
            let path = directory.join(format!("{}.hgrm", interval.name()));
            fs::write(&path, text(histogram))?;
            written.push(path);
        }
    }
    Ok(written)
}

fn text(histogram: &Histogram<u64>) -> String {
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        count += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = step.value_iterated_to() as f64 / 1e3;
        text += &format!("{value:12.3} {quantile:2.12} {count:10}");
        // At 100 % the last column would be infinite: the format leaves it out.
        if quantile < 1.0 {
            text += &format!(" {:14.2}", 1.0 / (1.0 - quantile));
        }
        text.push('\n');
    }
    let (mean, deviation) = (histogram.mean() / 1e3, histogram.stdev() / 1e3);
    let (max, total) = (histogram.max() as f64 / 1e3, histogram.len());
    text += &format!("#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]\n");
    text += &format!("#[Max     = {max:12.3}, Total count    = {total:12}]\n");
    text + &format!("#[Buckets = {:12}, SubBuckets     = {:12}]\n", histogram.buckets(), 2048)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_rise_to_the_total_and_values_are_microseconds() {
        let mut stats = Stats::default();
        (1..=1000).for_each(|n| stats.record(Interval::Final, n * 1000));
        let text = text(stats.histogram(Interval::Final));
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|cell| cell.parse().expect("a number")).collect())
            .collect();
        assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][2] <= pair[1][2]), "{text}");
        let last = rows.last().expect("rows");
        assert_eq!((last[1], last[2], last.len()), (1.0, 1000.0, 3), "{text}");
        let half = rows.iter().find(|row| row[1] >= 0.5).expect("the median");
        assert!((495.0..=505.0).contains(&half[0]), "{text}");
        assert!(text.contains("Total count    =         1000]"), "{text}");
    }
}
